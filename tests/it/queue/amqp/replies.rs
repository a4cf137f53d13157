//! Direct replies, real and forged.

use futures_util::StreamExt as _;
use keycard::queue::amqp::AmqpQueue;
use keycard::queue::{Delivery, Lane, Queue, ReplyTo};
use lapin::message::Delivery as Received;
use lapin::{BasicProperties, Consumer};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Client, Vhost};
use crate::queue::conformance::{Backend, Command, PATIENCE, SILENCE, ack, next, result_for};
use crate::support::broker::{REPLY_TO, take_all};
use crate::support::eventually;

/// The form of a reply address, and nothing behind it: the broker closes the connection of who
/// publishes to it with 541.
const FORGED: &str = "amq.rabbitmq.reply-to.g1h2AAAA.zzz";

/// Asks as `user`, who then waits for a direct reply.
async fn ask(
    client: &Client,
    user: &str,
    requests: &mut mpsc::Receiver<Delivery>,
) -> (Delivery, Consumer) {
    let replies = take_all(&client.channel(), REPLY_TO).await;
    let delivery = send(client, user, REPLY_TO, requests).await;
    (delivery, replies)
}

async fn send(
    client: &Client,
    user: &str,
    reply_to: &str,
    requests: &mut mpsc::Receiver<Delivery>,
) -> Delivery {
    let properties = BasicProperties::default()
        .with_user_id(user.into())
        .with_reply_to(reply_to.into());
    client
        .publish("keycard.requests", "", b"{}", properties)
        .await
        .unwrap();
    next(requests).await
}

/// Replies until the reply arrives: one that takes longer than two seconds is not sent.
async fn reply(
    worker: &AmqpQueue,
    asked: &Delivery,
    replies: &mut Consumer,
    user: &str,
    body: &str,
) -> Received {
    let message = result_for(user, body);
    eventually("a direct reply", PATIENCE, async || {
        worker
            .reply(asked.reply_to.as_ref().unwrap(), &message)
            .await;
        while let Ok(reply) = timeout(SILENCE, replies.next()).await {
            let reply = reply.unwrap().unwrap();
            if reply.data == body.as_bytes() {
                return Some(reply);
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_reply_reaches_the_waiting_client_even_after_a_deferral() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let mut expiry = worker.consume(Lane::Expiry);
    let orders = vhost.client("orders").await;
    let (delivery, mut replies) = ask(&orders, "orders", &mut requests).await;
    worker
        .defer(&delivery, Duration::from_millis(100))
        .await
        .unwrap();
    let deferred = next(&mut expiry).await;
    assert!(deferred.reply_to.is_some());
    assert_eq!(deferred.reply_to, delivery.reply_to);
    let reply = reply(&worker, &deferred, &mut replies, "orders", "issued").await;
    assert_eq!(
        reply.properties.correlation_id().as_ref().unwrap().as_str(),
        "c-1"
    );
    ack(delivery).await;
    ack(deferred).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_reply_address_hurts_its_forger_only() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let (orders, billing) = (vhost.client("orders").await, vhost.client("billing").await);
    let (real, mut replies) = ask(&orders, "orders", &mut requests).await;
    let forged = send(&billing, "billing", FORGED, &mut requests).await;
    assert_eq!(forged.reply_to, Some(ReplyTo(FORGED.to_owned())));

    for body in ["1", "2", "3"] {
        let message = result_for("billing", "issued");
        worker
            .reply(forged.reply_to.as_ref().unwrap(), &message)
            .await;
        // What was delivered before is still ours, and so is everything else.
        assert!(real.receipt.is_live() && forged.receipt.is_live());
        worker.publish(&message).await.unwrap();
        reply(&worker, &real, &mut replies, "orders", body).await;
    }
    ack(real).await;
    vhost
        .send("orders", Lane::Requests, Command::new("goes on"))
        .await;
    ack(next(&mut requests).await).await;

    // For a while the forger gets no direct replies at all: from when on it was told from one that
    // only took too long.
    let (honest, mut replies) = ask(&billing, "billing", &mut requests).await;
    let message = result_for("billing", "issued");
    let mut silences = 0;
    eventually(
        "no reply to the forger, three times on end",
        PATIENCE,
        async || {
            for address in [&forged.reply_to, &honest.reply_to] {
                worker.reply(address.as_ref().unwrap(), &message).await;
            }
            let silence = timeout(SILENCE, replies.next()).await;
            silences = if silence.is_err() { silences + 1 } else { 0 };
            (silences == 3).then_some(())
        },
    )
    .await;
    ack(forged).await;
    ack(honest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_reply_addresses_are_dropped() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let orders = vhost.client("orders").await;
    for address in [
        "keycard.expiry",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply",
        "",
    ] {
        let delivery = send(&orders, "orders", address, &mut requests).await;
        assert_eq!(delivery.reply_to, None, "{address}");
        ack(delivery).await;
    }
}
