//! Outages that only a broker can have. With the queue in Postgres, those of Postgres are the
//! queue's as well.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::interval;

use super::{ANSWERED_SECONDS, DEFERRED_SECONDS, run};
use crate::support::audit::{Secrets, all_is_well};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::secrets_manager::FakeSecretsManager;
use crate::support::servers::harmed_rabbitmq;
use crate::support::services::QueueKind;
use crate::support::site::{Site, StoreKind, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_crashes_in_the_middle_of_a_run() {
    let (rabbitmq, _turn) = harmed_rabbitmq().await;
    let site = Site::new(Wishes {
        queue: QueueKind::Amqp(rabbitmq),
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
    let (rabbitmq, _turn) = harmed_rabbitmq().await;
    let fake = FakeSecretsManager::start();
    let site = Site::new(Wishes {
        queue: QueueKind::Amqp(rabbitmq),
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
        eventually("a worker was told", 2 * SOON, async || {
            let logs = workers.0.log() + &workers.1.log();
            logs.contains("RabbitMQ takes no more messages until it has memory and disk again")
                .then_some(())
        })
        .await;
        spawn_blocking(|| rabbitmq.memory_alarm(false))
            .await
            .unwrap();
    })
    .await;
    all_is_well(&site, &orders, &Secrets::Fake(&fake), ANSWERED_SECONDS).await;
    eventually("a worker was told of the end", SOON, async || {
        let logs = workers.0.log() + &workers.1.log();
        logs.contains("RabbitMQ takes messages again").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_a_broker_that_is_not_there_yet() {
    let site = Site::on_rabbitmq().await;
    let rabbitmq = site.rabbitmq();
    let mut gate = Gate::closed(&rabbitmq.host, rabbitmq.port);
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
async fn the_brokers_password_is_read_again_when_it_has_changed() {
    let site = Site::on_rabbitmq().await;
    let user = format!("worker-{}", site.name);
    let rabbitmq = site.rabbitmq();
    rabbitmq.add_user(&user, "first");
    rabbitmq.set_permissions(&site.vhost, &user, ".*", ".*", ".*");
    let file = site.path().join("broker-password");
    std::fs::write(&file, "first").unwrap();
    let url = format!(
        "amqp://{user}@{}:{}/{}",
        rabbitmq.host, rabbitmq.port, site.vhost
    );
    let worker = site.worker_unready(&[
        ("KEYCARD_QUEUE__URL", &url),
        ("KEYCARD_QUEUE__PASSWORD__FILE", file.to_str().unwrap()),
    ]);
    worker.ready().await;

    rabbitmq.add_user(&user, "second");
    spawn_blocking({
        let vhost = site.vhost.clone();
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
    let request = orders.request("app-role", None).await;
    // Attempts to connect are half a minute apart by now.
    let answer = orders.answer_within(&request, DEFERRED_SECONDS).await;
    assert_eq!(answer.kind(), "credential.issued.v1");
}
