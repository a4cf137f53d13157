//! The steps that [`super::decide()`] is made of, each one decision.

use jiff::{SignedDuration, Timestamp};

use super::decision::{
    Answer, Decision, Denial, Effect, LoginChange, Notice, Outcome, Reason, Report, Secrets, Then,
    Whose,
};
use super::denials::{
    asked_ttl, ended, no_longer_granted, no_such_role, revocation_is_stale, stale, too_many,
    too_old, unknown_lease, unusable,
};
use super::{Asking, Cause, Event, Lease, NewLease, Policy, State};

/// How soon a delivery comes back that another attempt has overtaken.
const OVERTAKEN: SignedDuration = SignedDuration::from_secs(1);

/// When the secrets of a closed lease are deleted once more, against writers that were late.
const RECHECK: SignedDuration = SignedDuration::from_mins(15);

/// Longest pause between attempts, unless a revocation is stuck, in seconds.
const RETRY_SECONDS_MAX: i64 = 30;

/// Longest pause between attempts at a delivery, in seconds: each attempt leaves a locator behind.
const DELIVERY_SECONDS_MAX: i64 = 120;

/// Shortest and longest pause between attempts at a revocation that is stuck, in seconds. Each is
/// followed by a notice.
const STUCK_RETRY_SECONDS: i64 = 300;
const STUCK_RETRY_SECONDS_MAX: i64 = 3_600;

/// How soon a command comes back that revocations are frozen for.
const FROZEN: SignedDuration = SignedDuration::from_secs(30);

pub(super) fn issue(new: &NewLease, now: Timestamp, policy: &Policy) -> Decision {
    if let Some(denial) = stale(&new.asking, now, policy) {
        return denied(denial);
    }
    let Some(role) = &policy.role else {
        return denied(no_such_role());
    };
    let (ttl, ttl_clamped) = match asked_ttl(new.ttl_seconds, role) {
        Ok(asked) => asked,
        Err(denial) => return denied(denial),
    };
    if let Some(max) = role.leases_max
        && new.live_leases >= max
    {
        return denied(too_many(new.live_leases, max));
    }
    let issued_at = whole_second(now);
    let next = Lease {
        id: new.id.clone(),
        role: new.role.clone(),
        requester: new.asking.by.clone(),
        username: new.username.clone(),
        issued_at,
        expires_at: later(issued_at, ttl),
        max_expires_at: later(issued_at, role.max_ttl),
        ttl_clamped,
        generation: 1,
        attempt: 1,
        held_until: Some(later(now, policy.hold)),
        sessions_terminated: 0,
        state: State::Issuing,
    };
    deliver(next, LoginChange::Create, "a credential was asked for")
}

pub(super) fn deliver_again(lease: &Lease, now: Timestamp, policy: &Policy) -> Decision {
    let next = Lease {
        attempt: lease.attempt + 1,
        held_until: Some(later(now, policy.hold)),
        ..lease.clone()
    };
    deliver(
        next,
        LoginChange::ResetPassword,
        "the earlier attempt did not finish",
    )
}

fn deliver(next: Lease, login: LoginChange, reason: &'static str) -> Decision {
    let mut effects = vec![Effect::PutSecret, Effect::ArmExpiry];
    if next.attempt > 1 {
        // Before the answer: once that is recorded, a repetition is answered and nothing else.
        effects.push(Effect::DeleteSecrets(Secrets::Superseded));
    }
    Decision {
        next: Some(next),
        login: Some(login),
        answers: vec![],
        effects,
        then: Then::Report(Report::Delivered),
        reason: reason.into(),
    }
}

/// The attempt at delivering has failed: the next one comes later, and later still. Until then the
/// lease stays held, so that neither the sweep nor a wake-up hurries it.
pub(super) fn deliver_later(lease: &Lease, reason: &Reason, now: Timestamp) -> Decision {
    let until = later(
        now,
        spread(doubling_seconds(lease.attempt, DELIVERY_SECONDS_MAX), lease),
    );
    Decision {
        next: Some(Lease {
            held_until: Some(until),
            ..lease.clone()
        }),
        ..defer(until, reason.clone())
    }
}

pub(super) fn activate(lease: &Lease) -> Decision {
    Decision {
        next: Some(Lease {
            held_until: None,
            state: State::Active,
            ..lease.clone()
        }),
        answers: vec![Answer {
            to: Whose::Issue,
            outcome: Outcome::Issued,
        }],
        effects: vec![Effect::Answer],
        ..ack("the credential is delivered")
    }
}

pub(super) fn renew(
    lease: &Lease,
    asking: &Asking,
    ttl_seconds: Option<i64>,
    now: Timestamp,
    policy: &Policy,
) -> Decision {
    if lease.is_due(now) {
        return denied(ended());
    }
    if let Some(denial) = stale(asking, now, policy) {
        return denied(denial);
    }
    let Some(role) = &policy.role else {
        return denied(no_longer_granted());
    };
    let (ttl, ttl_clamped) = match asked_ttl(ttl_seconds, role) {
        Ok(asked) => asked,
        Err(denial) => return denied(denial),
    };
    let asked = later(whole_second(now), ttl);
    let next = Lease {
        expires_at: asked.min(lease.max_expires_at),
        generation: lease.generation + 1,
        ..lease.clone()
    };
    Decision {
        answers: vec![Answer {
            to: Whose::Asker,
            outcome: Outcome::Renewed {
                previous_expires_at: lease.expires_at,
                ttl_clamped: ttl_clamped || asked > lease.max_expires_at,
            },
        }],
        next: Some(next),
        login: Some(LoginChange::Renew),
        effects: vec![Effect::ArmExpiry, Effect::Answer],
        ..ack("a renewal was asked for")
    }
}

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

/// 1, 2, 4, 8, 16, then 30 seconds.
fn doubling_seconds(failures: u32, most: i64) -> i64 {
    (1 << failures.saturating_sub(1).min(10)).min(most)
}

/// Up to a quarter more, spread by lease id, so that what failed together does not return together.
fn spread(seconds: i64, lease: &Lease) -> SignedDuration {
    let share = i64::from(lease.id.uuid.as_bytes()[15]);
    SignedDuration::from_millis(seconds * 1000 + seconds * 250 * share / 255)
}

/// The attempt's secret must not stay: another attempt delivers, or the lease is over.
pub(super) fn overtaken(attempt: u32, now: Timestamp) -> Decision {
    Decision {
        effects: vec![Effect::DeleteSecrets(Secrets::Of(attempt))],
        ..too_late(now)
    }
}

/// What would take something away while revocations are frozen. The sweep finds the lease again; a
/// command, and an expiry event that the ledger knows nothing of, have to wait themselves.
pub(super) fn frozen(lease: Option<&Lease>, event: &Event, now: Timestamp) -> Decision {
    const REASON: &str = "revocations are frozen";
    if lease.is_some() && matches!(event, Event::Wake { .. }) {
        ack(REASON)
    } else {
        defer(later(now, FROZEN), REASON)
    }
}

pub(super) fn too_late(now: Timestamp) -> Decision {
    defer(soon(now), "overtaken by another attempt")
}

/// When a delivery comes back that cannot be decided yet.
pub(super) fn soon(now: Timestamp) -> Timestamp {
    later(now, OVERTAKEN)
}

pub(super) fn count_sessions(lease: &Lease, terminated: u32) -> Lease {
    Lease {
        sessions_terminated: lease.sessions_terminated.saturating_add(terminated),
        ..lease.clone()
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

fn later(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

fn whole_second(now: Timestamp) -> Timestamp {
    now - SignedDuration::from_nanos(i64::from(now.subsec_nanosecond()))
}

pub(super) fn ack(reason: impl Into<Reason>) -> Decision {
    Decision {
        next: None,
        login: None,
        answers: vec![],
        effects: vec![],
        then: Then::Ack,
        reason: reason.into(),
    }
}

pub(super) fn defer(until: Timestamp, reason: impl Into<Reason>) -> Decision {
    Decision {
        then: Then::Defer(until),
        ..ack(reason)
    }
}

pub(super) fn answered(outcome: Outcome, reason: impl Into<Reason>) -> Decision {
    Decision {
        answers: vec![Answer {
            to: Whose::Asker,
            outcome,
        }],
        effects: vec![Effect::Answer],
        ..ack(reason)
    }
}

pub(super) fn denied(denial: Denial) -> Decision {
    let reason = format!("denied: {}", denial.code.as_str());
    answered(Outcome::Denied(denial), reason)
}
