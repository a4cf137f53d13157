//! The suite. It knows the port and, for the services' side of it, [`Backend`].

pub mod commands;
pub mod delays;
pub mod letters;
pub mod results;

use std::time::Duration;

use async_trait::async_trait;
use keycard::lease::Requester;
use keycard::queue::{DeadLetters, Delivery, Lane, Outgoing, Queue, Requesting};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longest wait for what must happen, in seconds: who has waited for a broker for long tries again
/// after half a minute.
pub const PATIENCE: u64 = 90;
pub const DEADLINE: Duration = Duration::from_secs(PATIENCE);

/// How long something must not happen. Long enough for a broker that would do it.
pub const SILENCE: Duration = Duration::from_millis(700);

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
    ($backend:expr; $($subject:ident { $($test:ident)* })*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $crate::queue::conformance::$subject::$test(&$backend.await).await;
            }
        )*)*
    };
    ($backend:expr) => {
        $crate::queue::conformance::conformance!($backend;
            commands {
                commands_arrive_with_their_sender_and_stay_away_once_acknowledged
                each_command_has_its_own_sender
                bodies_of_any_size_arrive_unchanged
                what_a_crash_leaves_unacknowledged_is_delivered_again
                what_is_dropped_is_delivered_again
                workers_share_the_work
                what_waits_is_what_is_ready_and_nobody_has
                shutting_down_waits_for_what_is_handed_out_and_hands_back_the_rest
            }
            delays {
                deferred_commands_come_back_as_they_were
                a_long_delay_is_kept_over_several_hops
                expiry_events_arrive_when_due
            }
            letters {
                dead_letters_are_kept_with_their_reason
                dead_letters_can_be_listed_requeued_and_discarded
            }
            results {
                results_reach_their_requester_and_nobody_else
                who_asks_gets_the_answer_to_that_and_to_nothing_else
            }
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
