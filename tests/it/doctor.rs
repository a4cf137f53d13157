//! `keycard doctor`: all is well, and each thing that can be wrong.

mod amqp;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use keycard::clock::host_now;
use serde_json::Value;

use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::Output;
use crate::support::servers::{Postgres, postgres_version, shared_moto};
use crate::support::site::{Site, StoreKind, Wishes};

/// What a run of the doctor said.
struct Said {
    code: Option<i32>,
    checks: Vec<Value>,
    stderr: String,
}

impl Said {
    fn by(site: &Site) -> Self {
        Self::of(site.keycard(&["doctor", "--output", "json"]))
    }

    fn of(output: Output) -> Self {
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

/// Logins of the site's ledger that exist, and secrets of it.
async fn assert_nothing_is_left(site: &Site) {
    assert_eq!(site.logins().await, 0);
    let mut files = site.secret_files();
    files.retain(|file| !file.ends_with(".lock"));
    assert_eq!(files, Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well_and_nothing_is_left() {
    let site = Site::usual().await;
    let early = Said::by(&site);
    assert_eq!(early.code, Some(0), "{}", early.stderr);
    early.says("databases.app.ledger", "warning", "start `keycard worker`");
    early.says("roles.app-role", "warning", "there is no ledger yet");

    let _worker = site.worker().await;
    let said = Said::by(&site);
    assert_eq!(
        (said.code, said.ill()),
        (Some(0), vec![]),
        "{:#?}",
        said.checks
    );
    said.says("roles.app-role", "ok", "created, used and dropped");
    said.says("store", "ok", "in directory");
    assert_nothing_is_left(&site).await;
    let rows = site
        .sql()
        .await
        .query(
            "SELECT action FROM keycard.audit WHERE requester = 'keycard-doctor' ORDER BY id",
            &[],
        )
        .await
        .unwrap();
    let actions: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(actions, ["created", "issued", "revoked", "closed"]);

    let table = site.keycard(&["doctor"]).stdout;
    let header = table.lines().next().unwrap();
    for column in ["STATUS", "CHECK", "SEEN", "REMEDY"] {
        assert!(header.contains(column), "{table}");
    }

    // What cannot be given back is not rehearsed.
    assert!(site.keycard(&["freeze"]).status.success());
    let frozen = Said::by(&site);
    assert_eq!(frozen.code, Some(0));
    frozen.says("databases.app.leases", "warning", "`keycard thaw`");
    frozen.says("roles.app-role", "warning", "not rehearsed");
    assert_nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_grant_is_told_by_its_name() {
    let site = Site::usual().await;
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
    superuser(&site, &format!("ALTER ROLE gone_{group} RENAME TO {group}")).await;
    if site.postgres.version >= 16 {
        superuser(&site, &format!("REVOKE {group} FROM {admin}")).await;
        let said = Said::by(&site);
        let grant =
            format!("GRANT \"{group}\" TO \"{admin}\" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE");
        said.says(privileges, "failure", &grant);
        superuser(&site, &grant).await;
    }
    let said = Said::by(&site);
    assert_eq!(
        (said.code, said.ill()),
        (Some(0), vec![]),
        "{:#?}",
        said.checks
    );
    assert_nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_reach_or_refuses_keeps_nothing_else_from_being_looked_at() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let mut wrong = site.command(&["doctor", "--output", "json"]);
    let said = Said::of(Output::of(wrong.env("DB_ADMIN_PASSWORD", "canary-wrong")));
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
async fn each_role_that_cannot_work_is_told_with_what_postgres_says() {
    let site = Site::new(Wishes {
        sections: r#"
[roles.broken]
database = "app"
creation_statements = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'", "GRANT no_such_group TO \"{{name}}\""]
[roles.direct]
database = "app"
creation_statements = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'", "GRANT SELECT ON public.orders TO \"{{name}}\""]
[roles.sticky]
database = "app"
groups = ["GROUP"]
revocation_statements = ["SELECT 1/0"]
"#
        .to_owned(),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    superuser(
        &site,
        &format!(
            "GRANT SELECT ON public.orders TO {} WITH GRANT OPTION",
            site.admin
        ),
    )
    .await;
    let said = Said::by(&site);
    assert_eq!(said.code, Some(1));
    said.says("roles.broken", "failure", "no_such_group");
    said.says("roles.direct", "warning", "give the role `groups`");
    said.says("roles.sticky", "failure", "could not be dropped");
    said.says("roles.app-role", "ok", "dropped");
    // The one login that is left is refused, and on record.
    let left = "SELECT count(*) FROM pg_roles JOIN keycard.leases l ON login_oid = oid
                WHERE NOT rolcanlogin AND l.state = 'revoking' AND l.role = 'sticky'";
    assert_eq!((site.logins().await, site.count(left).await), (1, 1));

    superuser(
        &site,
        &format!(
            "REVOKE CONNECT ON DATABASE {0} FROM PUBLIC; GRANT CONNECT ON DATABASE {0} TO {1}",
            site.dbname, site.admin
        ),
    )
    .await;
    let said = Said::by(&site);
    said.says("roles.app-role", "failure", "cannot log in");
    let left = "SELECT count(*) FROM pg_roles JOIN keycard.leases l ON login_oid = oid
                WHERE l.role <> 'sticky'";
    assert_eq!(site.count(left).await, 0);
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
        "UPDATE keycard.leases SET expires_at = clock_timestamp() - interval '5 min'
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
        "2 overdue, the oldest by 30",
    );
    said.says("databases.app.leases", "failure", "1 stuck");
    said.says("agreement", "warning", "`keycard reconcile`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_that_dies_leaves_a_login_that_ends_by_itself() {
    let site = Site::new(Wishes {
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker().await;
    worker.kill();
    // Its second step takes long enough to be killed in it.
    superuser(
        &site,
        &format!(
            "SET ROLE {};
             CREATE FUNCTION keycard.slow() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN PERFORM pg_sleep(9); RETURN NEW; END';
             CREATE TRIGGER slow BEFORE INSERT ON keycard.audit FOR EACH ROW
                 WHEN (NEW.action = 'issued') EXECUTE FUNCTION keycard.slow()",
            site.admin
        ),
    )
    .await;
    let mut doctor = site
        .command(&["doctor"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("a role is rehearsed", SOON, async || {
        let asleep = "SELECT count(*) FROM pg_stat_activity
                      WHERE wait_event = 'PgSleep' AND datname = current_database()";
        (site.count(asleep).await == 1).then_some(())
    })
    .await;
    doctor.kill().unwrap();
    assert_eq!(doctor.wait().unwrap().signal(), Some(9));
    superuser(
        &site,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE wait_event = 'PgSleep' AND datname = current_database();
         DROP FUNCTION keycard.slow CASCADE",
    )
    .await;
    let sql = site.sql().await;
    let row = sql
        .query_one(
            "SELECT state, rolvaliduntil = expires_at, held_until >= expires_at, expires_at
             FROM keycard.leases JOIN pg_roles ON oid = login_oid",
            &[],
        )
        .await
        .unwrap();
    let (state, is_end, is_held): (&str, bool, bool) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((state, is_end, is_held), ("issuing", true, true));
    let ends: jiff::Timestamp = row.get(3);
    assert!(ends.duration_since(host_now()).as_secs() <= 20);

    // Its time is brought forward; the login's own end needs nobody.
    superuser(
        &site,
        "UPDATE keycard.leases SET expires_at = clock_timestamp(), held_until = clock_timestamp(),
             wake_at = clock_timestamp()",
    )
    .await;
    let _worker = site.worker().await;
    eventually("the lease is closed", SOON, async || {
        let closed = "SELECT count(*) FROM keycard.leases WHERE state = 'closed'";
        (site.count(closed).await == 1).then_some(())
    })
    .await;
    assert_nothing_is_left(&site).await;
    let delivered = "SELECT count(*) FROM keycard.audit WHERE action = 'issued'";
    assert_eq!(site.count(delivered).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_run_out_is_told() {
    // The thousand logins are no look-alikes to anybody else's test on a server of their own.
    let site = Site::new(Wishes {
        postgres: Box::leak(Box::new(Postgres::start(postgres_version(), &[], None))),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let admin = &site.admin;
    superuser(
        &site,
        &format!(
            "SET ROLE {admin};
             DO $$ BEGIN FOR i IN 1..1000 LOOP
                 EXECUTE format('CREATE ROLE kc_many_%s', i);
             END LOOP; END $$;
             RESET ROLE;
             DO $$ BEGIN
                 EXECUTE (SELECT 'GRANT SELECT ON public.orders TO '
                              || string_agg('kc_many_' || i, ', ') FROM generate_series(1, 500) i);
             END $$;
             ALTER ROLE {admin} CONNECTION LIMIT 9"
        ),
    )
    .await;
    let said = Said::by(&site);
    assert_eq!(said.code, Some(0), "{:#?}", said.checks);
    said.says(
        "databases.app.grants",
        "warning",
        "public.orders grants something to 500",
    );
    said.says(
        "databases.app.connections",
        "warning",
        "raise max_connections",
    );
    let memberships = if site.postgres.version >= 16 {
        ("warning", "1000 logins")
    } else {
        ("ok", " 0 logins")
    };
    said.says("databases.app.memberships", memberships.0, memberships.1);

    superuser(
        &site,
        &format!("ALTER ROLE {admin} SUPERUSER CONNECTION LIMIT -1"),
    )
    .await;
    let said = Said::by(&site);
    said.says("databases.app.superuser", "warning", "keycard setup-sql");
    said.says("databases.app.connections", "ok", "room for");
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_and_ledgers_of_others_are_told() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let library = format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1",
        std::env::consts::ARCH
    );
    for (ahead, status, words) in [("+2m", "warning", "by 120"), ("-10m", "failure", "by 600")] {
        let mut doctor = site.command(&["doctor", "--output", "json"]);
        doctor.env("LD_PRELOAD", &library).env("FAKETIME", ahead);
        doctor.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let said = Said::of(Output::of(&mut doctor));
        said.says("databases.app.clock", status, words);
        // The database's clock decides.
        said.says("roles.app-role", "ok", "dropped");
    }

    let mut other = site.command(&["doctor", "--output", "json"]);
    let said = Said::of(Output::of(other.env("KEYCARD_INSTALLATION", "another")));
    assert_eq!(said.code, Some(1));
    said.says("databases.app.ledger", "failure", "belongs elsewhere");
    said.says("roles.app-role", "warning", "not rehearsed");
    assert_nothing_is_left(&site).await;
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
    let mut away = site.command(&["doctor", "--output", "json"]);
    away.env("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1");
    let said = Said::of(Output::of(&mut away));
    assert_eq!(said.code, Some(1));
    said.says("store", "failure", "mend [store]");
}
