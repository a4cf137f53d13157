//! Copies of a guarded database, and databases that share a cluster.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{
    Lease, adopt, audited, explain_and_adopt, lead_to, postgres_with_tools, rewrite, superuser,
};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::servers::Postgres;
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

/// Another installation with the same store.
async fn neighbour(site: &Site, postgres: &'static Postgres) -> Site {
    let neighbour = Site::new(Wishes {
        postgres,
        queue: site.queue,
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    neighbour.configure(&format!(
        "[store]\nkind = \"directory\"\npath = {:?}\n",
        site.secrets
    ));
    neighbour
}

/// Everything that would be found to be due, were it this ledger's.
const ALL_DUE: &str = "UPDATE keycard.leases SET wake_at = clock_timestamp(),
    expires_at = clock_timestamp() WHERE state = 'active'";

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_with_template_touches_nothing_of_the_originals() {
    let site = Site::usual().await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let (kept, revoked) = (Lease::new(&orders).await, Lease::new(&orders).await);
    revoked.revoke(&orders).await;
    worker.terminate();
    assert!(worker.exit(SOON).await.success());
    drop(orders);
    let copied = format!("{}_copy", site.dbname);
    eventually("nobody is connected to the original", SOON, async || {
        let server = site.sql_in("postgres").await;
        let copy = format!("CREATE DATABASE {copied} TEMPLATE {}", site.dbname);
        server.batch_execute(&copy).await.ok()
    })
    .await;

    let mut copy = neighbour(&site, site.postgres).await;
    lead_to(&mut copy, &copied, &site);
    superuser(&copy, ALL_DUE).await;
    // A secret of a closed lease would go with the next reconciliation.
    fs::write(&revoked.secret, "precious").unwrap();
    let said = copy.worker_unready(&[]).refusal().await;
    assert!(
        said.contains(&format!("installation {:?}", site.name)),
        "{said}"
    );

    let reconciled = copy.keycard(&["reconcile", "--apply"]);
    assert_eq!(reconciled.status.code(), Some(1), "{}", reconciled.stdout);
    let said = reconciled.stderr;
    assert!(said.contains("keycard adopt --database app"), "{said}");

    // What must not be is refused, with --yes as without.
    let in_place = adopt(&copy, &["--moved", "--yes"]);
    assert_eq!(in_place.status.code(), Some(1));
    assert!(
        in_place
            .stderr
            .contains("write that name as `installation`")
    );
    let own_name = format!("installation = \"{}\"", copy.name);
    let original_name = format!("installation = \"{}\"", site.name);
    rewrite(&copy, &own_name, &original_name);
    for (how, why) in [
        (&["--yes"][..], "this database's key"),
        (&["--moved", "--yes"], "which is still there"),
    ] {
        let refused = adopt(&copy, how);
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stdout);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    rewrite(&copy, &original_name, &own_name);

    let explained = explain_and_adopt(&copy, &[]).await;
    for told in [
        &format!("installation {:?}", site.name),
        &format!("installation {:?}", copy.name),
        &format!("that is database {:?}, which is still there", site.dbname),
        "not ended: 1. Their logins: 1 here, 0 here under another OID, 0 not here",
        "Secrets of the 1 delivered leases: 1 in the store, 0 gone",
    ] {
        assert!(explained.contains(told), "{told}: {explained}");
    }
    assert_eq!(audited(&copy, None).await, ["adopted"]);
    assert_eq!(
        audited(&copy, Some(&kept)).await,
        ["created", "issued", "forgotten"]
    );

    // The copy is a ledger like any other, and touches none of it.
    let _worker = copy.worker().await;
    let theirs = copy.client("orders-svc").await;
    let own = Lease::with_ttl(&theirs, Some(2)).await;
    theirs.notice("lease.revoked.v1", &own.id, SOON).await;
    let reconciled = copy.keycard(&["reconcile", "--apply", "--output", "json"]);
    assert!(
        !reconciled.stdout.contains("dropped"),
        "{}",
        reconciled.stdout
    );
    assert!(
        !reconciled.stdout.contains("deleted"),
        "{}",
        reconciled.stdout
    );
    assert!(kept.has_secret() && revoked.has_secret() && !own.has_secret());
    assert!(kept.can_log_in(&site).await);
    let _original = site.worker().await;
    let orders = site.client("orders-svc").await;
    kept.revoke(&orders).await;
    assert!(!kept.has_secret());
}

/// A dump of a guarded database in another cluster, where the admin and the group exist already and
/// a bystander has the OID that the lease's login has in the first one.
struct Dumped {
    site: Site,
    copy: Site,
    lease: Lease,
    bystander: tokio_postgres::Client,
}

impl Dumped {
    async fn new() -> Self {
        let site = Site::new(Wishes {
            postgres: postgres_with_tools(),
            ..Wishes::default()
        })
        .await;
        let mut worker = site.worker().await;
        let orders = site.client("orders-svc").await;
        let lease = Lease::new(&orders).await;
        worker.kill();
        let dump = site.path().join("dump.sql");
        client(&site, "pg_dump", &site.dbname, |command| {
            command.stdout(File::create(&dump).unwrap())
        });

        let mut copy = neighbour(&site, postgres_with_tools()).await;
        let oid: u32 = site
            .sql()
            .await
            .query_one("SELECT login_oid FROM keycard.leases", &[])
            .await
            .unwrap()
            .get(0);
        let (admin, group) = (&site.admin, &site.group);
        superuser(
            &copy,
            &format!(
                "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'admin'; CREATE ROLE {group} NOLOGIN;
                 GRANT pg_signal_backend TO {admin};
                 DO $$ BEGIN LOOP
                     CREATE ROLE bystander LOGIN PASSWORD 'bystander';
                     EXIT WHEN (SELECT oid FROM pg_roles WHERE rolname = 'bystander') >= {oid};
                     DROP ROLE bystander;
                 END LOOP; END $$"
            ),
        )
        .await;
        let same =
            format!("SELECT count(*) FROM pg_roles WHERE oid = {oid} AND rolname = 'bystander'");
        assert_eq!(copy.count(&same).await, 1, "nobody has that OID");
        superuser(&copy, "CREATE DATABASE restored").await;
        client(&copy, "psql", "restored", |command| {
            command.stdin(File::open(&dump).unwrap())
        });
        lead_to(&mut copy, "restored", &site);
        // Services are let in as in any database.
        let bystander = copy.login("bystander", "bystander").await.unwrap();
        Self {
            site,
            copy,
            lease,
            bystander,
        }
    }
}

/// Runs one of the tools that come with Postgres as a superuser.
fn client(
    site: &Site,
    program: &str,
    dbname: &str,
    redirect: impl FnOnce(&mut Command) -> &mut Command,
) {
    let mut command = Command::new(format!("/usr/lib/postgresql/15/bin/{program}"));
    command
        .args([
            "--host",
            &site.postgres.host,
            "--username",
            &site.postgres.superuser,
        ])
        .args([
            "--port",
            &site.postgres.port.to_string(),
            "--dbname",
            dbname,
        ])
        .env("PGPASSWORD", &site.postgres.password)
        .env("PGOPTIONS", "-c client_min_messages=error")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    assert!(redirect(&mut command).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_into_another_cluster_touches_nothing_of_the_originals() {
    let Dumped {
        site,
        copy,
        lease,
        bystander,
    } = Dumped::new().await;
    superuser(&copy, ALL_DUE).await;
    let explained = explain_and_adopt(&copy, &[]).await;
    assert!(
        explained.contains("0 here, 0 here under another OID, 1 not here"),
        "{explained}"
    );
    let _worker = copy.worker().await;
    let theirs = copy.client("orders-svc").await;
    let own = Lease::with_ttl(&theirs, Some(2)).await;
    theirs.notice("lease.revoked.v1", &own.id, SOON).await;
    copy.keycard(&["reconcile", "--apply"]);
    assert!(lease.has_secret());
    bystander.simple_query("SELECT 1").await.unwrap();
    assert!(lease.can_log_in(&site).await);
    let _original = site.worker().await;
    let orders = site.client("orders-svc").await;
    lease.revoke(&orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_takes_the_originals_place_ends_what_must_end() {
    let Dumped {
        site,
        copy,
        lease,
        bystander,
    } = Dumped::new().await;
    // One that came along by name, as with pg_dumpall.
    let (_, uuid) = lease.id.rsplit_once('.').unwrap();
    superuser(
        &copy,
        &format!(
            "CREATE TEMP TABLE one AS SELECT * FROM keycard.leases;
             UPDATE one SET id = gen_random_uuid(), username = 'kc_came_along';
             INSERT INTO keycard.leases SELECT * FROM one;
             CREATE ROLE kc_came_along LOGIN PASSWORD 'came';
             GRANT {} TO kc_came_along",
            site.group
        ),
    )
    .await;
    rewrite(
        &copy,
        &format!("installation = \"{}\"", copy.name),
        &format!("installation = \"{}\"", site.name),
    );
    let said = copy.worker_unready(&[]).refusal().await;
    assert!(said.contains("another cluster"), "{said}");
    let explained = explain_and_adopt(&copy, &["--moved"]).await;
    assert!(
        explained.contains("0 here, 1 here under another OID, 1 not here"),
        "{explained}"
    );
    let _worker = copy.worker().await;
    let orders = copy.client("orders-svc").await;
    let reconciled = copy.keycard(&["reconcile", "--apply", "--output", "json"]);
    let findings: serde_json::Value = serde_json::from_str(&reconciled.stdout).unwrap();
    let closed = findings.as_array().unwrap().iter().any(|finding| {
        finding["action"] == json!("closed") && finding["login"] == json!(lease.username)
    });
    assert!(closed, "{findings}");
    let told = orders.notice("lease.revoked.v1", &lease.id, SOON).await;
    assert_eq!(told.data()["cause"], "missing");
    assert!(!lease.has_secret());
    bystander.simple_query("SELECT 1").await.unwrap();

    let came = copy.login("kc_came_along", "came").await.unwrap();
    let query = format!("SELECT 'app.' || id::text FROM keycard.leases WHERE id <> '{uuid}'");
    let row = copy.sql().await.query_one(&query, &[]).await.unwrap();
    let id = orders.revoke(row.get(0)).await;
    let answer = orders.answer(&id).await;
    assert_eq!(answer.data()["sessions_terminated"], 1, "{}", answer.event);
    assert!(came.simple_query("SELECT 1").await.is_err());
    bystander.simple_query("SELECT 1").await.unwrap();
}

/// One installation with a ledger in each of two databases, and another installation beside it.
#[tokio::test(flavor = "multi_thread")]
async fn ledgers_of_one_cluster_leave_each_others_leases_alone() {
    let site = Site::usual().await;
    let without_other = fs::read_to_string(&site.config).unwrap();
    site.second_database("min_ttl = \"1s\"").await;
    let beside = neighbour(&site, site.postgres).await;

    let _worker = site.worker().await;
    let _their_worker = beside.worker().await;
    let orders = site.client("orders-svc").await;
    let theirs = beside.client("orders-svc").await;
    let here = Lease::new(&orders).await;
    let there = orders.issued("other-role", Some(3)).await;
    let foreign = Lease::new(&theirs).await;
    let ended = there["lease_id"].as_str().unwrap();
    assert!(ended.starts_with("other."), "{ended}");
    orders.notice("lease.revoked.v1", ended, SOON).await;
    for site in [&site, &beside] {
        site.keycard(&["reconcile", "--apply"]);
    }
    assert!(here.can_log_in(&site).await && here.has_secret());
    assert!(foreign.can_log_in(&beside).await && foreign.has_secret());

    // Nor does a configuration touch what another one of the same installation has, be it that a
    // database is away or that it does not know it.
    let there = orders.issued("other-role", None).await;
    let login = there["username"].as_str().unwrap();
    let everything = fs::read_to_string(&site.config).unwrap();
    let reconciled = || {
        let output = site.keycard(&["reconcile", "--apply", "--output", "json"]);
        let found: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let about = found.as_array().unwrap().iter().filter(|finding| {
            finding["login"] == json!(login) || finding["lease_id"] == there["lease_id"]
        });
        let became: BTreeSet<String> = about
            .map(|finding| format!("{}: {}", finding["kind"], finding["action"]))
            .collect();
        (output.status.code(), became, output.stderr)
    };
    rewrite(
        &site,
        &format!("/{}_b\"\nusername", site.dbname),
        "/away\"\nusername",
    );
    let (code, became, said) = reconciled();
    assert_eq!((code, became), (Some(1), BTreeSet::new()), "{said}");
    assert!(
        said.contains("create that database, or name another"),
        "{said}"
    );
    fs::write(&site.config, without_other).unwrap();
    let (code, became, said) = reconciled();
    let reported = [
        r#""login_unproven": "reported""#.to_owned(),
        r#""secret_unproven": "reported""#.to_owned(),
    ];
    assert_eq!(
        (code, became),
        (Some(4), BTreeSet::from(reported)),
        "{said}"
    );
    fs::write(&site.config, everything).unwrap();
    let password = Site::secret(&there)["password"].clone();
    let password = password.as_str().unwrap();
    site.login(login, password).await.unwrap();

    here.revoke(&orders).await;
    assert!(foreign.can_log_in(&beside).await && foreign.has_secret());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_ledger_turns_out_to_be_anothers_deletes_nothing() {
    let queue = QueueKind::default();
    // From a queue in that database no expiry event comes any more: the sweep finds out.
    let sweep_interval = match queue {
        QueueKind::Amqp(_) => "10m",
        QueueKind::Postgres => "1s",
    };
    let site = Site::new(Wishes {
        queue,
        sweep_interval,
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let lease = Lease::with_ttl(&orders, Some(10)).await;
    // The ledger has lost the lease as well: its expiry event would delete the secret.
    superuser(
        &site,
        &format!(
            "UPDATE keycard.ledger SET system_identifier = 1;
             DELETE FROM keycard.requests; DELETE FROM keycard.leases;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'",
            site.admin
        ),
    )
    .await;
    let status = worker.exit(SOON).await;
    assert_eq!(status.code(), Some(1));
    assert!(worker.log().contains("another cluster"), "{}", worker.log());
    assert!(lease.has_secret());
}
