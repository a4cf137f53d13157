//! `keycard doctor`: all is well, and each thing that can be wrong.

mod amqp;
mod rehearsal;
mod room;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use keycard::clock::host_now;
use keycard::store::SecretStore as _;
use keycard::store::credential::INSTALLATION_TAG;
use keycard::store::directory::Directory;
use serde_json::Value;

use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::Output;
use crate::support::servers::{Postgres, postgres_version, shared_moto};
use crate::support::services::QueueKind;
use crate::support::site::{Site, StoreKind, Wishes};

/// A doctor that may ask the broker's administrator, where there is one.
fn doctor(site: &Site) -> Command {
    let mut doctor = site.command(&["doctor", "--output", "json"]);
    if let QueueKind::Amqp(broker) = site.queue {
        let url = format!(
            "http://{}@{}:{}",
            broker.user, broker.host, broker.http_port
        );
        doctor.env("KEYCARD_MANAGEMENT__URL", url);
        doctor.env("KEYCARD_MANAGEMENT__PASSWORD", &broker.password);
    }
    doctor
}

/// What a run of the doctor said.
struct Said {
    code: Option<i32>,
    checks: Vec<Value>,
    stderr: String,
}

impl Said {
    fn by(site: &Site) -> Self {
        Self::of(&mut doctor(site))
    }

    fn of(doctor: &mut Command) -> Self {
        let output = Output::of(doctor);
        let checks = serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", output.stdout, output.stderr));
        Self {
            code: output.status.code(),
            checks,
            stderr: output.stderr,
        }
    }

    /// Status, what was seen and the remedy of every check of this name.
    fn about(&self, name: &str) -> Vec<(&str, &str, &str)> {
        let found: Vec<_> = self
            .checks
            .iter()
            .filter(|check| check["name"] == name)
            .map(|check| {
                let text = |key: &str| check[key].as_str().unwrap_or_default();
                (text("status"), text("seen"), text("remedy"))
            })
            .collect();
        assert!(!found.is_empty(), "no {name}: {:#?}", self.checks);
        found
    }

    /// Asserts that one check of this name has this status and says this, in what was seen or as
    /// its remedy.
    fn says(&self, name: &str, status: &str, words: &str) {
        let about = self.about(name);
        let is_it = |(is, seen, remedy): &(&str, &str, &str)| {
            *is == status && (seen.contains(words) || remedy.contains(words))
        };
        assert!(about.iter().any(is_it), "{words:?}: {about:#?}");
    }

    /// The names of all that are not ok. Logins of other tests' sites on the shared server are no
    /// ledger's of this site, so whether all agree is looked at on a server of its own.
    fn ill(&self) -> Vec<&str> {
        self.checks
            .iter()
            .filter(|check| check["status"] != "ok" && check["name"] != "agreement")
            .map(|check| check["name"].as_str().unwrap())
            .collect()
    }
}

async fn superuser(site: &Site, statements: &str) {
    site.sql().await.batch_execute(statements).await.unwrap();
}

/// What the doctor says once it has nothing to say.
async fn well(site: &Site) -> Said {
    eventually("all is well", SOON, async || {
        Some(Said::by(site)).filter(|said| said.ill().is_empty())
    })
    .await
}

/// Logins of the site's ledger that exist, and secrets of it.
async fn assert_nothing_is_left(site: &Site) {
    assert_eq!(site.logins().await, 0);
    let mut files = site.secret_files();
    files.retain(|file| !file.ends_with(".lock"));
    assert_eq!(files, Vec::<PathBuf>::new());
}

/// A secret that a doctor wrote at this time.
fn check_of(second: i64) -> (uuid::Uuid, String) {
    let milliseconds = u64::try_from(second).unwrap() * 1_000;
    let id = uuid::Builder::from_unix_timestamp_millis(milliseconds, &[7; 10]).into_uuid();
    (id, format!("keycard/keycard-doctor/check/{id}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well_and_nothing_is_left() {
    let site = Site::usual().await;
    let early = Said::by(&site);
    assert_eq!(early.code, Some(0), "{}", early.stderr);
    early.says("databases.app.ledger", "warning", "start `keycard worker`");
    early.says("roles.app-role", "warning", "there is no ledger yet");

    let worker = site.worker().await;
    // What a doctor left that was killed an hour ago, and what another has at work.
    let ages = [3_600, 60];
    let [left, current] = ages.map(|seconds| check_of(host_now().as_second() - seconds));
    let store = Directory::open(&site.secrets).unwrap();
    let tag = (INSTALLATION_TAG.to_owned(), site.name.clone());
    for (attempt, locator) in [&left, &current] {
        let tags = BTreeMap::from([tag.clone()]);
        let value = "none".into();
        let put = store.put(locator, *attempt, &value, &tags);
        put.await.unwrap();
    }
    // A worker reads the queue some time after it says that it serves.
    let said = well(&site).await;
    assert_eq!(said.code, Some(0));
    // Nothing but how many warn: that all agree is not for a shared server to say.
    assert!(said.stderr.lines().count() <= 1, "{}", said.stderr);
    assert!(!said.stderr.contains(" audit: "), "{}", said.stderr);
    said.says("roles.app-role", "ok", "created, used and dropped");
    said.says("queue.workers", "ok", "1 running, 0 messages wait");
    said.says("store", "ok", "in directory");
    assert_eq!(store.describe(&left.1).await.unwrap(), None);
    assert!(store.describe(&current.1).await.unwrap().is_some());
    store.delete(&current.1).await.unwrap();
    assert_nothing_is_left(&site).await;
    let rows = site
        .sql()
        .await
        .query(
            "SELECT action FROM keycard.audit WHERE requester = 'keycard-doctor'
             ORDER BY id DESC LIMIT 4",
            &[],
        )
        .await
        .unwrap();
    let actions: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(actions, ["closed", "revoked", "issued", "created"]);

    // Who wants the lines of the audit has to say so.
    let mut loud = doctor(&site);
    let said = Said::of(loud.args(["--log-level", "error"]));
    assert_eq!(
        said.stderr.matches(" audit: ").count(),
        4,
        "{}",
        said.stderr
    );

    // What cannot be given back is not rehearsed.
    assert!(site.keycard(&["freeze"]).status.success());
    let frozen = Said::by(&site);
    assert_eq!(frozen.code, Some(0));
    frozen.says("databases.app.leases", "warning", "`keycard thaw`");
    frozen.says("roles.app-role", "warning", "not rehearsed");
    assert_nothing_is_left(&site).await;

    worker.terminate();
    eventually("nobody serves", SOON, async || {
        let about = Said::by(&site);
        let workers = about.about("queue.workers");
        (workers[0].0 == "warning" && workers[0].1.contains("none is running")).then_some(())
    })
    .await;
    let table = site.keycard(&["doctor"]);
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert!(
        lines[0].contains("STATUS") && lines[0].contains("CHECK"),
        "{lines:#?}"
    );
    let at = lines.iter().position(|line| line.contains("queue.workers"));
    let remedy = lines[at.unwrap() + 1].trim_start();
    assert!(
        remedy.starts_with("-> start `keycard worker`"),
        "{lines:#?}"
    );
    assert!(table.stderr.contains("0 of "), "{}", table.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_grant_is_told_by_its_name() {
    let site = Site::new(Wishes {
        sections: r#"
[roles.open]
database = "app"
creation_statements = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"]
"#
        .to_owned(),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let Site { admin, group, .. } = &site;
    superuser(
        &site,
        &format!("REVOKE pg_signal_backend FROM {admin}; ALTER ROLE {admin} NOCREATEROLE"),
    )
    .await;
    let said = Said::by(&site);
    assert_eq!(said.code, Some(1));
    let privileges = "databases.app.privileges";
    let signal = format!("GRANT pg_signal_backend TO \"{admin}\"");
    said.says(privileges, "failure", &signal);
    let create = format!("ALTER ROLE \"{admin}\" CREATEROLE");
    said.says(privileges, "failure", &create);
    said.says("roles.app-role", "warning", "lacks privileges");

    // The remedies are what helps.
    superuser(
        &site,
        &format!("{signal}; {create}; ALTER ROLE {group} RENAME TO gone_{group}"),
    )
    .await;
    let said = Said::by(&site);
    assert_eq!(said.code, Some(1));
    said.says(
        privileges,
        "failure",
        &format!("no role {group:?}, which roles.app-role.groups names"),
    );
    said.says("roles.app-role", "failure", "no login can be created");
    said.says("roles.open", "ok", "dropped");
    superuser(&site, &format!("ALTER ROLE gone_{group} RENAME TO {group}")).await;
    if site.postgres.version >= 16 {
        superuser(&site, &format!("REVOKE {group} FROM {admin}")).await;
        let said = Said::by(&site);
        let grant =
            format!("GRANT \"{group}\" TO \"{admin}\" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE");
        said.says(privileges, "failure", &grant);
        superuser(&site, &grant).await;
    }
    assert_eq!(well(&site).await.code, Some(0));
    assert_nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_reach_or_refuses_keeps_nothing_else_from_being_looked_at() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let mut wrong = doctor(&site);
    let said = Said::of(wrong.env("DB_ADMIN_PASSWORD", "canary-wrong"));
    assert_eq!(said.code, Some(1));
    said.says(
        "databases.app.connection",
        "failure",
        "mend the user's name or password",
    );
    said.says("roles.app-role", "warning", "not rehearsed");
    said.says("store", "ok", "written, looked at and deleted");
    let all = format!("{:?} {}", said.checks, said.stderr);
    assert!(!all.contains("canary"), "{all}");

    let limit = |most: i32| format!("ALTER ROLE {} CONNECTION LIMIT {most}", site.admin);
    superuser(&site, &limit(0)).await;
    let full = Said::by(&site);
    full.says(
        "databases.app.connection",
        "failure",
        "too many connections for role",
    );
    full.says("databases.app.connection", "failure", "raise that limit");
    superuser(&site, &limit(-1)).await;

    // Getting there by a name says nothing of who is between.
    let (url, here) = (
        format!(
            "postgresql://{}@127.1:{}/{}",
            site.admin, site.postgres.port, site.dbname
        ),
        "KEYCARD_DATABASES__APP__CONNECTION_URL",
    );
    let mut open = doctor(&site);
    let said = Said::of(open.env(here, format!("{url}?sslmode=disable")));
    said.says("databases.app.connection", "warning", "without TLS");
    let mut closed = doctor(&site);
    let said = Said::of(closed.env(here, format!("{url}?sslmode=verify-full")));
    said.says(
        "databases.app.connection",
        "failure",
        "does not support TLS",
    );

    // A file where directories have to be: no secret can be written.
    fs::create_dir_all(&site.secrets).unwrap();
    fs::write(site.secrets.join("keycard"), "").unwrap();
    let said = Said::by(&site);
    assert_eq!((said.code, said.ill().contains(&"store")), (Some(1), true));
    said.says("store", "failure", "mend [store]");
    said.says("roles.app-role", "ok", "dropped");
    fs::remove_file(site.secrets.join("keycard")).unwrap();
    assert_nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overdue_stuck_and_orphaned_are_told() {
    let site = Site::new(Wishes {
        postgres: Box::leak(Box::new(Postgres::start(postgres_version(), &[], None))),
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker().await;
    Said::by(&site).says("agreement", "ok", "agree");
    let orders = site.client("orders-svc").await;
    for _ in 0..2 {
        orders.issued("app-role", None).await;
    }
    worker.kill();
    superuser(
        &site,
        "UPDATE keycard.leases SET expires_at = clock_timestamp() - interval '500 min'
         WHERE state = 'active';
         UPDATE keycard.leases SET state = 'revoking', failures = 6, cause = 'expired',
             retry_at = clock_timestamp()
         WHERE id = (SELECT id FROM keycard.leases WHERE state = 'active' LIMIT 1)",
    )
    .await;
    let orphan = format!("kc_orphan_{}", site.name);
    superuser(&site, &format!("CREATE ROLE {orphan}")).await;
    let said = Said::by(&site);
    superuser(&site, &format!("DROP ROLE {orphan}")).await;
    assert_eq!(said.code, Some(1));
    said.says(
        "databases.app.leases",
        "failure",
        // And some seconds.
        "2 overdue, the oldest by 300",
    );
    said.says("databases.app.leases", "failure", "1 stuck");
    said.says("agreement", "warning", "`keycard reconcile`");

    // What somebody wanted is no failure.
    assert!(site.keycard(&["freeze"]).status.success());
    Said::by(&site).says("databases.app.leases", "warning", "end with `keycard thaw`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secrets_manager_is_written_to_and_left_as_it_was() {
    let moto = shared_moto();
    let site = Site::new(Wishes {
        store: StoreKind::Aws(moto.url.clone()),
        ..Wishes::default()
    })
    .await;
    let said = Said::by(&site);
    said.says("store", "ok", "deleted in aws-secrets-manager");
    let mut away = doctor(&site);
    let said = Said::of(away.env("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1"));
    assert_eq!(said.code, Some(1));
    said.says("store", "failure", "mend [store]");
}
