//! Workers that die in the middle of a request, and those that take it up.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::Value;

use super::assert_each_issued_once;
use crate::support::client::{Client, SOON, fresh_id};
use crate::support::eventually;
use crate::support::process::Worker;
use crate::support::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_at_any_moment_leave_each_request_with_one_answer() {
    const REQUESTS: usize = 60;
    let site = Site::usual().await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let requests: Vec<Value> = (0..REQUESTS)
        .map(|_| orders.asking(&fresh_id(), "app-role"))
        .collect();
    join_all(
        requests
            .iter()
            .map(|request| orders.say("requests", request)),
    )
    .await;
    for _ in 0..4 {
        let before = progress(&site, &orders).await;
        let random = usize::from(keycard::clock::uuid_v7().as_bytes()[15] % 16);
        eventually("some more work is done", 2 * SOON, async || {
            let done = progress(&site, &orders).await - before;
            let answered = answered(&orders, &requests);
            (done >= random || answered == REQUESTS).then_some(())
        })
        .await;
        worker.kill();
        worker = site.worker_unready(&[]);
    }
    // What the dead held is taken up when their attempts' hold is over.
    eventually("every request is answered", 4 * SOON, async || {
        (answered(&orders, &requests) == REQUESTS).then_some(())
    })
    .await;
    assert_each_issued_once(&site, &orders, &requests).await;
}

/// Transactions and answers that have come of it so far.
async fn progress(site: &Site, orders: &Client) -> usize {
    let leases = site.count("SELECT count(*) FROM keycard.leases").await;
    usize::try_from(leases).unwrap() + orders.heard().len()
}

fn answered(client: &Client, requests: &[Value]) -> usize {
    let heard = client.heard();
    let answered: BTreeSet<&str> = heard.iter().filter_map(|heard| heard.answers()).collect();
    requests
        .iter()
        .filter(|request| answered.contains(request["id"].as_str().unwrap()))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_an_attempt_that_died_goes_though_the_next_worker_dies_after_answering() {
    let site = Site::usual().await;
    let worker = patient_worker(&site).await;
    let orders = site.client("orders-svc").await;
    let first = Stall::at(&site, "UPDATE ON keycard.leases", "NEW.state = 'active'").await;
    let request = orders.asking(&fresh_id(), "app-role");
    orders.say("requests", &request).await;
    first.kill(worker).await;
    assert_eq!(site.secrets_told().len(), 1);
    assert_eq!(orders.heard().len(), 0);

    // The next attempt may begin when the first one's hold is over.
    let second = Stall::at(&site, "UPDATE OF published_at ON keycard.requests", "true").await;
    second.kill(patient_worker(&site).await).await;
    orders.answers(request["id"].as_str().unwrap(), 1).await;

    let _worker = site.worker().await;
    orders.answers(request["id"].as_str().unwrap(), 2).await;
    assert_each_issued_once(&site, &orders, &[request]).await;
}

/// One whose statements wait for a lock nearly as long as a step may take, and not just 5 s.
async fn patient_worker(site: &Site) -> Worker {
    let url = site.url_with("lock_timeout", 20);
    let worker = site.worker_unready(&[("KEYCARD_DATABASES__APP__CONNECTION_URL", &url)]);
    worker.ready().await;
    worker
}

/// Stops transactions of workers at a chosen statement, from before there is one.
struct Stall<'a> {
    sql: tokio_postgres::Client,
    change: &'a str,
}

impl<'a> Stall<'a> {
    /// Stops whoever is about to make that change.
    async fn at(site: &Site, change: &'a str, condition: &str) -> Self {
        site.is_prepared().await;
        let sql = site.sql().await;
        // As keycard's own user: a worker starts on no ledger with triggers of others.
        sql.batch_execute(&format!(
            "SELECT pg_advisory_lock(7);
             SET ROLE {};
             CREATE FUNCTION keycard.stall() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;
             CREATE TRIGGER stall BEFORE {change} FOR EACH ROW WHEN ({condition})
             EXECUTE FUNCTION keycard.stall();
             RESET ROLE",
            site.admin
        ))
        .await
        .unwrap();
        Self { sql, change }
    }

    /// Kills the worker when it is stopped there; nobody else is.
    async fn kill(self, mut worker: Worker) {
        let stalled = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        eventually(self.change, 30 + SOON, async || {
            let waiting = self.sql.query(stalled, &[]).await.unwrap();
            (!waiting.is_empty()).then_some(())
        })
        .await;
        worker.kill();
        // A backend that waits for a lock does not notice that its client has gone.
        let end = format!("SELECT pg_terminate_backend(pid, 5000) FROM ({stalled}) AS stalled");
        self.sql.query(&end, &[]).await.unwrap();
        self.sql
            .batch_execute("DROP FUNCTION keycard.stall CASCADE; SELECT pg_advisory_unlock(7)")
            .await
            .unwrap();
    }
}
