//! Workers beside each other: they share the load, one of them dies, some are of a later version, as
//! during a rolling upgrade. That one is this keycard with one migration more, which notes who changes
//! leases from then on.

use std::fs;
use std::time::Duration;

use crate::support::audit::{Secrets, all_is_well};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::Worker;
use crate::support::site::{Site, Wishes};
use crate::support::steady::Steady;

const EXPANDS: &str = "
    ALTER TABLE keycard.leases ADD COLUMN later text NOT NULL DEFAULT '';
    CREATE TABLE keycard.writers (name text);
    CREATE FUNCTION keycard.note_writer() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO keycard.writers VALUES (current_setting('application_name'));
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_writer AFTER INSERT OR UPDATE ON keycard.leases
        FOR EACH ROW EXECUTE FUNCTION keycard.note_writer();
";

const LEAVES_BEHIND: &str = "
    ALTER TABLE keycard.ledger ALTER COLUMN compatible_from SET DEFAULT VERSION;
    UPDATE keycard.ledger SET compatible_from = VERSION;
";

/// The version of the later keycard.
fn later_version() -> usize {
    let migrations = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ledger/migrations");
    fs::read_dir(migrations).unwrap().count() + 1
}

async fn site() -> Site {
    Site::new(Wishes {
        // A migration that somebody was in the way of is tried again.
        sweep_interval: "2s",
        ..Wishes::default()
    })
    .await
}

/// A worker by whose name the database knows what it does.
fn worker(site: &Site, name: &str, variables: &[(&str, &str)]) -> Worker {
    let url = format!(
        "postgresql://{{{{username}}}}:{{{{password}}}}@{}:{}/{}?application_name={name}",
        site.postgres.host, site.postgres.port, site.dbname
    );
    let mut all = vec![("KEYCARD_DATABASES__APP__CONNECTION_URL", url.as_str())];
    all.extend(variables);
    site.worker_unready(&all)
}

/// A worker of the later version, with this migration.
fn later(site: &Site, migration: &str) -> Worker {
    let orders = site.path().join("later");
    let (folder, version) = (orders.join("migrations"), later_version());
    fs::create_dir_all(&folder).unwrap();
    let sql = migration.replace("VERSION", &version.to_string());
    fs::write(folder.join(format!("V{version}__later.sql")), sql).unwrap();
    worker(
        site,
        "later",
        &[("CRASH_MATRIX_ORDERS", orders.to_str().unwrap())],
    )
}

/// Does something while requests keep coming: no more than a slow machine has answered soon after.
async fn under_requests<T>(orders: &Steady, meanwhile: impl Future<Output = T>) -> T {
    const OPEN_MAX: usize = 8;
    let asking = async {
        loop {
            if orders.sent().len() < orders.answers().len() + OPEN_MAX {
                orders.request("app-role");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = asking => unreachable!(),
        done = meanwhile => done,
    }
}

async fn some_are_answered(orders: &Steady) {
    eventually("some are answered", SOON, async || {
        (orders.answers().len() > 2).then_some(())
    })
    .await;
}

/// Changes of leases since the migration.
async fn changes(site: &Site, name: &str) -> i64 {
    let changes = format!("SELECT count(*) FROM keycard.writers WHERE name = '{name}'");
    site.count(&changes).await
}

async fn works(site: &Site, name: &str) {
    eventually(&format!("{name} changes leases"), 2 * SOON, async || {
        (changes(site, name).await > 2).then_some(())
    })
    .await;
}

/// Leases that a worker has made.
fn created(worker: &Worker) -> usize {
    worker.log().matches(" audit: created ").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_share_the_load_and_one_that_is_killed_loses_nothing() {
    const BURST: usize = 20;
    let site = site().await;
    let few = [("KEYCARD_QUEUE__PREFETCH", "4")];
    let mut workers = ["one", "two", "three"].map(|name| worker(&site, name, &few));
    for worker in &workers {
        worker.ready().await;
    }
    let orders = Steady::start(&site, "orders-svc").await;
    under_requests(&orders, async {
        eventually("each does its part", 4 * SOON, async || {
            let parts = workers.each_ref().map(created);
            let most = parts.iter().sum::<usize>() / 6;
            parts.iter().all(|part| *part > most.max(5)).then_some(())
        })
        .await;
        // It dies with its hands full.
        for _ in 0..BURST {
            orders.request("app-role");
        }
        let before = created(&workers[0]);
        eventually("it works on them", SOON, async || {
            (created(&workers[0]) > before).then_some(())
        })
        .await;
        workers[0].kill();
    })
    .await;
    all_is_well(&site, &orders, &Secrets::Files(&site), 3 * SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_serve_together_across_a_migration() {
    let site = site().await;
    let mut old = worker(&site, "old", &[]);
    old.ready().await;
    let orders = Steady::start(&site, "orders-svc").await;
    let _left = under_requests(&orders, async {
        some_are_answered(&orders).await;
        let later = later(&site, EXPANDS);
        eventually("the ledger is migrated", 3 * SOON, async || {
            let newest = site.count("SELECT max(version)::bigint FROM keycard.migrations");
            (newest.await == i64::try_from(later_version()).unwrap()).then_some(())
        })
        .await;
        works(&site, "old").await;
        works(&site, "later").await;

        // Back to the old version.
        let back = worker(&site, "back", &[]);
        old.terminate();
        assert_eq!(old.exit(2 * SOON).await.code(), Some(0), "{}", old.log());
        works(&site, "back").await;
        (later, back)
    })
    .await;
    all_is_well(&site, &orders, &Secrets::Files(&site), 3 * SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_a_migration_leaves_behind_stops_and_loses_nothing() {
    let site = site().await;
    let mut old = worker(&site, "old", &[]);
    old.ready().await;
    let orders = Steady::start(&site, "orders-svc").await;
    let _later = under_requests(&orders, async {
        some_are_answered(&orders).await;
        let later = later(&site, &format!("{EXPANDS}{LEAVES_BEHIND}"));
        assert_eq!(old.exit(3 * SOON).await.code(), Some(1), "{}", old.log());
        works(&site, "later").await;
        later
    })
    .await;
    let newest = later_version();
    let says = format!(
        "keycard: the ledger in database app needs keycard ledger version {newest} or newer and this \
         keycard knows {}; upgrade it",
        newest - 1
    );
    assert_eq!(old.log().lines().last(), Some(says.as_str()));
    assert_eq!(worker(&site, "old", &[]).refusal().await, says);
    // What it had in hand and did not finish is finished by others: not by it.
    assert_eq!(changes(&site, "old").await, 0);
    all_is_well(&site, &orders, &Secrets::Files(&site), 3 * SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_restored_to_before_an_upgrade_is_migrated_again() {
    let site = site().await;
    // What the restore takes back is only that it was done.
    let worker = later(&site, "CREATE TABLE IF NOT EXISTS keycard.later ()");
    worker.ready().await;
    let sql = site.sql().await;
    let is_migrated = async || {
        let version = later_version();
        let done = format!("SELECT FROM keycard.migrations WHERE version = {version}");
        // The table may not be there yet.
        (sql.execute(&done, &[]).await.ok()? == 1).then_some(())
    };
    eventually("the ledger is migrated", SOON, is_migrated).await;
    sql.batch_execute(&format!(
        "DELETE FROM keycard.migrations WHERE version = {};
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'later'
             AND datname = current_database()",
        later_version()
    ))
    .await
    .unwrap();
    eventually("it is migrated again", SOON, is_migrated).await;
    let orders = site.client("orders-svc").await;
    orders.issued("app-role", None).await;
}
