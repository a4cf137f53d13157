//! The end of a lease: revocation, refusals, failures, and clearing up.

use super::super::{Answer, Effect, LoginChange, Notice, Report, Secrets};
use super::*;

const CLEARING: [Effect; 3] = [
    Effect::TerminateSessions,
    Effect::DeleteSecrets(Secrets::All),
    Effect::Publish(Notice::Revoked),
];

fn wake() -> Event {
    Event::Wake { generation: None }
}

fn sessions_gone(attempt: u32) -> Event {
    Event::SessionsGone {
        attempt,
        terminated: 1,
        left: None,
    }
}

fn revoke_by(by: &str) -> Event {
    Event::Revoke(asking(by, t0()))
}

#[test]
fn a_revocation_drops_the_login_then_clears_then_answers() {
    let first = on(&lease(State::Active), &revoke_by("orders"), t0());
    assert_eq!(first.login, Some(LoginChange::Drop));
    assert_eq!(first.effects, CLEARING);
    assert_eq!(first.then, Then::Report(Report::Cleared));
    assert!(first.answers.is_empty(), "not told before it is true");
    assert_eq!(next(&first).attempt, 2);
    assert_eq!(next(&first).held_until, Some(t0() + seconds(60)));

    let second = on(next(&first), &Event::Cleared { attempt: 2 }, t0());
    assert_eq!(
        second.answers,
        [Answer {
            to: Whose::Revokers,
            outcome: Outcome::Revoked
        }]
    );
    assert_eq!(
        next(&second).state,
        State::Closed {
            cause: Cause::Requested,
            revoked_at: t0(),
            recheck_at: Some(t0() + seconds(900))
        }
    );
    assert_eq!((second.then, next(&second).held_until), (Then::Ack, None));
}

#[test]
fn revoking_what_is_closed_is_answered_again() {
    for by in ["orders", "ops"] {
        let decision = on(&lease(closed(None)), &revoke_by(by), t0());
        assert_eq!((&decision.next, decision.login), (&None, None));
        assert_eq!(
            decision.answers,
            [Answer {
                to: Whose::Asker,
                outcome: Outcome::Revoked
            }]
        );
        assert_eq!(decision.effects, [Effect::Answer]);
    }
}

#[test]
fn a_revocation_is_carried_out_for_thirty_days() {
    let active = lease(State::Active);
    let at = |age| Event::Revoke(asking("orders", t0() - age));
    for age in [-days(1), seconds(901), days(30)] {
        assert_eq!(
            on(&active, &at(age), t0()).login,
            Some(LoginChange::Drop),
            "taking back is the safe side, so neither clocks nor deadlines hinder it"
        );
    }
    let old = on(&active, &at(days(30) + seconds(1)), t0());
    assert_eq!(denial(&old), DenialCode::TooOld);
}

#[test]
fn revoking_while_issuing_answers_the_request_too() {
    let decision = on(&lease(State::Issuing), &revoke_by("ops"), t0());
    assert_eq!(decision.login, Some(LoginChange::Drop));
    let [Outcome::Denied(denial)] = told_to_issue(&decision)[..] else {
        panic!("{decision:?}");
    };
    assert_eq!(denial.code, DenialCode::LeaseEnded);
    let late = on(next(&decision), &delivered(1), t0());
    assert_eq!(late.effects, [Effect::DeleteSecrets(Secrets::Of(1))]);
    assert!(late.answers.is_empty());
}

#[test]
fn a_refused_drop_disables_the_login_and_ends_its_sessions() {
    let due = start() + seconds(3_600);
    for (event, now, cause) in [
        (revoke_by("orders"), t0(), Cause::Requested),
        (revoke_by("ops"), t0(), Cause::Operator),
        (wake(), due, Cause::Expired),
        (wake(), due - seconds(1), Cause::Expired),
    ] {
        let decision = on(&lease(State::Active), &refused(event), now);
        assert_eq!(decision.login, Some(LoginChange::Disable));
        assert_eq!(
            decision.effects,
            [Effect::TerminateSessions, Effect::ClearObjects]
        );
        assert_eq!(decision.then, Then::Report(Report::SessionsGone));
        let revoking = next(&decision);
        assert_eq!((revoking.sessions_terminated, revoking.attempt), (2, 2));
        assert_eq!(
            revoking.state,
            State::Revoking {
                cause,
                failures: 0,
                retry_at: now
            }
        );

        let dropping = on(revoking, &sessions_gone(2), now);
        assert_eq!(dropping.login, Some(LoginChange::Drop));
        assert_eq!(next(&dropping).sessions_terminated, 3);
        assert!(told_to_issue(&dropping).is_empty());
    }
}

#[test]
fn a_refusal_of_nothing_ends_nothing() {
    for event in [
        sessions_gone(1),
        Event::Cleared { attempt: 1 },
        failure(1),
        refused(wake()),
    ] {
        for state in [State::Issuing, State::Active] {
            let decision = on(&lease(state), &refused(event.clone()), t0());
            assert_eq!((&decision.next, decision.login), (&None, None));
        }
    }
}

/// A lease whose revocation an attempt is working on, after some failures.
fn tried(failures: u32) -> Lease {
    held(lease(revoking(failures, t0())), t0() + seconds(60))
}

#[test]
fn refused_and_failed_revocations_pause_longer_and_are_reported_when_stuck() {
    for (failures, pause) in [
        (1, 1),
        (2, 2),
        (3, 4),
        (4, 8),
        (5, 16),
        (6, 300),
        (7, 600),
        (8, 1_200),
        (10, 3_600),
        (500, 3_600),
    ] {
        for event in [refused(sessions_gone(1)), failure(1)] {
            let decision = on(&tried(failures - 1), &event, t0());
            let until = t0() + seconds(pause);
            assert_eq!(next(&decision).state, revoking(failures, until));
            assert_eq!(next(&decision).held_until, None);
            assert_eq!(next(&decision).wake_at(), Some(until));
            assert_eq!(next(&decision).is_stuck(), failures >= 6);
            assert_eq!(decision.then, Then::Defer(until));
            let reported = matches!(
                decision.effects.as_slice(),
                [Effect::Publish(Notice::RevocationFailed { .. })]
            );
            assert_eq!(reported, failures >= 6, "{failures}");
            assert_eq!(decision.effects.is_empty(), failures < 6);
        }
    }
}

#[test]
fn what_cannot_be_cleared_away_is_a_failure_and_nothing_is_dropped() {
    let event = Event::SessionsGone {
        attempt: 1,
        terminated: 4,
        left: Some("2 tables".into()),
    };
    let decision = on(&tried(5), &event, t0());
    assert_eq!(decision.login, None);
    assert_eq!(next(&decision).sessions_terminated, 4);
    assert_eq!(next(&decision).state, revoking(6, t0() + seconds(300)));
    assert_eq!(
        decision.effects,
        [Effect::Publish(Notice::RevocationFailed {
            reason: "2 tables".into()
        })]
    );
}

#[test]
fn frozen_revocations_wait_for_the_sweep_or_come_back() {
    let frozen = Policy {
        frozen: true,
        ..policy()
    };
    let due = start() + seconds(3_600);
    for state in [State::Active, revoking(0, t0()), dropped(0, t0())] {
        let woken = decide(Some(&lease(state.clone())), &wake(), due, &frozen);
        assert_eq!((&woken.next, woken.login), (&None, None));
        assert_eq!((woken.effects.len(), woken.then), (0, Then::Ack));
        let asked = decide(Some(&lease(state)), &revoke_by("ops"), due, &frozen);
        assert_eq!((&asked.next, asked.login), (&None, None));
        defers_until(&asked, due + seconds(30));
    }
    let lost = Event::Wake {
        generation: Some(1),
    };
    defers_until(&decide(None, &lost, t0(), &frozen), t0() + seconds(30));
}

#[test]
fn sessions_are_counted_though_the_drop_is_refused() {
    let decision = on(&tried(0), &refused(sessions_gone(1)), t0());
    assert_eq!(next(&decision).sessions_terminated, 3);
    let many = Event::Refused {
        event: Box::new(Event::SessionsGone {
            attempt: 1,
            terminated: u32::MAX,
            left: None,
        }),
        terminated: u32::MAX,
        reason: "no".into(),
    };
    let decision = on(&tried(0), &many, t0());
    assert_eq!(next(&decision).sessions_terminated, u32::MAX);
}

#[test]
fn pauses_are_spread_by_up_to_a_quarter() {
    let mut last = tried(0);
    last.id.uuid = Uuid::from_u128(0xff);
    let decision = on(&last, &failure(1), t0());
    assert_eq!(
        decision.then,
        Then::Defer(t0() + SignedDuration::from_millis(1_250))
    );
}

/// Found in review: with the broker down the notice fails, which was one more failure with one more
/// notice, as fast as the worker could turn.
#[test]
fn a_notice_that_cannot_be_published_is_no_further_failure() {
    let stuck = on(&tried(5), &failure(1), t0());
    let event = stuck.failure("broker is away".into());
    let decision = on(next(&stuck), &event, t0());
    assert_eq!(decision.next, None);
    defers_until(&decision, t0() + seconds(300));
}

#[test]
fn only_a_command_hurries_the_next_attempt() {
    let until = t0() + seconds(300);
    for state in [revoking(6, until), dropped(6, until)] {
        let lease = lease(state);
        defers_until(&on(&lease, &wake(), t0()), until);
        for (event, now) in [
            (wake(), until),
            (revoke_by("orders"), t0()),
            (revoke_by("ops"), t0()),
        ] {
            let decision = on(&lease, &event, now);
            assert_eq!(next(&decision).attempt, 2);
            assert_eq!(next(&decision).state, lease.state, "failures are kept");
        }
    }
}

#[test]
fn an_overtaken_attempt_at_ending_changes_nothing() {
    let revoking = Lease {
        attempt: 3,
        ..held(lease(revoking(0, t0())), t0() + seconds(60))
    };
    let dropped = Lease {
        attempt: 3,
        ..held(lease(dropped(0, t0())), t0() + seconds(60))
    };
    for (lease, event) in [
        (&revoking, sessions_gone(2)),
        (&revoking, Event::Cleared { attempt: 3 }),
        (&dropped, Event::Cleared { attempt: 2 }),
        (&dropped, sessions_gone(3)),
        (&dropped, refused(wake())),
    ] {
        let decision = on(lease, &event, t0());
        assert_eq!((&decision.next, decision.login), (&None, None));
        defers_until(&decision, t0() + seconds(1));
    }
}

#[test]
fn clearing_up_goes_on_after_a_crash_without_dropping_again() {
    let crashed = held(lease(dropped(0, t0())), t0() + seconds(60));
    let now = t0() + seconds(60);
    let decision = on(&crashed, &wake(), now);
    assert_eq!(decision.login, None);
    assert_eq!(decision.effects, CLEARING);
    assert_eq!(next(&decision).attempt, 2);
    let State::Dropped { revoked_at, .. } = next(&decision).state else {
        panic!("{decision:?}");
    };
    assert_eq!(revoked_at, start(), "when it ended stays what was told");
}

#[test]
fn failed_clearing_pauses_for_half_a_minute_at_most_and_is_never_stuck() {
    for (failures, pause) in [(1, 1), (5, 16), (6, 30), (500, 30)] {
        let lease = held(lease(dropped(failures - 1, t0())), t0() + seconds(60));
        let decision = on(&lease, &failure(1), t0());
        defers_until(&decision, t0() + seconds(pause));
        assert!(!next(&decision).is_stuck());
    }
}

#[test]
fn secrets_are_deleted_once_more_after_a_quarter_of_an_hour() {
    let at = t0() + seconds(900);
    let lease = lease(closed(Some(at)));
    let early = on(&lease, &wake(), at - SignedDuration::from_nanos(1));
    assert_eq!((early.effects.len(), early.then), (0, Then::Ack));

    let recheck = on(&lease, &wake(), at);
    assert_eq!(
        recheck.effects,
        [
            Effect::TerminateSessions,
            Effect::DeleteSecrets(Secrets::All)
        ]
    );
    assert_eq!(recheck.then, Then::Report(Report::Cleared));
    assert_eq!(
        recheck.next, None,
        "a crash must find it again in the next sweep"
    );
    let failed = on(&lease, &recheck.failure("no".into()), at);
    assert_eq!(failed.next, None);

    let done = on(&lease, &Event::Cleared { attempt: 1 }, at);
    assert_eq!(next(&done).wake_at(), None);
    let after = on(next(&done), &wake(), at + days(1));
    assert_eq!((after.effects.len(), after.then), (0, Then::Ack));
}

#[test]
fn only_the_recheck_itself_ends_the_recheck() {
    let at = t0() + seconds(900);
    let lease = Lease {
        attempt: 3,
        ..lease(closed(Some(at)))
    };
    let doubled = on(&lease, &Event::Cleared { attempt: 3 }, t0());
    assert_eq!(next(&doubled).wake_at(), Some(at));
    let zombie = on(&lease, &Event::Cleared { attempt: 2 }, at + seconds(1));
    assert_eq!(zombie.next, None);
}
