//! Requests: what is granted, what is denied, and how delivery is tried again.

use super::super::{Answer, Effect, LoginChange, Report, Secrets};
use super::*;

fn granted(ttl_seconds: Option<i64>) -> Lease {
    let decision = decide(None, &Event::Request(request(ttl_seconds)), t0(), &policy());
    assert_eq!(decision.login, Some(LoginChange::Create));
    assert_eq!(decision.effects, [Effect::PutSecret, Effect::ArmExpiry]);
    assert_eq!(decision.then, Then::Report(Report::Delivered));
    assert!(decision.answers.is_empty());
    next(&decision).clone()
}

fn denied(new: NewLease, now: Timestamp, policy: &Policy) -> DenialCode {
    denial(&decide(None, &Event::Request(new), now, policy))
}

#[test]
fn a_time_to_live_is_granted_up_to_the_maximum() {
    for (asked, granted_seconds, clamped) in [
        (None, 3_600, false),
        (Some(30), 30, false),
        (Some(86_400), 86_400, false),
        (Some(86_401), 86_400, true),
        (Some(i64::MAX), 86_400, true),
    ] {
        let lease = granted(asked);
        assert_eq!(lease.issued_at, start(), "a whole second");
        assert_eq!(lease.expires_at, start() + seconds(granted_seconds));
        assert_eq!(lease.max_expires_at, start() + seconds(86_400));
        assert_eq!(lease.ttl_clamped, clamped, "{asked:?}");
        assert_eq!((lease.generation, lease.attempt), (1, 1));
        assert_eq!(lease.held_until, Some(t0() + seconds(60)));
        assert_eq!(lease.state, State::Issuing);
    }
}

#[test]
fn a_time_to_live_below_the_minimum_is_denied() {
    for asked in [29, 1, 0, -1, i64::MIN] {
        let code = denied(request(Some(asked)), t0(), &policy());
        assert_eq!(code, DenialCode::TtlInvalid, "{asked}");
    }
    let mut lenient = policy();
    lenient.role.as_mut().unwrap().min_ttl = SignedDuration::ZERO;
    assert_eq!(
        denied(request(Some(0)), t0(), &lenient),
        DenialCode::TtlInvalid,
        "zero is no time to live, whatever the role says"
    );
}

#[test]
fn an_old_request_is_denied() {
    let aged = |age: SignedDuration, expires_at: Option<Timestamp>| NewLease {
        asking: Asking {
            at: t0() - age,
            expires_at,
            ..asking("orders", t0())
        },
        ..request(None)
    };
    let millisecond = SignedDuration::from_millis(1);
    let later = Some(t0() + seconds(1));
    for (age, expires_at, code) in [
        (seconds(900), None, None),
        (seconds(900) + millisecond, None, Some(DenialCode::TooOld)),
        (seconds(901), later, None),
        (days(30), later, None),
        (days(30) + millisecond, later, Some(DenialCode::TooOld)),
        (seconds(1), Some(t0()), Some(DenialCode::TooOld)),
        (seconds(1), Some(t0() + millisecond), None),
        (-seconds(300), None, None),
        (
            -seconds(300) - millisecond,
            None,
            Some(DenialCode::InvalidEvent),
        ),
    ] {
        let event = Event::Request(aged(age, expires_at));
        let decision = decide(None, &event, t0(), &policy());
        match code {
            None => assert_eq!(decision.login, Some(LoginChange::Create), "{age:?}"),
            Some(code) => assert_eq!(denial(&decision), code, "{age:?}"),
        }
    }
}

#[test]
fn a_request_older_than_the_answers_are_kept_is_denied_whatever_is_configured() {
    let patient = Policy {
        request_age_max: days(365),
        ..policy()
    };
    let new = NewLease {
        asking: asking("orders", t0() - days(31)),
        ..request(None)
    };
    assert_eq!(denied(new, t0(), &patient), DenialCode::TooOld);
}

#[test]
fn a_role_that_is_not_granted_is_denied() {
    let strict = Policy {
        role: None,
        ..policy()
    };
    assert_eq!(
        denied(request(None), t0(), &strict),
        DenialCode::RoleNotAllowed
    );
}

#[test]
fn live_leases_are_limited() {
    let with = |live_leases| NewLease {
        live_leases,
        ..request(None)
    };
    let decision = decide(None, &Event::Request(with(2)), t0(), &policy());
    assert_eq!(decision.login, Some(LoginChange::Create));
    for live in [3, 4, u32::MAX] {
        assert_eq!(denied(with(live), t0(), &policy()), DenialCode::LeaseLimit);
    }
    let mut unlimited = policy();
    unlimited.role.as_mut().unwrap().leases_max = None;
    let event = Event::Request(with(u32::MAX));
    let decision = decide(None, &event, t0(), &unlimited);
    assert_eq!(decision.login, Some(LoginChange::Create));
}

#[test]
fn a_refused_creation_is_answered_and_leaves_nothing() {
    let decision = decide(
        None,
        &refused(Event::Request(request(None))),
        t0(),
        &policy(),
    );
    assert_eq!(denial(&decision), DenialCode::RoleUnusable);
    assert_eq!(decision.effects, [Effect::Answer]);
}

#[test]
fn a_delivered_credential_is_told_once() {
    let issuing = held(lease(State::Issuing), t0() + seconds(60));
    let decision = on(&issuing, &delivered(1), t0());
    assert_eq!(next(&decision).state, State::Active);
    assert_eq!(next(&decision).held_until, None);
    assert_eq!(told_to_issue(&decision), [&Outcome::Issued]);
    assert_eq!(decision.effects, [Effect::Answer]);
    assert_eq!(decision.then, Then::Ack);

    let again = on(next(&decision), &delivered(1), t0());
    assert_eq!(again.next, None);
    defers_until(&again, t0() + seconds(1));
}

#[test]
fn delivery_that_lost_its_hold_but_was_not_overtaken_counts() {
    let lapsed = held(lease(State::Issuing), t0() - seconds(1));
    assert_eq!(next(&on(&lapsed, &delivered(1), t0())).state, State::Active);
}

#[test]
fn a_held_lease_is_neither_stolen_nor_acknowledged() {
    let until = t0() + seconds(60);
    let issuing = held(lease(State::Issuing), until);
    for event in [
        Event::Request(request(None)),
        renewal(t0(), None),
        Event::Wake {
            generation: Some(1),
        },
        Event::Wake { generation: None },
    ] {
        defers_until(&on(&issuing, &event, t0()), until);
    }
    // Whoever revokes waits for the answer.
    let revoke = Event::Revoke(asking("orders", t0()));
    defers_until(&on(&issuing, &revoke, t0()), t0() + seconds(5));
    defers_until(&on(&issuing, &revoke, until - seconds(2)), until);
}

#[test]
fn an_unfinished_delivery_is_taken_over_with_a_new_password_and_locator() {
    let until = t0() + seconds(60);
    let issuing = held(lease(State::Issuing), until);
    for event in [
        Event::Request(request(None)),
        Event::Wake { generation: None },
        Event::Wake {
            generation: Some(1),
        },
    ] {
        let decision = on(&issuing, &event, until);
        assert_eq!(next(&decision).attempt, 2);
        assert_eq!(next(&decision).held_until, Some(until + seconds(60)));
        assert_eq!(next(&decision).expires_at, issuing.expires_at);
        assert_eq!(decision.login, Some(LoginChange::ResetPassword));
        assert_eq!(
            decision.effects,
            [
                Effect::PutSecret,
                Effect::ArmExpiry,
                Effect::DeleteSecrets(Secrets::Superseded)
            ]
        );

        let told = on(next(&decision), &delivered(2), until);
        assert_eq!(told_to_issue(&told), [&Outcome::Issued]);
        assert_eq!(told.effects, [Effect::Answer]);
    }
}

#[test]
fn an_overtaken_delivery_deletes_its_own_secret_and_only_that() {
    let later = t0() + seconds(1);
    for state in [
        State::Issuing,
        State::Active,
        revoking(0, t0()),
        dropped(0, t0()),
        closed(None),
    ] {
        let overtaken = Lease {
            attempt: 2,
            ..held(lease(state), t0() + seconds(60))
        };
        let decision = on(&overtaken, &delivered(1), t0());
        assert_eq!(
            decision.effects,
            [Effect::DeleteSecrets(Secrets::Of(1))],
            "{:?}",
            overtaken.state
        );
        assert_eq!((&decision.next, decision.login), (&None, None));
        assert_eq!(decision.then, Then::Defer(later));
        assert!(decision.answers.is_empty());
    }
}

#[test]
fn failed_deliveries_pause_longer_and_longer() {
    for (attempt, pause) in [
        (1, 1),
        (2, 2),
        (3, 4),
        (4, 8),
        (5, 16),
        (6, 32),
        (7, 64),
        (8, 120),
        (900, 120),
    ] {
        let issuing = Lease {
            attempt,
            ..held(lease(State::Issuing), t0() + seconds(60))
        };
        let decision = on(&issuing, &failure(attempt), t0());
        defers_until(&decision, t0() + seconds(pause));
        let paused = next(&decision);
        assert_eq!(paused.wake_at(), Some(t0() + seconds(pause)), "{attempt}");
        defers_until(
            &on(paused, &Event::Wake { generation: None }, t0()),
            t0() + seconds(pause),
        );
    }
}

#[test]
fn a_failure_of_another_attempt_changes_nothing() {
    for state in [
        State::Issuing,
        State::Active,
        revoking(3, t0()),
        dropped(3, t0()),
        closed(Some(t0() + seconds(900))),
    ] {
        let lease = Lease {
            attempt: 5,
            ..held(lease(state), t0() + seconds(60))
        };
        for attempt in [0, 1, 4] {
            let decision = on(&lease, &failure(attempt), t0());
            assert_eq!(decision.next, None, "{:?}", lease.state);
            if lease.state == State::Active && attempt > 0 {
                let late = [Effect::DeleteSecrets(Secrets::Of(attempt))];
                assert_eq!(decision.effects, late, "its put may have happened");
            } else {
                defers_until(&decision, t0() + seconds(1));
            }
        }
    }
}

#[test]
fn a_failure_is_told_as_the_attempts_own_or_as_nobodys() {
    let issuing = held(lease(State::Issuing), t0() + seconds(60));
    let own = on(&issuing, &Event::Request(request(None)), t0() + seconds(61));
    assert_eq!(own.failure("no route".into()), failure(2));
    let overtaken = on(next(&own), &delivered(1), t0() + seconds(62));
    assert_eq!(overtaken.failure("no route".into()), failure(0));
}

#[test]
fn a_lease_that_is_due_before_it_is_told_ends_and_says_so_once() {
    let due = start() + seconds(3_600);
    let issuing = lease(State::Issuing);
    for event in [
        delivered(1),
        Event::Request(request(None)),
        Event::Wake {
            generation: Some(1),
        },
        Event::Wake { generation: None },
    ] {
        let decision = on(&issuing, &event, due);
        assert_eq!(decision.login, Some(LoginChange::Drop));
        let [Outcome::Denied(denial)] = told_to_issue(&decision)[..] else {
            panic!("{decision:?}");
        };
        assert_eq!(denial.code, DenialCode::LeaseEnded);
        assert_eq!(decision.effects.last(), Some(&Effect::Answer));

        let closing = on(next(&decision), &Event::Cleared { attempt: 2 }, due);
        assert_eq!(
            closing.answers,
            [Answer {
                to: Whose::Revokers,
                outcome: Outcome::Revoked
            }]
        );
    }
}

#[test]
fn a_login_that_takes_no_new_password_ends_its_lease() {
    let issuing = lease(State::Issuing);
    let decision = on(&issuing, &refused(Event::Wake { generation: None }), t0());
    assert_eq!(decision.login, Some(LoginChange::Disable));
    assert_eq!(
        next(&decision).state,
        State::Revoking {
            cause: Cause::Missing,
            failures: 0,
            retry_at: t0()
        }
    );
    let [Outcome::Denied(denial)] = told_to_issue(&decision)[..] else {
        panic!("{decision:?}");
    };
    assert_eq!(denial.code, DenialCode::RoleUnusable);
}

#[test]
fn a_request_survives_a_ledger_that_forgot_its_lease() {
    for event in [
        delivered(1),
        Event::SessionsGone {
            attempt: 1,
            terminated: 0,
            left: None,
        },
        Event::Cleared { attempt: 1 },
        failure(1),
    ] {
        let decision = decide(None, &event, t0(), &policy());
        assert_eq!(decision.then, Then::Defer(t0() + seconds(1)), "{event:?}");
    }
    let decision = decide(None, &delivered(1), t0(), &policy());
    assert_eq!(decision.effects, [Effect::DeleteSecrets(Secrets::Of(1))]);
}
