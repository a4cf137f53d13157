//! A secret store that is slow: nobody gets two credentials, and no secret stays behind.

use keycard::queue::Lane;
use serde_json::{Value, json};

use crate::support::broker::Administrator;
use crate::support::client::{Client, Heard, SOON, fresh_id};
use crate::support::eventually;
use crate::support::queues::Queues;
use crate::support::secrets_manager::{FakeSecretsManager, Operation};
use crate::support::services::QueueKind;
use crate::support::site::{Site, StoreKind, Wishes};

/// An effect counts as failed after 20 s, and an attempt keeps its lease for 30.
const TAKEN_OVER: u64 = 150;

async fn site_with(fake: &FakeSecretsManager, sweep_interval: &'static str) -> Site {
    Site::new(Wishes {
        store: StoreKind::Aws(fake.url()),
        sweep_interval,
        ..Wishes::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_put_is_slow_the_other_worker_waits() {
    let fake = FakeSecretsManager::start();
    let site = site_with(&fake, "10m").await;
    let workers = (site.worker().await, site.worker().await);
    let orders = site.client("orders-svc").await;
    // A broker hands them out in turn; from Postgres each takes what it can.
    if let QueueKind::Amqp(_) = site.queue {
        let administrator = Administrator::of(&site).await;
        eventually("both workers take requests", SOON, async || {
            (administrator.consumers("keycard.requests").await == 2).then_some(())
        })
        .await;
    }
    fake.pause();
    let id = fresh_id();
    let event = orders.event(&id, "credential.request.v1", json!({ "role": "app-role" }));
    for _ in 0..2 {
        orders.say("requests", &event).await;
    }
    holds(&fake, 1).await;
    eventually("the other worker waits", SOON, async || {
        let logs = [workers.0.log(), workers.1.log()];
        let waits = |log: &String| log.contains("another attempt holds the lease");
        logs.iter().any(waits).then_some(())
    })
    .await;
    // The attempt's put is tried again after 5 s, and held again.
    let attempts = "SELECT attempt::bigint FROM keycard.leases";
    assert_eq!(site.count(attempts).await, 1);
    assert_eq!(site.logins().await, 1);
    assert!(orders.heard().is_empty());

    fake.resume();
    let answer = orders.answer(&id).await;
    assert_eq!(answer.kind(), "credential.issued.v1");
    works(&site, &fake, answer.data()).await;
    all_settled(&site).await;
    is_the_only_answer(&orders, &id, &answer);
    let count = "SELECT count(*) FROM keycard.leases";
    assert_eq!((site.count(count).await, site.logins().await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_lands_after_the_leases_end_leaves_no_secret() {
    let fake = FakeSecretsManager::start();
    let site = site_with(&fake, "1s").await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    fake.pause();
    let request = orders.request("app-role", Some(2)).await;
    holds(&fake, 1).await;
    let answer = orders.answer_within(&request, TAKEN_OVER).await;
    assert_eq!(answer.kind(), "request.denied.v1");
    assert_eq!(answer.data()["code"], "lease_ended");
    closes(&site, 1).await;
    assert_eq!(site.logins().await, 0);

    fake.resume();
    eventually("the put has landed", SOON, async || {
        (fake.secrets().len() == 1).then_some(())
    })
    .await;
    // A quarter of an hour passes.
    let sql = site.sql().await;
    sql.batch_execute(
        "UPDATE keycard.leases SET recheck_at = recheck_at - interval '16 minutes',
                                   wake_at = wake_at - interval '16 minutes'",
    )
    .await
    .unwrap();
    eventually("the secret is gone", SOON, async || {
        fake.secrets().is_empty().then_some(())
    })
    .await;
    all_settled(&site).await;
    is_the_only_answer(&orders, &request, &answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_lands_when_another_attempt_has_begun_leaves_no_second_secret() {
    let fake = FakeSecretsManager::start();
    let site = site_with(&fake, "10m").await;
    let worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    fake.pause();
    let request = orders.request("app-role", None).await;
    eventually("a second attempt has begun", TAKEN_OVER, async || {
        worker
            .log()
            .contains("the earlier attempt did not finish")
            .then_some(())
    })
    .await;
    let before = fake.held();
    eventually("its put is held as well", SOON, async || {
        (fake.held() > before || before > 4).then_some(())
    })
    .await;
    fake.resume();
    let answer = orders.answer(&request).await;
    assert_eq!(answer.kind(), "credential.issued.v1");
    works(&site, &fake, answer.data()).await;
    all_settled(&site).await;
    assert_eq!(fake.secrets().len(), 1);
    works(&site, &fake, answer.data()).await;
    is_the_only_answer(&orders, &request, &answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_after_another_took_over_removes_its_secret() {
    let fake = FakeSecretsManager::start();
    let site = site_with(&fake, "1s").await;
    let sleeper = site.worker().await;
    let orders = site.client("orders-svc").await;
    fake.pause();
    let request = orders.request("app-role", None).await;
    holds(&fake, 1).await;
    sleeper.signal("STOP");
    // Those that are held stay so.
    fake.pause_next(0);
    let _successor = site.worker().await;
    let answer = orders.answer_within(&request, TAKEN_OVER).await;
    assert_eq!(answer.kind(), "credential.issued.v1");
    eventually("the successor has cleared up", SOON, async || {
        (fake.count(Operation::DeleteSecret) > 0).then_some(())
    })
    .await;
    fake.resume();
    eventually("the late put has landed", SOON, async || {
        (fake.secrets().len() == 2).then_some(())
    })
    .await;
    sleeper.signal("CONT");
    eventually("only the told secret is left", SOON, async || {
        (fake.secrets().len() == 1).then_some(())
    })
    .await;
    works(&site, &fake, answer.data()).await;
    is_the_only_answer(&orders, &request, &answer);
}

/// However often it came.
fn is_the_only_answer(client: &Client, id: &str, answer: &Heard) {
    for again in client.answers_to(id) {
        assert_eq!(again.event, answer.event);
    }
}

async fn holds(fake: &FakeSecretsManager, calls: usize) {
    eventually(&format!("{calls} puts are held"), SOON, async || {
        (fake.held() >= calls).then_some(())
    })
    .await;
}

async fn closes(site: &Site, leases: i64) {
    eventually("the lease is closed", SOON, async || {
        let closed = "SELECT count(*) FROM keycard.leases WHERE state = 'closed'";
        (site.count(closed).await == leases).then_some(())
    })
    .await;
}

/// No command waits anywhere.
async fn all_settled(site: &Site) {
    let queues = Queues::of(site).await;
    // What was deferred comes back when an attempt's hold is over.
    eventually("no command waits", TAKEN_OVER, async || {
        let waiting = queues.ready(Lane::Requests).await + queues.waiting_within(30).await;
        (waiting == 0).then_some(())
    })
    .await;
    queues.assert_no_dead_letters().await;
}

/// The told secret is there, and its password opens the told login.
async fn works(site: &Site, fake: &FakeSecretsManager, issued: &Value) {
    let secrets = fake.secrets();
    let secret = secrets
        .values()
        .find(|secret| secret.arn == issued["secret"]["locator"])
        .unwrap();
    let value: Value = serde_json::from_str(&secret.value).unwrap();
    assert_eq!(value["username"], issued["username"]);
    let username = value["username"].as_str().unwrap();
    let password = value["password"].as_str().unwrap();
    site.login(username, password).await.unwrap();
}
