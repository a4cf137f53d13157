//! The queue in a database that keycard guards: with it, keycard needs nothing but `PostgreSQL`.
//!
//! | module | about |
//! |---|---|
//! | `consumer` | a lane's deliveries, over a session of its own |
//! | `session` | claims, acknowledgements and what a session's end means |
//! | `upkeep` | who may use the queue, and what is old enough to go |
//! | `client` | a service's side, and an operator's |
//! | `examine` | what `keycard doctor` looks at |
//!
//! Tables and functions are in the ledger's migrations.

mod client;
mod consumer;
mod examine;
mod session;
mod upkeep;

pub use client::Client;
pub use examine::examine;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::consumer::LaneConsumer;
use super::consumed::Consumed;
use super::outage::{Outage, pauses};
use super::{Delivery, Lane, Outgoing, Queue, QueueError, ReplyTo, Sender};
use crate::fault::Disposition;
use crate::lease::Requester;
use crate::ledger::{Ledger, LedgerError};
use crate::login;

/// Longest wait for any one answer; the session's own `statement_timeout` is shorter.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);

/// Deliveries of a lane between the consumer and the worker. They count towards the prefetch. Few,
/// because what one worker has claimed no other can take.
const LANE_BUFFER: usize = 4;

/// How often a consumer looks for what nobody told it: messages that fall due, and those of a
/// worker that died.
const POLL: Duration = Duration::from_secs(2);

/// Longest reason in a dead letter, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// What holds the queue and how it is used.
pub struct Settings {
    /// The ledger whose database holds the queue, for this queue alone: its connections publish.
    pub ledger: Ledger,
    /// Unacknowledged deliveries of each lane, at most.
    pub prefetch: u16,
    /// How long a database that is away is waited for in the beginning; `None`: for ever.
    pub patience: Option<Duration>,
}

/// The queue in `PostgreSQL`.
///
/// A session for each lane, and the ledger's connections to publish; each is made again for as long
/// as it takes. A delay is kept exactly, in one hop. There are no direct replies: results are in
/// `keycard.results` for their requester to read, again if need be. A [`Delivery`] that is dropped
/// without being acknowledged is free again at once.
pub struct PostgresQueue {
    ledger: Arc<Ledger>,
    prefetch: u16,
    /// Ends the streams.
    stopping: CancellationToken,
    /// Ends publishing, and the waiting for what is handed out.
    closing: CancellationToken,
    /// One token for each lane that may still hand something out.
    handing_out: TaskTracker,
    /// One token for each delivery that somebody holds.
    handed_out: TaskTracker,
    tasks: TaskTracker,
    consumed: Consumed,
    _when_dropped: [DropGuard; 2],
}

impl PostgresQueue {
    /// Connects, as soon as the database is there, brings its schema up to date and lets the
    /// configured requesters and operators use the queue.
    ///
    /// # Errors
    /// The database stayed away for longer than its patience; or what will not pass by waiting: the
    /// schema is missing, or somebody else's, or belongs to another installation. Each says what to
    /// do.
    pub async fn connect(settings: Settings) -> Result<Self, QueueError> {
        let patience = settings.patience;
        let ledger = Arc::new(settings.ledger);
        let mut outage = outage("worker publish");
        let mut pauses = pauses();
        let mut upkeep = upkeep::Upkeep::new(Arc::clone(&ledger));
        loop {
            let prepared = async {
                let preparing = ledger.prepare();
                preparing.await.map_err(|error| from_ledger(&error))?;
                upkeep.once().await
            };
            match prepared.await {
                Ok(()) => break,
                Err(error) => outage.wait_out(error, &mut pauses, patience).await?,
            }
        }
        outage.over();

        let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        tasks.spawn(upkeep.run(stopping.clone()));
        Ok(Self {
            ledger,
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

    /// One statement, and with it one transaction.
    async fn write(
        &self,
        operation: &'static str,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<(), QueueError> {
        self.query(operation, statement, parameters).await.map(drop)
    }

    async fn query(
        &self,
        operation: &'static str,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, QueueError> {
        if self.closing.is_cancelled() {
            return Err(later(operation, "it has been shut down".to_owned()));
        }
        let client = self
            .ledger
            .connection()
            .await
            .map_err(|error| later(operation, error.to_string()))?;
        timed(operation, client.query_typed(statement, parameters)).await
    }
}

#[async_trait]
impl Queue for PostgresQueue {
    fn consume(&self, lane: Lane) -> mpsc::Receiver<Delivery> {
        let (deliveries, receiver) = mpsc::channel(LANE_BUFFER);
        let consumer = LaneConsumer {
            ledger: Arc::clone(&self.ledger),
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
        const OPERATION: &str = "publish a result";
        let event = std::str::from_utf8(&message.body).map_err(|error| QueueError {
            operation: OPERATION,
            problem: error.to_string(),
            disposition: Disposition::Reject,
        })?;
        self.write(
            OPERATION,
            "WITH alone AS MATERIALIZED (
                 SELECT FROM keycard.publishing FOR UPDATE
             ), published AS (
                 INSERT INTO keycard.results (position, requester, event, correlation_id)
                 SELECT nextval('keycard.results_position'), $1, $2, $3 FROM alone
                 RETURNING position
             )
             SELECT pg_notify('keycard_results', '') FROM published",
            &[
                (&message.to.as_str(), Type::TEXT),
                (&event, Type::TEXT),
                (&message.correlation_id, Type::TEXT),
            ],
        )
        .await
    }

    async fn reply(&self, _to: &ReplyTo, _message: &Outgoing) {}

    async fn arm(&self, event: &[u8], delay: Duration) -> Result<(), QueueError> {
        let message = Message {
            lane: Lane::Expiry,
            sender: &Sender::Keycard,
            body: event,
            correlation_id: None,
            deferrals: 0,
        };
        self.enqueue("arm an expiry event", &message, delay).await
    }

    async fn defer(&self, delivery: &Delivery, delay: Duration) -> Result<(), QueueError> {
        let message = Message {
            lane: delivery.lane,
            sender: &delivery.sender,
            body: &delivery.body,
            correlation_id: delivery.correlation_id.as_deref(),
            deferrals: i32::try_from(delivery.deferrals.saturating_add(1)).unwrap_or(i32::MAX),
        };
        self.enqueue("defer a message", &message, delay).await
    }

    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        let (sender, nobody) = columns(&delivery.sender);
        // Postgres takes no NUL in a text.
        let reason = reason.replace('\0', "\u{fffd}");
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
        self.write(
            "keep a dead letter",
            "INSERT INTO keycard.dead_letters (lane, sender, nobody, body, correlation_id, reason)
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                (&delivery.lane.name(), Type::TEXT),
                (&sender, Type::TEXT),
                (&nobody, Type::TEXT),
                (&delivery.body, Type::BYTEA),
                (&delivery.correlation_id, Type::TEXT),
                (&reason, Type::TEXT),
            ],
        )
        .await
    }

    async fn dead_letters(&self) -> Result<u32, QueueError> {
        let statement = "SELECT count(*) FROM keycard.dead_letters";
        let counted = self.query("count its dead letters", statement, &[]).await?;
        let letters: i64 = counted.first().map_or(0, |row| row.get(0));
        Ok(u32::try_from(letters).unwrap_or(u32::MAX))
    }

    async fn waiting(&self, lane: Lane) -> Result<u64, QueueError> {
        // now(), as in a claim: the index ends at a limit that does not change.
        let statement = "SELECT count(*) FROM keycard.messages m
             WHERE stream = $1 AND due_at <= now()
               AND (holder IS NULL
                    OR NOT EXISTS (SELECT FROM keycard.sessions s WHERE s.id = m.holder))";
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&lane.name(), Type::TEXT)];
        let counted = self
            .query("count what waits", statement, &parameters)
            .await?;
        let waiting: i64 = counted.first().map_or(0, |row| row.get(0));
        Ok(waiting.unsigned_abs())
    }

    async fn shut_down(&self) {
        self.stopping.cancel();
        self.handing_out.close();
        self.handing_out.wait().await;
        self.handed_out.close();
        self.handed_out.wait().await;
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What comes out of the expiry stream when it is due.
struct Message<'a> {
    lane: Lane,
    sender: &'a Sender,
    body: &'a [u8],
    correlation_id: Option<&'a str>,
    deferrals: i32,
}

impl PostgresQueue {
    async fn enqueue(
        &self,
        operation: &'static str,
        message: &Message<'_>,
        delay: Duration,
    ) -> Result<(), QueueError> {
        let (sender, nobody) = columns(message.sender);
        // What falls due later than that, a consumer finds by itself.
        let is_soon = delay <= POLL;
        self.write(
            operation,
            "WITH message AS (
                 INSERT INTO keycard.messages
                     (stream, lane, sender, nobody, body, correlation_id, deferrals, due_at)
                 VALUES ('expiry', $1, $2, $3, $4, $5, $6,
                         clock_timestamp() + make_interval(secs => $7))
                 RETURNING id
             )
             SELECT pg_notify('keycard_expiry', '') FROM message WHERE $8",
            &[
                (&message.lane.name(), Type::TEXT),
                (&sender, Type::TEXT),
                (&nobody, Type::TEXT),
                (&message.body, Type::BYTEA),
                (&message.correlation_id, Type::TEXT),
                (&message.deferrals, Type::INT4),
                (&delay.as_secs_f64(), Type::FLOAT8),
                (&is_soon, Type::BOOL),
            ],
        )
        .await
    }
}

/// A sender as the columns `sender` and `nobody` hold it.
fn columns(sender: &Sender) -> (Option<&str>, Option<&str>) {
    match sender {
        Sender::Requester(requester) => (Some(requester.as_str()), None),
        Sender::Keycard => (None, None),
        Sender::Nobody(reason) => (None, Some(reason)),
    }
}

/// The sender that the columns hold. Postgres allows names that keycard cannot use.
fn sender(sender: Option<String>, nobody: Option<String>) -> Sender {
    match (sender, nobody) {
        (_, Some(reason)) => Sender::Nobody(reason),
        (None, None) => Sender::Keycard,
        (Some(name), None) => Requester::new(name)
            .map_or_else(|error| Sender::Nobody(error.to_string()), Sender::Requester),
    }
}

/// Watches over one connection.
fn outage(connection: impl Into<String>) -> Outage {
    Outage::new("the queue's database", connection)
}

/// Waits for Postgres, though not for ever.
async fn timed<T>(
    operation: &'static str,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, QueueError> {
    match timeout(OPERATION_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(later(operation, login::describe(&error))),
        Err(_) => Err(later(operation, "Postgres does not answer".to_owned())),
    }
}

fn from_ledger(error: &LedgerError) -> QueueError {
    QueueError {
        operation: "use its database",
        problem: error.to_string(),
        disposition: error.disposition(),
    }
}

/// It may pass.
fn later(operation: &'static str, problem: String) -> QueueError {
    QueueError {
        operation,
        problem,
        disposition: Disposition::Retry,
    }
}
