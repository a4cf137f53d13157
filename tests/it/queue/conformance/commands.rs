//! What becomes of commands and other deliveries between workers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keycard::queue::{Lane, Queue, Sender};
use keycard::wire::BODY_BYTES_MAX;
use tokio::time::timeout;

use super::{
    Backend, Command, DEADLINE, PATIENCE, SILENCE, ack, assert_silent, next, requester, result_for,
};
use crate::support::eventually;

pub async fn commands_arrive_with_their_sender_and_stay_away_once_acknowledged(
    backend: &dyn Backend,
) {
    let worker = backend.worker().await;
    let mut lanes = Lane::ALL.map(|lane| (lane, worker.consume(lane)));
    for (lane, stream) in &mut lanes {
        if *lane == Lane::Expiry {
            continue;
        }
        let command = Command {
            body: b"{}".to_vec(),
            correlation_id: Some("what they like, äöü".to_owned()),
        };
        backend.send("orders", *lane, command.clone()).await;
        let delivery = next(stream).await;
        assert_eq!(delivery.lane, *lane);
        assert_eq!(delivery.body, command.body);
        assert_eq!(delivery.sender, Sender::Requester(requester("orders")));
        assert_eq!(delivery.correlation_id, command.correlation_id);
        assert_eq!((delivery.delivery_count, delivery.deferrals), (0, 0));
        assert_eq!(delivery.reply_to, None);
        ack(delivery).await;
    }
    backend.break_connections().await;
    for (_, stream) in &mut lanes {
        assert_silent(stream).await;
    }
}

pub async fn each_command_has_its_own_sender(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut requests = worker.consume(Lane::Requests);
    for service in ["orders", "billing", "orders.eu", "orders"] {
        backend
            .send(
                service,
                Lane::Requests,
                Command::new("{\"sender\":\"root\"}"),
            )
            .await;
        let delivery = next(&mut requests).await;
        assert_eq!(delivery.sender, Sender::Requester(requester(service)));
        ack(delivery).await;
    }
}

pub async fn bodies_of_any_size_arrive_unchanged(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut requests = worker.consume(Lane::Requests);
    for bytes in [0, 1, 8 << 10, BODY_BYTES_MAX] {
        let body: Vec<u8> = (0..=255).cycle().take(bytes).collect();
        backend
            .send("orders", Lane::Requests, Command::new(body.clone()))
            .await;
        let delivery = next(&mut requests).await;
        assert!(delivery.body == body, "{bytes} bytes");
        ack(delivery).await;
    }
}

pub async fn what_a_crash_leaves_unacknowledged_is_delivered_again(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut requests = worker.consume(Lane::Requests);
    backend
        .send("orders", Lane::Requests, Command::new("again"))
        .await;
    let first = next(&mut requests).await;
    backend.break_connections().await;
    let second = next(&mut requests).await;
    assert_eq!(second.body, b"again");
    assert_eq!(second.sender, Sender::Requester(requester("orders")));
    assert!(second.delivery_count >= 1);
    eventually("the first is stale", PATIENCE, async || {
        (!first.receipt.is_live()).then_some(())
    })
    .await;
    assert!(!first.receipt.ack().await, "it is somebody else's now");
    ack(second).await;
    // The worker publishes as before, as soon as it knows that this connection was broken, too.
    eventually("publishing", PATIENCE, async || {
        worker.publish(&result_for("orders", "1")).await.ok()
    })
    .await;
}

pub async fn what_is_dropped_is_delivered_again(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut requests = worker.consume(Lane::Requests);
    backend
        .send("orders", Lane::Requests, Command::new("panic"))
        .await;
    drop(next(&mut requests).await);
    let again = next(&mut requests).await;
    assert_eq!(
        (again.body.as_slice(), again.delivery_count),
        (&b"panic"[..], 1)
    );
    ack(again).await;
}

pub async fn workers_share_the_work(backend: &dyn Backend) {
    let workers = [backend.worker().await, backend.worker().await];
    let [mut first, mut second] = workers
        .each_ref()
        .map(|worker| worker.consume(Lane::Requests));
    for worker in &workers {
        let _others = [Lane::Leases, Lane::Expiry].map(|lane| worker.consume(lane));
        timeout(DEADLINE, worker.consumed()).await.unwrap();
    }
    // More than one of them may hold: both have some, however late one is.
    for number in 0..100_u8 {
        backend
            .send("orders", Lane::Requests, Command::new([number]))
            .await;
    }
    // Both hold one unacknowledged: both are at work.
    let held = [next(&mut first).await, next(&mut second).await];
    let mut seen: BTreeSet<u8> = held.iter().map(|delivery| delivery.body[0]).collect();
    assert_eq!(seen.len(), 2, "delivered twice");
    while seen.len() < 100 {
        let delivery = timeout(DEADLINE, async {
            tokio::select! {
                // Cancel-safe: both take a delivery only when they return it.
                delivery = first.recv() => delivery.unwrap(),
                delivery = second.recv() => delivery.unwrap(),
            }
        })
        .await
        .unwrap();
        assert!(seen.insert(delivery.body[0]), "delivered twice");
        ack(delivery).await;
    }
    for delivery in held {
        ack(delivery).await;
    }
    for lane in [&mut first, &mut second] {
        assert_silent(lane).await;
    }
}

pub async fn what_waits_is_what_is_ready_and_nobody_has(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let waiting = async |lane: Lane, expected: u64| {
        eventually(
            &format!("{expected} wait in {lane:?}"),
            PATIENCE,
            async || (worker.waiting(lane).await.unwrap() == expected).then_some(()),
        )
        .await;
    };
    let an_hour = Duration::from_hours(1);
    worker.arm(b"for its time", an_hour).await.unwrap();
    worker.arm(b"due", Duration::ZERO).await.unwrap();
    for body in ["1", "2"] {
        backend
            .send("orders", Lane::Requests, Command::new(body))
            .await;
    }
    waiting(Lane::Requests, 2).await;
    waiting(Lane::Leases, 0).await;
    waiting(Lane::Expiry, 1).await;
    let mut requests = worker.consume(Lane::Requests);
    let in_hand = [next(&mut requests).await, next(&mut requests).await];
    waiting(Lane::Requests, 0).await;
    for delivery in in_hand {
        ack(delivery).await;
    }
    waiting(Lane::Requests, 0).await;
    waiting(Lane::Expiry, 1).await;
}

pub async fn shutting_down_waits_for_what_is_handed_out_and_hands_back_the_rest(
    backend: &dyn Backend,
) {
    let worker: Arc<dyn Queue> = backend.worker().await.into();
    let mut requests = worker.consume(Lane::Requests);
    for body in ["1", "2", "3"] {
        backend
            .send("orders", Lane::Requests, Command::new(body))
            .await;
    }
    let (first, second) = (next(&mut requests).await, next(&mut requests).await);
    let closing = Arc::clone(&worker);
    let mut closing = tokio::spawn(async move { closing.shut_down().await });
    assert!(timeout(SILENCE, &mut closing).await.is_err(), "two are out");

    // What is under way can still be finished.
    worker.publish(&result_for("orders", "1")).await.unwrap();
    assert_eq!(first.body, b"1");
    ack(first).await;
    // The stream ends after what is buffered, which is not taken up any more.
    while let Some(buffered) = timeout(DEADLINE, requests.recv()).await.unwrap() {
        drop(buffered);
    }
    drop(second);
    timeout(DEADLINE, closing).await.unwrap().unwrap();
    assert!(worker.publish(&result_for("orders", "2")).await.is_err());

    let other = backend.worker().await;
    let mut requests = other.consume(Lane::Requests);
    let mut handed_back = BTreeSet::new();
    for _ in 0..2 {
        let delivery = next(&mut requests).await;
        handed_back.insert(delivery.body.clone());
        ack(delivery).await;
    }
    assert_eq!(handed_back, BTreeSet::from([b"2".to_vec(), b"3".to_vec()]));
}
