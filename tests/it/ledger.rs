//! Whose the ledger is, and what keycard's own user may do.

use std::fs;

use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::site::Site;

/// A ledger that a worker has made, the worker being gone.
async fn site_with_ledger() -> Site {
    let site = Site::usual().await;
    let mut worker = site.worker().await;
    site.is_prepared().await;
    worker.terminate();
    assert!(worker.exit(SOON).await.success());
    site
}

async fn superuser(site: &Site, statements: &str) {
    let statements = statements.replace("KEYCARD", &site.admin);
    site.superuser(&statements).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_with_anything_in_it_that_is_somebody_elses_is_refused() {
    let site = site_with_ledger().await;
    for (plant, named, remove) in [
        (
            "ALTER SCHEMA keycard OWNER TO postgres",
            "schema keycard in",
            "ALTER SCHEMA keycard OWNER TO KEYCARD",
        ),
        (
            "ALTER TABLE keycard.leases OWNER TO postgres",
            "relation keycard.leases",
            "ALTER TABLE keycard.leases OWNER TO KEYCARD",
        ),
        (
            "CREATE VIEW keycard.planted AS SELECT 1",
            "keycard.planted",
            "DROP VIEW keycard.planted",
        ),
        (
            "CREATE FUNCTION keycard.planted() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "routine keycard.planted",
            "DROP FUNCTION keycard.planted",
        ),
        (
            "CREATE TYPE keycard.planted AS ENUM ('a')",
            "type keycard.planted",
            "DROP TYPE keycard.planted",
        ),
        (
            "CREATE FUNCTION public.planted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER planted BEFORE INSERT ON keycard.leases
             FOR EACH ROW EXECUTE FUNCTION public.planted()",
            "trigger planted of keycard.leases",
            "DROP FUNCTION public.planted CASCADE",
        ),
    ] {
        superuser(&site, plant).await;
        let said = site.worker_unready(&[]).refusal().await;
        assert!(said.contains(named), "{plant}: {said}");
        assert!(said.contains(r#"belongs to "postgres""#), "{said}");
        superuser(&site, remove).await;
    }
    let _worker = site.worker().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_a_newer_keycard_is_used_unless_it_says_otherwise() {
    let site = site_with_ledger().await;
    superuser(
        &site,
        "SET ROLE KEYCARD;
         INSERT INTO keycard.migrations SELECT 99, 'later', applied_on, '123'
         FROM keycard.migrations WHERE version = 1;
         CREATE TABLE keycard.later (id int);
         ALTER TABLE keycard.leases ADD COLUMN later text",
    )
    .await;
    {
        let _worker = site.worker().await;
        let orders = site.client("orders-svc").await;
        let issued = orders.issued("app-role", None).await;
        let id = orders.revoke(issued["lease_id"].as_str().unwrap()).await;
        assert_eq!(orders.answer(&id).await.kind(), "lease.revoked.v1");
    }
    superuser(&site, "UPDATE keycard.ledger SET compatible_from = 99").await;
    let said = site.worker_unready(&[]).refusal().await;
    assert!(
        said.contains("version 99") && said.contains("upgrade it"),
        "{said}"
    );
}

/// Whoever prepares it records last whose it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_not_prepared_yet_is_waited_for() {
    let site = Site::usual().await;
    let worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    orders.issued("app-role", None).await;
    superuser(
        &site,
        "CREATE TABLE public.record AS TABLE keycard.ledger;
         DELETE FROM keycard.ledger;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE usename = 'KEYCARD' AND datname = current_database()",
    )
    .await;
    let id = orders.request("app-role", None).await;
    eventually("the request is put off", SOON, async || {
        worker.log().contains("has no ledger").then_some(())
    })
    .await;
    superuser(&site, "INSERT INTO keycard.ledger TABLE public.record").await;
    assert_eq!(orders.answer(&id).await.kind(), "credential.issued.v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_ledger_ends_nothing() {
    let site = Site::usual().await;
    {
        let _worker = site.worker().await;
        site.client("orders-svc")
            .await
            .issued("app-role", None)
            .await;
    }
    // It would be due, were it this ledger's.
    superuser(
        &site,
        "UPDATE keycard.leases SET expires_at = clock_timestamp(), wake_at = clock_timestamp()",
    )
    .await;
    let copy = format!("{}_copy", site.dbname);
    eventually("nobody is connected to the original", SOON, async || {
        let server = site.sql_in("postgres").await;
        server
            .batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE {}", site.dbname))
            .await
            .ok()
    })
    .await;

    let original = fs::read_to_string(&site.config).unwrap();
    site.rewrite(
        &format!("/{}\"\nusername", site.dbname),
        &format!("/{copy}\"\nusername"),
    );
    let said = site.worker_unready(&[]).refusal().await;
    assert!(said.contains("another database of this cluster"), "{said}");
    assert!(said.contains("keycard adopt --database app"), "{said}");
    let listed = site.keycard(&["lease", "list"]);
    assert_eq!(listed.status.code(), Some(1));
    assert!(
        listed.stderr.contains("another database"),
        "{}",
        listed.stderr
    );

    fs::write(&site.config, original).unwrap();
    site.rewrite(
        &format!("installation = \"{}\"", site.name),
        "installation = \"other\"",
    );
    let said = site.worker_unready(&[]).refusal().await;
    assert!(
        said.contains(&format!("installation {:?}", site.name)) && said.contains("\"other\""),
        "{said}"
    );
    superuser(
        &site,
        "UPDATE keycard.ledger SET installation = 'other', system_identifier = 1",
    )
    .await;
    let said = site.worker_unready(&[]).refusal().await;
    assert!(said.contains("another cluster"), "{said}");
    assert_eq!(site.logins().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_start_at_once_on_an_empty_database() {
    let site = Site::usual().await;
    let workers = [site.worker_unready(&[]), site.worker_unready(&[])];
    for worker in &workers {
        worker.ready().await;
    }
    site.is_prepared().await;
    assert_eq!(site.count("SELECT count(*) FROM keycard.ledger").await, 1);
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ledger/migrations");
    let files = fs::read_dir(files).unwrap().count();
    assert_eq!(
        site.count("SELECT count(*) FROM keycard.migrations").await,
        i64::try_from(files).unwrap()
    );
    site.client("orders-svc")
        .await
        .issued("app-role", None)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_script_the_worker_says_which_to_run() {
    let site = Site::usual().await;
    superuser(&site, "DROP SCHEMA keycard").await;
    let said = site.worker_unready(&[]).refusal().await;
    assert!(said.contains("keycard setup-sql --database app"), "{said}");
    for _ in 0..2 {
        let script = site.keycard(&["setup-sql", "--database", "app"]).stdout;
        superuser(&site, &script).await;
    }
    let _worker = site.worker().await;
    let script = site.keycard(&["setup-sql", "--database", "app"]).stdout;
    superuser(&site, &script).await;
    site.client("orders-svc")
        .await
        .issued("app-role", None)
        .await;
}

/// As on RDS, where nobody is a superuser: the script is run by a user with CREATEROLE that has made
/// the database and its groups.
#[tokio::test(flavor = "multi_thread")]
async fn the_script_needs_no_superuser_from_version_16_on() {
    let mut site = Site::usual().await;
    if site.postgres.version < 16 {
        return;
    }
    let name = &site.name;
    let (master, group, admin) = (
        format!("master_{name}"),
        format!("group_{name}"),
        format!("keycard_{name}"),
    );
    superuser(
        &site,
        &format!(
            "CREATE ROLE {master} LOGIN CREATEROLE CREATEDB PASSWORD 'master';
             GRANT pg_signal_backend TO {master} WITH ADMIN OPTION"
        ),
    )
    .await;
    let dbname = format!("{name}_rds");
    let server = site.connect("postgres", &master, "master").await.unwrap();
    server
        .batch_execute(&format!("CREATE DATABASE {dbname}"))
        .await
        .unwrap();
    let database = site.connect(&dbname, &master, "master").await.unwrap();
    database
        .batch_execute(&format!(
            "CREATE ROLE {group} NOLOGIN;
             CREATE TABLE public.orders (id int);
             GRANT SELECT ON public.orders TO {group}"
        ))
        .await
        .unwrap();
    site.rewrite(
        &format!("/{}\"\nusername", site.dbname),
        &format!("/{dbname}\"\nusername"),
    );
    site.rewrite(&site.admin, &admin);
    site.rewrite(&site.group, &group);
    let script = site.keycard(&["setup-sql", "--database", "app"]).stdout;
    for _ in 0..2 {
        database.batch_execute(&script).await.unwrap();
    }
    database
        .batch_execute(&format!("ALTER ROLE {admin} PASSWORD 'admin'"))
        .await
        .unwrap();

    // Where the queue is, too, if it is in Postgres.
    site.dbname = dbname;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    let password = Site::secret(&issued)["password"]
        .as_str()
        .unwrap()
        .to_owned();
    let username = issued["username"].as_str().unwrap();
    let session = site.login(username, &password).await.unwrap();
    session.batch_execute("SELECT FROM orders").await.unwrap();
    let id = orders.revoke(issued["lease_id"].as_str().unwrap()).await;
    let answer = orders.answer(&id).await;
    assert_eq!(answer.data()["sessions_terminated"], 1, "{}", answer.event);
}

#[tokio::test(flavor = "multi_thread")]
async fn keycards_own_user_reaches_nothing_else_from_version_16_on() {
    let site = site_with_ledger().await;
    let name = &site.name;
    superuser(
        &site,
        &format!("CREATE ROLE other_{name} LOGIN; CREATE ROLE powers_{name} NOLOGIN"),
    )
    .await;
    let admin = site.login(&site.admin, "admin").await.unwrap();
    let forbidden_everywhere = [
        "CREATE ROLE more SUPERUSER".to_owned(),
        "SELECT FROM public.orders".to_owned(),
        "CREATE TABLE public.mine ()".to_owned(),
        "ALTER ROLE postgres PASSWORD 'x'".to_owned(),
        "SELECT FROM pg_authid".to_owned(),
    ];
    let forbidden_from_16_on = [
        format!("ALTER ROLE other_{name} PASSWORD 'x'"),
        format!("DROP ROLE other_{name}"),
        format!("GRANT powers_{name} TO {}", site.admin),
        format!("GRANT pg_read_all_data TO {}", site.admin),
        format!("SET ROLE {}", site.group),
        "CREATE ROLE more CREATEDB".to_owned(),
    ];
    let everything = site.postgres.version >= 16;
    for statement in forbidden_everywhere
        .iter()
        .chain(forbidden_from_16_on.iter().filter(|_| everything))
    {
        let error = admin.batch_execute(statement).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{statement}");
    }
}
