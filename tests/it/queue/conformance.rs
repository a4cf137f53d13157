//! The suite. It knows the port and, for the services' side of it, [`Backend`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keycard::clock::monotonic_now;
use keycard::lease::Requester;
use keycard::queue::{DeadLetters, Delivery, Lane, Outgoing, Queue, Requesting, Sender};
use keycard::wire::BODY_BYTES_MAX;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::eventually;

/// Longest wait for what must happen.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How long something must not happen. Long enough for a broker that would do it.
pub const SILENCE: Duration = Duration::from_millis(700);

/// How far a delay may be off to the early side; to the late side a busy machine adds more.
const SLACK: Duration = Duration::from_millis(500);
const LATENESS_MAX: Duration = Duration::from_secs(15);

/// One adapter with an empty place of its own, seen from both sides.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Another worker of the same installation.
    async fn worker(&self) -> Box<dyn Queue>;

    /// Publishes a command as `service`.
    async fn send(&self, service: &str, lane: Lane, command: Command);

    /// The bodies of the results for `service` from now on.
    async fn results(&self, service: &str) -> mpsc::Receiver<Vec<u8>>;

    /// Breaks every worker's connections, as a crash or a network would.
    async fn break_connections(&self);

    /// A service's side of the queue, for one with [`Backend::send`]'s rights.
    async fn requesting(&self, service: &str) -> Box<dyn Requesting>;

    /// Body and reason of every dead letter so far.
    async fn dead_letters(&self) -> Vec<(Vec<u8>, String)>;

    /// The dead letters, as an operator handles them.
    async fn letters(&self) -> Box<dyn DeadLetters>;
}

/// What a service sends.
#[derive(Debug, Clone, Default)]
pub struct Command {
    pub body: Vec<u8>,
    pub correlation_id: Option<String>,
}

impl Command {
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            correlation_id: None,
        }
    }
}

/// The suite's tests for one adapter, given as an expression that makes a new [`Backend`].
macro_rules! conformance {
    ($backend:expr; $($test:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $crate::queue::conformance::$test(&$backend.await).await;
            }
        )*
    };
    ($backend:expr) => {
        $crate::queue::conformance::conformance!($backend;
            commands_arrive_with_their_sender_and_stay_away_once_acknowledged
            each_command_has_its_own_sender
            bodies_of_any_size_arrive_unchanged
            deferred_commands_come_back_as_they_were
            a_long_delay_is_kept_over_several_hops
            expiry_events_arrive_when_due
            what_a_crash_leaves_unacknowledged_is_delivered_again
            what_is_dropped_is_delivered_again
            workers_share_the_work
            what_waits_is_what_is_ready_and_nobody_has
            dead_letters_are_kept_with_their_reason
            dead_letters_can_be_listed_requeued_and_discarded
            results_reach_their_requester_and_nobody_else
            who_asks_gets_the_answer_to_that_and_to_nothing_else
            shutting_down_waits_for_what_is_handed_out_and_hands_back_the_rest
        );
    };
}
pub(crate) use conformance;

/// The next delivery.
pub async fn next(lane: &mut mpsc::Receiver<Delivery>) -> Delivery {
    timeout(DEADLINE, lane.recv())
        .await
        .expect("a delivery in time")
        .expect("a stream that goes on")
}

/// Nothing for a while.
pub async fn assert_silent<T: std::fmt::Debug>(lane: &mut mpsc::Receiver<T>) {
    if let Ok(Some(something)) = timeout(SILENCE, lane.recv()).await {
        panic!("{something:?}");
    }
}

pub async fn ack(delivery: Delivery) {
    assert!(delivery.receipt.is_live());
    assert!(delivery.receipt.ack().await, "the broker takes it");
}

pub fn requester(name: &str) -> Requester {
    Requester::new(name).unwrap()
}

pub fn result_for(name: &str, body: &str) -> Outgoing {
    Outgoing {
        to: requester(name),
        id: "0190a5d0-0000-7000-8000-000000000000".to_owned(),
        kind: "keycard.credential.issued.v1",
        body: body.into(),
        correlation_id: Some("c-1".to_owned()),
    }
}

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
        assert_on_time(begun.elapsed(), delay);
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
    assert_on_time(begun.elapsed(), delay);
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
        assert_on_time(begun.elapsed(), delay);
        assert_eq!(delivery.lane, Lane::Expiry);
        assert_eq!(delivery.sender, Sender::Keycard);
        assert_eq!(delivery.body, b"{\"due\":1}");
        assert_eq!(delivery.deferrals, 0);
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
    assert!(!first.receipt.is_live());
    assert!(!first.receipt.ack().await, "it is somebody else's now");
    ack(second).await;
    // The worker publishes as before.
    worker.publish(&result_for("orders", "1")).await.unwrap();
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
    let mut lanes = workers
        .each_ref()
        .map(|worker| worker.consume(Lane::Requests));
    // Both hold one unacknowledged: both are at work.
    let mut seen = BTreeSet::new();
    let mut counts = [0, 0];
    for number in 0..40_u8 {
        backend
            .send("orders", Lane::Requests, Command::new([number]))
            .await;
    }
    let [first, second] = &mut lanes;
    while seen.len() < 40 {
        let (worker, delivery) = timeout(DEADLINE, async {
            tokio::select! {
                // Cancel-safe: both take a delivery only when they return it.
                delivery = first.recv() => (0, delivery.unwrap()),
                delivery = second.recv() => (1, delivery.unwrap()),
            }
        })
        .await
        .unwrap();
        counts[worker] += 1;
        assert!(seen.insert(delivery.body[0]), "delivered twice");
        ack(delivery).await;
    }
    for lane in &mut lanes {
        assert_silent(lane).await;
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

pub async fn what_waits_is_what_is_ready_and_nobody_has(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let waiting = async |lane: Lane, expected: u64| {
        eventually(&format!("{expected} wait in {lane:?}"), 30, async || {
            (worker.waiting(lane).await.unwrap() == expected).then_some(())
        })
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
    eventually("one is counted", 30, async || {
        (worker.dead_letters().await.unwrap() == 1).then_some(())
    })
    .await;
    assert_silent(&mut leases).await;
    assert_silent(&mut expiry).await;
}

pub async fn results_reach_their_requester_and_nobody_else(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut orders = backend.results("orders").await;
    let mut orders_eu = backend.results("orders.eu").await;
    worker
        .publish(&result_for("orders.eu", "eu"))
        .await
        .unwrap();
    worker.publish(&result_for("orders", "all")).await.unwrap();
    let received = timeout(DEADLINE, orders.recv()).await.unwrap();
    assert_eq!(received.unwrap(), b"all");
    let received = timeout(DEADLINE, orders_eu.recv()).await.unwrap();
    assert_eq!(received.unwrap(), b"eu");
    assert_silent(&mut orders).await;
    assert_silent(&mut orders_eu).await;
}

pub async fn who_asks_gets_the_answer_to_that_and_to_nothing_else(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut requests = worker.consume(Lane::Requests);
    let (first, second) = (
        backend.requesting("orders").await,
        backend.requesting("orders").await,
    );
    let answering = async {
        // In the other order than they came.
        let deliveries = [next(&mut requests).await, next(&mut requests).await];
        for delivery in deliveries.into_iter().rev() {
            let mut answer = result_for("orders", std::str::from_utf8(&delivery.body).unwrap());
            answer.correlation_id.clone_from(&delivery.correlation_id);
            worker.publish(&answer).await.unwrap();
            if let Some(address) = &delivery.reply_to {
                worker.reply(address, &answer).await;
            }
            ack(delivery).await;
        }
    };
    let asking = async {
        tokio::join!(
            first.ask(Lane::Requests, b"1"),
            second.ask(Lane::Requests, b"2"),
            answering
        )
    };
    let (first, second, ()) = timeout(DEADLINE, asking).await.unwrap();
    assert_eq!(
        (first.unwrap(), second.unwrap()),
        (b"1".to_vec(), b"2".to_vec())
    );
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

fn assert_on_time(took: Duration, delay: Duration) {
    assert!(
        took + SLACK >= delay && took <= delay + LATENESS_MAX,
        "{took:?} instead of {delay:?}"
    );
}
