//! Every lease ends on time and once, whatever becomes of its expiry event.

use std::time::Duration;

use jiff::Timestamp;
use keycard::clock::{host_now, uuid_v7};
use keycard::lease::{LeaseId, Requester};
use keycard::queue::Lane;
use keycard::wire::{Expire, Stamp};
use serde_json::Value;
use tokio_postgres::error::SqlState;

use crate::support::audit::Secrets;
use crate::support::client::{Client, SOON};
use crate::support::eventually;
use crate::support::queues::Queues;
use crate::support::site::{Site, Wishes};

/// How late a lease may end on a busy machine. What ends it only when an attempt's hold is over, or
/// with the usual sweep, is later.
const LATE_SECONDS_MAX: i64 = 20;

/// Longer than an attempt can hold a lease, which is 30 s.
const LAST_SECONDS: u64 = 90;

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_though_everything_that_was_delayed_is_purged() {
    let site = Site::new(Wishes {
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mut issued = orders.issued("app-role", None).await;
    let queues = Queues::of(&site).await;
    assert!(queues.purge_waiting().await > 0);
    assert_eq!(queues.waiting().await, 0);
    falls_due(&site, &mut issued, 1).await;

    ends_on_time(&site, &orders, &issued).await;
    ends_once(&site, &orders, &issued).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_and_doubled_expiry_events_end_a_lease_on_time_and_once() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", Some(20)).await;
    let expire = expiry_of(&site, &issued).await;
    let queues = Queues::of(&site).await;
    for _ in 0..5 {
        wake(&queues, &site, &expire).await;
    }
    eventually("the early events were looked at", SOON, async || {
        (queues.ready(Lane::Expiry).await == 0).then_some(())
    })
    .await;
    assert_eq!(valid_until(&site, &issued).await, Some(expire.due_at));

    ends_on_time(&site, &orders, &issued).await;
    // What met the lease while its end was under way comes back when that can no longer be held.
    eventually("nothing waits", LAST_SECONDS, async || {
        (queues.waiting().await == 0).then_some(())
    })
    .await;
    ends_once(&site, &orders, &issued).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sweep_and_expiry_events_at_once_end_a_lease_once() {
    let site = Site::new(Wishes {
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let _workers = (site.worker().await, site.worker().await);
    let orders = site.client("orders-svc").await;
    let mut leases = Vec::new();
    for _ in 0..8 {
        leases.push(orders.issued("app-role", Some(15)).await);
    }
    let queues = Queues::of(&site).await;
    // None comes on time, and all come when the sweep does, two seconds after the lease is due.
    queues.purge_waiting().await;
    let mut events = Vec::new();
    for issued in &leases {
        events.push(expiry_of(&site, issued).await);
    }
    let last = events.iter().map(|event| event.due_at).max().unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while host_now() < last + Duration::from_millis(3500) {
        ticks.tick().await;
        for event in events.iter().filter(|event| host_now() > event.due_at) {
            if host_now() > event.due_at + Duration::from_millis(1500) {
                wake(&queues, &site, event).await;
            }
        }
    }
    for issued in &leases {
        ends_once(&site, &orders, issued).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_a_lease_that_the_ledger_has_lost_is_deleted() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", Some(20)).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    let username = issued["username"].as_str().unwrap();
    // As a failover to a standby that lagged behind.
    site.sql()
        .await
        .batch_execute(&format!(
            "DELETE FROM keycard.requests; DELETE FROM keycard.leases; DROP ROLE \"{username}\""
        ))
        .await
        .unwrap();
    let revoked = orders
        .notice("lease.revoked.v1", lease_id, LAST_SECONDS)
        .await;
    assert_eq!(revoked.data()["cause"], "missing");
    assert_eq!(revoked.data()["username"], issued["username"]);
    assert_eq!(Secrets::Files(&site).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_event_for_a_lease_that_never_was_is_harmless() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    let mut expire = expiry_of(&site, &issued).await;
    expire.lease_id.uuid = uuid_v7();
    expire.locators = vec![format!(
        "keycard/orders-svc/app-role/{}",
        expire.lease_id.uuid
    )];
    let unknown = expire.lease_id.to_string();
    let queues = Queues::of(&site).await;
    wake(&queues, &site, &expire).await;
    let revoked = orders.notice("lease.revoked.v1", &unknown, SOON).await;
    assert_eq!(revoked.data()["cause"], "missing");
    assert_eq!(Secrets::Files(&site).count(), 1);
    assert_eq!(site.logins().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_lease_outlives_its_first_expiry_event_however_late_that_comes() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mut issued = orders.issued("app-role", Some(12)).await;
    let lease_id = issued["lease_id"].as_str().unwrap().to_owned();
    let first = expiry_of(&site, &issued).await;
    let renewal = orders.renew(&lease_id, Some(28)).await;
    issued["expires_at"] = orders.answer(&renewal).await.data()["expires_at"].clone();

    let queues = Queues::of(&site).await;
    passes(first.due_at).await;
    for _ in 0..3 {
        wake(&queues, &site, &first).await;
    }
    eventually("the late events were looked at", SOON, async || {
        (queues.ready(Lane::Expiry).await == 0).then_some(())
    })
    .await;
    // The renewed generation's own event still waits, or is on its way from one wait to the next.
    eventually("its own event waits", SOON, async || {
        (queues.waiting().await > 0).then_some(())
    })
    .await;
    assert_eq!(
        valid_until(&site, &issued).await,
        Some(expires_at(&issued)),
        "it is alive"
    );
    ends_on_time(&site, &orders, &issued).await;
    ends_once(&site, &orders, &issued).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_fell_due_while_no_worker_ran_ends_at_the_next_start() {
    let site = Site::usual().await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mut issued = orders.issued("app-role", None).await;
    worker.terminate();
    assert!(worker.exit(LAST_SECONDS).await.success());
    // The sweep at the start has to find it. It leaves events two seconds to come first.
    Queues::of(&site).await.purge_waiting().await;
    falls_due(&site, &mut issued, -3).await;
    assert!(valid_until(&site, &issued).await.is_some());

    let _worker = site.worker().await;
    ends_once(&site, &orders, &issued).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_worker_postgres_itself_refuses_the_login_on_time() {
    let site = Site::usual().await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", Some(15)).await;
    worker.kill();
    let secret = Site::secret(&issued);
    let (username, password) = (
        secret["username"].as_str().unwrap(),
        secret["password"].as_str().unwrap(),
    );
    if let Err(error) = site.login(username, password).await {
        assert!(host_now() >= expires_at(&issued), "{error}");
    }
    passes(expires_at(&issued)).await;
    let refused = site.login(username, password).await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
    assert_eq!(site.logins().await, 1);
}

fn expires_at(issued: &Value) -> Timestamp {
    issued["expires_at"].as_str().unwrap().parse().unwrap()
}

/// Has the only lease of a site fall due so many seconds from now, though nothing is armed for then.
async fn falls_due(site: &Site, issued: &mut Value, seconds: i32) {
    site.superuser(&format!(
        "DO $$ DECLARE
             due timestamptz := date_trunc('second', clock_timestamp()) + interval '{seconds} s';
         BEGIN
             UPDATE keycard.leases SET expires_at = due, wake_at = due;
             EXECUTE format('ALTER ROLE {username} VALID UNTIL %L', due);
         END $$",
        username = issued["username"].as_str().unwrap(),
    ))
    .await;
    let sql = site.sql().await;
    let row = sql.query_one("SELECT expires_at FROM keycard.leases", &[]);
    let due: Timestamp = row.await.unwrap().get(0);
    issued["expires_at"] = due.to_string().into();
}

async fn passes(time: Timestamp) {
    eventually(&format!("{time} passes"), SOON, async || {
        (host_now() > time).then_some(())
    })
    .await;
}

/// The expiry event of an issued lease, as the worker armed it.
async fn expiry_of(site: &Site, issued: &Value) -> Expire {
    let lease_id: LeaseId = issued["lease_id"].as_str().unwrap().parse().unwrap();
    let sql = site.sql().await;
    let row = sql
        .query_one(
            "SELECT locators FROM keycard.leases WHERE id = $1",
            &[&lease_id.uuid],
        )
        .await
        .unwrap();
    Expire {
        generation: 1,
        due_at: expires_at(issued),
        requester: Requester::new(issued["requester"].as_str().unwrap()).unwrap(),
        role: issued["role"].as_str().unwrap().to_owned(),
        username: issued["username"].as_str().unwrap().to_owned(),
        locators: row.get(0),
        lease_id,
    }
}

/// Sends it once more, as the worker does.
async fn wake(queues: &Queues, site: &Site, expire: &Expire) {
    let stamp = Stamp {
        installation: &site.name,
        at: host_now(),
    };
    queues.wake(&expire.to_json(stamp)).await;
}

async fn valid_until(site: &Site, issued: &Value) -> Option<Timestamp> {
    let sql = site.sql().await;
    let row = sql
        .query_opt(
            "SELECT rolvaliduntil FROM pg_roles WHERE rolname = $1",
            &[&issued["username"].as_str().unwrap()],
        )
        .await
        .unwrap();
    row.map(|row| row.get(0))
}

async fn ends_on_time(site: &Site, client: &Client, issued: &Value) {
    let lease_id = issued["lease_id"].as_str().unwrap();
    let revoked = client
        .notice("lease.revoked.v1", lease_id, LAST_SECONDS)
        .await;
    assert_eq!(revoked.data()["cause"], "expired");
    let ended: Timestamp = revoked.data()["revoked_at"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let late = ended.duration_since(expires_at(issued)).as_secs();
    assert!(!ended.duration_since(expires_at(issued)).is_negative());
    assert!(late <= LATE_SECONDS_MAX, "{late} s late");
    assert_eq!(valid_until(site, issued).await, None);
}

/// Once nothing more is about to come, its end was told once.
async fn ends_once(site: &Site, client: &Client, issued: &Value) {
    let lease_id = issued["lease_id"].as_str().unwrap();
    client
        .notice("lease.revoked.v1", lease_id, LAST_SECONDS)
        .await;
    eventually("every lease is closed", LAST_SECONDS, async || {
        let open = "SELECT count(*) FROM keycard.leases WHERE state <> 'closed'";
        (site.count(open).await == 0).then_some(())
    })
    .await;
    let queues = Queues::of(site).await;
    eventually("no event is about to come", LAST_SECONDS, async || {
        (queues.waiting_within(5).await == 0).then_some(())
    })
    .await;
    let mut told = client.heard();
    told.retain(|heard| heard.kind() == "lease.revoked.v1" && heard.data()["lease_id"] == lease_id);
    assert_eq!(told.len(), 1, "{told:?}");
    queues.assert_no_dead_letters().await;
    assert_eq!(site.logins().await, 0);
    assert_eq!(Secrets::Files(site).count(), 0);
}
