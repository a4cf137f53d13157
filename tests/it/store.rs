//! The store port: one suite for every adapter, and what is an adapter's own.

pub mod aws;
mod aws_faults;
mod directory;
mod fake;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use keycard::clock::{host_now, uuid_v7};
use keycard::fault::Disposition;
use keycard::lease::Requester;
use keycard::store::{Listed, SecretStore, StoreError, Stored};
use secrecy::SecretString;
use uuid::Uuid;

/// Looks at what is stored as a client does: by what the `issued` event says.
#[async_trait]
trait Probe: Send + Sync {
    /// The value, or `None` when there is none to be read.
    async fn read(&self, locator: &str) -> Option<String>;

    /// The tags; `None` when the store keeps none.
    async fn tags(&self, locator: &str) -> Option<BTreeMap<String, String>>;
}

/// A locator of its own, as the worker makes them.
fn locator(requester: &str) -> String {
    format!("keycard/{requester}/app.read/app-db.{}", uuid_v7())
}

fn no_tags() -> BTreeMap<String, String> {
    BTreeMap::new()
}

async fn put(
    store: &dyn SecretStore,
    locator: &str,
    attempt: Uuid,
    value: &str,
) -> Result<Stored, StoreError> {
    let value = SecretString::from(value);
    store.put(locator, attempt, &value, &no_tags()).await
}

/// What every adapter promises.
async fn conformance(store: Box<dyn SecretStore>, probe: &dyn Probe) {
    let store = &*store;
    what_is_put_can_be_read(store, probe).await;
    the_same_attempt_twice_is_once(store, probe).await;
    a_locator_is_never_written_twice(store, probe).await;
    deleting_is_idempotent(store, probe).await;
    requesters_do_not_cross(store, probe).await;
    many_at_once(store, probe).await;
    what_is_there_is_described(store).await;
    what_is_there_is_listed(store).await;
}

async fn what_is_put_can_be_read(store: &dyn SecretStore, probe: &dyn Probe) {
    let tags: BTreeMap<String, String> = [
        ("managed-by", "keycard"),
        ("expires-at", "2026-01-02T03:04:05Z"),
        ("requester", "a=2Eb"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    for value in [
        "x".to_owned(),
        r#"{"password":"p\"ä€🔑\\"}"#.to_owned(),
        "0123456789abcdef".repeat(4096),
    ] {
        let locator = locator("app");
        let attempt = uuid_v7();
        let stored = store
            .put(&locator, attempt, &SecretString::from(&*value), &tags)
            .await
            .unwrap();
        assert!(stored.locator.contains(&locator), "{stored:?}");
        assert_eq!(stored.version, attempt.to_string());
        assert_eq!(probe.read(&stored.locator).await, Some(value));
        if let Some(kept) = probe.tags(&stored.locator).await {
            assert_eq!(kept, tags);
        }
    }
}

async fn the_same_attempt_twice_is_once(store: &dyn SecretStore, probe: &dyn Probe) {
    let (locator, attempt) = (locator("app"), uuid_v7());
    let first = put(store, &locator, attempt, "value").await.unwrap();
    let second = put(store, &locator, attempt, "value").await.unwrap();
    assert_eq!(first, second);
    assert_eq!(probe.read(&first.locator).await, Some("value".to_owned()));
}

async fn a_locator_is_never_written_twice(store: &dyn SecretStore, probe: &dyn Probe) {
    let (locator, attempt) = (locator("app"), uuid_v7());
    let stored = put(store, &locator, attempt, "first-value").await.unwrap();
    for (attempt, value) in [
        (attempt, "other-value"),
        (uuid_v7(), "other-value"),
        (uuid_v7(), "first-value"),
    ] {
        let refused = put(store, &locator, attempt, value).await.unwrap_err();
        assert_eq!(refused.disposition(), Disposition::Reject, "{refused}");
        assert!(!format!("{refused} {refused:?}").contains("-value"));
    }
    assert_eq!(
        probe.read(&stored.locator).await,
        Some("first-value".to_owned())
    );
}

async fn deleting_is_idempotent(store: &dyn SecretStore, probe: &dyn Probe) {
    store.delete(&locator("nobody")).await.unwrap();
    let (locator, neighbour) = (locator("app"), locator("app"));
    let stored = put(store, &locator, uuid_v7(), "gone").await.unwrap();
    let other = put(store, &neighbour, uuid_v7(), "stays").await.unwrap();
    store.delete(&locator).await.unwrap();
    store.delete(&locator).await.unwrap();
    assert_eq!(probe.read(&stored.locator).await, None);
    assert_eq!(probe.read(&other.locator).await, Some("stays".to_owned()));
}

async fn requesters_do_not_cross(store: &dyn SecretStore, probe: &dyn Probe) {
    let names = ["a", "a.b", "a/b", "../x", "a/../a", "A"];
    let lease = format!("app-db.{}", uuid_v7());
    let mut stored = Vec::new();
    for name in names {
        let requester = Requester::new(name).unwrap().encoded();
        let locator = format!("keycard/{requester}/app/{lease}");
        let put = put(store, &locator, uuid_v7(), name).await.unwrap();
        stored.push((name, locator, put.locator));
    }
    for (n, (name, locator, published)) in stored.iter().enumerate() {
        assert_eq!(probe.read(published).await, Some((*name).to_owned()));
        store.delete(locator).await.unwrap();
        for (later, (name, _, published)) in stored.iter().enumerate() {
            let expected = (later > n).then(|| (*name).to_owned());
            assert_eq!(probe.read(published).await, expected);
        }
    }
}

/// Not so many that a server that stalls for longer than an attempt may take uses up the SDK's quota
/// of retries, which all clients of a process share in a region.
async fn many_at_once(store: &dyn SecretStore, probe: &dyn Probe) {
    let leases: Vec<(String, Uuid)> = (0..20).map(|_| (locator("many"), uuid_v7())).collect();
    // Each of them twice, as two workers would.
    let puts = leases
        .iter()
        .chain(&leases)
        .map(|(locator, attempt)| async move {
            (locator, put(store, locator, *attempt, locator).await)
        });
    for (locator, stored) in join_all(puts).await {
        let stored = stored.unwrap();
        assert_eq!(probe.read(&stored.locator).await.as_ref(), Some(locator));
    }
    let deletes = leases.iter().map(|(locator, _)| store.delete(locator));
    for deleted in join_all(deletes).await {
        deleted.unwrap();
    }
    for (locator, attempt) in &leases {
        assert_eq!(probe.read(locator).await, None, "{attempt}");
    }
}

fn tagged(installation: &str) -> BTreeMap<String, String> {
    [
        ("keycard-installation", installation),
        ("lease-id", "app-db.01890a5d-ac96-774b-bcce-b302099a8057"),
        ("note", ""),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

async fn what_is_there_is_described(store: &dyn SecretStore) {
    let (place, tags) = (locator("app"), tagged("production"));
    assert_eq!(store.describe(&place).await.unwrap(), None);
    let value = SecretString::from("value");
    store.put(&place, uuid_v7(), &value, &tags).await.unwrap();
    let described = store.describe(&place).await.unwrap().unwrap();
    assert_eq!(described.tags, tags);
    assert!(described.changed_at.unwrap() <= host_now());
    // Neither what lies above it nor what lies below it.
    let (above, _) = place.rsplit_once('/').unwrap();
    assert_eq!(store.describe(above).await.unwrap(), None);
    store.delete(&place).await.unwrap();
    assert_eq!(store.describe(&place).await.unwrap(), None);
}

async fn what_is_there_is_listed(store: &dyn SecretStore) {
    let prefix = format!("list-{}/prod", uuid_v7());
    let listed = async |prefix: &str| {
        let found: Vec<Listed> = store.list(prefix).try_collect().await.unwrap();
        let number = found.len();
        let found: BTreeMap<String, BTreeMap<String, String>> = found
            .into_iter()
            .map(|secret| (secret.locator, secret.tags))
            .collect();
        assert_eq!(found.len(), number, "each once");
        found
    };
    assert!(listed(&prefix).await.is_empty());
    let below: BTreeSet<String> = (0..25)
        .map(|n| format!("{prefix}/app{}/role/app-db.{}", n % 3, uuid_v7()))
        .collect();
    let beside = [
        format!("{prefix}uction/app/role/app-db.{}", uuid_v7()),
        format!("{prefix}.2"),
    ];
    let (value, tags) = (SecretString::from("value"), tagged("production"));
    for place in below.iter().chain(&beside) {
        store.put(place, uuid_v7(), &value, &tags).await.unwrap();
    }
    let found = listed(&prefix).await;
    assert!(found.keys().eq(&below), "{found:?}");
    assert!(found.values().all(|kept| *kept == tags));
    for place in &below {
        store.delete(place).await.unwrap();
    }
    assert!(listed(&prefix).await.is_empty());
    assert_eq!(listed(&format!("{prefix}uction")).await.len(), 1);
}
