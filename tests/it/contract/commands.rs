//! Commands: the schemas and the decoder accept and refuse the same.

use std::collections::BTreeMap;

use keycard::lease::DenialCode;
use keycard::wire::{self, Accepts, BODY_BYTES_MAX, Command, Refused, decode};
use serde_json::{Value, json};

use super::mutants::mutants;
use super::{examples, validator};

const COMMANDS: [(Accepts, &str); 3] = [
    (Accepts::Requests, wire::CREDENTIAL_REQUEST),
    (Accepts::Leases, wire::LEASE_RENEW),
    (Accepts::Leases, wire::LEASE_REVOKE),
];

fn decode_value(lane: Accepts, value: &Value) -> Result<wire::Incoming, Refused> {
    decode(lane, value.to_string().as_bytes())
}

fn refusal(lane: Accepts, value: &Value) -> Refused {
    decode_value(lane, value).unwrap_err()
}

fn example(kind: &str, case: &str) -> Value {
    examples(kind)[case].clone()
}

#[test]
fn examples_decode_to_what_they_say() {
    for (lane, kind) in COMMANDS {
        for (case, example) in examples(kind) {
            let incoming = decode_value(lane, &example)
                .unwrap_or_else(|refused| panic!("{kind}/{case}: {refused}"));
            assert_eq!(incoming.command.kind(), kind);
            assert_eq!(incoming.id, example["id"]);
            assert_eq!(incoming.source, example["source"]);
            assert_eq!(
                incoming.traceparent.as_deref(),
                example["traceparent"].as_str()
            );
            assert_eq!(
                incoming.expires_at.is_some(),
                example["expirytime"].is_string()
            );
            assert_eq!(incoming.digest, incoming.command.digest());
            let data = &example["data"];
            match incoming.command {
                Command::Request { role, ttl_seconds } => {
                    assert_eq!(role, data["role"]);
                    assert_eq!(ttl_seconds.is_some(), data["ttl_seconds"].is_number());
                    assert!([None, Some(3600)].contains(&ttl_seconds));
                }
                Command::Renew {
                    lease_id,
                    ttl_seconds,
                } => {
                    assert_eq!(lease_id.to_string(), data["lease_id"]);
                    assert_eq!(ttl_seconds, data["ttl_seconds"].as_i64());
                }
                Command::Revoke { lease_id, reason } => {
                    assert_eq!(lease_id.to_string(), data["lease_id"]);
                    assert_eq!(reason.as_deref(), data["reason"].as_str());
                }
            }
        }
    }
}

#[test]
fn schemas_and_decoder_agree_on_every_mutant() {
    let validators: BTreeMap<&str, _> = COMMANDS
        .map(|(_, kind)| (kind, validator(kind)))
        .into_iter()
        .collect();
    let (mut accepted, mut refused) = (0, 0);
    for (lane, kind) in COMMANDS {
        for (case, example) in examples(kind) {
            for mutant in mutants(&example) {
                // A mutant that turned into the lane's other command is judged as that.
                let kind = COMMANDS
                    .into_iter()
                    .find(|(of, kind)| *of == lane && mutant["type"] == *kind)
                    .map_or(kind, |(_, kind)| kind);
                let valid = validators[kind].is_valid(&mutant);
                let decoded = decode_value(lane, &mutant);
                assert_eq!(
                    valid,
                    decoded.is_ok(),
                    "{case}: {mutant}\ndecoder: {decoded:?}"
                );
                if valid {
                    accepted += 1;
                } else {
                    refused += 1;
                }
            }
        }
    }
    println!("{accepted} mutants accepted, {refused} refused, by both");
    assert!(
        accepted > 10_000 && refused > 10_000,
        "{accepted} {refused}"
    );
}

#[test]
fn each_lane_takes_its_own_commands_only() {
    let request = example(wire::CREDENTIAL_REQUEST, "minimal");
    let renew = example(wire::LEASE_RENEW, "minimal");
    for (lane, wrong) in [(Accepts::Leases, &request), (Accepts::Requests, &renew)] {
        let refused = refusal(lane, wrong);
        assert_eq!(refused.code, DenialCode::UnsupportedType);
        assert_eq!(refused.id.as_deref(), wrong["id"].as_str());
        assert_eq!(refused.source.as_deref(), wrong["source"].as_str());
    }
    for kind in [
        "keycard.credential.request.v2",
        "keycard.credential.request",
        "keycard.credential.request.v1 ",
        wire::LEASE_EXPIRE,
        wire::LEASE_EXPIRING,
        wire::CREDENTIAL_ISSUED,
        "",
    ] {
        // Whatever else a later version may hold, its type is what is wrong with it.
        let later = json!({"specversion": "2.0", "id": "7", "source": "s", "type": kind, "new": 1});
        for lane in [Accepts::Requests, Accepts::Leases] {
            let refused = refusal(lane, &later);
            assert_eq!(refused.code, DenialCode::UnsupportedType);
            assert_eq!(refused.id.as_deref(), Some("7"));
            for (_, supported) in COMMANDS {
                assert!(refused.message.contains(supported), "{refused}");
            }
        }
    }
}

#[test]
fn bodies_have_a_limit() {
    let mut body = example(wire::CREDENTIAL_REQUEST, "full")
        .to_string()
        .into_bytes();
    body.resize(BODY_BYTES_MAX, b' ');
    assert!(decode(Accepts::Requests, &body).is_ok());
    body.push(b' ');
    let refused = decode(Accepts::Requests, &body).unwrap_err();
    assert_eq!(
        refused.message,
        "the body has 65537 bytes; send at most 65536"
    );
}

#[test]
fn ambiguous_or_unreadable_bodies_are_refused_and_cannot_be_answered() {
    let text = example(wire::LEASE_REVOKE, "minimal").to_string();
    let again = |key: &str, value: &str| text.replacen(key, &format!("{value},{key}"), 1);
    for body in [
        again(r#""id":"#, r#""id":"revoke-0""#),
        again(r#""lease_id":"#, r#""lease_id":"x""#),
        text.replace("revoke-1", r"\ud800"),
        format!("{text}{text}"),
        format!("[{text}]"),
        text[..text.len() - 1].to_owned(),
        "[".repeat(BODY_BYTES_MAX),
        String::new(),
    ] {
        let refused = decode(Accepts::Leases, body.as_bytes()).unwrap_err();
        assert_eq!(refused.code, DenialCode::InvalidEvent);
        assert_eq!((refused.id, refused.source), (None, None), "{body}");
    }
}

#[test]
fn messages_name_the_field_the_problem_and_the_remedy() {
    let full = example(wire::CREDENTIAL_REQUEST, "full");
    for (at, name, value, message) in [
        (
            "",
            "id",
            json!(null),
            "`id` is missing; send a string of 1 to 256 characters without control characters",
        ),
        (
            "",
            "time",
            json!("now"),
            "`time` does not fit; send an RFC 3339 date-time such as 2026-01-31T12:00:00Z",
        ),
        (
            "",
            "data",
            json!([]),
            "`data` does not fit; send a JSON object",
        ),
        (
            "",
            "specversion",
            json!("0.3"),
            "`specversion` does not fit; send \"1.0\"",
        ),
        (
            "/data",
            "role",
            json!(null),
            "`data.role` is missing; send a role's name: 1 to 64 of A-Z a-z 0-9 _ . -, not beginning with . or -",
        ),
        (
            "/data",
            "ttl_seconds",
            json!("3600"),
            "`data.ttl_seconds` does not fit; send a whole number of seconds, at most 2^53-1 either way",
        ),
        (
            "/data",
            "ttl",
            json!(1),
            "`data.ttl` is not known; leave it out, as only these are: role, ttl_seconds",
        ),
    ] {
        let mut wrong = full.clone();
        wrong.pointer_mut(at).unwrap()[name] = value;
        assert_eq!(refusal(Accepts::Requests, &wrong).message, message);
    }
}

#[test]
fn messages_hold_little_of_what_was_sent() {
    let secret = "s3cret";
    let hostile = format!("\n\u{1b}[31m{}", "é".repeat(10_000));
    let full = example(wire::CREDENTIAL_REQUEST, "full");
    for (at, name) in [
        ("", hostile.as_str()),
        ("/data", &hostile),
        ("", "type"),
        ("", "id"),
    ] {
        let mut wrong = full.clone();
        let value = if name == "type" { &hostile } else { secret };
        wrong.pointer_mut(at).unwrap()[name] = value.into();
        wrong["data"]["role"] = json!([secret]);
        wrong["data"]["ttl_seconds"] = json!(secret);
        let refused = refusal(Accepts::Requests, &wrong);
        assert!(refused.message.matches('é').count() <= 64);
        assert!(!refused.message.contains(char::is_control), "{refused}");
        assert!(!refused.message.contains(secret), "{refused}");
    }
}

#[test]
fn a_refusal_gives_back_only_what_fits() {
    let mut wrong = example(wire::LEASE_RENEW, "full");
    wrong["data"] = json!(1);
    wrong["id"] = json!("a\0b");
    let refused = refusal(Accepts::Leases, &wrong);
    assert_eq!(refused.id, None);
    assert_eq!(refused.source.as_deref(), Some("orders"));
    let requester = keycard::lease::Requester::new("orders").unwrap();
    assert_eq!(refused.asked(Some(&requester)), None);
    wrong["id"] = json!("a");
    let refused = refusal(Accepts::Leases, &wrong);
    assert_eq!(refused.asked(Some(&requester)).unwrap().id, "a");
}
