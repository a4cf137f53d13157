//! What brokers, networks, operators and clients do to a queue. It goes on by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keycard::fault::Disposition;
use keycard::queue::{Lane, Queue, Sender};
use lapin::options::QueueDeleteOptions;
use secrecy::SecretString;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::block_in_place;
use tokio::time::timeout;

use super::{OWN_USER, PASSWORD, Vhost};
use crate::queue::conformance::{
    Backend, Command, DEADLINE, PATIENCE, SILENCE, ack, assert_silent, next, requester, result_for,
};
use crate::support::gate::Gate;
use crate::support::servers::harmed_rabbitmq;
use crate::support::{eventually, raw};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_broker_loses_nothing() {
    let (broker, _turn) = harmed_rabbitmq().await;
    let vhost = Vhost::of(broker);
    let server = &broker.server;
    // Nor does it matter who is there first.
    let mut gate = Gate::closed(&broker.host, broker.port);
    let mut settings = vhost.settings();
    settings.uri.authority.port = gate.port;
    let mut connecting = tokio::spawn(keycard::queue::amqp::AmqpQueue::connect(settings));
    assert!(timeout(SILENCE, &mut connecting).await.is_err());
    gate.open();
    let worker = timeout(DEADLINE, connecting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let mut requests = worker.consume(Lane::Requests);
    let mut expiry = worker.consume(Lane::Expiry);
    vhost
        .send("orders", Lane::Requests, Command::new("1"))
        .await;
    let in_hand = next(&mut requests).await;
    worker.arm(b"due", Duration::from_secs(2)).await.unwrap();
    worker
        .publish(&result_for("orders", "before"))
        .await
        .unwrap();

    block_in_place(|| server.kill());
    // What needs the broker meanwhile fails, and says that it may pass.
    let error = worker
        .publish(&result_for("orders", "x"))
        .await
        .unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    eventually("the delivery in hand is stale", PATIENCE, async || {
        (!in_hand.receipt.is_live()).then_some(())
    })
    .await;
    block_in_place(|| server.start_again());

    drop(in_hand);
    let again = next(&mut requests).await;
    assert_eq!(again.body, b"1");
    ack(again).await;
    let due = next(&mut expiry).await;
    assert_eq!(
        (due.body.as_slice(), &due.sender),
        (&b"due"[..], &Sender::Keycard)
    );
    ack(due).await;
    eventually("publishing", PATIENCE, async || {
        worker.publish(&result_for("orders", "after")).await.ok()
    })
    .await;
    let admin = vhost.admin().await;
    let first = admin.get("keycard.unrouted").await.unwrap();
    assert_eq!(first.data, b"before");
    timeout(DEADLINE, worker.shut_down()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_blocks_publishing_only_and_only_while_it_lasts() {
    let (broker, _turn) = harmed_rabbitmq().await;
    let vhost = Vhost::of(broker);
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    for body in ["1", "2"] {
        vhost
            .send("orders", Lane::Requests, Command::new(body))
            .await;
    }
    let (first, second) = (next(&mut requests).await, next(&mut requests).await);
    worker.publish(&result_for("orders", "0")).await.unwrap();
    block_in_place(|| vhost.broker.memory_alarm(true));
    for _ in 0..2 {
        let message = result_for("orders", "1");
        let publishing = worker.publish(&message);
        let error = timeout(DEADLINE, publishing).await.unwrap().unwrap_err();
        assert_eq!(error.disposition, Disposition::Retry, "{error}");
    }
    ack(first).await;
    block_in_place(|| vhost.broker.memory_alarm(false));
    eventually("publishing", PATIENCE, async || {
        worker.publish(&result_for("orders", "2")).await.ok()
    })
    .await;
    ack(second).await;
    vhost.break_connections().await;
    assert_silent(&mut requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_declared_and_consumed_again() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    vhost
        .send("orders", Lane::Requests, Command::new("before"))
        .await;
    ack(next(&mut requests).await).await;
    let admin = vhost.admin().await.channel();
    admin
        .queue_delete("keycard.requests".into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    let orders = vhost.client("orders").await;
    eventually("routed", PATIENCE, async || {
        let properties = lapin::BasicProperties::default().with_user_id("orders".into());
        let published = orders.publish("keycard.requests", "", b"after", properties);
        published.await.ok()
    })
    .await;
    let delivery = next(&mut requests).await;
    assert_eq!(delivery.body, b"after");
    ack(delivery).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_into_nothing_is_an_error_and_mends_it() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let admin = vhost.admin().await.channel();
    let delay = Duration::from_secs(1);
    // Enough at once to show an attribution to the wrong one.
    for _ in 0..5 {
        admin
            .queue_delete("keycard.delay.1s".into(), QueueDeleteOptions::default())
            .await
            .unwrap();
        let (missing, there) = tokio::join!(
            worker.arm(b"lost", delay),
            worker.arm(b"kept", Duration::from_mins(10)),
        );
        let error = missing.unwrap_err();
        assert_eq!(error.disposition, Disposition::Retry);
        assert!(error.problem.contains("keycard.delay.1s"), "{error}");
        there.unwrap();
        worker.arm(b"kept", delay).await.unwrap();
    }
    admin
        .exchange_delete(
            "keycard.events".into(),
            lapin::options::ExchangeDeleteOptions::default(),
        )
        .await
        .unwrap();
    let error = worker
        .publish(&result_for("orders", "1"))
        .await
        .unwrap_err();
    assert!(error.problem.contains("keycard.events"), "{error}");
    worker.publish(&result_for("orders", "1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_message_ends_among_the_dead_letters_and_takes_nobody_along() {
    const NEIGHBOURS: u8 = 30;
    let vhost = Vhost::new().await;
    for number in 0..NEIGHBOURS / 2 {
        vhost.queue().await; // declares
        vhost
            .send("orders", Lane::Requests, Command::new([number]))
            .await;
    }
    block_in_place(|| raw::publish_unreadable(vhost.broker, &vhost.name, "orders", PASSWORD));
    for number in NEIGHBOURS / 2..NEIGHBOURS {
        vhost
            .send("orders", Lane::Requests, Command::new([number]))
            .await;
    }
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let mut leases = worker.consume(Lane::Leases);
    vhost.send("orders", Lane::Leases, Command::new("x")).await;
    let held = next(&mut leases).await;
    let mut seen = BTreeSet::new();
    while seen.len() < usize::from(NEIGHBOURS) {
        let delivery = next(&mut requests).await;
        assert_eq!(delivery.sender, Sender::Requester(requester("orders")));
        assert!(delivery.delivery_count <= 3, "{}", delivery.delivery_count);
        seen.insert(delivery.body[0]);
        // Those of a broken connection come once more.
        delivery.receipt.ack().await;
    }
    // It takes 21 deliveries.
    eventually("dead-lettered", PATIENCE, async || {
        let depth = block_in_place(|| {
            vhost
                .broker
                .queue_messages(&vhost.name, "keycard.dead-letters")
        });
        (depth.ready == 1).then_some(())
    })
    .await;
    // The lane is well again, and the others never noticed.
    vhost
        .send("orders", Lane::Requests, Command::new([200]))
        .await;
    loop {
        let delivery = next(&mut requests).await;
        let is_last = delivery.body == [200];
        delivery.receipt.ack().await;
        if is_last {
            break;
        }
    }
    ack(held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_is_waited_for() {
    let vhost = Vhost::new().await;
    let is_known = Arc::new(AtomicBool::new(false));
    let mut settings = vhost.settings();
    let known = Arc::clone(&is_known);
    settings.password = Arc::new(move || {
        let password = if known.load(Ordering::SeqCst) {
            PASSWORD
        } else {
            "the old one"
        };
        Box::pin(async move { Ok(SecretString::from(password)) })
    });
    let connecting = tokio::spawn(keycard::queue::amqp::AmqpQueue::connect(settings));
    let refusal = format!("user '{OWN_USER}' - invalid credentials");
    eventually("refused", PATIENCE, async || {
        vhost.broker.server.log().contains(&refusal).then_some(())
    })
    .await;
    assert!(!connecting.is_finished());
    is_known.store(true, Ordering::SeqCst);
    timeout(DEADLINE, connecting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_costs_no_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let vhost = Vhost::new().await;
    let mut settings = vhost.settings();
    settings.uri.authority.port = listener.local_addr().unwrap().port();
    let connecting = tokio::spawn(keycard::queue::amqp::AmqpQueue::connect(settings));
    let (mut first, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    let mut received = Vec::new();
    let given_up = first.read_to_end(&mut received);
    timeout(DEADLINE, given_up).await.unwrap().unwrap();
    assert_eq!(received, b"AMQP\0\0\x09\x01");
    let (mut second, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    connecting.abort();
    // Giving up the whole does the same.
    timeout(DEADLINE, second.read_to_end(&mut received))
        .await
        .unwrap()
        .unwrap();
}
