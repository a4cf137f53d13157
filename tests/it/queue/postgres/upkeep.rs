//! Results, what is kept and for how long, and what the queue waits for.

use std::collections::BTreeSet;
use std::sync::Arc;

use keycard::fault::Disposition;
use keycard::ledger::LedgerError;
use keycard::login::{Setup, setup_sql};
use keycard::queue::Queue as _;
use keycard::queue::postgres::{PostgresQueue, Settings};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{OPERATOR, Place, SERVICES, send};
use crate::queue::conformance::{DEADLINE, SILENCE, result_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_on_where_it_stopped_misses_no_result() {
    const EACH: usize = 40;
    let place = Place::new().await;
    let workers = [place.queue().await, place.queue().await].map(Arc::new);
    // Some commit late: whoever comes after them must not become visible before them.
    let superuser = place.superuser().await;
    superuser
        .batch_execute(
            "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON keycard.results
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
             WHEN (new.event LIKE '%0') EXECUTE FUNCTION public.late()",
        )
        .await
        .unwrap();
    let mut publishing = JoinSet::new();
    for task in 0..8 {
        let worker = Arc::clone(&workers[task % 2]);
        publishing.spawn(async move {
            for number in 0..EACH {
                let result = result_for("orders", &format!("{task}/{number}"));
                worker.publish(&result).await.unwrap();
            }
        });
    }
    let orders = place.service("orders").await;
    let (mut after, mut seen) = (0_i64, BTreeSet::new());
    let reading = async {
        while seen.len() < 8 * EACH {
            let query = "SELECT position, event FROM keycard.results($1)";
            for row in orders.query(query, &[&after]).await.unwrap() {
                assert!(row.get::<_, i64>(0) > after, "in order");
                after = row.get(0);
                assert!(seen.insert(row.get::<_, String>(1)), "once");
            }
        }
    };
    let everything = timeout(DEADLINE, reading).await.is_ok();
    assert!(everything, "{} of {}", seen.len(), 8 * EACH);
    publishing.join_all().await;
    // Again, from the beginning: they stay.
    let all = orders
        .query("SELECT FROM keycard.results(0)", &[])
        .await
        .unwrap();
    assert_eq!(all.len(), 8 * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_go_after_a_day_and_dead_letters_when_there_are_too_many() {
    let place = Place::new().await;
    let first = place.queue().await;
    let superuser = place.superuser().await;
    superuser
        .batch_execute(
            "INSERT INTO keycard.results (position, requester, event, published_at)
             SELECT nextval('keycard.results_position'), 'orders', 'old',
                    clock_timestamp() - interval '25 hours'
             FROM generate_series(1, 2500);
             INSERT INTO keycard.dead_letters (lane, sender, body, reason)
             SELECT 'requests', 'orders', 'x', 'old' FROM generate_series(1, 50);
             INSERT INTO keycard.dead_letters (lane, sender, body, reason)
             SELECT 'requests', 'orders', 'x', 'new' FROM generate_series(1, 10000)",
        )
        .await
        .unwrap();
    first.publish(&result_for("orders", "fresh")).await.unwrap();
    let _second = place.queue().await;
    let orders = place.service("orders").await;
    let rows = orders
        .query("SELECT event FROM keycard.results(0)", &[])
        .await
        .unwrap();
    let left: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(left, ["fresh"]);
    for (reason, kept) in [("old", 0), ("new", 10_000)] {
        let query = format!("SELECT count(*) FROM keycard.dead_letters WHERE reason = '{reason}'");
        assert_eq!(place.count(&query).await, kept, "{reason}");
    }
    superuser
        .batch_execute(
            "DELETE FROM keycard.dead_letters;
             INSERT INTO keycard.dead_letters (lane, sender, body, reason)
             SELECT 'requests', 'orders', convert_to(repeat('x', 1 << 20), 'UTF8'), 'big'
             FROM generate_series(1, 260)",
        )
        .await
        .unwrap();
    let _third = place.queue().await;
    assert_eq!(
        place
            .count("SELECT count(*) FROM keycard.dead_letters")
            .await,
        256
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_waited_for_and_a_wrong_one_refused() {
    let mut place = Place::new().await;
    let existing = place.dbname.clone();
    place.dbname = format!("{existing}_late");
    let ledger = place.ledger("test", &SERVICES, &[OPERATOR]);
    let settings = Settings {
        ledger,
        prefetch: 1,
        patience: None,
    };
    let mut connecting = tokio::spawn(PostgresQueue::connect(settings));
    assert!(timeout(SILENCE, &mut connecting).await.is_err(), "it waits");

    // Nobody has run the script, so that waiting does not help.
    let maintenance = place.superuser_in("postgres").await;
    let create = format!("CREATE DATABASE {}", place.dbname);
    maintenance.batch_execute(&create).await.unwrap();
    let refusal = timeout(DEADLINE, connecting).await.unwrap().unwrap();
    let error = refusal.err().expect("no schema");
    assert_eq!(error.disposition, Disposition::Fatal);
    assert!(error.problem.contains("keycard setup-sql"), "{error}");

    let script = setup_sql(&place.dbname, &place.admin, &Setup::default());
    place
        .superuser()
        .await
        .batch_execute(&script)
        .await
        .unwrap();
    let _worker = place.queue().await;
    let ledger = place.ledger("other", &SERVICES, &[]);
    let other = PostgresQueue::connect(Settings {
        ledger,
        prefetch: 1,
        patience: None,
    });
    let error = timeout(DEADLINE, other)
        .await
        .unwrap()
        .err()
        .expect("another installation");
    assert_eq!(error.disposition, Disposition::Fatal);
    assert!(error.problem.contains("belongs elsewhere"), "{error}");
}

/// A service that has sent something holds tables for as long as its transaction is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_says_whose_transaction_is_in_its_way() {
    let place = Place::new().await;
    place.queue().await.shut_down().await;
    // As before the third migration.
    let superuser = place.superuser().await;
    superuser
        .batch_execute(
            "ALTER TABLE keycard.ledger
                 DROP frozen_at, DROP frozen_reason, DROP server_started_at, DROP secrets_lost_at;
             DROP INDEX keycard.leases_open, keycard.leases_closed;
             DROP TABLE keycard.audit;
             DROP FUNCTION keycard.keep_audit;
             ALTER TABLE keycard.leases
                 DROP drop_owned, DROP reassign_owned_to,
                 DROP renew_statements, DROP revocation_statements;
             DELETE FROM keycard.migrations WHERE version >= 3",
        )
        .await
        .unwrap();
    let orders = place.service("orders").await;
    orders.batch_execute("BEGIN").await.unwrap();
    send(&orders, "{}").await.unwrap();

    let ledger = place.ledger("test", &SERVICES, &[]);
    let error = ledger.prepare().await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry);
    let row = orders.query_one("SELECT pg_backend_pid()", &[]).await;
    let holder = format!("process {} of role orders", row.unwrap().get::<_, i32>(0));
    assert!(error.to_string().contains(&holder), "{error}");
    // Until then nothing is done there that needs what is missing.
    let error = ledger.frozen().await.unwrap_err();
    assert!(
        matches!(error, LedgerError::Older { version: 2, .. }),
        "{error}"
    );
    assert_eq!(error.disposition(), Disposition::Retry);
    orders.batch_execute("COMMIT").await.unwrap();
    ledger.prepare().await.unwrap();
}
