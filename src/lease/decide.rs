//! The one place where a lease changes state: a function for each state, a match over all events.

use jiff::{SignedDuration, Timestamp};

use super::decision::{Decision, Effect, Notice, Outcome, Report, Secrets, Then};
use super::denials::{ended, unknown_lease, unusable};
use super::ending::{
    cause, clear, close, failed, refused, reopen, revoke, revoke_as_asked, terminate,
};
use super::grant::{activate, deliver_again, deliver_later, issue, renew};
use super::steps::{
    ack, answered, count_sessions, defer, denied, frozen, later, overtaken, soon, too_late,
};
use super::{Cause, Difference, Event, Lease, Policy, State};

/// How soon a revocation comes back that met the lease's own end: its sender waits for the answer,
/// the command line for 25 seconds.
const REVOKED_MEANWHILE: SignedDuration = SignedDuration::from_secs(5);

/// Decides what `event` does to `lease` at `now`, the ledger's clock read under the lease's lock.
///
/// `lease` is `None` when the ledger has no such lease. Total: every event is answered in every
/// state, however late, early or often it comes. While revocations are frozen nothing is taken away.
#[must_use]
pub fn decide(lease: Option<&Lease>, event: &Event, now: Timestamp, policy: &Policy) -> Decision {
    let decision = decide_thawed(lease, event, now, policy);
    if policy.frozen && decision.takes_away() {
        return frozen(lease, event, now);
    }
    decision
}

fn decide_thawed(
    lease: Option<&Lease>,
    event: &Event,
    now: Timestamp,
    policy: &Policy,
) -> Decision {
    let Some(lease) = lease else {
        return unknown(event, now, policy);
    };
    if let Event::Renew { asking, .. } | Event::Revoke(asking) = event
        && cause(lease, asking).is_none()
    {
        return denied(unknown_lease());
    }
    if let Some(until) = held_against(lease, event, now) {
        return defer(until, "another attempt holds the lease");
    }
    match lease.state {
        State::Issuing => issuing(lease, event, now, policy),
        State::Active => active(lease, event, now, policy),
        State::Revoking {
            cause, retry_at, ..
        } => revoking(lease, cause, retry_at, event, now, policy),
        State::Dropped {
            cause,
            revoked_at,
            retry_at,
            ..
        } => dropped(lease, (cause, revoked_at), retry_at, event, now, policy),
        State::Closed {
            cause,
            revoked_at,
            recheck_at,
        } => closed(lease, (cause, revoked_at), recheck_at, event, now, policy),
    }
}

fn issuing(lease: &Lease, event: &Event, now: Timestamp, policy: &Policy) -> Decision {
    match event {
        Event::Request(_) | Event::Wake { .. } if lease.is_due(now) => {
            revoke(lease, Cause::Expired, now, policy, "expired while issuing")
        }
        Event::Request(_) | Event::Wake { .. } => deliver_again(lease, now, policy),
        Event::Renew { .. } => defer(soon(now), "the lease is still being issued"),
        Event::Revoke(asking) => revoke_as_asked(lease, asking, now, policy),
        Event::Delivered { attempt } if *attempt != lease.attempt => overtaken(*attempt, now),
        Event::Delivered { .. } if lease.is_due(now) => {
            revoke(lease, Cause::Expired, now, policy, "expired while issuing")
        }
        Event::Delivered { .. } => activate(lease),
        Event::Failed { attempt, .. } if *attempt != lease.attempt => too_late(now),
        Event::Failed { reason, .. } => deliver_later(lease, reason, now),
        Event::Differs(Difference::LoginMissing) => {
            revoke(lease, Cause::Missing, now, policy, "the login is gone")
        }
        Event::Differs(
            Difference::LoginLeft | Difference::SecretLeft | Difference::SecretMissing,
        ) => ack("the lease is alive"),
        Event::Refused {
            event,
            terminated,
            reason,
        } => refused(
            &count_sessions(lease, *terminated),
            event,
            reason,
            now,
            policy,
        ),
        Event::SessionsGone { .. } | Event::Cleared { .. } => too_late(now),
    }
}

fn active(lease: &Lease, event: &Event, now: Timestamp, policy: &Policy) -> Decision {
    match event {
        Event::Request(_) => ack("the request is answered"),
        Event::Renew {
            asking,
            ttl_seconds,
        } => renew(lease, asking, *ttl_seconds, now, policy),
        Event::Revoke(asking) => revoke_as_asked(lease, asking, now, policy),
        Event::Wake { .. } if lease.is_due(now) => {
            revoke(lease, Cause::Expired, now, policy, "the lease is due")
        }
        Event::Wake { generation } if *generation == Some(lease.generation) => Decision {
            effects: vec![Effect::ArmExpiry],
            ..ack("not due yet, so the rest of the time is armed")
        },
        Event::Wake { .. } => ack("not due, and another expiry event is armed"),
        Event::Delivered { attempt } if *attempt != lease.attempt => overtaken(*attempt, now),
        // Its put may have happened all the same, after the delivering attempt had cleared up.
        Event::Failed { attempt, .. } if (1..lease.attempt).contains(attempt) => {
            overtaken(*attempt, now)
        }
        Event::Delivered { .. } => defer(soon(now), "delivered before; the answer is replayed"),
        Event::Differs(Difference::LoginMissing) => {
            revoke(lease, Cause::Missing, now, policy, "the login is gone")
        }
        Event::Differs(Difference::SecretMissing) => {
            revoke(lease, Cause::Missing, now, policy, "the secret is gone")
        }
        Event::Differs(Difference::LoginLeft | Difference::SecretLeft) => ack("the lease is alive"),
        Event::Refused {
            event,
            terminated,
            reason,
        } => refused(
            &count_sessions(lease, *terminated),
            event,
            reason,
            now,
            policy,
        ),
        Event::SessionsGone { .. } | Event::Cleared { .. } | Event::Failed { .. } => too_late(now),
    }
}

fn revoking(
    lease: &Lease,
    cause: Cause,
    retry_at: Timestamp,
    event: &Event,
    now: Timestamp,
    policy: &Policy,
) -> Decision {
    match event {
        Event::Request(_) => ack("the request was answered when the lease ended"),
        Event::Renew { .. } => denied(ended()),
        // Who asks for the end may know that its hindrance is gone.
        Event::Wake { .. } if now < retry_at => defer(retry_at, "the next attempt is not due yet"),
        Event::Differs(_) => defer(soon(now), "revocation goes on by itself"),
        Event::Revoke(_) | Event::Wake { .. } => terminate(
            lease,
            lease.state.clone(),
            now,
            policy,
            "revocation goes on".into(),
        ),
        Event::Delivered { attempt } => overtaken(*attempt, now),
        Event::SessionsGone { attempt, .. } if *attempt != lease.attempt => too_late(now),
        Event::SessionsGone {
            terminated, left, ..
        } => {
            let counted = count_sessions(lease, *terminated);
            match left {
                None => revoke(&counted, cause, now, policy, "no session is left"),
                Some(reason) => failed(&counted, reason, now),
            }
        }
        Event::Failed { attempt, .. } if *attempt != lease.attempt => too_late(now),
        // Held by nobody: this attempt's failure is counted, and what failed now is the notice of it.
        Event::Failed { reason, .. } if lease.held_until.is_none() => {
            defer(retry_at, reason.clone())
        }
        Event::Failed { reason, .. } => failed(lease, reason, now),
        Event::Refused {
            event,
            terminated,
            reason,
        } => {
            let mut counted = count_sessions(lease, *terminated);
            if let Event::SessionsGone { terminated, .. } = event.as_ref() {
                counted = count_sessions(&counted, *terminated);
            }
            failed(&counted, reason, now)
        }
        Event::Cleared { .. } => too_late(now),
    }
}

fn dropped(
    lease: &Lease,
    ended_as: (Cause, Timestamp),
    retry_at: Timestamp,
    event: &Event,
    now: Timestamp,
    policy: &Policy,
) -> Decision {
    match event {
        Event::Request(_) => ack("the request was answered when the lease ended"),
        Event::Renew { .. } => denied(ended()),
        // Who asks for the end may know that its hindrance is gone.
        Event::Wake { .. } if now < retry_at => defer(retry_at, "the next attempt is not due yet"),
        Event::Differs(Difference::LoginLeft) => reopen(lease, ended_as.0, now, policy),
        Event::Differs(
            Difference::LoginMissing | Difference::SecretLeft | Difference::SecretMissing,
        ) => defer(soon(now), "clearing up goes on by itself"),
        Event::Revoke(_) | Event::Wake { .. } => clear(
            lease,
            lease.state.clone(),
            now,
            policy,
            "clearing up goes on",
        ),
        Event::Delivered { attempt } => overtaken(*attempt, now),
        Event::Cleared { attempt } | Event::Failed { attempt, .. } if *attempt != lease.attempt => {
            too_late(now)
        }
        Event::Cleared { .. } => close(lease, ended_as, now),
        Event::Failed { reason, .. } => failed(lease, reason, now),
        Event::SessionsGone { .. } | Event::Refused { .. } => too_late(now),
    }
}

fn closed(
    lease: &Lease,
    (cause, revoked_at): (Cause, Timestamp),
    recheck_at: Option<Timestamp>,
    event: &Event,
    now: Timestamp,
    policy: &Policy,
) -> Decision {
    match event {
        Event::Request(_) => ack("the request was answered when the lease ended"),
        Event::Renew { .. } => denied(ended()),
        Event::Revoke(_) => answered(Outcome::Revoked, "the lease was revoked before"),
        Event::Wake { .. } if recheck_at.is_some_and(|at| at <= now) => Decision {
            effects: vec![
                Effect::TerminateSessions,
                Effect::DeleteSecrets(Secrets::All),
            ],
            then: Then::Report(Report::Cleared),
            ..ack("late writers may have left a secret")
        },
        Event::Wake { .. }
        | Event::Differs(Difference::LoginMissing | Difference::SecretMissing) => {
            ack("the lease is closed")
        }
        Event::Differs(Difference::LoginLeft) => reopen(lease, cause, now, policy),
        Event::Differs(Difference::SecretLeft) => Decision {
            effects: vec![Effect::DeleteSecrets(Secrets::All)],
            ..ack("a secret was left")
        },
        Event::Cleared { attempt } if *attempt != lease.attempt => too_late(now),
        Event::Cleared { .. } => Decision {
            next: Some(Lease {
                state: State::Closed {
                    cause,
                    revoked_at,
                    recheck_at: recheck_at.filter(|at| *at > now),
                },
                ..lease.clone()
            }),
            ..ack("the secrets were deleted once more")
        },
        Event::Delivered { attempt } => overtaken(*attempt, now),
        Event::SessionsGone { .. } | Event::Failed { .. } | Event::Refused { .. } => too_late(now),
    }
}

fn unknown(event: &Event, now: Timestamp, policy: &Policy) -> Decision {
    match event {
        Event::Request(new) => issue(new, now, policy),
        Event::Renew { .. } | Event::Revoke(_) => denied(unknown_lease()),
        Event::Wake {
            generation: Some(_),
        } => Decision {
            effects: vec![
                Effect::DeleteSecrets(Secrets::All),
                Effect::Publish(Notice::Missing),
            ],
            ..ack("the ledger does not know the lease")
        },
        // The ledger has lost the lease (a failover): the command comes back and is answered anew.
        Event::Delivered { attempt } => overtaken(*attempt, now),
        Event::SessionsGone { .. } | Event::Cleared { .. } => too_late(now),
        Event::Refused { event, reason, .. } => match event.as_ref() {
            Event::Request(_) => denied(unusable(reason)),
            Event::Renew { .. }
            | Event::Revoke(_)
            | Event::Wake { .. }
            | Event::Delivered { .. }
            | Event::SessionsGone { .. }
            | Event::Cleared { .. }
            | Event::Failed { .. }
            | Event::Differs(_)
            | Event::Refused { .. } => ack("the ledger does not know the lease"),
        },
        Event::Failed { reason, .. } => defer(soon(now), reason.clone()),
        Event::Wake { generation: None } | Event::Differs(_) => {
            ack("the ledger does not know the lease")
        }
    }
}

/// When to look again if the lease is another attempt's. The attempt's own reports are never kept
/// out, nor is what changes nothing.
fn held_against(lease: &Lease, event: &Event, now: Timestamp) -> Option<Timestamp> {
    let until = lease.held_until.filter(|until| now < *until)?;
    match event {
        Event::Request(_) | Event::Renew { .. } if lease.state == State::Issuing => Some(until),
        Event::Revoke(_) => Some(until.min(later(now, REVOKED_MEANWHILE))),
        Event::Wake { .. } | Event::Differs(_) => Some(until),
        Event::Request(_)
        | Event::Renew { .. }
        | Event::Delivered { .. }
        | Event::SessionsGone { .. }
        | Event::Cleared { .. }
        | Event::Failed { .. }
        | Event::Refused { .. } => None,
    }
}
