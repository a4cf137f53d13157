//! The steps that give: a lease is issued, delivered and renewed.

use jiff::Timestamp;

use super::decision::{
    Answer, Decision, Effect, LoginChange, Outcome, Reason, Report, Secrets, Then, Whose,
};
use super::denials::{asked_ttl, ended, no_longer_granted, no_such_role, stale, too_many};
use super::steps::{ack, defer, denied, doubling_seconds, later, spread, whole_second};
use super::{Asking, Lease, NewLease, Policy, State};

/// Longest pause between attempts at a delivery, in seconds: each attempt leaves a locator behind.
const DELIVERY_SECONDS_MAX: i64 = 120;

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
