//! Whatever goes away in the middle of a run: afterwards every command is answered once.

mod amqp;

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::interval;

use crate::support::audit::{Secrets, all_is_well};
use crate::support::client::{Heard, SOON, fresh_id};
use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::queues::Queues;
use crate::support::secrets_manager::{FakeSecretsManager, Fault, Operation};
use crate::support::servers::own_postgres;
use crate::support::services::QueueKind;
use crate::support::site::{Site, StoreKind, Wishes};
use crate::support::steady::Steady;

/// What a run asks for.
const REQUESTS: usize = 60;
const PACE: Duration = Duration::from_millis(60);

/// An outage begins when so many are asked for, and so many told.
const ASKED_BEFORE: usize = 20;
const TOLD_BEFORE: usize = 10;

/// How long the last answer may take. An attempt that lost its ledger in the middle keeps its lease
/// for 30 s, and its command may come back only 30 s after that.
const ANSWERED_SECONDS: u64 = 180;

/// How long an answer may take whose command was deferred for long already.
const DEFERRED_SECONDS: u64 = 90;

#[tokio::test(flavor = "multi_thread")]
async fn postgres_crashes_in_the_middle_of_a_run() {
    let postgres = own_postgres(&[]);
    let site = Site::new(Wishes {
        postgres,
        ..Wishes::default()
    })
    .await;
    let _workers = (site.worker().await, site.worker().await);
    let orders = run(&site, async || {
        spawn_blocking(|| {
            postgres.server.kill();
            postgres.server.start_again();
        })
        .await
        .unwrap();
    })
    .await;
    all_is_well(&site, &orders, &Secrets::Files(&site), ANSWERED_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_fails_throttles_and_loses_replies_in_the_middle_of_a_run() {
    let fake = FakeSecretsManager::start();
    let site = Site::new(Wishes {
        store: StoreKind::Aws(fake.url()),
        ..Wishes::default()
    })
    .await;
    let _workers = (site.worker().await, site.worker().await);
    let orders = run(&site, async || {
        for (calls, fault) in [
            (15, Fault::LostReply),
            (25, Fault::Status500),
            (25, Fault::Throttle),
            (15, Fault::Status503),
            (10, Fault::LostReply),
        ] {
            fake.fail_next(calls, fault);
        }
    })
    .await;
    all_is_well(&site, &orders, &Secrets::Fake(&fake), ANSWERED_SECONDS).await;
    assert!(fake.count(Operation::CreateSecret) > REQUESTS + 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_database_that_is_not_there_yet() {
    let site = Site::new(Wishes {
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let mut gate = Gate::closed(&site.postgres.host, site.postgres.port);
    let url = format!(
        "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/{}",
        gate.port, site.dbname
    );
    // Leaves the exchanges or the functions that the client needs.
    site.worker().await.kill();
    let worker = site.worker_unready(&[("KEYCARD_DATABASES__APP__CONNECTION_URL", &url)]);
    let orders = site.client("orders-svc").await;
    let request = orders.request("app-role", None).await;
    eventually("the worker misses its database", SOON, async || {
        let missed = worker.log().contains("a database cannot be used yet");
        missed.then_some(())
    })
    .await;
    // A worker without its queue has nothing to defer.
    if let QueueKind::Amqp(_) = site.queue {
        let queues = Queues::of(&site).await;
        eventually("the request is deferred", SOON, async || {
            (queues.waiting().await > 0).then_some(())
        })
        .await;
    }
    assert!(orders.heard().is_empty());
    gate.open();
    let answer = orders.answer_within(&request, DEFERRED_SECONDS).await;
    assert_eq!(answer.kind(), "credential.issued.v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admins_password_is_read_again_when_it_has_changed() {
    let site = Site::usual().await;
    let file = site.path().join("admin-password");
    std::fs::write(&file, "admin\n").unwrap();
    let file_name = file.to_str().unwrap();
    let worker = site.worker_unready(&[("KEYCARD_DATABASES__APP__PASSWORD__FILE", file_name)]);
    worker.ready().await;
    let orders = site.client("orders-svc").await;
    orders.issued("app-role", None).await;

    let sql = site.sql().await;
    let change = format!("ALTER ROLE {} PASSWORD 'another'", site.admin);
    sql.batch_execute(&change).await.unwrap();
    eventually("nobody is connected with the old one", SOON, async || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
        let ended = sql.query(end, &[&site.admin]).await.unwrap();
        ended.is_empty().then_some(())
    })
    .await;
    let request = orders.request("app-role", None).await;
    eventually("the old password is refused", SOON, async || {
        worker.log().contains("28P01").then_some(())
    })
    .await;
    assert!(orders.answers_to(&request).is_empty());
    std::fs::write(&file, "another\n").unwrap();
    let answer = orders.answer_within(&request, DEFERRED_SECONDS).await;
    assert_eq!(answer.kind(), "credential.issued.v1");
    assert!(!worker.log().contains("another\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_not_told_after_the_denial_that_replaced_it() {
    let site = Site::new(Wishes {
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let id = fresh_id();
    let event = orders.asking(&id, "app-role");
    orders.say("requests", &event).await;
    let issued = orders.answer(&id).await;
    let revocation = orders
        .revoke(issued.data()["lease_id"].as_str().unwrap())
        .await;
    orders.answer(&revocation).await;
    let sql = site.sql().await;
    // As after a crash between telling an answer and noting that it is told. The sweep gives the
    // command ten seconds to come back.
    let forget = "UPDATE keycard.requests
                  SET published_at = NULL, answered_at = clock_timestamp() - interval '5 seconds'
                  WHERE kind = 'request'";
    sql.execute(forget, &[]).await.unwrap();
    orders.say("requests", &event).await;
    eventually("the answer is settled", SOON, async || {
        let open = "SELECT count(*) FROM keycard.requests WHERE published_at IS NULL";
        (site.count(open).await == 0).then_some(())
    })
    .await;
    // What is told is on its way to whoever hears it.
    let answers = eventually("the denial is heard", SOON, async || {
        Some(orders.answers_to(&id)).filter(|answers| answers.len() > 1)
    })
    .await;
    let mut kinds: Vec<&str> = answers.iter().map(Heard::kind).collect();
    // The sweep tells it as well, where the command takes seconds to come.
    kinds.dedup();
    assert_eq!(kinds, ["credential.issued.v1", "request.denied.v1"]);
}

/// Asks for credentials at a steady pace and renews or revokes some of them; `outage` happens when
/// the first are told and most are still to be asked for.
async fn run(site: &Site, outage: impl AsyncFnOnce()) -> Steady {
    let orders = Steady::start(site, "orders-svc").await;
    let mut leases = 0;
    ask(&orders, ASKED_BEFORE, &mut leases).await;
    eventually("some credentials are told", SOON, async || {
        (orders.issued().len() >= TOLD_BEFORE).then_some(())
    })
    .await;
    let rest = ask(&orders, REQUESTS - ASKED_BEFORE, &mut leases);
    tokio::join!(rest, outage());
    orders
}

/// Of what is told, two thirds are left alone; `leases` counts the rest.
async fn ask(orders: &Steady, requests: usize, leases: &mut usize) {
    let mut pace = interval(PACE);
    for n in 0..requests {
        pace.tick().await;
        orders.request("app-role");
        if let (true, Some(issued)) = (n % 3 == 2, orders.issued().get(*leases)) {
            let lease_id = issued["lease_id"].as_str().unwrap();
            if leases.is_multiple_of(2) {
                orders.renew(lease_id);
            } else {
                orders.revoke(lease_id);
            }
            *leases += 1;
        }
    }
}
