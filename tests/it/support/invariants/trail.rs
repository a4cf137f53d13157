//! The audit: one row for each decision, in the order in which a lease lives.

use std::collections::BTreeMap;

use super::Violation;
use super::records::{Audited, Lease, Records};

/// Each lease's rows tell its life, and each denial has its row.
pub fn trail(records: &Records) -> Vec<Violation> {
    let mut rows: BTreeMap<&str, Vec<&Audited>> = BTreeMap::new();
    for row in records.audit.iter().filter(|row| row.action != "denied") {
        rows.entry(row.lease.as_deref().unwrap_or_default())
            .or_default()
            .push(row);
    }
    let mut violations = Vec::new();
    for (id, lease) in &records.leases {
        let rows = rows.remove(id.as_str()).unwrap_or_default();
        let what = of_lease(lease, &rows);
        violations.extend(what.map(|what| Violation::of(id, what)));
    }
    let strange = rows.keys();
    violations.extend(strange.map(|id| Violation::of(id, "audited, and not in the ledger")));
    violations.extend(denials(records));
    violations
}

fn of_lease(lease: &Lease, rows: &[&Audited]) -> Option<String> {
    let actions: Vec<&str> = rows.iter().map(|row| row.action.as_str()).collect();
    if !in_order(&actions) || !is_complete(lease, &actions) {
        return Some(format!("{}, and audited as {actions:?}", lease.state));
    }
    let told = rows
        .iter()
        .rev()
        .find(|row| matches!(row.action.as_str(), "created" | "renewed"))?;
    if told.expires_at != Some(lease.expires_at) || told.generation != Some(lease.generation) {
        return Some(format!("another end or generation than audited: {told:?}"));
    }
    let causes = rows.iter().filter_map(|row| row.cause.as_ref());
    if causes
        .into_iter()
        .any(|cause| Some(cause) != lease.cause.as_ref())
    {
        return Some("another cause than audited".to_owned());
    }
    let mut generations = rows.iter().filter(|row| row.action == "renewed");
    let counted = generations
        .by_ref()
        .zip(2..)
        .all(|(row, generation)| row.generation == Some(generation));
    (!counted).then(|| "a renewal is audited twice or not at all".to_owned())
}

/// created, issued?, renewed*, disabled?, stuck?, revoked?, closed?
fn in_order(actions: &[&str]) -> bool {
    const ORDER: [&str; 7] = [
        "created", "issued", "renewed", "disabled", "stuck", "revoked", "closed",
    ];
    let places: Option<Vec<usize>> = actions
        .iter()
        .map(|action| ORDER.iter().position(|known| known == action))
        .collect();
    let Some(places) = places else {
        return false;
    };
    places
        .windows(2)
        .all(|pair| pair[0] < pair[1] || (pair[0] == pair[1] && ORDER[pair[0]] == "renewed"))
}

fn is_complete(lease: &Lease, actions: &[&str]) -> bool {
    let has = |action| actions.contains(&action);
    let renewals = actions
        .iter()
        .filter(|action| **action == "renewed")
        .count();
    has("created")
        && (has("issued") || !lease.is_active())
        && has("revoked") != lease.has_login()
        && has("closed") == lease.is_closed()
        && usize::try_from(lease.generation) == Ok(renewals + 1)
}

/// A denial that is recorded has one row. One that nobody had to remember has a row each time that
/// it was given, and so has whoever asks again for what has ended.
fn denials(records: &Records) -> Vec<Violation> {
    let mut by_command: BTreeMap<(&(String, String), &str), usize> = BTreeMap::new();
    let mut by_lease: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let denied = |row: &&Audited| row.action == "denied";
    for row in records.audit.iter().filter(denied) {
        let code = row.code.as_deref().unwrap_or_default();
        match (&row.asked, &row.lease) {
            (Some(asked), _) => *by_command.entry((asked, code)).or_default() += 1,
            (None, Some(lease)) => *by_lease.entry((lease, code)).or_default() += 1,
            (None, None) => {}
        }
    }
    let mut violations = Vec::new();
    for (key, request) in &records.requests {
        let code = request
            .answer
            .as_ref()
            .and_then(|answer| answer["data"]["code"].as_str());
        let Some(code) = code else {
            continue;
        };
        let mut rows = by_command.get(&(key, code)).copied().unwrap_or_default();
        // A request whose lease ended before it was delivered was denied by what ended it.
        if let ("request", Some(lease)) = (request.kind.as_str(), &request.lease) {
            rows += by_lease.get(&(lease, code)).copied().unwrap_or_default();
        }
        if rows != 1 {
            violations.push(Violation {
                lease: request.lease.clone(),
                what: format!("{rows} audit rows for the denial {code} of {key:?}"),
            });
        }
    }
    violations
}
