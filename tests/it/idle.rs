//! No worker runs: what is due wakes one, or a run that ends by itself looks for it.

use jiff::Timestamp;
use keycard::clock::host_now;
use keycard::queue::Lane;
use serde_json::Value;

use crate::support::client::{Client, SOON};
use crate::support::eventually;
use crate::support::process::Output;
use crate::support::queues::Queues;
use crate::support::site::Site;

/// A lease whose end is near, and the worker that issued it gone.
async fn left_alone(site: &Site, orders: &Client) -> Value {
    let mut worker = site.worker().await;
    let issued = orders.issued("app-role", Some(3)).await;
    worker.terminate();
    assert_eq!(worker.exit(SOON).await.code(), Some(0));
    issued
}

/// Waits until the lease is due, and the two seconds over that the sweep leaves to events.
async fn falls_due(issued: &Value) {
    let end: Timestamp = issued["expires_at"].as_str().unwrap().parse().unwrap();
    eventually("the lease is due", SOON, async || {
        (host_now().duration_since(end).as_secs() > 2).then_some(())
    })
    .await;
}

async fn is_over(site: &Site, orders: &Client, issued: &Value) {
    let lease_id = issued["lease_id"].as_str().unwrap();
    let revoked = orders.notice("lease.revoked.v1", lease_id, SOON).await;
    assert_eq!(revoked.data()["cause"], "expired");
    eventually("the lease is closed", SOON, async || {
        let closed = format!(
            "SELECT count(*) FROM keycard.leases WHERE state = 'closed' AND username = '{}'",
            issued["username"].as_str().unwrap()
        );
        (site.count(&closed).await == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_due_expiry_event_is_ready_for_the_worker_that_it_wakes() {
    let site = Site::usual().await;
    // Leaves the exchanges that the client needs.
    site.worker().await.kill();
    let orders = site.client("orders-svc").await;
    let issued = left_alone(&site, &orders).await;
    let queues = Queues::of(&site).await;
    falls_due(&issued).await;
    eventually("the expiry event is ready", SOON, async || {
        (queues.ready(Lane::Expiry).await == 1).then_some(())
    })
    .await;
    assert_eq!(site.logins().await, 1);

    let _woken = site.worker().await;
    is_over(&site, &orders, &issued).await;
    assert_eq!(site.logins().await, 0);
    eventually("nothing waits", SOON, async || {
        (queues.waiting().await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_drains_does_what_waits_and_ends_what_nobody_woke() {
    const WAITING: usize = 30;
    let site = Site::usual().await;
    site.worker().await.kill();
    let orders = site.client("orders-svc").await;
    let issued = left_alone(&site, &orders).await;
    let queues = Queues::of(&site).await;
    falls_due(&issued).await;
    eventually("the expiry event is purged", SOON, async || {
        (queues.purge_waiting().await == 1).then_some(())
    })
    .await;
    // More than are in hand at a time.
    let mut requests = Vec::new();
    for _ in 0..WAITING {
        requests.push(orders.request("app-role", None).await);
    }

    let mut command = site.command(&["worker", "--drain"]);
    let drained = tokio::task::spawn_blocking(move || {
        Output::of(command.env("KEYCARD_QUEUE__PREFETCH", "4"))
    });
    let drained = drained.await.unwrap();
    assert!(drained.status.success(), "{}", drained.stderr);
    assert_eq!(queues.ready(Lane::Requests).await, 0);
    let active = "SELECT count(*) FROM keycard.leases WHERE state = 'active'";
    assert_eq!(site.count(active).await, i64::try_from(WAITING).unwrap());
    for request in requests {
        assert_eq!(orders.answer(&request).await.kind(), "credential.issued.v1");
    }
    is_over(&site, &orders, &issued).await;
    // Left for their time: one expiry event for each.
    eventually("what was armed waits", SOON, async || {
        (queues.waiting().await == u32::try_from(WAITING).unwrap()).then_some(())
    })
    .await;
}

mod amqp {
    use crate::support::site::Site;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_that_cannot_sweep_a_database_says_so() {
        let site = Site::on_rabbitmq().await;
        let admin = &site.admin;
        let close = format!("ALTER ROLE {admin} NOLOGIN");
        site.sql().await.batch_execute(&close).await.unwrap();
        let drained = site.keycard(&["worker", "--drain"]);
        assert_eq!(drained.status.code(), Some(1), "{}", drained.stderr);
        let said = drained.stderr.lines().last().unwrap();
        let words = "keycard: database app could not be swept: ";
        assert!(said.starts_with(words), "{}", drained.stderr);
    }
}
