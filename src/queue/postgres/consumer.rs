//! One lane's deliveries.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::session::{Claimed, PostgresReceipt, Session};
use super::{OPERATION_TIMEOUT, POLL, later, outage};
use crate::clock;
use crate::ledger::Ledger;
use crate::queue::consumed::Consumed;
use crate::queue::outage::pauses;
use crate::queue::{Delivery, Lane, QueueError};

/// One lane's consumer.
pub(super) struct LaneConsumer {
    pub(super) ledger: Arc<Ledger>,
    pub(super) lane: Lane,
    pub(super) prefetch: u16,
    pub(super) deliveries: mpsc::Sender<Delivery>,
    /// Cancelled to end the stream.
    pub(super) stopping: CancellationToken,
    /// Cancelled when nothing is waited for any more.
    pub(super) closing: CancellationToken,
    /// Empty when nobody holds a delivery.
    pub(super) handed_out: TaskTracker,
    /// Told while this lane is consumed.
    pub(super) consumed: Consumed,
}

impl LaneConsumer {
    /// Hands out deliveries until told to stop, through any number of sessions. Returns when every
    /// delivery is done with.
    pub(super) async fn run(self, handing_out: TaskTrackerToken) {
        let mut outage = outage(format!("worker consume {}", self.lane.name()));
        let mut delays = pauses();
        let last = loop {
            let opening = Session::open(&self.ledger, self.lane);
            // Cancel-safe: a session given up ends.
            let Some(opened) = self.stopping.run_until_cancelled(opening).await else {
                break None;
            };
            let failure = match opened {
                Ok(session) => {
                    outage.over();
                    delays = pauses();
                    let session = Arc::new(session);
                    match self.hand_out(&session).await {
                        Ok(()) => break Some(session),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            outage.failed(&failure);
            let pause = sleep(delays.next().unwrap_or(OPERATION_TIMEOUT));
            // Cancel-safe: a sleep holds nothing.
            if self.stopping.run_until_cancelled(pause).await.is_none() {
                break None;
            }
        };
        let Self {
            deliveries,
            handed_out,
            closing,
            ..
        } = self;
        drop(deliveries);
        drop(handing_out);
        if let Some(session) = last {
            // Acknowledgements need the session.
            // Cancel-safe: waiting loses nothing.
            closing.run_until_cancelled(handed_out.wait()).await;
            drop(session);
        }
    }

    /// Hands out what the session can claim. Returns when told to stop, or when nobody listens any
    /// more.
    async fn hand_out(&self, session: &Arc<Session>) -> Result<(), QueueError> {
        let _consumed = self.consumed.lane();
        let places = Arc::new(Semaphore::new(self.prefetch.into()));
        let mut poll_at = clock::monotonic_now() + POLL;
        loop {
            let now = clock::monotonic_now();
            if now >= poll_at {
                session.free_what_the_dead_held().await?;
                poll_at = now + POLL;
            }
            if !self.wait_for_room(session, &places).await? {
                return Ok(());
            }
            // Both only grow meanwhile: nobody else takes places.
            let room = places.available_permits().min(self.deliveries.capacity());
            // Not cancelled halfway: the session would hold what nobody knows of.
            let claimed = session.claim(room).await?;
            let may_be_more = claimed.len() == room;
            for message in claimed {
                if !self.pass_on(session, &places, message).await {
                    return Ok(());
                }
            }
            if may_be_more {
                continue;
            }
            let pause = session
                .next_due(poll_at.saturating_duration_since(clock::monotonic_now()))
                .await?;
            tokio::select! {
                // Cancel-safe, all four: nothing is taken but the wake-up itself, and that leads to
                // a claim.
                () = self.stopping.cancelled() => return Ok(()),
                () = self.deliveries.closed() => return Ok(()),
                () = session.woken.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Waits until one more message may be claimed. False when there is nobody to give it to.
    async fn wait_for_room(
        &self,
        session: &Session,
        places: &Semaphore,
    ) -> Result<bool, QueueError> {
        let room = async {
            // Neither is kept: only this task takes them.
            drop(places.acquire().await);
            self.deliveries.reserve().await.is_ok()
        };
        tokio::pin!(room);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: a cancellation is not consumed.
                () = self.stopping.cancelled() => return Ok(false),
                // Cancel-safe: nothing is kept.
                there_is_room = &mut room => return Ok(there_is_room),
                // Cancel-safe: a wake-up for messages is not needed, as a claim follows.
                () = session.woken.notified() => {
                    if !session.is_open() {
                        return Err(later("consume", "its session has ended".to_owned()));
                    }
                }
            }
        }
    }

    /// Gives one message to the worker. False when there is nobody to give it to any more; then the
    /// receipt hands it back.
    async fn pass_on(
        &self,
        session: &Arc<Session>,
        places: &Arc<Semaphore>,
        message: Claimed,
    ) -> bool {
        let Ok(place) = Arc::clone(places).acquire_owned().await else {
            return false;
        };
        let receipt = PostgresReceipt::new(
            Arc::clone(session),
            message.id,
            place,
            self.stopping.clone(),
            self.handed_out.token(),
        );
        let delivery = Delivery {
            lane: message.lane,
            body: message.body,
            sender: message.sender,
            delivery_count: message.deliveries,
            deferrals: message.deferrals,
            correlation_id: message.correlation_id,
            reply_to: None,
            receipt: Box::new(receipt),
        };
        self.deliveries.send(delivery).await.is_ok()
    }
}
