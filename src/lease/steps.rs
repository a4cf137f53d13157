//! The steps that change no lease, and what the others are made of.

use jiff::{SignedDuration, Timestamp};

use super::decision::{Answer, Decision, Denial, Effect, Outcome, Reason, Secrets, Then, Whose};
use super::{Event, Lease};

/// How soon a delivery comes back that another attempt has overtaken.
const OVERTAKEN: SignedDuration = SignedDuration::from_secs(1);

/// How soon a command comes back that revocations are frozen for.
const FROZEN: SignedDuration = SignedDuration::from_secs(30);

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

pub(super) fn later(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

pub(super) fn whole_second(now: Timestamp) -> Timestamp {
    now - SignedDuration::from_nanos(i64::from(now.subsec_nanosecond()))
}

/// 1, 2, 4, 8, 16, then 30 seconds.
pub(super) fn doubling_seconds(failures: u32, most: i64) -> i64 {
    (1 << failures.saturating_sub(1).min(10)).min(most)
}

/// Up to a quarter more, spread by lease id, so that what failed together does not return together.
pub(super) fn spread(seconds: i64, lease: &Lease) -> SignedDuration {
    let share = i64::from(lease.id.uuid.as_bytes()[15]);
    SignedDuration::from_millis(seconds * 1000 + seconds * 250 * share / 255)
}
