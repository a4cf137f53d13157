//! The queue port: how commands arrive, results leave and leases are remembered to expire.
//!
//! Every adapter passes the conformance suite in tests/it/queue/conformance.rs.

pub mod amqp;
mod consumed;
mod examine;
mod outage;
pub mod postgres;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::fault::Disposition;
use crate::lease::Requester;

/// A message broker. It reconnects by itself, for ever; what fails meanwhile says so.
#[async_trait]
pub trait Queue: Send + Sync {
    /// The deliveries of one lane, at most the adapter's prefetch unacknowledged at a time. The
    /// stream survives reconnections and ends when the queue is shut down.
    fn consume(&self, lane: Lane) -> mpsc::Receiver<Delivery>;

    /// Returns as soon as every lane is consumed: not before each was asked for, and its consumer
    /// has what it needs of the broker.
    async fn consumed(&self);

    /// Publishes a result durably: on success the broker has it.
    ///
    /// # Errors
    /// The outcome is unknown: publish again, the event's id stays the same.
    async fn publish(&self, message: &Outgoing) -> Result<(), QueueError>;

    /// Sends a result straight to the waiting client as well: best effort, after `publish`.
    async fn reply(&self, to: &ReplyTo, message: &Outgoing);

    /// Publishes an expiry event so that it arrives on [`Lane::Expiry`] after `delay`, or earlier.
    ///
    /// # Errors
    /// As for [`Queue::publish`].
    async fn arm(&self, event: &[u8], delay: Duration) -> Result<(), QueueError>;

    /// Publishes a copy of the delivery that arrives after about `delay`, with its sender, reply
    /// address and lane, one deferral more. The caller acknowledges the original afterwards.
    ///
    /// # Errors
    /// As for [`Queue::publish`].
    async fn defer(&self, delivery: &Delivery, delay: Duration) -> Result<(), QueueError>;

    /// Puts a copy of the delivery among the dead letters. The caller acknowledges the original.
    ///
    /// # Errors
    /// As for [`Queue::publish`].
    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError>;

    /// How many dead letters are kept, those that somebody looks at perhaps left out.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    async fn dead_letters(&self) -> Result<u32, QueueError>;

    /// How many messages of a lane wait for a worker: no worker has them yet, or the one that had
    /// them is gone. Those that wait for their time are not among them.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    async fn waiting(&self, lane: Lane) -> Result<u64, QueueError>;

    /// Stops consuming, waits until every delivery handed out is gone, hands back the rest and
    /// closes the connections.
    async fn shut_down(&self);
}

/// A requester's side of the queue: what the command line does as any service would, with a user of
/// its own.
#[async_trait]
pub trait Requesting: Send + Sync {
    /// Publishes `command` for a lane and waits for the answer to it; the same command is published
    /// again when none comes, which the same id makes harmless.
    ///
    /// # Errors
    /// When the queue cannot be reached or refuses, or no answer came within half a minute.
    async fn ask(&self, lane: Lane, command: &[u8]) -> Result<Vec<u8>, QueueError>;
}

/// The operation of [`Requesting::ask`] from when on the command may be under way.
pub const ANSWER: &str = "get an answer";

/// How long a try at asking waits for the answer. Then the command is sent again, and the same id
/// gets the same answer.
const TRY: Duration = Duration::from_secs(10);

/// How often a command is sent before nobody is found to answer.
const TRIES: u32 = 3;

/// Nobody has answered in all the tries.
fn unanswered() -> QueueError {
    let seconds = TRY.as_secs() * u64::from(TRIES);
    QueueError {
        operation: ANSWER,
        problem: format!(
            "none came within {seconds} s; is a worker running? The same command may be sent again"
        ),
        disposition: Disposition::Retry,
    }
}

/// The dead letters, as an operator handles them with a user of their own.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// All of them or `letters_max`, oldest first; they stay where they are. Which are left out, if
    /// there are more, is the adapter's choice.
    ///
    /// # Errors
    /// When the queue cannot be reached or refuses.
    async fn list(&self, letters_max: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Hands one over again, as from its original sender. `false` when there is none of this id.
    ///
    /// # Errors
    /// As for [`DeadLetters::list`].
    async fn requeue(&self, id: &str) -> Result<bool, QueueError>;

    /// Removes one for good. `false` when there is none of this id.
    ///
    /// # Errors
    /// As for [`DeadLetters::list`].
    async fn discard(&self, id: &str) -> Result<bool, QueueError>;
}

/// A message that could not be processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names it for as long as it is kept.
    pub id: String,
    /// Where it came from, if that is known.
    pub lane: Option<Lane>,
    /// Who published it.
    pub sender: Sender,
    /// Why it could not be processed.
    pub reason: String,
    /// When it was given up, if that is known.
    pub at: Option<jiff::Timestamp>,
    /// The event, as it came.
    pub body: Vec<u8>,
}

/// What a delivery is about; none starves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Credential requests.
    Requests,
    /// Renewals and revocations.
    Leases,
    /// Expiry events.
    Expiry,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Leases, Self::Expiry];

    /// Its name, in what travels and in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Leases => "leases",
            Self::Expiry => "expiry",
        }
    }

    /// The lane of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.name() == name)
    }
}

/// One message for the worker.
#[derive(Debug)]
pub struct Delivery {
    /// What it is about: for a deferred message the lane where it came from.
    pub lane: Lane,
    /// The event, not yet decoded.
    pub body: Vec<u8>,
    /// Who published it.
    pub sender: Sender,
    /// Times it was handed out before without being acknowledged.
    pub delivery_count: u32,
    /// Times it was deferred.
    pub deferrals: u32,
    /// Given back with every result.
    pub correlation_id: Option<String>,
    /// Where the client waits for a direct reply.
    pub reply_to: Option<ReplyTo>,
    /// Acknowledges it.
    pub receipt: Box<dyn Receipt>,
}

/// Who published a message, as the broker has validated it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sender {
    /// A requester.
    Requester(Requester),
    /// keycard itself.
    Keycard,
    /// The broker has validated nobody, or the name cannot be used; the text says which.
    Nobody(String),
}

/// Acknowledges one delivery; consumed by it, so a double acknowledgement does not compile.
#[async_trait]
pub trait Receipt: Send + Sync + std::fmt::Debug {
    /// Tells the broker that the message is done with. `false` when the broker no longer takes it
    /// from us: it will be delivered again.
    async fn ack(self: Box<Self>) -> bool;

    /// Whether acknowledging can still succeed. A stale delivery is somebody else's by now.
    fn is_live(&self) -> bool;
}

/// A direct reply address that the adapter has found to be harmless in form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo(pub String);

/// A result on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Who is told.
    pub to: Requester,
    /// The event's id.
    pub id: String,
    /// The event's type.
    pub kind: &'static str,
    /// The event as structured JSON.
    pub body: Vec<u8>,
    /// The command's own correlation id.
    pub correlation_id: Option<String>,
}

/// A failed operation. Its text never holds a password.
#[derive(Debug, thiserror::Error)]
#[error("the queue could not {operation}: {problem}")]
pub struct QueueError {
    /// What was attempted.
    pub operation: &'static str,
    /// What the broker or the connection said, in one line.
    pub problem: String,
    /// What to do about it.
    pub disposition: Disposition,
}
