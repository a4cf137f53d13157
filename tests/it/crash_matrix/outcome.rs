//! What must be true in the end, whatever went wrong on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keycard::clock::monotonic_now;
use serde_json::Value;

use super::acts::{Guest, Stage};
use super::flows::Flow;
use crate::support::eventually;
use crate::support::invariants::{self, Testimony, Violation};

/// An attempt that died holds its lease for 30 s; then all of them are taken up at once.
const RECOVERY_SECONDS: u64 = 300;

/// Everything has a good end: first with the leases that live on, then when they end as well.
pub async fn assert_good(stage: &Stage<'_>, guests: &[Guest]) {
    for guest in guests {
        assert_passed(stage, guest);
    }
    unstick(stage, guests).await;
    settle(stage, guests).await;
    let alive = alive(stage).await;
    let expected = guests.iter().filter(|guest| guest.cell.flow.leaves_alive());
    let expected: BTreeSet<String> = expected.map(|guest| guest.cell.name()).collect();
    assert_eq!(alive.keys().cloned().collect::<BTreeSet<_>>(), expected);
    assert_credentials_work(stage, &alive).await;
    for lease_id in alive.values() {
        stage.service.revoke(lease_id);
    }
    settle(stage, guests).await;
    assert_eq!(stage.site.logins().await, 0);
    assert_eq!(stage.secrets.count(), 0);
    for guest in guests {
        assert_told_of_its_end(stage, guest).await;
    }
    stage.site.assert_no_dead_letters().await;
}

/// The flow is what the matrix takes it for: its places come in their order, and there are no others.
fn assert_passed(stage: &Stage<'_>, guest: &Guest) {
    let passed = stage.orders.passed(&guest.whom());
    let known = |place: &String| {
        let mut flows = Flow::all();
        place == "none.defer" || flows.any(|flow| flow.places().contains(&place.as_str()))
    };
    let mut left = passed.iter();
    let mut expected = guest.cell.flow.places()[..=guest.cell.n].iter();
    assert!(
        passed.iter().all(known) && expected.all(|place| left.any(|passed| passed == place)),
        "{} passed {passed:#?}",
        guest.cell.name()
    );
}

/// Those that cannot be revoked are told, at the latest of the next attempt; then they can.
async fn unstick(stage: &Stage<'_>, guests: &[Guest]) {
    let stuck: Vec<&Guest> = guests
        .iter()
        .filter(|guest| guest.cell.flow == Flow::Stick)
        .collect();
    let count = i64::try_from(stuck.len()).unwrap();
    eventually("all are stuck", RECOVERY_SECONDS, async || {
        let stuck = "SELECT count(*) FROM keycard.leases
                     WHERE state = 'revoking' AND failures >= 6 AND held_until IS NULL";
        (stage.site.count(stuck).await == count).then_some(())
    })
    .await;
    for guest in &stuck {
        stage.try_again(guest).await;
    }
    eventually("every failure is told", RECOVERY_SECONDS, async || {
        let told = leases_of(&stage.service.heard(), "keycard.lease.revocation_failed.v1");
        let is_told = |guest: &&Guest| told.contains_key(guest.lease_id().unwrap());
        stuck.iter().all(is_told).then_some(())
    })
    .await;
    for guest in &stuck {
        stage.unstick(guest).await;
    }
    // Not at once: an attempt may be under way that has found the table.
    for guest in stuck {
        eventually("no attempt is under way", RECOVERY_SECONDS, async || {
            stage.is_left_alone(guest).await.then_some(())
        })
        .await;
        stage.try_again(guest).await;
    }
}

/// Waits until nothing is under way, and everything is as it must be.
async fn settle(stage: &Stage<'_>, guests: &[Guest]) {
    let deadline = monotonic_now() + Duration::from_secs(RECOVERY_SECONDS);
    loop {
        let testimony = Testimony::of(&stage.service);
        let mut violations = invariants::at_rest(stage.site, &stage.secrets, &[testimony]).await;
        violations.retain(|violation| !is_the_flows_own(violation, guests));
        if violations.is_empty() {
            return;
        }
        if monotonic_now() > deadline {
            for violation in &violations {
                let of = |guest: &&Guest| guest.lease_id() == violation.lease.as_deref();
                let guest = violation
                    .lease
                    .as_ref()
                    .and_then(|_| guests.iter().find(of));
                let name = guest.map(|guest| guest.cell.name());
                let passed = guest.map(|guest| stage.orders.passed(&guest.whom()));
                eprintln!("{name:?} {violation:?} {passed:?}");
            }
            let explained = invariants::explain(stage.site, &violations).await;
            panic!("{} violations\n{explained}", violations.len());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What a flow does on purpose: nobody asked for the end of a lease whose login somebody dropped or
/// left, and a lease that the ledger has lost is not in it.
fn is_the_flows_own(violation: &Violation, guests: &[Guest]) -> bool {
    let Some(lease) = &violation.lease else {
        return false;
    };
    let of = guests.iter().find(|guest| guest.lease_id() == Some(lease));
    of.is_some_and(|guest| {
        let ends = [Flow::ReconcileLoginMissing, Flow::ReconcileLoginLeft];
        guest.cell.flow == Flow::Lose
            || ends.contains(&guest.cell.flow) && violation.what.starts_with("ended early")
    })
}

/// The leases that live, by their roles.
async fn alive(stage: &Stage<'_>) -> BTreeMap<String, String> {
    let alive = "SELECT role, 'app.' || id FROM keycard.leases WHERE state = 'active'";
    let rows = stage.sql.query(alive, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn assert_credentials_work(stage: &Stage<'_>, alive: &BTreeMap<String, String>) {
    let told = stage.service.issued();
    for lease_id in alive.values() {
        let issued = told.iter().find(|issued| issued["lease_id"] == **lease_id);
        let issued = issued.unwrap_or_else(|| panic!("{lease_id} was not told"));
        let secret = stage.secrets.read(issued);
        let username = issued["username"].as_str().unwrap();
        assert_eq!(secret["username"], username);
        let password = secret["password"].as_str().unwrap();
        if let Err(error) = stage.site.login(username, password).await {
            panic!("{username} cannot log in: {error}");
        }
    }
}

/// One notice, however often it came.
async fn assert_told_of_its_end(stage: &Stage<'_>, guest: &Guest) {
    let causes = [
        (Flow::Lose, "missing"),
        (Flow::ReconcileLoginMissing, "missing"),
        (Flow::ReconcileLoginLeft, "requested"),
    ];
    // Of the others the invariants know why they end.
    let own = causes.iter().find(|(flow, _)| *flow == guest.cell.flow);
    let Some((_, cause)) = own else {
        return;
    };
    // Nor have they waited for these to be heard.
    let told = eventually("its end is told", RECOVERY_SECONDS, async || {
        let mut told = leases_of(&stage.service.heard(), "keycard.lease.revoked.v1");
        told.remove(guest.lease_id().unwrap())
    })
    .await;
    assert_eq!(told.len(), 1, "{}: {told:?}", guest.cell.name());
    let event = told.first().unwrap();
    assert!(event.ends_with(cause), "{}: {event}", guest.cell.name());
}

/// The different notices of this type, as id and cause, by their leases.
fn leases_of(heard: &[Value], kind: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut leases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in heard {
        if event["type"] == kind && event.get("correlationid").is_none() {
            let lease = event["data"]["lease_id"].as_str().unwrap().to_owned();
            let cause = event["data"]["cause"].as_str().unwrap_or_default();
            let event = format!("{} {cause}", event["id"]);
            leases.entry(lease).or_default().insert(event);
        }
    }
    leases
}
