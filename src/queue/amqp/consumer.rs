//! One lane's deliveries, over a connection of the lane's own: what breaks it, breaks no other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use lapin::message::Delivery as Received;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Acker, Channel, Connection, Consumer, ErrorKind};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{error, warn};

use super::OPERATION_TIMEOUT;
use super::connection::{Broker, later, one_line, outage};
use super::ladder::rung_for;
use super::message::{self, Envelope};
use super::publisher::{Publisher, close};
use super::topology::{self, EXPIRY, queue_of};
use crate::queue::consumed::Consumed;
use crate::queue::outage::pauses;
use crate::queue::{Delivery, Lane, QueueError, Receipt};

/// Pause after a message that could not even be read: the broker delivers it again, until its
/// delivery limit parks it.
const UNREADABLE_PAUSE: Duration = Duration::from_millis(200);

/// One lane's consumer.
pub(super) struct LaneConsumer {
    pub(super) broker: Arc<Broker>,
    pub(super) publisher: Arc<Publisher>,
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

/// Why a consumer came to its end.
enum End {
    /// It was told to, or nobody listens any more.
    Stopped,
    /// The broker cancelled it, as it does when the queue is deleted; or it is time for another
    /// prefetch.
    Resubscribe,
}

/// The session's failure: what was wrong, and whether a message could not be read.
struct Broken {
    error: QueueError,
    is_unreadable: bool,
}

impl LaneConsumer {
    /// Hands out deliveries until told to stop, through any number of connections. Returns when
    /// every delivery is done with and the last connection is closed.
    pub(super) async fn run(self, handing_out: TaskTrackerToken) {
        let mut outage = outage(format!("worker consume {}", queue_of(self.lane)));
        let mut delays = pauses();
        // Deliveries still to be taken one at a time, see `session`.
        let mut careful: u16 = 0;
        let last = loop {
            let Some(connected) = self.stopping.run_until_cancelled(self.connect()).await else {
                break None;
            };
            let failure = match connected {
                Ok((connection, channel)) => {
                    outage.over();
                    delays = pauses();
                    match self.session(&connection, &channel, &mut careful).await {
                        Ok(()) => break Some((connection, channel)),
                        Err(broken) => broken,
                    }
                }
                Err(error) => Broken {
                    error,
                    is_unreadable: false,
                },
            };
            let pause = if failure.is_unreadable {
                careful = self.prefetch;
                error!(
                    queue.name = queue_of(self.lane),
                    error = failure.error.problem,
                    "a message cannot be read as AMQP; the broker delivers it again until its \
                     delivery limit moves it to the dead letters"
                );
                UNREADABLE_PAUSE
            } else {
                outage.failed(&failure.error);
                delays.next().unwrap_or(OPERATION_TIMEOUT)
            };
            if self
                .stopping
                .run_until_cancelled(sleep(pause))
                .await
                .is_none()
            {
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
        if let Some((connection, channel)) = last {
            // Acknowledgements need the channel.
            // Cancel-safe: waiting loses nothing.
            closing.run_until_cancelled(handed_out.wait()).await;
            drop(channel);
            close(&connection).await;
        }
    }

    async fn connect(&self) -> Result<(Connection, Channel), QueueError> {
        let purpose = format!("worker consume {}", queue_of(self.lane));
        let connection = self.broker.open(&purpose).await?;
        topology::declare(&self.broker, &connection).await?;
        let channel = connection
            .create_channel()
            .await
            .map_err(|error| later("consume", one_line(&error)))?;
        Ok((connection, channel))
    }

    /// Consumes until stopped.
    ///
    /// A client can publish a property that lapin's parser refuses (a correlation id that is not
    /// UTF-8), which breaks the connection and counts as one delivery more of *everything* that
    /// was in flight. So afterwards a full prefetch of messages is taken one at a time: the broken
    /// one then reaches the delivery limit alone.
    async fn session(
        &self,
        connection: &Connection,
        channel: &Channel,
        careful: &mut u16,
    ) -> Result<(), Broken> {
        let mut subscription = None;
        loop {
            let prefetch = if *careful > 0 { 1 } else { self.prefetch };
            let consumer = self.subscribe(channel, prefetch).await?;
            subscription.get_or_insert_with(|| self.consumed.lane());
            match self.hand_out(channel, consumer, careful).await? {
                End::Stopped => return Ok(()),
                End::Resubscribe => topology::declare(&self.broker, connection)
                    .await
                    .map_err(Broken::from)?,
            }
        }
    }

    async fn subscribe(&self, channel: &Channel, prefetch: u16) -> Result<Consumer, Broken> {
        let subscribing = async {
            channel
                .basic_qos(prefetch, BasicQosOptions::default())
                .await?;
            channel
                .basic_consume(
                    queue_of(self.lane).into(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                )
                .await
        };
        match timeout(OPERATION_TIMEOUT, subscribing).await {
            Ok(subscribed) => subscribed.map_err(|error| Broken::from(&error)),
            Err(_) => Err(later("consume", "the broker does not answer".to_owned()).into()),
        }
    }

    async fn hand_out(
        &self,
        channel: &Channel,
        mut consumer: Consumer,
        careful: &mut u16,
    ) -> Result<End, Broken> {
        let was_careful = *careful > 0;
        loop {
            let next = tokio::select! {
                // Cancel-safe: what is buffered goes back when the channel is closed.
                () = self.stopping.cancelled() => {
                    cancel(channel, &consumer).await;
                    return Ok(End::Stopped);
                }
                // Cancel-safe: a delivery is taken only when it is returned.
                next = consumer.next() => next,
            };
            let received = match next {
                Some(Ok(received)) => received,
                Some(Err(error)) => return Err(Broken::from(&error)),
                None => return Ok(End::Resubscribe),
            };
            if !self.pass_on(received).await {
                cancel(channel, &consumer).await;
                return Ok(End::Stopped);
            }
            if was_careful && *careful > 0 {
                *careful -= 1;
                if *careful == 0 {
                    // The stream ends after what it still holds.
                    cancel(channel, &consumer).await;
                }
            }
        }
    }

    /// Gives one message to the worker, or sends it on its next hop. False when there is nobody
    /// to give it to any more.
    async fn pass_on(&self, received: Received) -> bool {
        let envelope = message::envelope(self.lane, self.broker.user(), &received);
        let receipt = AmqpReceipt {
            acker: Some(received.acker.clone()),
            _handed_out: self.handed_out.token(),
        };
        if envelope.is_swept_out {
            warn!("the dead letters are full: the oldest one was dropped for a newer one");
            Box::new(receipt).ack().await;
            return true;
        }
        if let Some(remaining) = envelope.remaining {
            let publisher = Arc::clone(&self.publisher);
            let user = self.broker.user().to_owned();
            tokio::spawn(hop(publisher, user, received, remaining, receipt));
            return true;
        }
        tokio::select! {
            // Cancel-safe: the receipt hands the message back.
            () = self.stopping.cancelled() => false,
            // Cancel-safe: no place is taken until it is returned.
            place = self.deliveries.reserve() => match place {
                Ok(place) => {
                    if receipt.is_live() {
                        place.send(delivery(envelope, received.data, receipt));
                    }
                    true
                }
                Err(_) => false,
            },
        }
    }
}

fn delivery(envelope: Envelope, body: Vec<u8>, receipt: AmqpReceipt) -> Delivery {
    Delivery {
        lane: envelope.lane,
        body,
        sender: envelope.sender,
        delivery_count: envelope.delivery_count,
        deferrals: envelope.deferrals,
        correlation_id: envelope.correlation_id,
        reply_to: envelope.reply_to,
        receipt: Box::new(receipt),
    }
}

/// Sends a deferred message onto its next rung. While the broker takes nothing, it waits longer.
async fn hop(
    publisher: Arc<Publisher>,
    own_user: String,
    received: Received,
    remaining: Duration,
    receipt: AmqpReceipt,
) {
    let rung = rung_for(remaining);
    let queue = rung.map_or_else(|| EXPIRY.to_owned(), super::ladder::Rung::queue);
    let left = rung.and_then(|rung| rung.remainder(remaining));
    for pause in pauses() {
        let properties = message::next_hop(&own_user, &received, left);
        let outcome = publisher
            .to_queue(
                "defer a message further",
                &queue,
                &received.data,
                properties,
            )
            .await;
        match outcome {
            Ok(()) => {
                Box::new(receipt).ack().await;
                return;
            }
            Err(error) => warn!(
                error = error.to_string(),
                "A deferred message is late: it cannot be put onto its next delay queue yet"
            ),
        }
        sleep(pause).await;
        if !receipt.is_live() {
            return; // The broker delivers it again.
        }
    }
}

async fn cancel(channel: &Channel, consumer: &Consumer) {
    // Failing means that the channel is gone, and the consumer with it.
    let _ = timeout(
        OPERATION_TIMEOUT,
        channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()),
    )
    .await;
}

/// Acknowledges one delivery. Dropped without that, it hands the message back: the broker delivers
/// it again, one delivery more on its count.
struct AmqpReceipt {
    acker: Option<Acker>,
    _handed_out: TaskTrackerToken,
}

#[async_trait]
impl Receipt for AmqpReceipt {
    async fn ack(mut self: Box<Self>) -> bool {
        let Some(acker) = self.acker.take() else {
            return false;
        };
        let acknowledging = acker.ack(BasicAckOptions::default());
        matches!(
            timeout(OPERATION_TIMEOUT, acknowledging).await,
            Ok(Ok(true))
        )
    }

    fn is_live(&self) -> bool {
        self.acker.as_ref().is_some_and(Acker::usable)
    }
}

impl Drop for AmqpReceipt {
    fn drop(&mut self) {
        let Some(acker) = self.acker.take().filter(Acker::usable) else {
            return;
        };
        // Without a runtime the process is ending, and its connections with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let options = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                // Failing means that the channel is gone, which hands it back as well.
                let _ = acker.nack(options).await;
            });
        }
    }
}

impl std::fmt::Debug for AmqpReceipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpReceipt")
            .field("is_live", &self.is_live())
            .finish_non_exhaustive()
    }
}

impl From<&lapin::Error> for Broken {
    fn from(error: &lapin::Error) -> Self {
        Self {
            error: later("consume", one_line(error)),
            is_unreadable: matches!(error.kind(), ErrorKind::ParsingError(_)),
        }
    }
}

impl From<QueueError> for Broken {
    fn from(error: QueueError) -> Self {
        Self {
            error,
            is_unreadable: false,
        }
    }
}
