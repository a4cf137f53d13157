//! Who said it: what clients write about themselves is worth nothing.

use std::time::Duration;

use keycard::queue::{Lane, Queue, Sender};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::{OWN_USER, Vhost, header};
use crate::queue::conformance::{Backend, Command, ack, next, requester, result_for};

fn forged() -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("x-keycard-requester", "billing"),
        ("x-keycard-lane", "expiry"),
        ("x-keycard-reply-to", "amq.rabbitmq.reply-to.x"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    for name in ["x-keycard-deferrals", "x-keycard-remaining-ms"] {
        headers.insert(name.into(), AMQPValue::LongLongInt(60_000));
    }
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_clients_are_not_believed() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let orders = vhost.client("orders").await;
    let properties = BasicProperties::default()
        .with_user_id("orders".into())
        .with_headers(forged());
    orders
        .publish("keycard.requests", "", b"{}", properties)
        .await
        .unwrap();
    let delivery = next(&mut requests).await;
    assert_eq!(delivery.sender, Sender::Requester(requester("orders")));
    assert_eq!((delivery.lane, delivery.deferrals), (Lane::Requests, 0));
    assert_eq!(delivery.reply_to, None);
    ack(delivery).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_refuses_a_forged_user() {
    let vhost = Vhost::new().await;
    let _worker = vhost.queue().await;
    for forged in [OWN_USER, "billing"] {
        let orders = vhost.client("orders").await;
        let properties = BasicProperties::default().with_user_id(forged.into());
        let refused = orders
            .publish("keycard.requests", "", b"{}", properties)
            .await
            .unwrap_err();
        assert!(refused.contains("PRECONDITION_FAILED"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unnamed_sender_is_nobody_and_stays_so() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let mut expiry = worker.consume(Lane::Expiry);
    let orders = vhost.client("orders").await;
    orders
        .publish("keycard.requests", "", b"{}", BasicProperties::default())
        .await
        .unwrap();
    let delivery = next(&mut requests).await;
    let Sender::Nobody(reason) = delivery.sender.clone() else {
        panic!("{delivery:?}");
    };
    assert_eq!(reason, "the message has no user_id");
    worker
        .defer(&delivery, Duration::from_millis(100))
        .await
        .unwrap();
    ack(delivery).await;
    let delivery = next(&mut expiry).await;
    assert_eq!(delivery.sender, Sender::Nobody(reason));
    assert_eq!(delivery.lane, Lane::Requests);
    ack(delivery).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_keycard_has_business_in_the_expiry_queue() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut expiry = worker.consume(Lane::Expiry);
    let admin = vhost.admin().await;
    for user in [None, Some(vhost.broker.user.as_str())] {
        let mut properties = BasicProperties::default().with_headers(forged());
        if let Some(user) = user {
            properties = properties.with_user_id(user.into());
        }
        admin
            .publish("", "keycard.expiry", b"{}", properties)
            .await
            .unwrap();
        let delivery = next(&mut expiry).await;
        assert!(matches!(delivery.sender, Sender::Nobody(_)), "{delivery:?}");
        assert_eq!((delivery.lane, delivery.deferrals), (Lane::Expiry, 0));
        ack(delivery).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_nobody_has_bound_are_kept() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    worker.publish(&result_for("orders", "lost")).await.unwrap();
    let admin = vhost.admin().await;
    let kept = admin.get("keycard.unrouted").await.unwrap();
    assert_eq!(kept.data, b"lost");
    assert_eq!(
        kept.routing_key.as_str(),
        "orders.keycard.credential.issued.v1"
    );
    let properties = &kept.properties;
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(
        properties.content_type().as_ref().unwrap().as_str(),
        "application/cloudevents+json"
    );
    assert_eq!(
        properties.kind().as_ref().unwrap().as_str(),
        "keycard.credential.issued.v1"
    );
    assert_eq!(
        properties.message_id().as_ref().unwrap().as_str(),
        "0190a5d0-0000-7000-8000-000000000000"
    );
    assert_eq!(
        properties.correlation_id().as_ref().unwrap().as_str(),
        "c-1"
    );
    assert!(properties.timestamp().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_say_whose_they_are() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut leases = worker.consume(Lane::Leases);
    vhost
        .send("orders", Lane::Leases, Command::new("wrong"))
        .await;
    let delivery = next(&mut leases).await;
    worker.dead_letter(&delivery, "not JSON").await.unwrap();
    ack(delivery).await;
    let admin = vhost.admin().await;
    let letter = admin.get("keycard.dead-letters").await.unwrap();
    let properties = letter.properties;
    for (name, value) in [
        ("x-keycard-reason", "not JSON"),
        ("x-keycard-requester", "orders"),
        ("x-keycard-lane", "leases"),
        ("x-keycard-origin", "keycard.leases"),
    ] {
        assert_eq!(header(&properties, name).as_deref(), Some(value));
    }
}
