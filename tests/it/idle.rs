//! No worker runs: what is due wakes one, or a run that ends by itself looks for it.

use jiff::Timestamp;
use keycard::clock::host_now;
use keycard::queue::Lane;
use serde_json::Value;

use crate::support::client::{Client, SOON};
use crate::support::eventually;
use crate::support::process::Worker;
use crate::support::queues::Queues;
use crate::support::secrets_manager::FakeSecretsManager;
use crate::support::site::{Site, StoreKind, Wishes};

/// A lease whose end is near, and the worker that issued it gone before.
async fn left_alone(site: &Site, orders: &Client) -> Value {
    let mut worker = site.worker().await;
    let issued = orders.issued("app-role", Some(20)).await;
    worker.terminate();
    assert_eq!(worker.exit(SOON).await.code(), Some(0));
    issued
}

/// Waits until the lease is due, and the two seconds over that the sweep leaves to events.
async fn falls_due(issued: &Value) {
    let end: Timestamp = issued["expires_at"].as_str().unwrap().parse().unwrap();
    eventually("the lease is due", 2 * SOON, async || {
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

/// `keycard worker --drain` to its end: its exit code and what it has logged.
async fn drained(site: &Site, name: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut run = draining(site, name, variables);
    let status = run.exit(4 * SOON).await;
    (status.code(), run.log())
}

fn draining(site: &Site, name: &str, variables: &[(&str, &str)]) -> Worker {
    let mut command = site.command(&["worker", "--drain"]);
    let log = site.path().join(format!("{name}.log"));
    Worker::start(command.envs(variables.iter().copied()), log)
}

fn last_line(log: &str) -> &str {
    log.lines().last().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_drain_do_what_waits_and_end_what_nobody_woke() {
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
    let age = "UPDATE keycard.requests SET recorded_at = recorded_at - interval '60 days'";
    site.sql().await.batch_execute(age).await.unwrap();
    // More than are in hand at a time.
    let mut requests = Vec::new();
    for _ in 0..WAITING {
        requests.push(orders.request("app-role", None).await);
    }

    let few = [("KEYCARD_QUEUE__PREFETCH", "4")];
    let (one, other) = tokio::join!(drained(&site, "one", &few), drained(&site, "other", &few));
    assert_eq!((one.0, other.0), (Some(0), Some(0)), "{}{}", one.1, other.1);
    assert_eq!(queues.ready(Lane::Requests).await, 0);
    let active = "SELECT count(*) FROM keycard.leases WHERE state = 'active'";
    let waiting = i64::try_from(WAITING).unwrap();
    assert_eq!(site.count(active).await, waiting);
    for request in requests {
        assert_eq!(orders.answer(&request).await.kind(), "credential.issued.v1");
    }
    is_over(&site, &orders, &issued).await;
    // What is old has gone.
    let remembered = "SELECT count(*) FROM keycard.requests";
    assert_eq!(site.count(remembered).await, waiting);
    // Left for their time: one expiry event for each.
    eventually("what was armed waits", SOON, async || {
        (queues.waiting().await == u32::try_from(WAITING).unwrap()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_though_requests_keep_coming() {
    const WAITING: usize = 20;
    let fake = FakeSecretsManager::start();
    let site = Site::new(Wishes {
        store: StoreKind::Aws(fake.url()),
        ..Wishes::default()
    })
    .await;
    site.worker().await.kill();
    let orders = site.client("orders-svc").await;
    let mut first = Vec::new();
    for _ in 0..WAITING {
        first.push(orders.request("app-role", None).await);
    }
    // Few in hand, so that they leave the sweep a connection on a slow machine, too.
    fake.pause();
    let mut run = draining(&site, "run", &[("KEYCARD_QUEUE__PREFETCH", "4")]);
    eventually("it is at work", SOON, async || {
        (fake.held() > 0).then_some(())
    })
    .await;
    orders.request("app-role", None).await;
    fake.resume();
    let mut sent = WAITING + 1;
    let status = eventually("the run ends", 4 * SOON, async || {
        let ended = run.try_exit();
        // As many wait as before, whenever some are answered.
        while ended.is_none() && sent < orders.heard().len() + WAITING {
            orders.request("app-role", None).await;
            sent += 1;
        }
        ended
    })
    .await;
    assert_eq!(status.code(), Some(0), "{}", run.log());
    for request in first {
        assert_eq!(orders.answer(&request).await.kind(), "credential.issued.v1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_its_store_says_so_and_leaves_the_request_to_the_next() {
    let site = Site::usual().await;
    site.worker().await.kill();
    let orders = site.client("orders-svc").await;
    let request = orders.request("app-role", None).await;
    // A file where the store wants a directory: no secret can be put.
    let in_the_way = site.secrets.join("keycard");
    std::fs::write(&in_the_way, "").unwrap();
    let (code, log) = drained(&site, "without", &[]).await;
    assert_eq!(code, Some(1), "{log}");
    let said = last_line(&log);
    assert!(said.starts_with("keycard: the secret store: "), "{log}");
    std::fs::remove_file(&in_the_way).unwrap();

    // It is deferred, and its first attempt has the lease for a while.
    eventually("a run issues it", 3 * SOON, async || {
        let (code, log) = drained(&site, "with", &[]).await;
        assert_eq!(code, Some(0), "{log}");
        (site.logins().await == 1 && !orders.answers_to(&request).is_empty()).then_some(())
    })
    .await;
    assert_eq!(orders.answer(&request).await.kind(), "credential.issued.v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_before_its_end_says_so() {
    let site = Site::usual().await;
    let mut first = site.worker().await;
    site.is_prepared().await;
    first.kill();
    let sql = site.sql().await;
    let lock = "BEGIN; LOCK TABLE keycard.leases IN ACCESS EXCLUSIVE MODE";
    sql.batch_execute(lock).await.unwrap();
    let mut run = draining(&site, "run", &[]);
    eventually("it waits for the table", SOON, async || {
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE wait_event_type = 'Lock' AND datname = current_database()";
        (site.count(waits).await > 0).then_some(())
    })
    .await;
    run.terminate();
    eventually("it was told", SOON, async || {
        run.log().contains("stopping").then_some(())
    })
    .await;
    sql.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(run.exit(SOON).await.code(), Some(1), "{}", run.log());
    let words = "keycard: stopped before everything was done";
    // What it waited for may have taken too long as well.
    assert!(last_line(&run.log()).starts_with(words), "{}", run.log());
}

mod amqp {
    use super::{drained, last_line};
    use crate::support::site::Site;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_that_cannot_sweep_a_database_says_so() {
        let site = Site::on_rabbitmq().await;
        let admin = &site.admin;
        let close = format!("ALTER ROLE {admin} NOLOGIN");
        site.sql().await.batch_execute(&close).await.unwrap();
        let (code, log) = drained(&site, "run", &[]).await;
        assert_eq!(code, Some(1), "{log}");
        let words = "keycard: database app could not be looked after: no connection ";
        assert!(last_line(&log).starts_with(words), "{log}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_does_not_wait_for_its_broker_for_ever() {
        let site = Site::on_rabbitmq().await;
        // Nobody listens there.
        let url = format!("amqp://kc-worker@127.0.0.1:1/{}", site.vhost);
        let (code, log) = drained(&site, "run", &[("KEYCARD_QUEUE__URL", &url)]).await;
        assert_eq!(code, Some(1), "{log}");
        let said = last_line(&log);
        assert!(said.starts_with("keycard: the queue could not "), "{log}");
    }
}
