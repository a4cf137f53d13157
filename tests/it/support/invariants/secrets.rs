//! The store: the secret of each active lease, where it was told to be, and nothing else.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Violation;
use super::records::Records;

/// `kept` is every secret by its locator.
pub fn secrets(records: &Records, kept: &BTreeMap<String, Value>) -> Vec<Violation> {
    let mut of_lease: BTreeMap<&str, Vec<(&str, &Value)>> = BTreeMap::new();
    for (locator, secret) in kept {
        let id = secret["lease_id"].as_str().unwrap_or_default();
        of_lease.entry(id).or_default().push((locator, secret));
    }
    let told: BTreeMap<&str, &str> = records
        .requests
        .values()
        .filter_map(|request| {
            let data = &request.answer.as_ref()?["data"];
            let locator = data["secret"]["locator"].as_str()?;
            Some((data["lease_id"].as_str()?, locator))
        })
        .collect();
    let mut violations = Vec::new();
    for (id, lease) in &records.leases {
        let found = of_lease.remove(id.as_str()).unwrap_or_default();
        let locators: Vec<&str> = found.iter().map(|(locator, _)| *locator).collect();
        if !lease.is_active() {
            if !locators.is_empty() {
                let what = format!("{}, and its secrets are there: {locators:?}", lease.state);
                violations.push(Violation::of(id, what));
            }
            continue;
        }
        let expected: Vec<&str> = told.get(id.as_str()).copied().into_iter().collect();
        if locators != expected {
            let what = format!("told is {expected:?}, the store has {locators:?}");
            violations.push(Violation::of(id, what));
        } else if found
            .iter()
            .any(|(_, secret)| secret["username"] != lease.username)
        {
            violations.push(Violation::of(id, "its secret is another login's"));
        }
    }
    violations.extend(of_lease.iter().map(|(id, found)| {
        let locators: Vec<&str> = found.iter().map(|(locator, _)| *locator).collect();
        Violation::of(id, format!("secrets of no lease: {locators:?}"))
    }));
    violations
}
