//! The steps that take back: a login is dropped or disabled, and what is left is cleared away.

use jiff::{SignedDuration, Timestamp};

use super::decision::{
    Answer, Decision, Denial, Effect, LoginChange, Notice, Outcome, Reason, Report, Secrets, Then,
    Whose,
};
use super::denials::{ended, revocation_is_stale, too_old, unknown_lease, unusable};
use super::steps::{ack, defer, denied, doubling_seconds, later, spread, too_late};
use super::{Asking, Cause, Event, Lease, Policy, State};

/// When the secrets of a closed lease are deleted once more, against writers that were late.
const RECHECK: SignedDuration = SignedDuration::from_mins(15);

/// Longest pause between attempts, unless a revocation is stuck, in seconds.
const RETRY_SECONDS_MAX: i64 = 30;

/// Shortest and longest pause between attempts at a revocation that is stuck, in seconds. Each is
/// followed by a notice.
const STUCK_RETRY_SECONDS: i64 = 300;
const STUCK_RETRY_SECONDS_MAX: i64 = 3_600;

pub(super) fn revoke_as_asked(
    lease: &Lease,
    asking: &Asking,
    now: Timestamp,
    policy: &Policy,
) -> Decision {
    match cause(lease, asking) {
        None => denied(unknown_lease()),
        Some(_) if revocation_is_stale(asking, now) => denied(too_old()),
        Some(cause) => revoke(lease, cause, now, policy, "revocation was asked for"),
    }
}

/// Drops the login in one transaction: the fast path, and the last step of the slow one.
pub(super) fn revoke(
    lease: &Lease,
    cause: Cause,
    now: Timestamp,
    policy: &Policy,
    reason: &'static str,
) -> Decision {
    let state = State::Dropped {
        cause,
        revoked_at: now,
        failures: 0,
        retry_at: now,
    };
    let mut decision = clear(lease, state, now, policy, reason);
    decision.login = Some(LoginChange::Drop);
    end_issue(lease, &mut decision, ended());
    decision
}

/// Answers the request of a lease that ends before it was delivered.
fn end_issue(lease: &Lease, decision: &mut Decision, denial: Denial) {
    if lease.state == State::Issuing {
        decision.answers.push(Answer {
            to: Whose::Issue,
            outcome: Outcome::Denied(denial),
        });
        decision.effects.push(Effect::Answer);
    }
}

pub(super) fn clear(
    lease: &Lease,
    state: State,
    now: Timestamp,
    policy: &Policy,
    reason: &'static str,
) -> Decision {
    Decision {
        next: Some(Lease {
            attempt: lease.attempt + 1,
            held_until: Some(later(now, policy.hold)),
            state,
            ..lease.clone()
        }),
        effects: vec![
            Effect::TerminateSessions,
            Effect::DeleteSecrets(Secrets::All),
            Effect::Publish(Notice::Revoked),
        ],
        then: Then::Report(Report::Cleared),
        ..ack(reason)
    }
}

pub(super) fn close(
    lease: &Lease,
    (cause, revoked_at): (Cause, Timestamp),
    now: Timestamp,
) -> Decision {
    let state = State::Closed {
        cause,
        revoked_at,
        recheck_at: Some(later(now, RECHECK)),
    };
    Decision {
        next: Some(Lease {
            held_until: None,
            state,
            ..lease.clone()
        }),
        answers: vec![Answer {
            to: Whose::Revokers,
            outcome: Outcome::Revoked,
        }],
        effects: vec![Effect::Answer],
        ..ack("login and secrets are gone")
    }
}

/// The slow path: the login cannot be dropped yet, so it is disabled, its sessions end, and what
/// depends on it is cleared away.
pub(super) fn terminate(
    lease: &Lease,
    state: State,
    now: Timestamp,
    policy: &Policy,
    reason: Reason,
) -> Decision {
    Decision {
        next: Some(Lease {
            attempt: lease.attempt + 1,
            held_until: Some(later(now, policy.hold)),
            state,
            ..lease.clone()
        }),
        login: Some(LoginChange::Disable),
        effects: vec![Effect::TerminateSessions, Effect::ClearObjects],
        then: Then::Report(Report::SessionsGone),
        ..ack(reason)
    }
}

/// The login of a lease that is over is still there: it goes the slow path again, from the start.
pub(super) fn reopen(lease: &Lease, cause: Cause, now: Timestamp, policy: &Policy) -> Decision {
    let state = State::Revoking {
        cause,
        failures: 0,
        retry_at: now,
    };
    terminate(
        lease,
        state,
        now,
        policy,
        "the lease is over and its login is there".into(),
    )
}

/// Postgres refused the login change that was decided on `event` for a lease that is alive.
pub(super) fn refused(
    lease: &Lease,
    event: &Event,
    reason: &Reason,
    now: Timestamp,
    policy: &Policy,
) -> Decision {
    let (cause, denial) = match event {
        Event::Renew { .. } => return denied(unusable(reason)),
        Event::Revoke(asking) => (cause(lease, asking).unwrap_or(Cause::Operator), ended()),
        Event::Request(_) | Event::Wake { .. }
            if lease.state == State::Issuing && !lease.is_due(now) =>
        {
            (Cause::Missing, unusable(reason))
        }
        Event::Request(_) | Event::Wake { .. } | Event::Delivered { .. } => {
            (Cause::Expired, ended())
        }
        Event::Differs(_) => (Cause::Missing, ended()),
        // None of these changes the login of a lease that is alive.
        Event::SessionsGone { .. }
        | Event::Cleared { .. }
        | Event::Failed { .. }
        | Event::Refused { .. } => return too_late(now),
    };
    let state = State::Revoking {
        cause,
        failures: 0,
        retry_at: now,
    };
    let mut decision = terminate(lease, state, now, policy, reason.clone());
    end_issue(lease, &mut decision, denial);
    decision
}

/// The attempt at ending a lease has failed: the next one comes later, and later still.
pub(super) fn failed(lease: &Lease, reason: &Reason, now: Timestamp) -> Decision {
    let mut state = lease.state.clone();
    // Only a login can be stuck. What is left of a lease without one waits for the store or the queue,
    // and goes on soon after their outage, however long that was.
    let (failures, retry_at, can_be_stuck) = match &mut state {
        State::Revoking {
            failures, retry_at, ..
        } => (failures, retry_at, true),
        State::Dropped {
            failures, retry_at, ..
        } => (failures, retry_at, false),
        State::Issuing | State::Active | State::Closed { .. } => return too_late(now),
    };
    *failures += 1;
    let stuck = failures.checked_sub(super::STUCK_AFTER_FAILURES);
    let seconds = match stuck.filter(|_| can_be_stuck) {
        None => doubling_seconds(*failures, RETRY_SECONDS_MAX),
        Some(more) => (STUCK_RETRY_SECONDS << more.min(10)).min(STUCK_RETRY_SECONDS_MAX),
    };
    *retry_at = later(now, spread(seconds, lease));
    let until = *retry_at;
    let next = Lease {
        held_until: None,
        state,
        ..lease.clone()
    };
    let effects = if next.is_stuck() {
        vec![Effect::Publish(Notice::RevocationFailed {
            reason: reason.clone(),
        })]
    } else {
        vec![]
    };
    Decision {
        next: Some(next),
        effects,
        ..defer(until, reason.clone())
    }
}

/// The cause a revocation by `asking` has; `None` when the lease is none of its business.
pub(super) fn cause(lease: &Lease, asking: &Asking) -> Option<Cause> {
    if asking.by == lease.requester {
        Some(Cause::Requested)
    } else if asking.operator {
        Some(Cause::Operator)
    } else {
        None
    }
}
