//! Results and the expiry event: the examples are what the code writes.

use std::collections::BTreeSet;

use keycard::lease::{Cause, DenialCode, Requester, State};
use keycard::wire::{self, Expire, ResultData, ResultEvent, Stamp};
use serde_json::{Value, json};

use super::written::{
    INSTALLATION, TRACE, asked, ended, expire, expiry_events, failing, lease, requester, results,
    stamp, time,
};
use super::{COMMANDS, examples, validator};

#[test]
fn examples_are_what_the_code_writes() {
    let written: Vec<(&str, &str, String)> = results()
        .into_iter()
        .map(|(kind, case, event)| (kind, case, event.to_json()))
        .chain(
            expiry_events()
                .into_iter()
                .map(|(kind, case, event)| (kind, case, event.to_json(stamp()))),
        )
        .collect();
    let kinds: BTreeSet<&str> = written.iter().map(|(kind, ..)| *kind).collect();
    for kind in &kinds {
        let cases: BTreeSet<String> = written
            .iter()
            .filter(|(of, ..)| of == kind)
            .map(|(_, case, _)| (*case).to_owned())
            .collect();
        assert_eq!(examples(kind).into_keys().collect::<BTreeSet<_>>(), cases);
    }
    let mut told: BTreeSet<&str> = wire::TYPES.into();
    told.retain(|kind| !COMMANDS.contains(kind));
    assert_eq!(kinds, told);
    for (kind, case, written) in written {
        let value: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(value, examples(kind)[case], "{kind}/{case}: {written:#}");
        assert_eq!(value["type"], kind);
        validator(kind).validate(&value).unwrap();
    }
}

/// What no reader knows is refused with a list of what it does know.
#[test]
fn every_result_that_is_read_is_listed() {
    const UNKNOWN: &str = "keycard.nothing.v1";
    let mut event = examples(wire::LEASE_REVOKED).into_values().next().unwrap();
    event["type"] = UNKNOWN.into();
    let error = ResultEvent::from_json(event.to_string().as_bytes()).unwrap_err();
    let error = error.to_string();
    let mut read: BTreeSet<&str> = error.split('`').collect();
    read.retain(|word| word.starts_with("keycard.") && *word != UNKNOWN);
    let mut listed: BTreeSet<&str> = wire::TYPES.into();
    listed.retain(|kind| !COMMANDS.contains(kind) && *kind != wire::LEASE_EXPIRE);
    assert_eq!(read, listed, "{error}");
}

#[test]
fn every_code_has_an_example() {
    let cases: Vec<String> = examples(wire::REQUEST_DENIED).into_keys().collect();
    for code in DenialCode::ALL {
        assert!(cases.contains(&code.as_str().to_owned()), "{code:?}");
    }
}

#[test]
fn results_read_back_and_write_the_same_bytes_again() {
    for (_, _, event) in results() {
        let written = event.to_json();
        let read = ResultEvent::from_json(written.as_bytes()).unwrap();
        assert_eq!(read, event);
        assert_eq!(read.to_json(), written);
    }
}

#[test]
fn an_old_reader_lets_new_fields_and_words_pass() {
    for (kind, case, event) in results() {
        let mut later: Value = serde_json::from_str(&event.to_json()).unwrap();
        for at in ["", "/data", "/data/secret", "/data/request"] {
            if let Some(object) = later.pointer_mut(at) {
                object["added_by_a_later_version"] = json!({"a": [1]});
            }
        }
        let read = ResultEvent::from_json(later.to_string().as_bytes()).unwrap();
        assert_eq!(read, event, "{kind}/{case}");
    }
    let mut later = examples(wire::REQUEST_DENIED)["too_old"].clone();
    later["data"]["code"] = json!("quota_exceeded");
    assert!(validator(wire::REQUEST_DENIED).is_valid(&later));
    assert!(matches!(
        ResultEvent::from_json(later.to_string().as_bytes()).unwrap().data,
        ResultData::Denied(denied) if denied.code == "quota_exceeded"
    ));
}

#[test]
fn a_reader_of_results_takes_no_less_than_the_schema_asks_for() {
    for (kind, case, event) in results() {
        let whole: Value = serde_json::from_str(&event.to_json()).unwrap();
        for (level, schema_at) in [("", ""), ("/data", "/properties/data")] {
            let schema = super::schema(kind);
            let required = schema.pointer(schema_at).unwrap()["required"].clone();
            for name in whole.pointer(level).unwrap().as_object().unwrap().keys() {
                let mut less = whole.clone();
                let object = less.pointer_mut(level).unwrap();
                object.as_object_mut().unwrap().remove(name);
                let read = ResultEvent::from_json(less.to_string().as_bytes());
                // The reader itself has no need of these two in every answer.
                let spared = ["subject", "correlationid"].contains(&name.as_str());
                let needed = required.as_array().unwrap().contains(&json!(name)) && !spared;
                assert_eq!(read.is_err(), needed, "{kind}/{case} without {name}");
            }
        }
    }
}

#[test]
fn expiry_events_read_back_also_from_a_later_version() {
    for (_, _, event) in expiry_events() {
        let written = event.to_json(stamp());
        assert_eq!(Expire::decode(written.as_bytes()).unwrap(), event);
        let mut later: Value = serde_json::from_str(&written).unwrap();
        later["added"] = json!(1);
        later["data"]["added"] = json!({"a": 1});
        assert_eq!(Expire::decode(later.to_string().as_bytes()).unwrap(), event);
        for name in event_fields(&later) {
            let mut less = later.clone();
            less["data"].as_object_mut().unwrap().remove(&name);
            assert!(
                Expire::decode(less.to_string().as_bytes()).is_err(),
                "{name}"
            );
        }
        let other = written.replace(wire::LEASE_EXPIRE, wire::LEASE_EXPIRING);
        let refused = Expire::decode(other.as_bytes()).unwrap_err();
        assert_eq!(refused.code, DenialCode::UnsupportedType);
    }
}

fn event_fields(event: &Value) -> Vec<String> {
    let data = event["data"].as_object().unwrap();
    data.keys()
        .filter(|name| *name != "added")
        .cloned()
        .collect()
}

#[test]
fn the_same_news_has_the_same_id_and_other_news_another() {
    let by = requester();
    let other = Requester::new("orders2").unwrap();
    let lease = ended(Cause::Expired, 0);
    let denied = |asked, code| ResultEvent::denied(stamp(), asked, code, "x").id;
    let ids = [
        denied(asked(&by, "1", None), DenialCode::TooOld),
        denied(asked(&by, "1", None), DenialCode::RequestIdReused),
        denied(asked(&by, "2", None), DenialCode::TooOld),
        denied(asked(&other, "1", None), DenialCode::TooOld),
        ResultEvent::revoked_as_asked(stamp(), asked(&by, "1", None), &lease)
            .unwrap()
            .id,
        ResultEvent::revoked(INSTALLATION, &lease).unwrap().id,
        ResultEvent::revoked("test", &lease).unwrap().id,
        ResultEvent::revocation_failed(stamp(), &failing(6, "2026-01-31T13:06:01Z"), "x")
            .unwrap()
            .id,
        ResultEvent::revocation_failed(stamp(), &failing(7, "2026-01-31T13:06:01Z"), "x")
            .unwrap()
            .id,
    ];
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    let later = Stamp {
        at: time("2026-03-01T00:00:00Z"),
        ..stamp()
    };
    let again = ResultEvent::denied(later, asked(&by, "1", Some(TRACE)), DenialCode::TooOld, "y");
    assert_eq!(again.id, ids[0]);
    assert_eq!(
        ResultEvent::revoked_missing(later, &expire(&[])).id,
        ids[5],
        "a lease ends once"
    );
}

#[test]
fn nothing_is_told_before_it_is_true() {
    let by = requester();
    for state in [State::Issuing, State::Active] {
        let lease = lease(state);
        assert_eq!(ResultEvent::revoked(INSTALLATION, &lease), None);
        assert_eq!(ResultEvent::revocation_failed(stamp(), &lease, "x"), None);
        let answer = ResultEvent::revoked_as_asked(stamp(), asked(&by, "1", None), &lease);
        assert_eq!(answer, None);
    }
    let failing = failing(1, "2026-01-31T13:06:01Z");
    assert_eq!(ResultEvent::revoked(INSTALLATION, &failing), None);
}
