//! Somebody else's hand in logins, ledger and secrets, and what keycard makes of it.

mod secrets;
mod tampered;

use std::collections::BTreeMap;

use keycard::clock::uuid_v7;
use keycard::store::SecretStore;
use keycard::store::directory::Directory;
use secrecy::SecretString;
use serde_json::Value;

use crate::support::client::{Client, SOON};
use crate::support::eventually;
use crate::support::servers::{own_postgres, postgres_version};
use crate::support::site::{Site, Wishes};

/// A lease as the `issued` event told it.
struct Lease {
    id: String,
    username: String,
    password: String,
}

impl Lease {
    async fn new(orders: &Client) -> Self {
        let issued = orders.issued("app-role", None).await;
        let text = |key: &str| issued[key].as_str().unwrap().to_owned();
        Self {
            id: text("lease_id"),
            username: text("username"),
            password: Site::secret(&issued)["password"]
                .as_str()
                .unwrap()
                .to_owned(),
        }
    }

    fn locator(&self) -> String {
        format!("keycard/orders-svc/app-role/{}", self.id)
    }
}

/// Closes a lease in the ledger alone, so that its login and its secret are left.
async fn close_by_hand(site: &Site, lease_id: &str) {
    let (_, uuid) = lease_id.rsplit_once('.').unwrap();
    site.superuser(&format!(
        "UPDATE keycard.leases SET state = 'closed', cause = 'requested',
                 revoked_at = clock_timestamp(), wake_at = NULL WHERE id = '{uuid}'"
    ))
    .await;
}

async fn state(site: &Site, lease: &Lease) -> String {
    let query = "SELECT state FROM keycard.leases WHERE username = $1";
    let row = site.sql().await.query_one(query, &[&lease.username]).await;
    row.unwrap().get(0)
}

async fn exists(site: &Site, role: &str) -> bool {
    let query = "SELECT FROM pg_roles WHERE rolname = $1";
    let found = site.sql().await.query_opt(query, &[&role]).await;
    found.unwrap().is_some()
}

/// Runs `keycard reconcile`: its exit code and (kind, action, login or secret) of what it found,
/// sorted.
fn reconcile(site: &Site, arguments: &[&str]) -> (Option<i32>, Vec<(String, String, String)>) {
    let json = ["reconcile", "--output", "json"];
    let output = site.keycard(&[&json, arguments].concat());
    let findings: Vec<Value> = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", output.stdout, output.stderr));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = findings
        .iter()
        .map(|finding| {
            let subject = text(&finding["login"]) + &text(&finding["secret"]);
            (text(&finding["kind"]), text(&finding["action"]), subject)
        })
        .collect();
    found.sort();
    (output.status.code(), found)
}

fn expected(mut findings: Vec<(&str, &str, &str)>) -> Vec<(String, String, String)> {
    findings.sort_unstable();
    findings
        .into_iter()
        .map(|(kind, action, subject)| (kind.into(), action.into(), subject.into()))
        .collect()
}

/// Puts a secret of a lease that no ledger knows into the site's directory.
async fn put_secret(site: &Site, installation: Option<&str>) -> String {
    let locator = format!("keycard/orders-svc/app-role/app.{}", uuid_v7());
    let tags: BTreeMap<String, String> = installation
        .map(|name| ("keycard-installation".to_owned(), name.to_owned()))
        .into_iter()
        .collect();
    let value = SecretString::from("precious");
    let store = Directory::open(&site.secrets).unwrap();
    store.put(&locator, uuid_v7(), &value, &tags).await.unwrap();
    locator
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_reconcile_by_themselves_and_everybody_is_told_once() {
    let site = Site::new(Wishes {
        // The neighbours' logins would be look-alikes.
        postgres: own_postgres(&[]),
        reconcile_interval: "1s",
        // What a reconciliation could not finish goes on by itself.
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let first = site.worker().await;
    let second = site.worker().await;
    let orders = site.client("orders-svc").await;
    let kept = Lease::new(&orders).await;
    let left = Lease::new(&orders).await;
    let mut missing = Vec::new();
    for _ in 0..12 {
        missing.push(Lease::new(&orders).await);
    }
    let foreign = put_secret(&site, Some("another-installation")).await;
    let lookalike = format!("kc_like_{}", site.name);
    site.superuser(&format!("CREATE ROLE {lookalike} LOGIN"))
        .await;
    let names: Vec<&str> = missing.iter().map(|lease| &*lease.username).collect();
    site.superuser(&format!("DROP ROLE {}", names.join(", ")))
        .await;
    close_by_hand(&site, &left.id).await;

    for lease in &missing {
        let told = orders.notice("lease.revoked.v1", &lease.id, 2 * SOON).await;
        assert_eq!(told.data()["cause"], "missing");
    }
    orders.notice("lease.revoked.v1", &left.id, 2 * SOON).await;
    eventually("all are closed", SOON, async || {
        let open = "SELECT count(*) FROM keycard.leases WHERE state <> 'closed'";
        (site.count(open).await == 1).then_some(())
    })
    .await;
    assert!(!exists(&site, &left.username).await);
    eventually("the look-alike is reported", SOON, async || {
        let log = first.log() + &second.log();
        (log.contains("login_unproven") && log.contains(&lookalike)).then_some(())
    })
    .await;
    assert!(exists(&site, &lookalike).await);
    assert!(site.secrets.join(&foreign).exists());
    assert!(!site.secrets.join(left.locator()).exists());
    site.login(&kept.username, &kept.password).await.unwrap();
    let mut told: Vec<String> = orders
        .heard()
        .iter()
        .filter(|heard| heard.kind() == "lease.revoked.v1")
        .map(|heard| heard.data()["lease_id"].to_string())
        .collect();
    let number = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), 13);
    // Where something failed in between, as when a server does not answer in time, it is told again.
    let again = (first.log() + &second.log()).contains("an effect failed");
    assert!(number == 13 || again, "{number} notices");
    site.superuser(&format!("DROP ROLE {lookalike}")).await;
}

/// Two ledgers of one installation in one cluster, where every role is seen from both databases.
#[tokio::test(flavor = "multi_thread")]
async fn logins_of_the_installations_other_databases_are_no_look_alikes() {
    let site = Site::usual().await;
    let in_second = site.second_database("").await;

    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let here = Lease::new(&orders).await.username;
    let there = orders.issued("other-role", None).await;
    let there = there["username"].as_str().unwrap();
    let unproven = |name: &str| {
        let (_, found) = reconcile(&site, &[]);
        found
            .iter()
            .filter(|(_, _, subject)| subject == name)
            .count()
    };
    assert_eq!((unproven(&here), unproven(there)), (0, 0));
    // From now on no ledger proves it.
    in_second
        .batch_execute("DELETE FROM keycard.leases")
        .await
        .unwrap();
    assert_eq!((unproven(&here), unproven(there)), (0, 2));
    assert!(exists(&site, there).await);
}

/// From version 16 on Postgres knows who made a role.
#[tokio::test(flavor = "multi_thread")]
async fn logins_of_another_installation_are_look_alikes_only_while_their_maker_is_unknown() {
    let (site, neighbour) = (Site::usual().await, Site::usual().await);
    let _worker = site.worker().await;
    let _other_worker = neighbour.worker().await;
    let orders = neighbour.client("orders-svc").await;
    let theirs = Lease::new(&orders).await;
    let (_, found) = reconcile(&site, &["--apply"]);
    let reported = found
        .iter()
        .any(|(kind, _, subject)| kind == "login_unproven" && *subject == theirs.username);
    assert_eq!(reported, postgres_version() < 16);
    neighbour
        .login(&theirs.username, &theirs.password)
        .await
        .unwrap();
}
