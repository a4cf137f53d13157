//! What must be true of a site when everything that was asked is answered.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use keycard::queue::Lane;
use serde_json::Value;

use super::client::SOON;
use super::eventually;
use super::queues::Queues;
use super::secrets_manager::FakeSecretsManager;
use super::site::Site;
use super::steady::Steady;

/// Credentials are tried side by side.
const SIDE_BY_SIDE: usize = 8;

/// Where a test's credentials are.
pub enum Secrets<'a> {
    Files(&'a Site),
    Fake(&'a FakeSecretsManager),
}

impl Secrets<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// All of them, by the locators that services are told.
    pub fn all(&self) -> BTreeMap<String, Value> {
        match self {
            Self::Files(site) => {
                let files = site.secrets_told().into_iter();
                // One that goes meanwhile is gone.
                let read =
                    files.filter_map(|file| Some((std::fs::read_to_string(&file).ok()?, file)));
                read.map(|(text, file)| {
                    let locator = file.to_str().unwrap().to_owned();
                    (locator, serde_json::from_str(&text).unwrap())
                })
                .collect()
            }
            Self::Fake(fake) => {
                let secrets = fake.secrets().into_values();
                secrets
                    .map(|secret| (secret.arn, serde_json::from_str(&secret.value).unwrap()))
                    .collect()
            }
        }
    }

    /// The one that an `issued` event points to.
    pub fn read(&self, issued: &Value) -> Value {
        match self {
            Self::Files(_) => Site::secret(issued),
            Self::Fake(fake) => {
                let secrets = fake.secrets();
                let found = secrets
                    .values()
                    .find(|secret| secret.arn == issued["secret"]["locator"]);
                serde_json::from_str(&found.unwrap().value).unwrap()
            }
        }
    }
}

/// Everything is answered within `seconds`, each command by one event; nothing is lost, left over
/// or dead-lettered; what was told works, and nothing else does.
pub async fn all_is_well(site: &Site, client: &Steady, secrets: &Secrets<'_>, seconds: u64) {
    eventually("every command is answered", seconds, async || {
        (client.answers().len() == client.sent().len()).then_some(())
    })
    .await;
    // An attempt that died keeps its lease for 30 s.
    eventually("no lease is under way", 3 * SOON, async || {
        let unfinished = site
            .count(
                "SELECT (SELECT count(*) FROM keycard.leases WHERE state NOT IN ('active', 'closed'))
                      + (SELECT count(*) FROM keycard.requests WHERE published_at IS NULL)",
            )
            .await;
        (unfinished == 0).then_some(())
    })
    .await;
    let queues = Queues::of(site).await;
    for lane in Lane::ALL {
        eventually(&format!("{lane:?} is empty"), SOON, async || {
            (queues.ready(lane).await == 0).then_some(())
        })
        .await;
    }
    queues.assert_nothing_is_lost().await;

    for (id, events) in client.answers() {
        let (ended, answers): (Vec<_>, Vec<_>) = events.iter().partition(|event| is_ended(event));
        assert_eq!(answers.len(), 1, "{id} is answered by {events:#?}");
        let denied = answers[0].contains("keycard.request.denied.v1");
        assert!(!denied, "{}", answers[0]);
        // A request that is read again after its lease was revoked hears of that as well.
        let may_end = answers[0].contains("keycard.credential.issued.v1");
        assert!(ended.is_empty() || may_end, "{ended:?}");
    }

    let live = site
        .count("SELECT count(*) FROM keycard.leases WHERE state = 'active'")
        .await;
    assert_eq!(site.logins().await, live, "logins and live leases");
    assert_eq!(i64::try_from(secrets.count()).unwrap(), live, "secrets");
    // The ledger knows of an end before the service has heard of it.
    let told = eventually("as many are told as live", SOON, async || {
        let told = told_and_not_ended(client);
        (i64::try_from(told.len()).unwrap() == live).then_some(told)
    })
    .await;
    stream::iter(&told)
        .for_each_concurrent(SIDE_BY_SIDE, async |issued| {
            let secret = secrets.read(issued);
            let (username, password) = (&secret["username"], &secret["password"]);
            assert_eq!(*username, issued["username"]);
            site.login(username.as_str().unwrap(), password.as_str().unwrap())
                .await
                .unwrap_or_else(|error| panic!("{username} cannot log in: {error}"));
        })
        .await;
}

/// What `issued` events told, without those of which the service heard that they have ended.
fn told_and_not_ended(client: &Steady) -> Vec<Value> {
    let ended: Vec<Value> = client
        .heard()
        .into_iter()
        .filter(|event| event["type"] == "keycard.lease.revoked.v1")
        .map(|event| event["data"]["lease_id"].clone())
        .collect();
    let mut told = client.issued();
    told.retain(|issued| !ended.contains(&issued["lease_id"]));
    told
}

fn is_ended(event: &str) -> bool {
    event.contains("keycard.request.denied.v1") && event.contains("lease_ended")
}
