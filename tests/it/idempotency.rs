//! Every command may arrive twice, at two workers at once, and at workers that die.

mod crash;

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::client::{Client, SOON, fresh_id};
use crate::support::eventually;
use crate::support::site::{Site, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_published_twice_to_two_workers_make_two_hundred_logins() {
    const REQUESTS: usize = 200;
    let site = Site::usual().await;
    let _workers = tokio::join!(site.worker(), site.worker());
    let orders = site.client("orders-svc").await;
    let requests: Vec<Value> = (0..REQUESTS)
        .map(|_| orders.asking(&fresh_id(), "app-role"))
        .collect();
    let twice = requests.iter().chain(&requests);
    join_all(twice.map(|request| orders.say("requests", request))).await;
    for request in &requests {
        orders.answers(request["id"].as_str().unwrap(), 2).await;
    }
    assert_each_issued_once(&site, &orders, &requests).await;
}

/// Each request has one answer, however often that was published, and a credential that works;
/// there is no other lease, login or secret.
async fn assert_each_issued_once(site: &Site, client: &Client, requests: &[Value]) {
    let mut issued = Vec::new();
    let mut event_ids = BTreeSet::new();
    let mut usernames = BTreeSet::new();
    for request in requests {
        let id = request["id"].as_str().unwrap();
        let answers = client.answers_to(id);
        assert!(
            answers.iter().all(|again| again.bytes == answers[0].bytes),
            "{:?}",
            answers.iter().map(|again| &again.event).collect::<Vec<_>>()
        );
        answers[0].lease_id();
        event_ids.insert(answers[0].event["id"].as_str().unwrap().to_owned());
        usernames.insert(answers[0].data()["username"].as_str().unwrap().to_owned());
        issued.push(answers[0].data().clone());
    }
    assert_eq!(event_ids.len(), requests.len());
    assert_eq!(usernames.len(), requests.len());
    site.assert_live(i64::try_from(requests.len()).unwrap())
        .await;
    site.assert_credentials_work(&issued).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_same_bytes_even_from_another_worker() {
    let site = Site::usual().await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let request = orders.asking(&fresh_id(), "app-role");
    orders.say_again("requests", &request).await;
    // A retry may be dated later and written differently; what it asks for is the same.
    let mut retry = request.clone();
    retry["time"] = json!(keycard::clock::host_now());
    retry["traceparent"] = json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    orders.say_again("requests", &retry).await;

    worker.terminate();
    assert!(worker.exit(SOON).await.success());
    let _next = site.worker().await;
    orders.say_again("requests", &request).await;
    assert_each_issued_once(&site, &orders, &[request]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_used_for_another_content_is_denied_and_the_first_lease_stays() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let id = fresh_id();
    let request = orders.asking(&id, "app-role");
    let first = orders.say_again("requests", &request).await[0].clone();

    let ttl = json!({ "role": "app-role", "ttl_seconds": 60 });
    let other_ttl = orders.event(&id, "credential.request.v1", ttl);
    let lease = json!({ "lease_id": first.lease_id() });
    let revocation = orders.event(&id, "lease.revoke.v1", lease);
    for (lane, other) in [("requests", other_ttl), ("leases", revocation)] {
        let answers = orders.say_again(lane, &other).await;
        let denied = answers.last().unwrap();
        assert_eq!(denied.denial(), "request_id_reused");
        assert_ne!(denied.event["id"], first.event["id"]);
    }
    let again = orders.say_again("requests", &request).await;
    assert_eq!(again.last().unwrap().bytes, first.bytes);
    site.assert_live(1).await;
    site.assert_credentials_work([first.data()]).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_repeated_after_its_lease_has_ended_brings_no_new_login() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let request = orders.asking(&fresh_id(), "app-role");
    let issued = orders.say_again("requests", &request).await[0].clone();
    let revocation = orders.revoke(issued.lease_id()).await;
    assert_eq!(orders.answer(&revocation).await.kind(), "lease.revoked.v1");

    let again = orders.say_again("requests", &request).await;
    assert_eq!(again.last().unwrap().data()["code"], "lease_ended");
    site.assert_live(0).await;
    assert_eq!(site.rows().await, (1, 2));
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_lease_ends_before_it_is_delivered_is_denied_lease_ended() {
    let site = Site::new(Wishes {
        // The request is answered before the store works again; the rest is the sweep's.
        sweep_interval: "2s",
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    // A file where the store wants a directory: no secret can be put.
    let in_the_way = site.secrets.join("keycard");
    std::fs::write(&in_the_way, "").unwrap();
    let data = json!({ "role": "app-role", "ttl_seconds": 2 });
    let request = orders.event(&fresh_id(), "credential.request.v1", data);
    orders.say("requests", &request).await;
    eventually("the login is dropped", SOON, async || {
        let dropped = "SELECT count(*) FROM keycard.leases WHERE state = 'dropped'";
        (site.count(dropped).await == 1).then_some(())
    })
    .await;
    assert_eq!(site.logins().await, 0);
    std::fs::remove_file(&in_the_way).unwrap();

    let id = request["id"].as_str().unwrap();
    let denied = orders.answers(id, 1).await[0].clone();
    assert_eq!(denied.denial(), "lease_ended");
    let again = orders.say_again("requests", &request).await;
    assert!(again.iter().all(|again| again.bytes == denied.bytes));
    eventually("the lease is closed", SOON, async || {
        let closed = "SELECT count(*) FROM keycard.leases WHERE state = 'closed'";
        (site.count(closed).await == 1).then_some(())
    })
    .await;
    site.assert_live(0).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_arrives_twice_extends_once() {
    let site = Site::usual().await;
    let _workers = tokio::join!(site.worker(), site.worker());
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", Some(600)).await;
    let data = json!({ "lease_id": issued["lease_id"], "ttl_seconds": 1200 });
    let id = fresh_id();
    let renewal = orders.event(&id, "lease.renew.v1", data);
    join_all((0..4).map(|_| orders.say("leases", &renewal))).await;
    orders.answers(&id, 4).await;
    let answers = orders.say_again("leases", &renewal).await;
    for answer in &answers {
        assert_eq!(answer.kind(), "lease.renewed.v1");
        assert_eq!(answer.data()["generation"], 2);
        assert_eq!(answer.bytes, answers[0].bytes);
    }
    let generations = site.count("SELECT sum(generation) FROM keycard.leases");
    assert_eq!(generations.await, 2);
    site.assert_live(1).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_of_one_lease_are_all_answered_and_a_repeated_one_alike() {
    let site = Site::usual().await;
    let _workers = tokio::join!(site.worker(), site.worker());
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    let lease = json!({ "lease_id": issued["lease_id"] });
    let revoke = |id: String| orders.event(&id, "lease.revoke.v1", lease.clone());
    let (one, other, late) = (revoke(fresh_id()), revoke(fresh_id()), revoke(fresh_id()));
    let twice = [&one, &other, &one, &other];
    join_all(twice.map(|revocation| orders.say("leases", revocation))).await;
    for revocation in [&one, &other] {
        let answers = orders.answers(revocation["id"].as_str().unwrap(), 2).await;
        assert!(answers.iter().all(|again| again.bytes == answers[0].bytes));
        assert_eq!(answers[0].data()["cause"], "requested");
    }
    let late = orders.say_again("leases", &late).await;
    assert_eq!(late[0].data()["cause"], "requested");

    let renewal = orders
        .renew(issued["lease_id"].as_str().unwrap(), None)
        .await;
    assert_eq!(orders.answer(&renewal).await.denial(), "lease_ended");
    let unasked = orders
        .heard()
        .into_iter()
        .filter(|heard| heard.answers().is_none());
    let unasked: BTreeSet<Vec<u8>> = unasked.map(|heard| heard.bytes).collect();
    assert_eq!(unasked.len(), 1, "one notice of the end");
    site.assert_live(0).await;
    site.assert_no_dead_letters().await;
}
