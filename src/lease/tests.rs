//! What every rule decides, what no decision may break, and what comes of it in a hostile world.

mod audit;
mod ending;
mod issue;
mod laws;
mod live;
mod model;
mod parts;
mod reconcile;
mod simulation;
mod world;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{
    Asking, Cause, Decision, DenialCode, Event, Lease, LeaseId, NewLease, Outcome, Policy,
    Requester, RolePolicy, State, Then, Whose, decide,
};

/// A quarter of a second past a whole one, as clocks read.
fn t0() -> Timestamp {
    "2030-01-01T00:00:00.25Z".parse().unwrap()
}

/// The whole second before [`t0`]: when the leases of these tests are issued.
fn start() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

fn days(days: i64) -> SignedDuration {
    seconds(days * 86_400)
}

/// An id whose retries are not spread.
fn lease_id() -> LeaseId {
    LeaseId {
        database: "app".into(),
        uuid: Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8000),
    }
}

fn requester(name: &str) -> Requester {
    Requester::new(name).unwrap()
}

fn policy() -> Policy {
    Policy {
        hold: seconds(60),
        request_age_max: seconds(900),
        frozen: false,
        role: Some(RolePolicy {
            default_ttl: seconds(3_600),
            max_ttl: seconds(86_400),
            min_ttl: seconds(30),
            leases_max: Some(3),
        }),
    }
}

fn asking(by: &str, at: Timestamp) -> Asking {
    Asking {
        by: requester(by),
        operator: by == "ops",
        at,
        expires_at: None,
    }
}

fn request(ttl_seconds: Option<i64>) -> NewLease {
    NewLease {
        asking: asking("orders", t0()),
        id: lease_id(),
        role: "reader".into(),
        username: "kc_reader_1".into(),
        ttl_seconds,
        live_leases: 0,
    }
}

fn renewal(at: Timestamp, ttl_seconds: Option<i64>) -> Event {
    Event::Renew {
        asking: asking("orders", at),
        ttl_seconds,
    }
}

/// Issued at [`start`] for an hour, renewable up to a day, told at attempt 1.
fn lease(state: State) -> Lease {
    Lease {
        id: lease_id(),
        role: "reader".into(),
        requester: requester("orders"),
        username: "kc_reader_1".into(),
        issued_at: start(),
        expires_at: start() + seconds(3_600),
        max_expires_at: start() + seconds(86_400),
        ttl_clamped: false,
        generation: 1,
        attempt: 1,
        held_until: None,
        sessions_terminated: 0,
        state,
    }
}

fn held(lease: Lease, until: Timestamp) -> Lease {
    Lease {
        held_until: Some(until),
        ..lease
    }
}

fn revoking(failures: u32, retry_at: Timestamp) -> State {
    State::Revoking {
        cause: Cause::Expired,
        failures,
        retry_at,
    }
}

fn dropped(failures: u32, retry_at: Timestamp) -> State {
    State::Dropped {
        cause: Cause::Requested,
        revoked_at: start(),
        failures,
        retry_at,
    }
}

fn closed(recheck_at: Option<Timestamp>) -> State {
    State::Closed {
        cause: Cause::Requested,
        revoked_at: start(),
        recheck_at,
    }
}

fn delivered(attempt: u32) -> Event {
    Event::Delivered { attempt }
}

fn failure(attempt: u32) -> Event {
    Event::Failed {
        attempt,
        reason: "no route".into(),
    }
}

fn refused(event: Event) -> Event {
    Event::Refused {
        event: Box::new(event),
        terminated: 2,
        reason: "permission denied".into(),
    }
}

/// Decides under the usual rules.
fn on(lease: &Lease, event: &Event, now: Timestamp) -> Decision {
    decide(Some(lease), event, now, &policy())
}

/// The code of the one denial in the decision, which changes nothing else.
fn denial(decision: &Decision) -> DenialCode {
    assert_eq!((&decision.next, decision.login), (&None, None));
    assert_eq!(decision.then, Then::Ack);
    match decision.answers.as_slice() {
        [answer] if answer.to == Whose::Asker => match &answer.outcome {
            Outcome::Denied(denial) => denial.code,
            other @ (Outcome::Issued | Outcome::Renewed { .. } | Outcome::Revoked) => {
                panic!("not denied: {other:?}")
            }
        },
        other => panic!("not one answer: {other:?}"),
    }
}

/// What the request of the lease is told by this decision.
fn told_to_issue(decision: &Decision) -> Vec<&Outcome> {
    decision
        .answers
        .iter()
        .filter(|answer| answer.to == Whose::Issue)
        .map(|answer| &answer.outcome)
        .collect()
}

/// The lease as the decision leaves it.
fn next(decision: &Decision) -> &Lease {
    decision.next.as_ref().expect("a changed lease")
}

fn defers_until(decision: &Decision, until: Timestamp) {
    assert_eq!(decision.then, Then::Defer(until), "{decision:?}");
    assert!(decision.effects.is_empty() && decision.answers.is_empty());
}
