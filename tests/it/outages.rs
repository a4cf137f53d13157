//! Whatever goes away in the middle of a run: afterwards every command is answered once.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::interval;

use crate::support::audit::{Queues, Secrets, all_is_well};
use crate::support::client::{Heard, SOON, fresh_id};
use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::secrets_manager::{FakeSecretsManager, Fault, Operation};
use crate::support::servers::{Postgres, RabbitMq, postgres_version};
use crate::support::site::{Site, StoreKind, Wishes};
use crate::support::steady::Steady;

/// What a run asks for.
const REQUESTS: usize = 60;
const PACE: Duration = Duration::from_millis(60);

/// An outage begins when so many are asked for, and so many told.
const ASKED_BEFORE: usize = 20;
const TOLD_BEFORE: usize = 10;

/// How long the last answer may take. An attempt that lost its ledger in the middle keeps its lease
/// for 30 s.
const ANSWERED_SECONDS: u64 = 90;

/// The broker that tests may harm, one after the other.
fn own_broker() -> (&'static RabbitMq, &'static tokio::sync::Mutex<()>) {
    static BROKER: OnceLock<RabbitMq> = OnceLock::new();
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let broker = block_in_place(|| BROKER.get_or_init(|| RabbitMq::start(None)));
    (broker, &TURN)
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_crashes_in_the_middle_of_a_run() {
    let (rabbitmq, turn) = own_broker();
    let _turn = turn.lock().await;
    let site = Site::new(Wishes {
        rabbitmq,
        ..Wishes::default()
    })
    .await;
    let _workers = (site.worker().await, site.worker().await);
    let orders = run(&site, async || {
        spawn_blocking(|| {
            rabbitmq.server.kill();
            rabbitmq.server.start_again();
        })
        .await
        .unwrap();
    })
    .await;
    all_is_well(&site, &orders, &Secrets::Files(&site), ANSWERED_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_runs_out_of_memory_in_the_middle_of_a_run() {
    const ALARM: Duration = Duration::from_secs(12);
    let (rabbitmq, turn) = own_broker();
    let _turn = turn.lock().await;
    let fake = FakeSecretsManager::start();
    let site = Site::new(Wishes {
        rabbitmq,
        store: StoreKind::Aws(fake.url()),
        ..Wishes::default()
    })
    .await;
    let workers = (site.worker().await, site.worker().await);
    let orders = run(&site, async || {
        // The workers have something to publish when the alarm is on.
        fake.pause();
        eventually("puts are held", SOON, async || {
            (fake.held() >= 5).then_some(())
        })
        .await;
        spawn_blocking(|| rabbitmq.memory_alarm(true))
            .await
            .unwrap();
        fake.resume();
        let mut alarm = interval(ALARM);
        alarm.tick().await;
        alarm.tick().await;
        spawn_blocking(|| rabbitmq.memory_alarm(false))
            .await
            .unwrap();
    })
    .await;
    all_is_well(&site, &orders, &Secrets::Fake(&fake), ANSWERED_SECONDS).await;
    let logs = workers.0.log() + &workers.1.log();
    assert!(logs.contains("RabbitMQ takes no more messages until it has memory and disk again"));
    assert!(logs.contains("RabbitMQ takes messages again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_crashes_in_the_middle_of_a_run() {
    let postgres = block_in_place(|| Postgres::start(postgres_version(), &[], None));
    let postgres: &'static Postgres = Box::leak(Box::new(postgres));
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
async fn a_worker_waits_for_a_broker_that_is_not_there_yet() {
    let site = Site::usual().await;
    let mut gate = Gate::closed(&site.rabbitmq.host, site.rabbitmq.port);
    let url = format!("amqp://kc-worker@127.0.0.1:{}/{}", gate.port, site.vhost);
    let worker = site.worker_unready(&[("KEYCARD_QUEUE__URL", &url)]);
    eventually("the worker misses its broker", SOON, async || {
        worker
            .log()
            .contains("RabbitMQ is out of reach; keycard keeps trying")
            .then_some(())
    })
    .await;
    assert!(!worker.log().contains("keycard serves"));
    gate.open();
    worker.ready().await;
    site.client("orders-svc")
        .await
        .issued("app-role", None)
        .await;
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
    let worker = site.worker_unready(&[("KEYCARD_DATABASES__APP__CONNECTION_URL", &url)]);
    worker.ready().await;
    assert!(worker.log().contains("a database cannot be used yet"));
    let orders = site.client("orders-svc").await;
    let request = orders.request("app-role", None).await;
    let queues = Queues::of(&site).await;
    eventually("the request is deferred", SOON, async || {
        (queues.waiting().await > 0).then_some(())
    })
    .await;
    assert!(orders.heard().is_empty());
    gate.open();
    let answer = orders.answer(&request).await;
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
    sql.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
        &[&site.admin],
    )
    .await
    .unwrap();
    let request = orders.request("app-role", None).await;
    eventually("the old password is refused", SOON, async || {
        worker.log().contains("28P01").then_some(())
    })
    .await;
    assert!(orders.answers_to(&request).is_empty());
    std::fs::write(&file, "another\n").unwrap();
    let answer = orders.answer(&request).await;
    assert_eq!(answer.kind(), "credential.issued.v1");
    assert!(!worker.log().contains("another\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_password_is_read_again_when_it_has_changed() {
    let site = Site::usual().await;
    let user = format!("worker-{}", site.name);
    site.rabbitmq.add_user(&user, "first");
    site.rabbitmq
        .set_permissions(&site.vhost, &user, ".*", ".*", ".*");
    let file = site.path().join("broker-password");
    std::fs::write(&file, "first").unwrap();
    let url = format!(
        "amqp://{user}@{}:{}/{}",
        site.rabbitmq.host, site.rabbitmq.port, site.vhost
    );
    let worker = site.worker_unready(&[
        ("KEYCARD_QUEUE__URL", &url),
        ("KEYCARD_QUEUE__PASSWORD__FILE", file.to_str().unwrap()),
    ]);
    worker.ready().await;

    site.rabbitmq.add_user(&user, "second");
    spawn_blocking({
        let (rabbitmq, vhost) = (site.rabbitmq, site.vhost.clone());
        move || rabbitmq.close_connections(&vhost)
    })
    .await
    .unwrap();
    eventually("the old password is refused", SOON, async || {
        worker
            .log()
            .contains("the broker refuses the name or the password")
            .then_some(())
    })
    .await;
    std::fs::write(&file, "second").unwrap();
    let orders = site.client("orders-svc").await;
    orders.issued("app-role", None).await;
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
    let event = orders.event(&id, "credential.request.v1", json!({ "role": "app-role" }));
    let ask = async || {
        let body = event.to_string();
        let properties = orders.properties();
        orders
            .publish("keycard.requests", body.as_bytes(), properties)
            .await;
    };
    ask().await;
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
    ask().await;
    eventually("the answer is settled", SOON, async || {
        let open = "SELECT count(*) FROM keycard.requests WHERE published_at IS NULL";
        (site.count(open).await == 0).then_some(())
    })
    .await;
    let answers = orders.answers_to(&id);
    let kinds: Vec<&str> = answers.iter().map(Heard::kind).collect();
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
