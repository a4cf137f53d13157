//! The queue on `RabbitMQ`.
//!
//! | module | about |
//! |---|---|
//! | `topology` | the exchanges and queues, and whose they are |
//! | `connection` | how a connection is opened, and what refusals mean |
//! | `consumer` | a lane's deliveries, over a connection of its own |
//! | `publisher` | confirmed publishing |
//! | `refusals` | when a refusal is worth another connection |
//! | `reply` | direct replies, which a client can make fail |
//! | `ladder` | delays |
//! | `message` | properties and headers |
//! | `deaths` | what the broker notes on messages that it moves |
//! | `client` | a service's side, for the command line |
//! | `examine` | what `keycard doctor` looks at |
//! | `management` | whom the broker knows, for the doctor |
//! | `letters` | the dead letters, for an operator |

mod client;
mod connection;
mod consumer;
mod deaths;
mod examine;
mod ladder;
mod letters;
mod management;
mod message;
mod publisher;
mod refusals;
mod reply;
mod topology;

pub use client::Client;
pub use examine::examine;
pub use letters::AmqpDeadLetters;
pub use management::{Management, unasked_users, unknown_users};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::uri::AMQPUri;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connection::{Broker, Part, outage};
use self::consumer::LaneConsumer;
use self::ladder::rung_for;
use self::publisher::{PURPOSE, Publisher};
use self::reply::Replier;
use self::topology::{DEAD_LETTERS, EVENTS, EXPIRY, queue_of};
use super::consumed::Consumed;
use super::outage::pauses;
use super::{Delivery, Lane, Outgoing, Queue, QueueError, ReplyTo};
use crate::password::ReadPassword;

/// Longest wait for any one answer of the broker's.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Deliveries of a lane between the consumer and the worker. They count towards the prefetch.
const LANE_BUFFER: usize = 4;

/// Where the broker is and how it is used.
pub struct Settings {
    /// Where it is, without the password. The user is keycard's own: what other users publish is
    /// not keycard's. Never logged.
    pub uri: AMQPUri,
    /// Reads that user's password.
    pub password: ReadPassword,
    /// PEM file of certificate authorities trusted besides the system's. Read for every connection.
    pub ca_file: Option<PathBuf>,
    /// Whose vhost it is: two installations cannot share one.
    pub installation: String,
    /// Unacknowledged deliveries of each lane, at most.
    pub prefetch: u16,
    /// How long a broker that is away is waited for in the beginning; `None`: for ever.
    pub patience: Option<Duration>,
}

/// The queue on `RabbitMQ` 3.10 or newer.
///
/// A connection for each lane, one to publish, one for direct replies; each is rebuilt for as long
/// as it takes, and what keycard has declared is declared again with it. A deferred command comes
/// back on the stream of [`Lane::Expiry`], as a [`Delivery`] of the lane it was deferred from.
/// A [`Delivery`] that is dropped without being acknowledged goes back to the broker at once.
pub struct AmqpQueue {
    broker: Arc<Broker>,
    publisher: Arc<Publisher>,
    replier: Replier,
    prefetch: u16,
    /// Ends the streams.
    stopping: CancellationToken,
    /// Ends the publishing connection.
    closing: CancellationToken,
    /// One token for each lane that may still hand something out.
    handing_out: TaskTracker,
    /// One token for each delivery that somebody holds.
    handed_out: TaskTracker,
    tasks: TaskTracker,
    consumed: Consumed,
    _when_dropped: [DropGuard; 2],
}

impl AmqpQueue {
    /// Connects, as soon as the broker is there and takes the password, and declares the exchanges
    /// and queues.
    ///
    /// # Errors
    /// The broker stayed away for longer than its patience; or what will not pass by waiting: the
    /// vhost or a permission is missing, the broker is older than 3.10, an exchange or queue
    /// differs, the vhost belongs to another installation, or the settings make no sense. Each says
    /// what to do.
    pub async fn connect(settings: Settings) -> Result<Self, QueueError> {
        let broker = Arc::new(Broker::new(Part::Worker, &settings)?);
        let mut outage = outage(PURPOSE);
        let mut pauses = pauses();
        let connection = loop {
            let prepared = async {
                let connection = broker.open(PURPOSE).await?;
                topology::check_version(&broker, &connection).await?;
                topology::declare(&broker, &connection).await?;
                Ok(connection)
            };
            match prepared.await {
                Ok(connection) => break connection,
                Err(error) => {
                    let patience = settings.patience;
                    outage.wait_out(error, &mut pauses, patience).await?;
                }
            }
        };
        outage.over();

        let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let (publisher, supervising) =
            Publisher::start(Arc::clone(&broker), connection, closing.clone());
        tasks.spawn(supervising);
        Ok(Self {
            replier: Replier::new(Arc::clone(&broker)),
            broker,
            publisher: Arc::new(publisher),
            prefetch: settings.prefetch.max(1),
            _when_dropped: [stopping.clone().drop_guard(), closing.clone().drop_guard()],
            stopping,
            closing,
            handing_out: TaskTracker::new(),
            handed_out: TaskTracker::new(),
            tasks,
            consumed: Consumed::default(),
        })
    }

    fn user(&self) -> &str {
        self.broker.user()
    }
}

#[async_trait]
impl Queue for AmqpQueue {
    fn consume(&self, lane: Lane) -> mpsc::Receiver<Delivery> {
        let (deliveries, receiver) = mpsc::channel(LANE_BUFFER);
        let consumer = LaneConsumer {
            broker: Arc::clone(&self.broker),
            publisher: Arc::clone(&self.publisher),
            lane,
            prefetch: self.prefetch,
            deliveries,
            stopping: self.stopping.clone(),
            closing: self.closing.clone(),
            handed_out: self.handed_out.clone(),
            consumed: self.consumed.clone(),
        };
        self.tasks.spawn(consumer.run(self.handing_out.token()));
        receiver
    }

    async fn consumed(&self) {
        self.consumed.all().await;
    }

    async fn publish(&self, message: &Outgoing) -> Result<(), QueueError> {
        let routing_key = format!("{}.{}", message.to.encoded(), message.kind);
        let properties = message::result(self.user(), message);
        self.publisher
            .publish(
                "publish a result",
                EVENTS,
                &routing_key,
                &message.body,
                properties,
            )
            .await
    }

    async fn reply(&self, to: &ReplyTo, message: &Outgoing) {
        self.replier.send(to, message).await;
    }

    async fn arm(&self, event: &[u8], delay: Duration) -> Result<(), QueueError> {
        let properties = message::expiry(self.user());
        let queue = wait_for_rung(delay).await;
        self.publisher
            .to_queue("arm an expiry event", &queue, event, properties)
            .await
    }

    async fn defer(&self, delivery: &Delivery, delay: Duration) -> Result<(), QueueError> {
        let remaining = rung_for(delay).and_then(|rung| rung.remainder(delay));
        let properties = message::deferred(self.user(), delivery, remaining);
        let queue = wait_for_rung(delay).await;
        self.publisher
            .to_queue("defer a message", &queue, &delivery.body, properties)
            .await
    }

    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        let properties = message::dead_letter(self.user(), delivery, reason);
        self.publisher
            .to_queue(
                "keep a dead letter",
                DEAD_LETTERS,
                &delivery.body,
                properties,
            )
            .await
    }

    async fn dead_letters(&self) -> Result<u32, QueueError> {
        self.publisher
            .depth("count its dead letters", DEAD_LETTERS)
            .await
    }

    async fn waiting(&self, lane: Lane) -> Result<u64, QueueError> {
        let depth = self.publisher.depth("count what waits", queue_of(lane));
        depth.await.map(u64::from)
    }

    async fn shut_down(&self) {
        self.stopping.cancel();
        self.handing_out.close();
        self.handing_out.wait().await;
        self.handed_out.close();
        self.handed_out.wait().await;
        self.replier.close().await;
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The queue that a message waits `delay` in. Less than the shortest rung is waited for here.
async fn wait_for_rung(delay: Duration) -> String {
    if let Some(rung) = rung_for(delay) {
        return rung.queue();
    }
    sleep(delay).await;
    EXPIRY.to_owned()
}
