//! The three lanes: taking deliveries, keeping them apart, and settling them.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::Worker;
use crate::fault::Disposition;
use crate::lease::DenialCode;
use crate::queue::{Delivery, Lane, QueueError, Sender};
use crate::{injection, metrics};

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is done.
    Ack,
    /// It comes back after this time.
    Defer(Duration),
    /// It cannot be processed, for this reason.
    DeadLetter(String),
}

/// A delivery that was handed out this often without an acknowledgement may be what ended a worker.
const SUSPECT_DELIVERY_COUNT: u32 = 2;

/// Deferrals grow over these, in seconds, and stay at the last.
const PAUSES: [u64; 5] = [1, 2, 5, 15, 30];

/// What one lane has come to.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// One token for each delivery in hand.
    in_hand: TaskTracker,
    settled: AtomicU64,
}

impl Progress {
    /// Deliveries that are being worked on.
    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    /// Deliveries that were done with for good.
    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }
}

impl Worker {
    /// Serves one lane until its deliveries end.
    pub(super) async fn serve(self: Arc<Self>, lane: Lane, progress: Arc<Progress>) {
        let mut deliveries = self.queue.consume(lane);
        while let Some(delivery) = deliveries.recv().await {
            let (worker, counted) = (Arc::clone(&self), Arc::clone(&progress));
            progress.in_hand.spawn(async move {
                if worker.take(delivery).await {
                    counted.settled.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        progress.in_hand.close();
        progress.in_hand.wait().await;
    }

    /// Whether it is done with, and does not come again as it is.
    async fn take(&self, delivery: Delivery) -> bool {
        let settled = if delivery.delivery_count >= SUSPECT_DELIVERY_COUNT {
            let _alone = self.company.write().await;
            self.process_caught(&delivery).await
        } else {
            let _together = self.company.read().await;
            self.process_caught(&delivery).await
        };
        if let Some(settled) = settled {
            self.settle(delivery, settled).await
        } else {
            // Goes back to the broker, which counts: at its delivery limit it is a dead letter.
            drop(delivery);
            false
        }
    }

    /// A panic concerns one message.
    async fn process_caught(&self, delivery: &Delivery) -> Option<Settled> {
        AssertUnwindSafe(Box::pin(self.process(delivery)))
            .catch_unwind()
            .await
            .inspect_err(|_| {
                tracing::error!(
                    lane = ?delivery.lane,
                    request.id = id_of(delivery),
                    request.by = sender_of(delivery),
                    "a delivery made the worker panic"
                );
            })
            .ok()
    }

    /// Settles a delivery, however long the broker is away; when it is stale, another worker has it.
    /// Whether it is settled.
    async fn settle(&self, delivery: Delivery, settled: Settled) -> bool {
        let mut tries = 0;
        while let Err(error) = self.hand_on(&delivery, &settled).await {
            if !delivery.receipt.is_live() {
                return false;
            }
            self.outages.failed("the queue", &error.to_string());
            tokio::select! {
                // Cancel-safe: a sleep holds nothing.
                () = tokio::time::sleep(pause(tries)) => {}
                // Cancel-safe: a cancellation is not consumed. The broker hands the delivery back.
                () = self.stop.cancelled() => return false,
            }
            tries += 1;
        }
        let acknowledged = delivery.receipt.ack().await;
        if !acknowledged {
            tracing::info!(
                lane = ?delivery.lane,
                "a delivery was no longer ours to acknowledge; it will come again"
            );
        }
        acknowledged
    }

    async fn hand_on(&self, delivery: &Delivery, settled: &Settled) -> Result<(), QueueError> {
        match settled {
            Settled::Ack => Ok(()),
            Settled::Defer(delay) => {
                let delay = (*delay).max(pause(delivery.deferrals));
                let fault = injection::at(None, || id_of(delivery), || "defer".to_owned());
                let failed = || QueueError {
                    operation: "defer a message",
                    problem: "ordered to fail".to_owned(),
                    disposition: Disposition::Retry,
                };
                injection::around(fault, failed, || self.queue.defer(delivery, delay)).await
            }
            Settled::DeadLetter(reason) => {
                tracing::warn!(
                    lane = ?delivery.lane,
                    request.id = id_of(delivery),
                    request.by = sender_of(delivery),
                    reason,
                    "a message became a dead letter"
                );
                self.queue.dead_letter(delivery, reason).await?;
                metrics::parked(code_of(reason));
                Ok(())
            }
        }
    }
}

/// The id of the event in a delivery, which names it in the log and to the crash matrix, as far as
/// ids may be long.
fn id_of(delivery: &Delivery) -> String {
    const CHARS_MAX: usize = 256;
    let event: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap_or_default();
    let id = event["id"].as_str().unwrap_or("unreadable");
    id.chars().take(CHARS_MAX).collect()
}

/// Who sent a delivery, if the broker knows.
fn sender_of(delivery: &Delivery) -> Option<&str> {
    match &delivery.sender {
        Sender::Requester(by) => Some(by.as_str()),
        Sender::Keycard => Some("keycard"),
        Sender::Nobody(_) => None,
    }
}

/// The code that a dead letter's reason begins with.
fn code_of(reason: &str) -> &'static str {
    DenialCode::ALL
        .into_iter()
        .map(DenialCode::as_str)
        .find(|code| reason.split(':').next() == Some(code))
        .unwrap_or("other")
}

/// How long something that failed `tries` times waits, so that nothing spins.
#[must_use]
pub fn pause(tries: u32) -> Duration {
    let step = usize::try_from(tries).unwrap_or(usize::MAX);
    Duration::from_secs(PAUSES[step.min(PAUSES.len() - 1)])
}

/// Keeps one stalled database from taking every place of a lane.
pub(super) struct Bulkheads(BTreeMap<(Lane, String), Arc<Semaphore>>);

impl Bulkheads {
    /// Half the prefetch for each database; with one database there is nobody to protect.
    pub(super) fn new(databases: &[&str], prefetch: u16) -> Self {
        if databases.len() < 2 {
            return Self(BTreeMap::new());
        }
        let places = usize::from(prefetch / 2).max(1);
        Self(
            Lane::ALL
                .into_iter()
                .flat_map(|lane| databases.iter().map(move |name| (lane, (*name).to_owned())))
                .map(|key| (key, Arc::new(Semaphore::new(places))))
                .collect(),
        )
    }

    /// A place for one delivery, or `None` when the database has its share and gives none back
    /// within a second: then it is stalled, or busy enough.
    pub(super) async fn enter(&self, lane: Lane, database: &str) -> Option<Place> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let Some(places) = self.0.get(&(lane, database.to_owned())) else {
            return Some(Place(None));
        };
        timeout(PATIENCE, Arc::clone(places).acquire_owned())
            .await
            .ok()?
            .ok()
            .map(|permit| Place(Some(permit)))
    }
}

/// A place within a bulkhead, given back when dropped.
pub(super) struct Place(
    #[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>,
);
