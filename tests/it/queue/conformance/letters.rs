//! Dead letters.

use std::collections::BTreeSet;

use keycard::queue::{Lane, Sender};
use keycard::wire::BODY_BYTES_MAX;
use tokio::time::timeout;

use super::{Backend, Command, DEADLINE, PATIENCE, ack, assert_silent, next, requester};
use crate::support::eventually;

pub async fn dead_letters_are_kept_with_their_reason(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut requests = worker.consume(Lane::Requests);
    backend
        .send("orders", Lane::Requests, Command::new("not JSON"))
        .await;
    let delivery = next(&mut requests).await;
    let reason = "ä".repeat(1_000);
    worker.dead_letter(&delivery, &reason).await.unwrap();
    ack(delivery).await;
    let letters = backend.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].0, b"not JSON");
    assert_eq!(letters[0].1, "ä".repeat(256));
    assert_silent(&mut requests).await;
}

pub async fn dead_letters_can_be_listed_requeued_and_discarded(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut leases = worker.consume(Lane::Leases);
    let mut expiry = worker.consume(Lane::Expiry);
    let letters = backend.letters().await;
    assert_eq!(letters.list(10).await.unwrap(), []);
    assert_eq!(worker.dead_letters().await.unwrap(), 0);
    let sent: [(&str, Vec<u8>); 3] = [
        ("orders", b"\xff\x00".to_vec()),
        ("orders.eu", vec![b'x'; BODY_BYTES_MAX]),
        ("billing", vec![]),
    ];
    for (service, body) in &sent {
        let command = Command {
            body: body.clone(),
            correlation_id: Some(format!("of {service}")),
        };
        backend.send(service, Lane::Leases, command).await;
        let delivery = next(&mut leases).await;
        worker.dead_letter(&delivery, "not JSON").await.unwrap();
        ack(delivery).await;
    }

    let listed = letters.list(10).await.unwrap();
    assert_eq!(listed.len(), 3);
    for (letter, (service, body)) in listed.iter().zip(&sent) {
        assert!(letter.body == *body, "{service}: oldest first");
        assert_eq!(letter.sender, Sender::Requester(requester(service)));
        assert_eq!(letter.lane, Some(Lane::Leases));
        assert_eq!(letter.reason, "not JSON");
        assert!(letter.at.is_some());
    }
    let ids: BTreeSet<&str> = listed.iter().map(|letter| letter.id.as_str()).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    // They stay, and stay the same, however often somebody looks.
    for _ in 0..30 {
        assert_eq!(letters.list(2).await.unwrap().len(), 2);
        assert!(letters.list(10).await.unwrap() == listed);
    }

    // Again, and again after it has failed again: as its sender's own each time.
    let mut id = listed[1].id.clone();
    for reason in ["failed again", "and again"] {
        assert!(letters.requeue(&id).await.unwrap());
        let again = timeout(DEADLINE, async {
            tokio::select! {
                // Cancel-safe: both take a delivery only when they return it.
                delivery = leases.recv() => delivery.unwrap(),
                delivery = expiry.recv() => delivery.unwrap(),
            }
        });
        let again = again.await.unwrap();
        assert!(again.body == sent[1].1);
        assert_eq!(again.lane, Lane::Leases);
        assert_eq!(again.sender, Sender::Requester(requester("orders.eu")));
        assert_eq!(again.correlation_id.as_deref(), Some("of orders.eu"));
        assert_eq!((again.delivery_count, again.deferrals), (0, 0));
        assert!(!letters.requeue(&id).await.unwrap(), "it is there no more");
        worker.dead_letter(&again, reason).await.unwrap();
        ack(again).await;
        let newest = letters.list(10).await.unwrap().pop().unwrap();
        assert_eq!(newest.reason, reason);
        assert_eq!(newest.sender, Sender::Requester(requester("orders.eu")));
        assert_ne!(newest.id, id);
        id = newest.id;
    }

    for id in [&listed[0].id, &id] {
        assert!(letters.discard(id).await.unwrap());
        assert!(!letters.discard(id).await.unwrap());
        assert!(!letters.requeue(id).await.unwrap());
    }
    assert!(!letters.discard("somebody's guess").await.unwrap());
    assert!(letters.list(10).await.unwrap() == listed[2..]);
    eventually("one is counted", PATIENCE, async || {
        (worker.dead_letters().await.unwrap() == 1).then_some(())
    })
    .await;
    assert_silent(&mut leases).await;
    assert_silent(&mut expiry).await;
}
