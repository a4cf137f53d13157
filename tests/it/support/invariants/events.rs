//! What services were told: every command has one answer, and nobody is told what is not so.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::records::{Records, Request};
use super::{Testimony, Violation};

const ISSUED: &str = "keycard.credential.issued.v1";
const RENEWED: &str = "keycard.lease.renewed.v1";
const DENIED: &str = "keycard.request.denied.v1";

/// Every command is answered by one event, which is the one that the ledger recorded, however often
/// it was sent or told. One exception, as documented: whoever asks again for a credential that has
/// ended is told so.
pub fn answers(records: &Records, testimonies: &[Testimony]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut sent = BTreeSet::new();
    for Testimony {
        service,
        sent: commands,
        heard,
    } in testimonies
    {
        let mut answers: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for event in heard {
            if let Some(id) = event["correlationid"].as_str() {
                let known = answers.entry(id).or_default();
                if !known.contains(&event) {
                    known.push(event);
                }
            }
        }
        for command in commands {
            let id = command["id"].as_str().unwrap();
            let key = (service.clone(), id.to_owned());
            let told = answers.remove(id).unwrap_or_default();
            let request = records.requests.get(&key);
            let what = match request {
                Some(request) => of_recorded(request, &told),
                None => of_refused(&told),
            };
            violations.extend(what.map(|what| Violation {
                lease: lease_of(request, command),
                what: format!("{what}: {service}'s {command}"),
            }));
            sent.insert(key);
        }
        // A renewal that an operator asked for is told to the lease's requester as well.
        for event in answers.values().flatten() {
            if event["type"] != RENEWED {
                let what = format!("{service} heard an answer to what it never asked: {event}");
                violations.push(Violation::at_large(what));
            }
        }
    }
    let unsent = records.requests.keys().filter(|key| !sent.contains(key));
    violations.extend(unsent.map(|(requester, id)| {
        Violation::at_large(format!(
            "the ledger knows what {requester} never sent: {id}"
        ))
    }));
    violations
}

fn lease_of(request: Option<&Request>, command: &Value) -> Option<String> {
    let named = command["data"]["lease_id"].as_str().map(ToOwned::to_owned);
    named.or_else(|| request?.lease.clone())
}

fn of_recorded(request: &Request, told: &[&Value]) -> Option<String> {
    let Some(answer) = &request.answer else {
        return Some("no answer is recorded".to_owned());
    };
    if !request.is_published {
        return Some("its answer is not published".to_owned());
    }
    let is_ended = |event: &Value| event != answer && event["data"]["code"] == "lease_ended";
    let (ended, others): (Vec<&Value>, Vec<&Value>) =
        told.iter().copied().partition(|event| is_ended(event));
    match others[..] {
        // By the sweep, which gives it to nobody once the credential has ended.
        [] if answer["type"] == ISSUED && !ended.is_empty() => None,
        [only] if only == answer => (!ended.is_empty() && answer["type"] != ISSUED)
            .then(|| format!("answered by {answer} and told that it has ended")),
        [] => Some("not answered".to_owned()),
        _ => Some(format!("answered by {others:?}, recorded is {answer}")),
    }
}

/// A denial that no lease's ledger has to remember; each time it is asked it is the same but for its
/// time.
fn of_refused(told: &[&Value]) -> Option<String> {
    let ids: BTreeSet<&str> = told
        .iter()
        .filter_map(|event| event["id"].as_str())
        .collect();
    let denied = told.iter().all(|event| event["type"] == DENIED);
    match ids.len() {
        0 => Some("not answered, and the ledger does not know it".to_owned()),
        1 if denied => None,
        _ => Some(format!(
            "answered by {told:?}, and the ledger does not know it"
        )),
    }
}

/// Who is told of a credential has it: the ledger says that it was issued, and all its tellings are
/// the same. The other way round, what was issued was told.
pub fn credentials(records: &Records, testimonies: &[Testimony]) -> Vec<Violation> {
    let issued: BTreeSet<&str> = records
        .audit
        .iter()
        .filter(|row| row.action == "issued")
        .filter_map(|row| row.lease.as_deref())
        .collect();
    let mut told: BTreeMap<&str, (&str, &Value)> = BTreeMap::new();
    let mut violations = Vec::new();
    for Testimony { service, heard, .. } in testimonies {
        for event in heard.iter().filter(|event| event["type"] == ISSUED) {
            let data = &event["data"];
            let id = data["lease_id"].as_str().unwrap();
            match told.insert(id, (service, data)) {
                Some(before) if before != (service.as_str(), data) => {
                    let what = format!("told as {before:?} and as {data} to {service}");
                    violations.push(Violation::of(id, what));
                }
                Some(_) | None => {}
            }
        }
    }
    for (id, (service, data)) in &told {
        match records.leases.get(*id) {
            _ if !issued.contains(id) => {
                violations.push(Violation::of(id, "told and never issued"));
            }
            Some(lease) if lease.requester != *service || data["username"] != lease.username => {
                violations.push(Violation::of(id, format!("told to {service} as {data}")));
            }
            Some(_) => {}
            None => violations.push(Violation::of(id, "told and unknown to the ledger")),
        }
    }
    violations
}
