//! What the audit keeps of decisions. That it keeps what it must is a law: see `laws`.

use super::super::{Action, Difference, LoginChange, audited};
use super::*;

fn actions(before: Option<&Lease>, event: &Event, now: Timestamp) -> Vec<Action> {
    let decision = decide(before, event, now, &policy());
    audited(before, &decision)
        .into_iter()
        .map(|audited| audited.action)
        .collect()
}

fn due() -> Timestamp {
    start() + seconds(3_600)
}

fn wake() -> Event {
    Event::Wake { generation: None }
}

#[test]
fn a_whole_life_is_five_rows() {
    let request = Event::Request(request(None));
    assert_eq!(actions(None, &request, t0()), [Action::Created]);
    let issuing = held(lease(State::Issuing), t0() + seconds(60));
    assert_eq!(
        actions(Some(&issuing), &delivered(1), t0()),
        [Action::Issued]
    );
    let active = lease(State::Active);
    assert_eq!(
        actions(Some(&active), &renewal(t0(), None), t0()),
        [Action::Renewed]
    );
    assert_eq!(
        actions(Some(&active), &wake(), due()),
        [Action::Revoked(Cause::Expired)]
    );
    let gone = held(lease(dropped(0, due())), due() + seconds(60));
    assert_eq!(
        actions(Some(&gone), &Event::Cleared { attempt: 1 }, due()),
        [Action::Closed(Cause::Requested)]
    );
}

#[test]
fn a_login_that_cannot_be_dropped_is_disabled_then_stuck_once_then_gone() {
    let active = lease(State::Active);
    assert_eq!(
        actions(Some(&active), &refused(wake()), due()),
        [Action::Disabled(Cause::Expired)]
    );
    for (failures, expected) in [
        (0, vec![]),
        (4, vec![]),
        (5, vec![Action::Stuck(Cause::Expired)]),
        (6, vec![]),
    ] {
        let revoking = held(lease(revoking(failures, due())), due() + seconds(60));
        let gone = Event::SessionsGone {
            attempt: 1,
            terminated: 0,
            left: None,
        };
        assert_eq!(
            actions(Some(&revoking), &refused(gone.clone()), due()),
            expected
        );
        assert_eq!(
            actions(Some(&revoking), &gone, due()),
            [Action::Revoked(Cause::Expired)]
        );
    }
}

#[test]
fn a_login_that_is_back_is_disabled_and_revoked_again() {
    let left = Event::Differs(Difference::LoginLeft);
    for over in [lease(dropped(0, t0())), lease(closed(None))] {
        assert_eq!(
            actions(Some(&over), &left, due()),
            [Action::Disabled(Cause::Requested)]
        );
    }
}

#[test]
fn who_is_refused_is_kept_with_the_code() {
    let denied = |whose, code| vec![Action::Denied { whose, code }];
    let active = lease(State::Active);
    let foreign = Event::Revoke(asking("mallory", t0()));
    assert_eq!(
        actions(Some(&active), &foreign, t0()),
        denied(Whose::Asker, DenialCode::LeaseUnknown)
    );
    assert_eq!(
        actions(None, &Event::Request(request(Some(0))), t0()),
        denied(Whose::Asker, DenialCode::TtlInvalid)
    );
    assert_eq!(
        actions(None, &refused(Event::Request(request(None))), t0()),
        denied(Whose::Asker, DenialCode::RoleUnusable)
    );
    // The request of a lease that ends undelivered hears so from whoever ends it.
    let operator = Event::Revoke(asking("ops", t0()));
    assert_eq!(
        actions(Some(&lease(State::Issuing)), &operator, t0()),
        [
            Action::Revoked(Cause::Operator),
            Action::Denied {
                whose: Whose::Issue,
                code: DenialCode::LeaseEnded
            }
        ]
    );
}

#[test]
fn a_lease_that_the_ledger_lost_is_kept_as_missing() {
    let generation = Some(1);
    assert_eq!(
        actions(None, &Event::Wake { generation }, t0()),
        [Action::Missing]
    );
}

#[test]
fn what_changes_nothing_of_who_has_the_credential_is_not_kept() {
    let later = due() + seconds(2_000);
    for (lease, event) in [
        (lease(State::Issuing), wake()),
        (lease(State::Issuing), failure(1)),
        (lease(State::Active), Event::Request(request(None))),
        (lease(revoking(0, later)), wake()),
        (lease(revoking(0, t0())), wake()),
        (lease(dropped(0, t0())), wake()),
        (lease(dropped(2, t0())), failure(1)),
        (lease(closed(Some(t0()))), wake()),
        (lease(closed(Some(t0()))), Event::Cleared { attempt: 1 }),
        (lease(closed(None)), Event::Revoke(asking("orders", t0()))),
    ] {
        assert_eq!(
            actions(Some(&lease), &event, t0()),
            [],
            "{lease:?} {event:?}"
        );
    }
}

/// What must be kept, told from what the decision does and not from states.
pub(super) fn audit_laws(before: Option<&Lease>, decision: &Decision) {
    let kept = audited(before, decision);
    let context = || format!("{before:?}\n{decision:?}\n{kept:?}");
    let count = |wanted: fn(&Action) -> bool| {
        let matching = kept.iter().filter(|audited| wanted(&audited.action));
        matching.count()
    };
    let outcomes = |wanted: fn(&Outcome) -> bool| {
        let matching = decision.answers.iter().filter(|a| wanted(&a.outcome));
        matching.count()
    };
    let changes = |change| usize::from(decision.login == Some(change));
    for (rows, wanted) in [
        (
            count(|action| *action == Action::Created),
            changes(LoginChange::Create),
        ),
        (
            count(|action| *action == Action::Renewed),
            changes(LoginChange::Renew),
        ),
        (
            count(|action| matches!(action, Action::Revoked(_))),
            changes(LoginChange::Drop),
        ),
        (
            count(|action| *action == Action::Issued),
            outcomes(|outcome| *outcome == Outcome::Issued),
        ),
        (
            count(|action| matches!(action, Action::Denied { .. })),
            outcomes(|outcome| matches!(outcome, Outcome::Denied(_))),
        ),
    ] {
        assert_eq!(rows, wanted, "{}", context());
    }
    let is_disabled = |lease: &Lease| matches!(lease.state, State::Revoking { .. });
    let newly = decision.next.as_ref().is_some_and(is_disabled) && !before.is_some_and(is_disabled);
    assert_eq!(
        count(|action| matches!(action, Action::Disabled(_))),
        usize::from(newly),
        "{}",
        context()
    );
    for audited in &kept {
        if audited.action == Action::Missing {
            assert_eq!((before, &decision.next), (None, &None), "{}", context());
        }
        if let (Some(cause), Some(next)) = (audited.action.cause(), &decision.next) {
            let (State::Revoking { cause: is, .. }
            | State::Dropped { cause: is, .. }
            | State::Closed { cause: is, .. }) = next.state
            else {
                panic!("{}", context());
            };
            assert_eq!(cause, is, "{}", context());
        }
    }
}
