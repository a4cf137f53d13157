//! A worker that is asked to end does so in good order.

use keycard::queue::Lane;

use crate::support::audit::{Secrets, all_is_well};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::queues::Queues;
use crate::support::secrets_manager::FakeSecretsManager;
use crate::support::site::{Site, StoreKind, Wishes};
use crate::support::steady::Steady;

const REQUESTS: usize = 60;

/// Enough for what is in hand, without the grace period.
const IN_HAND_SECONDS: u64 = 60;

/// A grace period that a worker must not wait for whose work is done.
const LONG_GRACE: (&str, &str) = ("KEYCARD_WORKER__SHUTDOWN_GRACE", "10m");

#[tokio::test(flavor = "multi_thread")]
async fn what_one_worker_leaves_when_it_is_terminated_the_next_completes() {
    let site = Site::usual().await;
    // Few in hand, so that none waits for a connection in vain on a slow machine.
    let few = ("KEYCARD_QUEUE__PREFETCH", "4");
    let mut first = site.worker_unready(&[few, LONG_GRACE]);
    first.ready().await;
    let orders = Steady::start(&site, "orders-svc").await;
    for _ in 0..REQUESTS {
        orders.request("app-role");
    }
    eventually("some are answered", SOON, async || {
        (!orders.answers().is_empty()).then_some(())
    })
    .await;
    first.terminate();
    assert_eq!(first.exit(IN_HAND_SECONDS).await.code(), Some(0));
    // However fast it was, this is left to the next.
    orders.request("app-role");
    let log = first.log();
    assert!(log.contains("keycard has stopped"));
    assert!(!log.contains("some work did not finish in time"));
    // Nothing in hand was dropped half-way.
    let half_way = "SELECT count(*) FROM keycard.leases WHERE state <> 'active'";
    assert_eq!(site.count(half_way).await, 0);

    let second = site.worker_unready(&[few]);
    second.ready().await;
    all_is_well(&site, &orders, &Secrets::Files(&site), 6 * SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_does_not_outlast_the_grace_period() {
    let fake = FakeSecretsManager::start();
    let site = Site::new(Wishes {
        store: StoreKind::Aws(fake.url()),
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker_unready(&[("KEYCARD_WORKER__SHUTDOWN_GRACE", "5s")]);
    worker.ready().await;
    let orders = site.client("orders-svc").await;
    fake.pause();
    orders.request("app-role", None).await;
    eventually("a put is held", SOON, async || {
        (fake.held() > 0).then_some(())
    })
    .await;
    worker.terminate();
    assert_eq!(worker.exit(SOON).await.code(), Some(0));
    assert!(worker.log().contains("some work did not finish in time"));
    let queues = Queues::of(&site).await;
    eventually("the request is handed back", SOON, async || {
        (queues.ready(Lane::Requests).await == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_its_database_ends_at_once() {
    let site = Site::usual().await;
    // Leaves the exchanges that the client needs.
    site.worker().await.kill();
    let gate = Gate::closed(&site.postgres.host, site.postgres.port);
    let url = format!(
        "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/{}",
        gate.port, site.dbname
    );
    let variable = ("KEYCARD_DATABASES__APP__CONNECTION_URL", url.as_str());
    let orders = site.client("orders-svc").await;
    orders.request("app-role", None).await;
    ends_at_once(&site, variable, "a database cannot be used yet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_ends_at_once() {
    let site = Site::usual().await;
    for signal in ["TERM", "INT"] {
        let mut worker = site.worker_unready(&[LONG_GRACE]);
        worker.ready().await;
        worker.signal(signal);
        assert_eq!(worker.exit(SOON).await.code(), Some(0), "SIG{signal}");
        assert!(worker.log().contains("keycard has stopped"));
    }
}

/// Of either signal, while the log says what the worker waits for.
async fn ends_at_once(site: &Site, variable: (&str, &str), waits: &str) {
    for signal in ["TERM", "INT"] {
        let mut worker = site.worker_unready(&[variable, LONG_GRACE]);
        eventually(waits, SOON, async || {
            worker.log().contains(waits).then_some(())
        })
        .await;
        worker.signal(signal);
        assert_eq!(worker.exit(SOON).await.code(), Some(0), "SIG{signal}");
    }
}

mod amqp {
    use super::ends_at_once;
    use crate::support::gate::Gate;
    use crate::support::site::Site;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_that_waits_for_its_broker_ends_at_once() {
        let site = Site::on_rabbitmq().await;
        let rabbitmq = site.rabbitmq();
        let gate = Gate::closed(&rabbitmq.host, rabbitmq.port);
        let url = format!("amqp://kc-worker@127.0.0.1:{}/{}", gate.port, site.vhost);
        ends_at_once(&site, ("KEYCARD_QUEUE__URL", &url), "out of reach").await;
    }
}
