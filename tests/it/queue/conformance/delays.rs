//! Delays: what is deferred or armed comes when it is due.

use std::time::Duration;

use keycard::clock::monotonic_now;
use keycard::queue::{Lane, Sender};

use super::{Backend, Command, ack, assert_silent, next, requester};

/// How far a delay may be off to the early side; to the late side a busy machine adds what it likes.
const SLACK: Duration = Duration::from_millis(500);

pub async fn deferred_commands_come_back_as_they_were(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut leases = worker.consume(Lane::Leases);
    let mut expiry = worker.consume(Lane::Expiry);
    let command = Command {
        body: b"later".to_vec(),
        correlation_id: Some("c-1".to_owned()),
    };
    backend
        .send("orders.eu", Lane::Leases, command.clone())
        .await;
    let mut delivery = next(&mut leases).await;
    // Less than the shortest rung, and one rung.
    for (deferrals, delay) in [(1, 200), (2, 1_000)] {
        let delay = Duration::from_millis(delay);
        let begun = monotonic_now();
        worker.defer(&delivery, delay).await.unwrap();
        ack(delivery).await;
        delivery = next(&mut expiry).await;
        assert_not_early(begun.elapsed(), delay);
        assert_eq!(delivery.lane, Lane::Leases);
        assert_eq!(delivery.body, command.body);
        assert_eq!(delivery.sender, Sender::Requester(requester("orders.eu")));
        assert_eq!(delivery.correlation_id, command.correlation_id);
        assert_eq!(delivery.deferrals, deferrals);
        assert_eq!(delivery.delivery_count, 0);
    }
    ack(delivery).await;
    assert_silent(&mut leases).await;
}

pub async fn a_long_delay_is_kept_over_several_hops(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut requests = worker.consume(Lane::Requests);
    let mut expiry = worker.consume(Lane::Expiry);
    backend
        .send("orders", Lane::Requests, Command::new("far"))
        .await;
    let delivery = next(&mut requests).await;
    // 5 s, 2 s and 1 s.
    let delay = Duration::from_millis(8_300);
    let begun = monotonic_now();
    worker.defer(&delivery, delay).await.unwrap();
    ack(delivery).await;
    let delivery = next(&mut expiry).await;
    assert_not_early(begun.elapsed(), delay);
    assert_eq!((delivery.lane, delivery.deferrals), (Lane::Requests, 1));
    assert_eq!(delivery.sender, Sender::Requester(requester("orders")));
    ack(delivery).await;
}

pub async fn expiry_events_arrive_when_due(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut expiry = worker.consume(Lane::Expiry);
    for delay in [0, 300, 1_000, 2_000] {
        let delay = Duration::from_millis(delay);
        let begun = monotonic_now();
        worker.arm(b"{\"due\":1}", delay).await.unwrap();
        let delivery = next(&mut expiry).await;
        assert_not_early(begun.elapsed(), delay);
        assert_eq!(delivery.lane, Lane::Expiry);
        assert_eq!(delivery.sender, Sender::Keycard);
        assert_eq!(delivery.body, b"{\"due\":1}");
        assert_eq!(delivery.deferrals, 0);
        ack(delivery).await;
    }
}

fn assert_not_early(took: Duration, delay: Duration) {
    assert!(took + SLACK >= delay, "{took:?} instead of {delay:?}");
}
