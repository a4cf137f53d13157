//! Confirmed publishing, and the one connection it happens on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::OPERATION_TIMEOUT;
use super::connection::{Broker, is_soft, later, one_line, outage};
use super::message::short;
use super::refusals::Refusals;
use super::topology;
use crate::clock;
use crate::queue::QueueError;
use crate::queue::outage::{Outage, pauses};

/// Publishes under way at once. Each has a channel for itself: lapin attributes the return of an
/// unroutable message to the wrong one when several are under way on a channel.
const CHANNELS_MAX: usize = 8;

/// How often the connection is looked at, besides listening to what it says itself.
const GLANCE_PERIOD: Duration = Duration::from_secs(5);

/// The connection's name in the broker's lists.
pub(super) const PURPOSE: &str = "worker publish";

/// Publishes one message after the other, each until the broker has confirmed it.
pub(super) struct Publisher {
    broker: Arc<Broker>,
    line: watch::Receiver<Option<Arc<Line>>>,
    free: Semaphore,
    mending: tokio::sync::Mutex<()>,
}

/// A connection and its idle channels.
pub(super) struct Line {
    connection: Connection,
    opened: Instant,
    idle: Mutex<Vec<Channel>>,
    refusals: Arc<Refusals>,
    /// Told by a publisher that has waited for a confirmation in vain, or was refused.
    suspicion: watch::Sender<Option<Suspicion>>,
}

/// Why another connection may do better.
enum Suspicion {
    /// The broker does not confirm.
    Silent,
    /// It refuses this operation, with these words.
    Refused(&'static str, String),
}

/// How one publish ended, other than well.
enum Failure {
    /// There is no such queue or exchange.
    Nowhere(String),
    /// Anything else.
    Other(String),
}

impl Publisher {
    /// Publishes on `connection`, and on its successors until `closing`.
    pub(super) fn start(
        broker: Arc<Broker>,
        connection: Connection,
        closing: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, line) = watch::channel(None);
        let supervising = supervise(Arc::clone(&broker), connection, sender, closing);
        let publisher = Self {
            broker,
            line,
            free: Semaphore::new(CHANNELS_MAX),
            mending: tokio::sync::Mutex::new(()),
        };
        (publisher, supervising)
    }

    /// Publishes to a queue, past every exchange.
    pub(super) async fn to_queue(
        &self,
        operation: &'static str,
        queue: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), QueueError> {
        self.publish(operation, "", queue, body, properties).await
    }

    /// Publishes, and returns when the broker has the message in a queue. Any error leaves open
    /// whether it has.
    ///
    /// Cancel-safe: a publish given up takes its channel with it.
    pub(super) async fn publish(
        &self,
        operation: &'static str,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), QueueError> {
        let deadline = Instant::from_std(clock::monotonic_now()) + OPERATION_TIMEOUT;
        let error = |problem: String| later(operation, problem);
        let late = |problem: &str| later(operation, problem.to_owned());

        let line = timeout_at(deadline, self.line())
            .await
            .map_err(|_| late("the broker is out of reach"))?
            .ok_or_else(|| late("the connection has been closed"))?;
        if line.connection.status().blocked() {
            return Err(late(
                "the broker takes no messages for lack of memory or disk",
            ));
        }
        let _permit = timeout_at(deadline, self.free.acquire())
            .await
            .map_err(|_| late("every channel is busy"))?;
        let publishing = line.publish(operation, exchange, routing_key, body, properties);
        match timeout_at(deadline, publishing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Failure::Other(problem))) => Err(error(problem)),
            Ok(Err(Failure::Nowhere(problem))) => {
                self.mend(&line).await;
                Err(error(problem))
            }
            Err(_) => {
                if !line.connection.status().blocked() {
                    line.suspect(Suspicion::Silent);
                }
                Err(late("the broker does not confirm"))
            }
        }
    }

    /// How many messages a queue holds that nobody has taken.
    pub(super) async fn depth(
        &self,
        operation: &'static str,
        queue: &str,
    ) -> Result<u32, QueueError> {
        let counting = async {
            let line = self.line().await.ok_or("the connection has been closed")?;
            let _permit = self
                .free
                .acquire()
                .await
                .map_err(|_| "no channel is left")?;
            let counted = line.depth(operation, queue).await;
            counted.map_err(|failure| match failure {
                Failure::Nowhere(problem) | Failure::Other(problem) => problem,
            })
        };
        timeout(OPERATION_TIMEOUT, counting)
            .await
            .unwrap_or_else(|_| Err("the broker does not answer".to_owned()))
            .map_err(|problem| later(operation, problem))
    }

    /// The living connection, as soon as there is one; `None` when there will be none.
    async fn line(&self) -> Option<Arc<Line>> {
        let mut line = self.line.clone();
        let line = line.wait_for(Option::is_some).await.ok()?;
        line.clone()
    }

    /// Puts back what somebody has deleted. One at a time: the others' next try profits from it.
    async fn mend(&self, line: &Line) {
        if let Ok(_alone) = self.mending.try_lock() {
            match topology::declare(&self.broker, &line.connection).await {
                Ok(()) => warn!("an exchange or queue of keycard's was missing and is back, empty"),
                Err(error) => warn!(
                    error = error.to_string(),
                    "an exchange or queue of keycard's is missing"
                ),
            }
        }
    }
}

impl Line {
    fn new(connection: Connection, refusals: Arc<Refusals>) -> Arc<Self> {
        Arc::new(Self {
            connection,
            opened: Instant::from_std(clock::monotonic_now()),
            idle: Mutex::default(),
            refusals,
            suspicion: watch::Sender::new(None),
        })
    }

    async fn publish(
        &self,
        operation: &'static str,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), Failure> {
        let failure = |error| self.failure(operation, &error);
        let channel = self.channel().await.map_err(failure)?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let confirm = channel
            .basic_publish(
                short(exchange),
                short(routing_key),
                options,
                body,
                properties,
            )
            .await
            .map_err(failure)?;
        let confirmation = confirm.await.map_err(failure)?;
        self.refusals.allowed(operation);
        let outcome = match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                Err(Failure::Nowhere(unroutable(&returned)))
            }
            Confirmation::Nack(None) => Err(Failure::Other("the broker refuses it".to_owned())),
            Confirmation::NotRequested => {
                return Err(Failure::Other("the channel does not confirm".to_owned()));
            }
        };
        self.idle().push(channel);
        outcome
    }

    async fn depth(&self, operation: &'static str, queue: &str) -> Result<u32, Failure> {
        let failure = |error| self.failure(operation, &error);
        let channel = self.channel().await.map_err(failure)?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let counted = channel
            .queue_declare(short(queue), options, FieldTable::default())
            .await
            .map_err(failure)?;
        self.refusals.allowed(operation);
        self.idle().push(channel);
        Ok(counted.message_count())
    }

    /// A channel for one publish. It goes back among the idle only when that is settled.
    async fn channel(&self) -> lapin::Result<Channel> {
        let idle = self.idle().pop();
        if let Some(channel) = idle.filter(|channel| channel.status().connected()) {
            return Ok(channel);
        }
        let channel = self.connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(channel)
    }

    /// What an error means for an operation, and perhaps for the connection.
    fn failure(&self, operation: &'static str, error: &lapin::Error) -> Failure {
        if is_soft(error, AMQPSoftError::NOTFOUND) {
            return Failure::Nowhere(one_line(error));
        }
        let age = Instant::from_std(clock::monotonic_now()) - self.opened;
        if is_soft(error, AMQPSoftError::ACCESSREFUSED) && age >= self.refusals.age_min(operation) {
            self.suspect(Suspicion::Refused(operation, one_line(error)));
        }
        Failure::Other(one_line(error))
    }

    fn suspect(&self, suspicion: Suspicion) {
        self.suspicion.send_replace(Some(suspicion));
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the connection is of no more use, with the reason.
    async fn broken(&self) -> String {
        let mut events = std::pin::pin!(self.connection.events_listener());
        let mut suspicion = self.suspicion.subscribe();
        while self.connection.status().connected() {
            tokio::select! {
                // Cancel-safe: an event is taken only when it is returned.
                event = events.next() => match event {
                    // lapin tells of a channel's error as well, which leaves the connection alone.
                    Some(Event::Error(error)) if !self.connection.status().connected() => {
                        return one_line(&error);
                    }
                    Some(Event::ConnectionBlocked(reason)) => warn!(
                        reason,
                        "RabbitMQ takes no more messages until it has memory and disk again"
                    ),
                    Some(Event::ConnectionUnblocked) => info!("RabbitMQ takes messages again"),
                    _ => {}
                },
                // Cancel-safe: what is suspected stays so.
                Ok(suspicion) = suspicion.wait_for(Option::is_some) => match &*suspicion {
                    Some(Suspicion::Refused(operation, text)) => {
                        self.refusals.gave_up(operation);
                        return format!("refused, perhaps for an expired token: {text}");
                    }
                    Some(Suspicion::Silent) | None => {
                        return "the broker does not confirm what is published".to_owned();
                    }
                },
                // Cancel-safe: a sleep loses nothing.
                () = sleep(GLANCE_PERIOD) => {}
            }
        }
        "it is closed".to_owned()
    }
}

/// Keeps one connection alive. Ends when `closing`, with the connection closed.
async fn supervise(
    broker: Arc<Broker>,
    first: Connection,
    line: watch::Sender<Option<Arc<Line>>>,
    closing: CancellationToken,
) {
    let mut outage = outage(PURPOSE);
    let refusals = Arc::new(Refusals::default());
    let mut next = Some(first);
    loop {
        let connection = if let Some(connection) = next.take() {
            connection
        } else {
            let connecting = connect(&broker, &mut outage);
            // Cancel-safe: an attempt given up takes its socket with it.
            let Some(connection) = closing.run_until_cancelled(connecting).await else {
                return;
            };
            connection
        };
        outage.over();
        let current = Line::new(connection, Arc::clone(&refusals));
        line.send_replace(Some(Arc::clone(&current)));
        // Cancel-safe: what the connection says after this concerns nobody.
        let reason = closing.run_until_cancelled(current.broken()).await;
        line.send_replace(None);
        match reason {
            Some(reason) => outage.failed(&later("publish", reason)),
            None => return close(&current.connection).await,
        }
        // Its channels and their waiters fail now; what is left closes it when dropped.
        tokio::spawn(async move { close(&current.connection).await });
    }
}

/// Connects, however long that takes.
async fn connect(broker: &Broker, outage: &mut Outage) -> Connection {
    let mut pauses = pauses();
    loop {
        match broker.open(PURPOSE).await {
            Ok(connection) => return connection,
            Err(error) => outage.failed(&error),
        }
        sleep(pauses.next().unwrap_or(OPERATION_TIMEOUT)).await;
    }
}

/// Closes a connection in good order, as far as that is possible.
pub(super) async fn close(connection: &Connection) {
    // Failing means that it is closed already.
    let _ = timeout(
        Duration::from_secs(5),
        connection.close(200, "keycard is done with it".into()),
    )
    .await;
}

fn unroutable(returned: &BasicReturnMessage) -> String {
    format!(
        "no queue takes it: {} (exchange '{}', routing key '{}')",
        returned.reply_text, returned.delivery.exchange, returned.delivery.routing_key
    )
}
