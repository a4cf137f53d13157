//! What the code writes, for every result example and every expiry event's.

use jiff::Timestamp;
use keycard::lease::{Cause, DenialCode, Lease, Requester, State};
use keycard::wire::{
    self, Accepts, Asked, Expire, IssuedDetails, ResultEvent, SecretPointer, Stamp, decode,
};
use serde_json::{Value, json};

use super::examples;

pub(super) const INSTALLATION: &str = "prod";
const LEASE_ID: &str = "orders-db.019c13e2-5a00-7a41-9c3e-5d2f8b6a7c10";
pub(super) const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

pub(super) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(super) fn stamp() -> Stamp<'static> {
    Stamp {
        installation: INSTALLATION,
        at: time("2026-01-31T12:00:01.25Z"),
    }
}

pub(super) fn requester() -> Requester {
    Requester::new("orders").unwrap()
}

pub(super) fn lease(state: State) -> Lease {
    Lease {
        id: LEASE_ID.parse().unwrap(),
        role: "orders-app".into(),
        requester: requester(),
        username: "kc_orders-app_019c13e25a007a419c3e5d2f8b6a7c10".into(),
        issued_at: time("2026-01-31T12:00:01Z"),
        expires_at: time("2026-01-31T13:00:01Z"),
        max_expires_at: time("2026-02-01T12:00:01Z"),
        ttl_clamped: false,
        generation: 1,
        attempt: 1,
        held_until: None,
        sessions_terminated: 0,
        state,
    }
}

pub(super) fn ended(cause: Cause, sessions_terminated: u32) -> Lease {
    Lease {
        sessions_terminated,
        ..lease(State::Dropped {
            cause,
            revoked_at: time("2026-01-31T13:00:01.5Z"),
            failures: 0,
            retry_at: time("2026-01-31T13:00:01.5Z"),
        })
    }
}

pub(super) fn failing(failures: u32, retry_at: &str) -> Lease {
    lease(State::Revoking {
        cause: Cause::Expired,
        failures,
        retry_at: time(retry_at),
    })
}

fn details(secret: SecretPointer) -> IssuedDetails {
    IssuedDetails {
        host: "orders-db.internal".into(),
        port: 5432,
        dbname: "orders".into(),
        secret,
    }
}

pub(super) fn asked<'a>(by: &'a Requester, id: &'a str, traceparent: Option<&'a str>) -> Asked<'a> {
    Asked {
        requester: Some(by),
        source: "orders",
        id,
        traceparent,
    }
}

/// What a command is told that does not decode.
fn undecodable(lane: Accepts, change: &str, value: Value) -> ResultEvent {
    let mut event = examples(wire::CREDENTIAL_REQUEST)["minimal"].clone();
    *event.pointer_mut(change).unwrap() = value;
    let refused = decode(lane, event.to_string().as_bytes()).unwrap_err();
    let by = requester();
    ResultEvent::denied(
        stamp(),
        refused.asked(Some(&by)).unwrap(),
        refused.code,
        &refused.message,
    )
}

pub(super) fn expire(locators: &[&str]) -> Expire {
    let locators = locators.iter().map(|&locator| locator.to_owned());
    Expire::of(&lease(State::Active), locators.collect())
}

/// Every result example: its type, its case and the event.
pub(super) fn results() -> Vec<(&'static str, &'static str, ResultEvent)> {
    [
        issued(),
        renewed(),
        revoked(),
        revocation_failed(),
        denied(),
    ]
    .into_iter()
    .flatten()
    .map(|(case, event)| (event.kind(), case, event))
    .collect()
}

type Cases = Vec<(&'static str, ResultEvent)>;

fn issued() -> Cases {
    let by = requester();
    let request = asked(&by, "4f0c1b7e", None);
    let aws = SecretPointer {
        store: "aws-secrets-manager".into(),
        locator: format!(
            "arn:aws:secretsmanager:eu-central-1:123456789012:secret:keycard/orders/orders-app/{LEASE_ID}-AbCdEf"
        ),
        region: Some("eu-central-1".into()),
        version: "5f0e6a1c-8d3b-4c2e-9a7f-1b2c3d4e5f60".into(),
    };
    let directory = SecretPointer {
        store: "directory".into(),
        locator: format!("/run/keycard/secrets/keycard/orders/orders-app/{LEASE_ID}"),
        region: None,
        version: "5f0e6a1c-8d3b-4c2e-9a7f-1b2c3d4e5f60".into(),
    };
    let clamped = Lease {
        expires_at: time("2026-02-01T12:00:01Z"),
        ttl_clamped: true,
        ..lease(State::Active)
    };
    vec![
        (
            "aws-secrets-manager",
            ResultEvent::issued(
                stamp(),
                asked(&by, "01JJXG7Z", Some(TRACE)),
                &lease(State::Active),
                details(aws),
            ),
        ),
        (
            "directory",
            ResultEvent::issued(stamp(), request, &clamped, details(directory)),
        ),
    ]
}

fn renewed() -> Cases {
    let by = requester();
    let renewed = Lease {
        expires_at: time("2026-01-31T15:00:00Z"),
        generation: 2,
        ..lease(State::Active)
    };
    let renewed_to_the_end = Lease {
        expires_at: time("2026-02-01T12:00:01Z"),
        generation: 3,
        ..lease(State::Active)
    };
    vec![
        (
            "in-full",
            ResultEvent::renewed(
                stamp(),
                asked(&by, "renew-2", Some(TRACE)),
                &renewed,
                time("2026-01-31T13:00:01Z"),
                false,
            ),
        ),
        (
            "clamped",
            ResultEvent::renewed(
                stamp(),
                asked(&by, "renew-3", None),
                &renewed_to_the_end,
                time("2026-01-31T15:00:00Z"),
                true,
            ),
        ),
    ]
}

fn revoked() -> Cases {
    let by = requester();
    let operator = Requester::new("on-call").unwrap();
    vec![
        (
            "expired",
            ResultEvent::revoked(INSTALLATION, &ended(Cause::Expired, 2)).unwrap(),
        ),
        (
            "requested-answer",
            ResultEvent::revoked_as_asked(
                stamp(),
                asked(&by, "revoke-1", None),
                &ended(Cause::Requested, 0),
            )
            .unwrap(),
        ),
        (
            "operator-answer",
            ResultEvent::revoked_as_asked(
                stamp(),
                asked(&operator, "revoke-2", Some(TRACE)),
                &ended(Cause::Operator, 1),
            )
            .unwrap(),
        ),
        (
            "missing",
            ResultEvent::revoked_missing(stamp(), &expire(&[])),
        ),
    ]
}

fn revocation_failed() -> Cases {
    vec![
        (
            "stuck",
            ResultEvent::revocation_failed(
                stamp(),
                &failing(6, "2026-01-31T13:06:01Z"),
                "role cannot be dropped because some objects depend on it (SQLSTATE 2BP01)",
            )
            .unwrap(),
        ),
        (
            "still-stuck",
            ResultEvent::revocation_failed(
                stamp(),
                &failing(7, "2026-01-31T13:11:02.5Z"),
                "canceling statement due to lock timeout (SQLSTATE 55P03)",
            )
            .unwrap(),
        ),
    ]
}

fn denied() -> Cases {
    let by = requester();
    let mut results = vec![
        (
            "invalid_event",
            undecodable(Accepts::Requests, "/data/role", json!("orders app")),
        ),
        (
            "unsupported_type",
            undecodable(
                Accepts::Requests,
                "/type",
                json!("keycard.credential.request.v2"),
            ),
        ),
    ];
    for (code, trace, message) in [
        (
            DenialCode::Unauthenticated,
            None,
            "the broker has validated no user for the message; set the user-id property",
        ),
        (
            DenialCode::RoleNotAllowed,
            Some(TRACE),
            "the role does not exist, or it does not name this requester in `requesters`",
        ),
        (
            DenialCode::TtlInvalid,
            None,
            "`ttl_seconds` is 5 and the role's `min_ttl` is 60 s; ask for more",
        ),
        (
            DenialCode::TooOld,
            None,
            "the command waited longer than `max_request_age`; send a new one",
        ),
        (
            DenialCode::LeaseLimit,
            None,
            "20 leases of this role are alive and `max_leases` is 20; revoke one or wait for one to expire",
        ),
        (
            DenialCode::LeaseUnknown,
            None,
            "no such lease of this requester; check `lease_id`",
        ),
        (
            DenialCode::LeaseEnded,
            None,
            "the lease is over; request a new credential",
        ),
        (
            DenialCode::RequestIdReused,
            None,
            "this `id` was used for another command; send a fresh one",
        ),
        (
            DenialCode::RoleUnusable,
            None,
            "Postgres refused the role's statements; its operator has to mend them",
        ),
    ] {
        let asked = Asked {
            requester: (code != DenialCode::Unauthenticated).then_some(&by),
            ..asked(&by, "4f0c1b7e", trace)
        };
        let denied = ResultEvent::denied(stamp(), asked, code, message);
        results.push((code.as_str(), denied));
    }
    results
}

pub(super) fn expiry_events() -> Vec<(&'static str, &'static str, Expire)> {
    let first = format!("keycard/orders/orders-app/{LEASE_ID}");
    let second = format!("{first}.2");
    vec![
        (wire::LEASE_EXPIRE, "first-attempt", expire(&[&first])),
        (
            wire::LEASE_EXPIRE,
            "second-attempt",
            expire(&[&first, &second]),
        ),
    ]
}
