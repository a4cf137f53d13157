//! Leases that are alive: renewals, wake-ups, and when the sweep looks.

use super::super::{Effect, LoginChange, Notice, Secrets};
use super::*;

/// The end of the lease after a renewal, and whether the requester got less than it asked for.
fn renewed(decision: &Decision) -> (Timestamp, bool) {
    assert_eq!(decision.login, Some(LoginChange::Renew));
    assert_eq!(decision.effects, [Effect::ArmExpiry, Effect::Answer]);
    assert_eq!(decision.then, Then::Ack);
    match decision.answers.as_slice() {
        [answer] if answer.to == Whose::Asker => match &answer.outcome {
            Outcome::Renewed {
                previous_expires_at,
                ttl_clamped,
            } => {
                assert_eq!(*previous_expires_at, start() + seconds(3_600));
                (next(decision).expires_at, *ttl_clamped)
            }
            other @ (Outcome::Issued | Outcome::Denied(_) | Outcome::Revoked) => {
                panic!("not renewed: {other:?}")
            }
        },
        other => panic!("not one answer: {other:?}"),
    }
}

#[test]
fn a_renewal_counts_from_now_and_the_maximum_from_issue() {
    let active = lease(State::Active);
    for (after, ttl, end, clamped) in [
        (0, None, 3_600, false),
        (1_800, None, 5_400, false),
        (1_800, Some(30), 1_830, false),
        (1_800, Some(84_600), 86_400, false),
        (1_800, Some(84_601), 86_400, true),
        (1_800, Some(i64::MAX), 86_400, true),
        (3_599, Some(86_400), 86_400, true),
    ] {
        let now = t0() + seconds(after);
        let decision = on(&active, &renewal(now, ttl), now);
        assert_eq!(renewed(&decision), (start() + seconds(end), clamped));
        assert_eq!(next(&decision).generation, 2);
        assert_eq!(next(&decision).max_expires_at, active.max_expires_at);
        assert_eq!(next(&decision).state, State::Active);
    }
}

#[test]
fn a_renewal_at_the_very_end_of_the_maximum_gets_what_is_left() {
    let last = Lease {
        expires_at: start() + seconds(3_600),
        max_expires_at: start() + seconds(3_600),
        ..lease(State::Active)
    };
    let now = start() + SignedDuration::from_millis(3_599_999);
    let decision = on(&last, &renewal(now, None), now);
    assert_eq!(renewed(&decision), (last.max_expires_at, true));
}

#[test]
fn a_lease_that_is_over_is_not_renewed() {
    let now = start() + seconds(3_600);
    for state in [
        State::Active,
        revoking(0, now),
        dropped(0, now),
        closed(None),
    ] {
        let decision = on(&lease(state), &renewal(now, None), now);
        assert_eq!(denial(&decision), DenialCode::LeaseEnded);
    }
}

#[test]
fn a_renewal_obeys_the_rules_of_requests() {
    let active = lease(State::Active);
    let now = t0() + seconds(1_000);
    for (event, code) in [
        (renewal(now, Some(0)), DenialCode::TtlInvalid),
        (renewal(now, Some(i64::MIN)), DenialCode::TtlInvalid),
        (renewal(t0(), None), DenialCode::TooOld),
        (renewal(now + seconds(301), None), DenialCode::InvalidEvent),
    ] {
        assert_eq!(denial(&on(&active, &event, now)), code);
    }
    let withdrawn = Policy {
        role: None,
        ..policy()
    };
    let decision = decide(Some(&active), &renewal(now, None), now, &withdrawn);
    assert_eq!(denial(&decision), DenialCode::RoleNotAllowed);
}

#[test]
fn a_refused_renewal_leaves_the_lease_as_it_was() {
    let event = refused(renewal(t0(), None));
    let decision = on(&lease(State::Active), &event, t0());
    assert_eq!(denial(&decision), DenialCode::RoleUnusable);
}

#[test]
fn a_renewal_waits_for_the_issue() {
    let decision = on(&lease(State::Issuing), &renewal(t0(), None), t0());
    assert_eq!(decision.next, None);
    defers_until(&decision, t0() + seconds(1));
}

#[test]
fn owners_and_operators_act_on_a_lease_and_strangers_see_none() {
    let active = lease(State::Active);
    for (by, cause) in [
        ("orders", Some(Cause::Requested)),
        ("ops", Some(Cause::Operator)),
        ("mallory", None),
    ] {
        let asking = asking(by, t0());
        let renew = Event::Renew {
            asking: asking.clone(),
            ttl_seconds: None,
        };
        let renewal = on(&active, &renew, t0());
        let revocation = on(&active, &Event::Revoke(asking.clone()), t0());
        if let Some(cause) = cause {
            assert_eq!(next(&renewal).generation, 2);
            let State::Dropped { cause: why, .. } = next(&revocation).state else {
                panic!("{revocation:?}");
            };
            assert_eq!(why, cause);
        } else {
            let unknown_renewal = decide(None, &renew, t0(), &policy());
            let unknown_revocation = decide(None, &Event::Revoke(asking), t0(), &policy());
            assert_eq!(denial(&renewal), DenialCode::LeaseUnknown);
            assert_eq!(renewal, unknown_renewal, "foreign and unknown look alike");
            assert_eq!(revocation, unknown_revocation);
        }
    }
}

#[test]
fn strangers_learn_nothing_in_any_state() {
    for state in [
        State::Issuing,
        State::Active,
        revoking(7, t0() + seconds(300)),
        dropped(1, t0()),
        closed(None),
    ] {
        let lease = held(lease(state), t0() + seconds(60));
        let decision = on(&lease, &Event::Revoke(asking("mallory", t0())), t0());
        assert_eq!(denial(&decision), DenialCode::LeaseUnknown);
    }
}

#[test]
fn an_early_wake_arms_the_rest_only_for_the_latest_generation() {
    let active = Lease {
        generation: 3,
        ..lease(State::Active)
    };
    for (generation, arms) in [
        (Some(3), true),
        (Some(2), false),
        (Some(4), false),
        (None, false),
    ] {
        let decision = on(&active, &Event::Wake { generation }, t0());
        assert_eq!(decision.next, None);
        assert_eq!(decision.effects == [Effect::ArmExpiry], arms);
        assert_eq!(decision.then, Then::Ack);
    }
}

#[test]
fn a_wake_of_any_generation_ends_a_lease_that_is_due() {
    let active = Lease {
        generation: 3,
        ..lease(State::Active)
    };
    let due = start() + seconds(3_600);
    for generation in [None, Some(1), Some(3), Some(9)] {
        let just_before = due - SignedDuration::from_nanos(1);
        let early = on(&active, &Event::Wake { generation }, just_before);
        assert_eq!(early.login, None);
        let decision = on(&active, &Event::Wake { generation }, due);
        assert_eq!(decision.login, Some(LoginChange::Drop));
        assert!(told_to_issue(&decision).is_empty());
    }
}

#[test]
fn a_renewal_outruns_the_expiry_event_of_the_earlier_generation() {
    let now = t0() + seconds(3_000);
    let renewed = on(&lease(State::Active), &renewal(now, None), now);
    let wake = Event::Wake {
        generation: Some(1),
    };
    let decision = on(next(&renewed), &wake, start() + seconds(3_600));
    assert_eq!((&decision.next, decision.login), (&None, None));
}

#[test]
fn an_unknown_lease_still_loses_its_secret() {
    let wake = Event::Wake {
        generation: Some(1),
    };
    let decision = decide(None, &wake, t0(), &policy());
    assert_eq!(
        decision.effects,
        [
            Effect::DeleteSecrets(Secrets::All),
            Effect::Publish(Notice::Missing)
        ]
    );
    assert_eq!(decision.then, Then::Ack);
    let sweep = decide(None, &Event::Wake { generation: None }, t0(), &policy());
    assert!(sweep.effects.is_empty());
}

#[test]
fn every_state_says_when_the_sweep_has_to_look() {
    let (now, hold) = (t0(), t0() + seconds(60));
    for (lease, expected) in [
        (lease(State::Issuing), Some(start())),
        (held(lease(State::Issuing), hold), Some(hold)),
        (lease(State::Active), Some(start() + seconds(3_600))),
        (lease(revoking(1, now)), Some(now)),
        (held(lease(revoking(1, now)), hold), Some(hold)),
        (
            held(lease(revoking(6, hold + seconds(9))), hold),
            Some(hold + seconds(9)),
        ),
        (lease(dropped(1, now)), Some(now)),
        (held(lease(dropped(1, now)), hold), Some(hold)),
        (lease(closed(Some(hold))), Some(hold)),
        (lease(closed(None)), None),
    ] {
        assert_eq!(lease.wake_at(), expected, "{:?}", lease.state);
    }
}
