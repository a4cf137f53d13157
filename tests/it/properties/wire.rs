//! The decoders: they never panic, accept what the schemas accept, and lose nothing of it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use jsonschema::Validator;
use keycard::lease::DenialCode;
use keycard::wire::{self, Accepts, BODY_BYTES_MAX, Command, Expire, Incoming, ResultEvent, Stamp};
use keycard::wire::{Refused, decode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{any_text, corpus, edited, search};
use crate::contract::{examples, validator};

static VALIDATORS: LazyLock<BTreeMap<&str, Validator>> =
    LazyLock::new(|| wire::TYPES.map(|kind| (kind, validator(kind))).into());

const PIECES: [&str; 44] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "\\",
    "null",
    "true",
    "0",
    "-0",
    "-",
    "1e400",
    "1E-400",
    "9007199254740991",
    "9007199254740991.0",
    "9007199254740992",
    "0.1",
    ".0",
    "e3",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\u202e",
    "\u{202e}",
    "\u{0}",
    "\u{7f}",
    "\u{9b}",
    "\u{feff}",
    "é",
    "\"id\":\"x\",",
    "\"data\":{},",
    "\"time\":",
    "\"role\":\"a\"",
    "2026-01-31T12:00:00Z",
    "T",
    "Z",
    "+23:59",
    "-24:00",
    "0000-",
    "9999-",
    "60",
    " ",
];

fn examples_of_every_type() -> Vec<Vec<u8>> {
    let all = wire::TYPES.into_iter().flat_map(examples);
    let texts = all.map(|(_, example)| example.to_string().into_bytes());
    texts.chain(corpus("wire")).collect()
}

/// Numbers as JSON writes them, most of them near a limit.
fn number() -> impl Strategy<Value = String> {
    let whole = prop_oneof![
        any::<i64>(),
        -100_i64..100,
        ((1_i64 << 53) - 50..(1 << 53) + 50),
        (-(1_i64 << 53) - 50..-(1 << 53) + 50),
        any::<u64>().prop_map(u64::cast_signed),
    ];
    let spelling = (whole, "(\\.0{1,3}|\\.[0-9]{1,3}|e0|E[+-]?[0-9]{1,3})?");
    prop_oneof![
        4 => spelling.prop_map(|(number, tail)| format!("{number}{tail}")),
        1 => "-?[1-9][0-9]{15,24}(\\.[0-9]{1,20})?",
        1 => any::<f64>().prop_map(|number| format!("{number:e}")),
    ]
}

/// Times near the shape that is taken.
fn time() -> impl Strategy<Value = String> {
    let year = prop_oneof![Just("0000".to_owned()), Just("9999".to_owned()), "[0-9]{4}"];
    let zone = prop_oneof![Just("Z".to_owned()), "[+-][012][0-9]:[0-6][0-9]", "[zZ ]?"];
    (
        year,
        "-[01][0-9]-[0-3][0-9]",
        "[Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]",
        "(\\.[0-9]{0,11})?",
        zone,
    )
        .prop_map(|(year, day, clock, fraction, zone)| {
            format!("{year}{day}{clock}{fraction}{zone}")
        })
}

/// A JSON value: most often one that some field takes.
fn value() -> impl Strategy<Value = String> {
    let text = |text: String| json!(text).to_string();
    prop_oneof![
        3 => any_text().prop_map(text),
        2 => number(),
        2 => time().prop_map(text),
        1 => "[A-Za-z0-9_.-]{0,66}".prop_map(text),
        1 => "[a-z.-]{1,66}\\.0[0-9a-f]{7}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-fA-F]{12}".prop_map(text),
        1 => proptest::sample::select(vec!["null", "true", "{}", "[]", "\"1.0\"", "\"application/json\""])
            .prop_map(str::to_owned),
    ]
}

/// A command some of whose fields are replaced, added or taken away.
fn command() -> impl Strategy<Value = Vec<u8>> {
    const PLACE: &str = "a place for a value";
    let kinds = [
        wire::CREDENTIAL_REQUEST,
        wire::LEASE_RENEW,
        wire::LEASE_REVOKE,
        wire::LEASE_EXPIRE,
    ];
    let examples: Vec<Value> = kinds
        .into_iter()
        .flat_map(|kind| examples(kind).into_values())
        .collect();
    let names = vec![
        "specversion",
        "id",
        "source",
        "time",
        "datacontenttype",
        "dataschema",
        "subject",
        "expirytime",
        "traceparent",
        "tracestate",
        "added",
    ];
    let fields = vec![
        "role",
        "ttl_seconds",
        "lease_id",
        "reason",
        "generation",
        "due_at",
        "username",
        "added",
    ];
    let place = prop_oneof![
        proptest::sample::select(names).prop_map(|name| ("", name)),
        proptest::sample::select(fields).prop_map(|name| ("/data", name)),
    ];
    let changes = proptest::collection::vec((place, any::<bool>(), value()), 1..4);
    (proptest::sample::select(examples), changes).prop_map(|(mut event, changes)| {
        let mut values = Vec::new();
        for ((at, name), only_if_there, value) in changes {
            let object = event.pointer_mut(at).unwrap().as_object_mut().unwrap();
            if !only_if_there || object.contains_key(name) {
                object.insert(name.to_owned(), format!("{PLACE} {}", values.len()).into());
                values.push(value);
            }
        }
        let mut text = event.to_string();
        for (number, value) in values.iter().enumerate() {
            text = text.replacen(&format!("\"{PLACE} {number}\""), value, 1);
        }
        text.into_bytes()
    })
}

#[test]
fn decoders_and_schemas_agree_on_whatever_comes() {
    for body in examples_of_every_type() {
        check(&body);
    }
    let any = proptest::collection::vec(any::<u8>(), 0..64);
    let edited = edited(examples_of_every_type(), PIECES.to_vec());
    let strategy = prop_oneof![1 => any, 4 => edited, 8 => command()];
    search(6, &strategy, |body| check(&body));
}

/// Numbers alone, as each has many spellings.
#[test]
fn a_number_is_the_same_in_each_of_its_spellings() {
    let example = examples(wire::CREDENTIAL_REQUEST)["minimal"].to_string();
    let request = |number: &str| {
        let body = example.replacen(
            "\"data\":{",
            &format!("\"data\":{{\"ttl_seconds\":{number},"),
            1,
        );
        decode(Accepts::Requests, body.as_bytes())
    };
    let fits = -((1_i64 << 53) - 1)..=(1_i64 << 53) - 1;
    search(8, &(fits, 1_usize..4), |(number, zeros)| {
        let plain = request(&number.to_string()).unwrap();
        assert!(
            matches!(plain.command, Command::Request { ttl_seconds: Some(read), .. } if read == number)
        );
        for spelling in [
            format!("{number}.{}", "0".repeat(zeros)),
            format!("{number}e0"),
            format!("{number}{}e-{zeros}", "0".repeat(zeros)),
        ] {
            assert_eq!(
                request(&spelling).map(|read| read.digest),
                Ok(plain.digest),
                "{spelling}"
            );
        }
    });
}

fn check(body: &[u8]) {
    for (lane, kinds) in [
        (Accepts::Requests, &[wire::CREDENTIAL_REQUEST][..]),
        (Accepts::Leases, &[wire::LEASE_RENEW, wire::LEASE_REVOKE]),
    ] {
        let decoded = decode(lane, body);
        let parsed = serde_json::from_slice::<Value>(body).ok();
        let parsed = parsed.filter(|_| body.len() <= BODY_BYTES_MAX);
        let kind = parsed.as_ref().and_then(|event| event["type"].as_str());
        let kind = kind.and_then(|kind| kinds.iter().find(|known| **known == kind));
        match &decoded {
            Ok(incoming) => written_back(lane, incoming, parsed.as_ref().unwrap()),
            Err(refused) => assert_refused(refused),
        }
        // No schema sees that a key came twice.
        let ambiguous = decoded
            .as_ref()
            .is_err_and(|refused| refused.message.contains("occurs twice"));
        let valid = kind.is_some_and(|kind| VALIDATORS[kind].is_valid(parsed.as_ref().unwrap()));
        assert!(ambiguous || valid == decoded.is_ok(), "{decoded:?}");
    }
    if let Ok(expire) = Expire::decode(body) {
        let stamp = Stamp {
            installation: "prod",
            at: expire.due_at,
        };
        let text = expire.to_json(stamp);
        // With an offset a time may be a day beyond the years that are read.
        let year = &expire.due_at.to_string()[..4];
        if ("0001"..="9998").contains(&year) {
            assert_eq!(Expire::decode(text.as_bytes()), Ok(expire), "{text}");
        }
    }
    if let Ok(result) = ResultEvent::from_json(body) {
        let again = ResultEvent::from_json(result.to_json().as_bytes());
        assert_eq!(again.unwrap(), result);
    }
}

/// The command, written as it was understood, is the same command.
fn written_back(lane: Accepts, incoming: &Incoming, event: &Value) {
    let data = match &incoming.command {
        Command::Request { role, ttl_seconds } => {
            json!({ "role": role, "ttl_seconds": ttl_seconds })
        }
        Command::Renew {
            lease_id,
            ttl_seconds,
        } => {
            json!({ "lease_id": lease_id.to_string(), "ttl_seconds": ttl_seconds })
        }
        Command::Revoke { lease_id, reason } => {
            json!({ "lease_id": lease_id.to_string(), "reason": reason })
        }
    };
    for (field, value) in data.as_object().unwrap() {
        let told = &event["data"][field];
        assert!(
            told == value || told.as_f64() == value.as_f64() && told.is_number(),
            "{field}"
        );
    }
    let time: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
    assert_eq!(time, incoming.time);
    let written = json!({
        "specversion": "1.0",
        "id": incoming.id,
        "source": incoming.source,
        "type": incoming.command.kind(),
        "time": event["time"],
        "expirytime": event["expirytime"],
        "traceparent": incoming.traceparent,
        "data": data,
    });
    assert_eq!(
        decode(lane, written.to_string().as_bytes()).as_ref(),
        Ok(incoming)
    );
}

/// What the sender and the log are told holds nothing that steers either.
fn assert_refused(refused: &Refused) {
    let Refused {
        code,
        message,
        id,
        source,
    } = refused;
    assert!([DenialCode::InvalidEvent, DenialCode::UnsupportedType].contains(code));
    assert!(message.chars().count() < 1_200, "{message}");
    for text in [Some(message), id.as_ref(), source.as_ref()]
        .into_iter()
        .flatten()
    {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
    assert!(
        !message.contains(['\u{202e}', '\u{2028}', '\u{2066}']),
        "{message:?}"
    );
}
