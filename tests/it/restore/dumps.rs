//! Dumps of a guarded database that are restored into another cluster.

use std::fs::File;
use std::process::{Command, Stdio};

use serde_json::json;

use super::copies::{ALL_DUE, neighbour};
use super::{
    Lease, explain_and_adopt, lead_to, postgres_with_tools, until_compared, until_left_alone,
};
use crate::support::client::SOON;
use crate::support::site::{Site, Wishes};

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
        until_left_alone(&site).await;
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
        copy.superuser(&format!(
            "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'admin'; CREATE ROLE {group} NOLOGIN;
                 GRANT pg_signal_backend TO {admin};
                 DO $$ BEGIN LOOP
                     CREATE ROLE bystander LOGIN PASSWORD 'bystander';
                     EXIT WHEN (SELECT oid FROM pg_roles WHERE rolname = 'bystander') >= {oid};
                     DROP ROLE bystander;
                 END LOOP; END $$"
        ))
        .await;
        let same =
            format!("SELECT count(*) FROM pg_roles WHERE oid = {oid} AND rolname = 'bystander'");
        assert_eq!(copy.count(&same).await, 1, "nobody has that OID");
        copy.superuser("CREATE DATABASE restored").await;
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
    copy.superuser(ALL_DUE).await;
    let explained = explain_and_adopt(&copy, &[]).await;
    assert!(
        explained.contains("0 here, 0 here under another OID, 1 not here"),
        "{explained}"
    );
    let _worker = copy.worker().await;
    let theirs = copy.client("orders-svc").await;
    let own = Lease::new(&theirs).await;
    own.shorten(&theirs).await;
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
    copy.superuser(&format!(
        "CREATE TEMP TABLE one AS SELECT * FROM keycard.leases;
             UPDATE one SET id = gen_random_uuid(), username = 'kc_came_along';
             INSERT INTO keycard.leases SELECT * FROM one;
             CREATE ROLE kc_came_along LOGIN PASSWORD 'came';
             GRANT {} TO kc_came_along",
        site.group
    ))
    .await;
    copy.rewrite(
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
    // Else the worker misses the secret that both leases have.
    until_compared(&copy).await;
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
