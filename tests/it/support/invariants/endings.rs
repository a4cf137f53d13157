//! How leases end: never early, never in silence, and always to the end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::records::{Lease, Records};
use super::{Testimony, Violation};

/// Who may end and renew any lease of a site.
const OPERATOR: &str = "platform-ops";

/// Every lease is either active or closed; a closed one ended because its time was up or because
/// somebody asked who may, and its requester was told once.
pub fn endings(records: &Records, testimonies: &[Testimony]) -> Vec<Violation> {
    let mut revokers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut notices: BTreeMap<&str, Vec<(&str, &Value)>> = BTreeMap::new();
    for testimony in testimonies {
        let service = testimony.service.as_str();
        for command in &testimony.sent {
            if command["type"] == "keycard.lease.revoke.v1" {
                let id = command["data"]["lease_id"].as_str().unwrap();
                revokers.entry(id).or_default().insert(service);
            }
        }
        for event in &testimony.heard {
            let is_notice = event.get("correlationid").is_none();
            if event["type"] == "keycard.lease.revoked.v1" && is_notice {
                let id = event["data"]["lease_id"].as_str().unwrap();
                let heard = notices.entry(id).or_default();
                if !heard.contains(&(service, event)) {
                    heard.push((service, event));
                }
            }
        }
    }
    let mut violations = Vec::new();
    for (id, lease) in &records.leases {
        let nobody = BTreeSet::new();
        let revokers = revokers.get(id.as_str()).unwrap_or(&nobody);
        let notices = notices.remove(id.as_str()).unwrap_or_default();
        let what = of_lease(lease, revokers, &notices);
        violations.extend(what.map(|what| Violation::of(id, what)));
    }
    let lost = notices.keys();
    violations
        .extend(lost.map(|id| Violation::of(id, "its end was told; the ledger has no such lease")));
    violations
}

fn of_lease(
    lease: &Lease,
    revokers: &BTreeSet<&str>,
    notices: &[(&str, &Value)],
) -> Option<String> {
    if lease.is_active() {
        return (!notices.is_empty()).then(|| format!("active, and its end was told: {notices:?}"));
    }
    if !lease.is_closed() {
        return Some(format!("still {}: {:?}", lease.state, lease.last_failure));
    }
    let ended_rightly = match lease.cause.as_deref() {
        Some("expired") => lease.revoked_at.is_some_and(|at| at >= lease.expires_at),
        Some("requested") => revokers.contains(lease.requester.as_str()),
        Some("operator") => revokers.contains(OPERATOR),
        _ => false,
    };
    if !ended_rightly {
        return Some(format!("ended early; {revokers:?} asked for it"));
    }
    match notices {
        [(service, event)]
            if *service == lease.requester
                && event["data"]["cause"] == *lease.cause.as_ref()? =>
        {
            None
        }
        _ => Some(format!("its end was told as {notices:?}")),
    }
}
