//! What reconciliation finds, and what comes of it.

use super::super::{Difference, Effect, LoginChange, Report, Secrets};
use super::*;

const MISSING: Event = Event::Differs(Difference::LoginMissing);
const LOGIN_LEFT: Event = Event::Differs(Difference::LoginLeft);
const SECRET_MISSING: Event = Event::Differs(Difference::SecretMissing);
const SECRET_LEFT: Event = Event::Differs(Difference::SecretLeft);

fn cause_of(lease: &Lease) -> Option<Cause> {
    match lease.state {
        State::Issuing | State::Active => None,
        State::Revoking { cause, .. }
        | State::Dropped { cause, .. }
        | State::Closed { cause, .. } => Some(cause),
    }
}

#[test]
fn a_live_lease_without_a_login_ends_as_missing() {
    let active = on(&lease(State::Active), &MISSING, t0());
    assert_eq!(cause_of(next(&active)), Some(Cause::Missing));
    assert_eq!(active.then, Then::Report(Report::Cleared));
    assert!(told_to_issue(&active).is_empty());

    let issuing = on(&lease(State::Issuing), &MISSING, t0());
    assert_eq!(cause_of(next(&issuing)), Some(Cause::Missing));
    assert_eq!(told_to_issue(&issuing).len(), 1);
}

#[test]
fn a_lease_that_somebody_works_on_is_left_to_them() {
    let until = t0() + seconds(60);
    for state in [
        State::Issuing,
        revoking(1, t0()),
        dropped(0, t0()),
        closed(None),
    ] {
        for event in [MISSING, LOGIN_LEFT, SECRET_LEFT, SECRET_MISSING] {
            defers_until(&on(&held(lease(state.clone()), until), &event, t0()), until);
        }
    }
}

#[test]
fn the_login_of_a_lease_that_is_over_goes_the_slow_path_from_the_start() {
    for state in [dropped(3, t0() + seconds(90)), closed(None)] {
        let reopened = on(&lease(state), &LOGIN_LEFT, t0());
        let now = next(&reopened);
        assert_eq!(
            now.state,
            State::Revoking {
                cause: Cause::Requested,
                failures: 0,
                retry_at: t0(),
            }
        );
        assert_eq!(reopened.login, Some(LoginChange::Disable));
        assert_eq!(reopened.then, Then::Report(Report::SessionsGone));
        assert!(now.wake_at().is_some(), "the sweep finds it");

        let gone = Event::SessionsGone {
            attempt: now.attempt,
            terminated: 1,
            left: None,
        };
        let dropped = on(now, &gone, t0());
        assert_eq!(dropped.login, Some(LoginChange::Drop));
        assert_eq!(cause_of(next(&dropped)), Some(Cause::Requested));
    }
}

#[test]
fn a_secret_of_a_closed_lease_is_deleted_and_nothing_else() {
    let decision = on(&lease(closed(None)), &SECRET_LEFT, t0());
    assert_eq!((&decision.next, decision.login), (&None, None));
    assert_eq!(decision.effects, [Effect::DeleteSecrets(Secrets::All)]);
    assert_eq!(decision.then, Then::Ack);
}

#[test]
fn what_does_not_fit_the_state_changes_nothing() {
    for (state, event) in [
        (State::Issuing, LOGIN_LEFT),
        (State::Issuing, SECRET_LEFT),
        (State::Active, LOGIN_LEFT),
        (State::Active, SECRET_LEFT),
        (revoking(1, t0()), MISSING),
        (revoking(1, t0()), LOGIN_LEFT),
        (revoking(1, t0()), SECRET_LEFT),
        (dropped(0, t0()), MISSING),
        (dropped(0, t0()), SECRET_LEFT),
        (closed(None), MISSING),
    ] {
        let decision = on(&lease(state), &event, t0());
        assert_eq!((&decision.next, decision.login), (&None, None));
        assert!(decision.effects.is_empty());
    }
    // Not done yet, as far as whoever asked is concerned.
    for state in [revoking(1, t0()), dropped(0, t0())] {
        defers_until(&on(&lease(state), &SECRET_LEFT, t0()), t0() + seconds(1));
    }
    for event in [MISSING, LOGIN_LEFT, SECRET_LEFT, SECRET_MISSING] {
        let unknown = decide(None, &event, t0(), &policy());
        assert!(unknown.effects.is_empty() && unknown.next.is_none());
    }
}

#[test]
fn a_delivered_lease_without_its_secret_was_revoked_before() {
    let active = on(&lease(State::Active), &SECRET_MISSING, t0());
    assert_eq!(cause_of(next(&active)), Some(Cause::Missing));
    assert_eq!(active.login, Some(LoginChange::Drop));
    for other in [State::Issuing, closed(None)] {
        let kept = on(&lease(other), &SECRET_MISSING, t0());
        assert_eq!((kept.next, kept.effects), (None, vec![]));
    }
}
