//! Somebody else's hand in logins, ledger and secrets, and what keycard makes of it.

mod secrets;

use std::collections::BTreeMap;
use std::fs;

use keycard::clock::uuid_v7;
use keycard::store::SecretStore;
use keycard::store::directory::Directory;
use secrecy::SecretString;
use serde_json::Value;

use crate::support::client::{Client, SOON};
use crate::support::eventually;
use crate::support::servers::{Postgres, postgres_version};
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

/// A server without neighbours, whose logins would be look-alikes.
fn own_postgres() -> &'static Postgres {
    Box::leak(Box::new(Postgres::start(postgres_version(), &[], None)))
}

/// Closes a lease in the ledger alone, so that its login and its secret are left.
async fn close_by_hand(site: &Site, lease_id: &str) {
    let (_, uuid) = lease_id.rsplit_once('.').unwrap();
    superuser(
        site,
        &format!(
            "UPDATE keycard.leases SET state = 'closed', cause = 'requested',
                 revoked_at = clock_timestamp(), wake_at = NULL WHERE id = '{uuid}'"
        ),
    )
    .await;
}

async fn superuser(site: &Site, statement: &str) {
    site.sql().await.batch_execute(statement).await.unwrap();
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

/// Everything that keycard could have changed.
async fn everything(site: &Site) -> Vec<String> {
    let rows = site
        .sql()
        .await
        .query(
            "SELECT rolname || ' ' || oid || ' ' || rolcanlogin || coalesce(rolvaliduntil::text, '')
             FROM pg_roles
             UNION ALL SELECT l::text FROM keycard.leases l ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    let rows = rows.iter().map(|row| row.get(0));
    let files = site.secret_files();
    let mut files: Vec<String> = files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    files.sort_unstable();
    rows.chain(files).collect()
}

/// A site in which somebody has tampered with everything, while no worker was there.
struct Tampered {
    orders: Client,
    site: Site,
    /// Nobody has touched it.
    kept: Lease,
    /// Its login was dropped.
    missing: Lease,
    /// It was closed in the ledger alone, with a session open.
    left: Lease,
    /// So was this, and its login owns a table.
    owner: Lease,
    /// It is closed, and another role has taken its login's name.
    reborn: Lease,
    sessions: [tokio_postgres::Client; 2],
    /// Secrets of another installation and of nobody.
    foreign: [String; 2],
    /// A secret of this installation whose lease the ledger does not know.
    unproven: String,
}

impl Tampered {
    async fn new() -> Self {
        let site = Site::new(Wishes {
            postgres: own_postgres(),
            ..Wishes::default()
        })
        .await;
        let mut worker = site.worker().await;
        let orders = site.client("orders-svc").await;
        let tampered = Self {
            kept: Lease::new(&orders).await,
            missing: Lease::new(&orders).await,
            left: Lease::new(&orders).await,
            owner: Lease::new(&orders).await,
            reborn: Lease::new(&orders).await,
            sessions: [site.sql().await, site.sql().await],
            foreign: [
                put_secret(&site, Some("another-installation")).await,
                put_secret(&site, None).await,
            ],
            unproven: String::new(),
            orders,
            site,
        };
        let revoked = tampered.orders.revoke(&tampered.reborn.id).await;
        tampered.orders.answer(&revoked).await;
        worker.kill();
        assert_eq!(reconcile(&tampered.site, &[]), (Some(0), vec![]));
        tampered.tamper().await
    }

    async fn tamper(mut self) -> Self {
        let (site, left, owner) = (&self.site, &self.left, &self.owner);
        let grant = format!("GRANT CREATE ON SCHEMA public TO {}", site.group);
        superuser(site, &grant).await;
        self.sessions = [
            site.login(&left.username, &left.password).await.unwrap(),
            site.login(&owner.username, &owner.password).await.unwrap(),
        ];
        let own = "CREATE TABLE public.mine ()";
        self.sessions[1].batch_execute(own).await.unwrap();
        close_by_hand(site, &left.id).await;
        close_by_hand(site, &owner.id).await;
        let roles = format!(
            "DROP ROLE {}; CREATE ROLE {} LOGIN PASSWORD 'other'; CREATE ROLE kc_lookalike LOGIN",
            self.missing.username, self.reborn.username
        );
        superuser(site, &roles).await;
        self.unproven = put_secret(site, Some(&site.name)).await;
        self
    }

    /// What is found, with what becomes of the lease without login, the login and the secret that
    /// were left, and those of the login that owns something.
    fn found(&self, became: [&str; 5]) -> Vec<(String, String, String)> {
        let [missing, left, left_secret, owner, owner_secret] = became;
        expected(vec![
            ("login_missing", missing, &self.missing.username),
            ("login_left", left, &self.left.username),
            ("login_left", owner, &self.owner.username),
            ("login_unproven", "reported", &self.reborn.username),
            ("login_unproven", "reported", "kc_lookalike"),
            ("secret_left", left_secret, &self.left.locator()),
            ("secret_left", owner_secret, &self.owner.locator()),
            ("secret_unproven", "reported", &self.unproven),
        ])
    }

    fn would(&self) -> Vec<(String, String, String)> {
        let (drop, delete) = ("would_drop", "would_delete");
        self.found(["would_close", drop, delete, drop, delete])
    }

    /// What nobody proves stays as it is.
    async fn assert_nothing_foreign_was_touched(&self) {
        let site = &self.site;
        site.login(&self.reborn.username, "other").await.unwrap();
        assert!(exists(site, "kc_lookalike").await);
        for locator in self.foreign.iter().chain([&self.unproven]) {
            let value = fs::read_to_string(site.secrets.join(locator)).unwrap();
            assert_eq!(value, "precious");
        }
        let kept = &self.kept;
        site.login(&kept.username, &kept.password).await.unwrap();
        assert_eq!(state(site, kept).await, "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_finds_what_differs_and_changes_nothing() {
    let tampered = Tampered::new().await;
    let site = &tampered.site;
    let before = everything(site).await;
    assert_eq!(reconcile(site, &[]), (Some(4), tampered.would()));
    let table = site.keycard(&["reconcile"]).stdout;
    let line = table
        .lines()
        .find(|line| line.starts_with("login_missing"))
        .unwrap();
    for cell in [
        "would close",
        &tampered.missing.username,
        &tampered.missing.id,
    ] {
        assert!(line.contains(cell), "{table}");
    }

    // Only one keycard at a time carries anything out.
    let other = site.sql().await;
    other
        .batch_execute("SELECT pg_advisory_lock(x'7265636f6e63696c'::bigint)")
        .await
        .unwrap();
    let refused = site.keycard(&["reconcile", "--apply"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = &refused.stderr;
    assert!(said.contains("another keycard"), "{said}");
    assert_eq!(reconcile(site, &[]), (Some(4), tampered.would()));
    assert_eq!(everything(site).await, before);
    drop(other);
    tampered.assert_nothing_foreign_was_touched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ledger_proves_is_carried_out_and_the_rest_reported() {
    let tampered = Tampered::new().await;
    let (site, orders) = (&tampered.site, &tampered.orders);
    let (missing, left, owner) = (&tampered.missing, &tampered.left, &tampered.owner);
    let (code, applied) = reconcile(site, &["--apply"]);
    let later = "unfinished";
    let became = ["closed", "dropped", "deleted", later, later];
    assert_eq!(applied, tampered.found(became));
    assert_eq!(code, Some(4));
    for lease in [missing, left] {
        assert_eq!(state(site, lease).await, "closed");
        assert!(!exists(site, &lease.username).await);
        assert!(!site.secrets.join(lease.locator()).exists());
    }
    for session in &tampered.sessions {
        assert!(session.simple_query("SELECT 1").await.is_err());
    }
    assert_eq!(state(site, owner).await, "revoking");
    assert!(site.login(&owner.username, &owner.password).await.is_err());
    let told = orders.notice("lease.revoked.v1", &missing.id, SOON).await;
    assert_eq!(told.data()["cause"], "missing");
    let told = orders.notice("lease.revoked.v1", &left.id, SOON).await;
    assert_eq!(told.data()["sessions_terminated"], 1);
    tampered.assert_nothing_foreign_was_touched().await;

    // Once a person has judged what was reported, all agree.
    let judged = format!(
        "DROP ROLE kc_lookalike; DROP ROLE {}",
        tampered.reborn.username
    );
    superuser(site, &judged).await;
    fs::remove_file(site.secrets.join(&tampered.unproven)).unwrap();
    assert_eq!(reconcile(site, &["--apply"]), (Some(0), vec![]));
    let agreed = site.keycard(&["reconcile"]);
    assert_eq!(agreed.stdout, "Ledgers, logins and secrets agree.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_reconcile_by_themselves_and_everybody_is_told_once() {
    let site = Site::new(Wishes {
        postgres: own_postgres(),
        reconcile_interval: "1s",
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
    superuser(&site, &format!("CREATE ROLE {lookalike} LOGIN")).await;
    let names: Vec<&str> = missing.iter().map(|lease| &*lease.username).collect();
    superuser(&site, &format!("DROP ROLE {}", names.join(", "))).await;
    close_by_hand(&site, &left.id).await;

    for lease in &missing {
        let told = orders.notice("lease.revoked.v1", &lease.id, SOON).await;
        assert_eq!(told.data()["cause"], "missing");
    }
    orders.notice("lease.revoked.v1", &left.id, SOON).await;
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
    assert_eq!((told.len(), number), (13, 13));
    superuser(&site, &format!("DROP ROLE {lookalike}")).await;
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
