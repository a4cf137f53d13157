//! The dead letters, as an operator handles them: with a user of their own, who may read that queue
//! and nothing else of keycard's.
//!
//! AMQP has no way to look at a message without taking it. So letters are taken one after the
//! other, and all but the one that is meant are given back; meanwhile somebody else does not see
//! them. Those that were given back come first afterwards, in an order of the broker's.

use async_trait::async_trait;
use futures_util::StreamExt as _;
use lapin::message::Delivery as Received;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicRejectOptions};
use lapin::{Channel, Connection, ErrorKind, Event};
use tokio::time::timeout;

use super::connection::{Broker, Part, fatal, later, one_line};
use super::message::letter;
use super::topology::DEAD_LETTERS;
use super::{OPERATION_TIMEOUT, Settings};
use crate::queue::{DeadLetter, DeadLetters, QueueError};

/// What becomes of a letter that was found.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Requeued,
    Discarded,
}

/// The dead letters of a vhost.
pub struct AmqpDeadLetters {
    broker: Broker,
    connection: Connection,
}

impl AmqpDeadLetters {
    /// Connects as the settings' user.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub async fn connect(settings: &Settings) -> Result<Self, QueueError> {
        let broker = Broker::new(Part::Operator, settings)?;
        let connection = broker.open("dead letters").await?;
        Ok(Self { broker, connection })
    }

    async fn reading(&self, operation: &'static str) -> Result<Reading<'_>, QueueError> {
        let opening = timeout(OPERATION_TIMEOUT, self.connection.create_channel());
        let channel = opening
            .await
            .map_err(|_| silence(operation))?
            .map_err(|error| later(operation, one_line(&error)))?;
        Ok(Reading {
            operation,
            letters: self,
            channel,
        })
    }

    /// Takes the letter of this id out of the queue.
    async fn take(&self, id: &str, fate: Fate) -> Result<bool, QueueError> {
        let reading = self
            .reading(match fate {
                Fate::Requeued => "hand over a dead letter again",
                Fate::Discarded => "discard a dead letter",
            })
            .await?;
        let mut is_found = false;
        while let Some(received) = reading.next().await? {
            let acker = received.acker.clone();
            if letter(received).id == id {
                let settling = async {
                    match fate {
                        // The queue's arguments say where it goes.
                        Fate::Requeued => acker.reject(BasicRejectOptions::default()).await,
                        Fate::Discarded => acker.ack(BasicAckOptions::default()).await,
                    }
                };
                is_found = reading.settled(settling).await?;
                break;
            }
        }
        reading.give_back().await?;
        Ok(is_found)
    }
}

#[async_trait]
impl DeadLetters for AmqpDeadLetters {
    async fn list(&self, letters_max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let reading = self.reading("list its dead letters").await?;
        let mut letters = Vec::new();
        while letters.len() < letters_max
            && let Some(received) = reading.next().await?
        {
            letters.push(letter(received));
        }
        reading.give_back().await?;
        // The ids that keycard gives sort by time, more finely than AMQP's seconds.
        letters.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        Ok(letters)
    }

    async fn requeue(&self, id: &str) -> Result<bool, QueueError> {
        self.take(id, Fate::Requeued).await
    }

    async fn discard(&self, id: &str) -> Result<bool, QueueError> {
        self.take(id, Fate::Discarded).await
    }
}

/// A channel that holds the letters taken so far. The broker takes them back when it is gone.
struct Reading<'a> {
    operation: &'static str,
    letters: &'a AmqpDeadLetters,
    channel: Channel,
}

impl Reading<'_> {
    async fn next(&self) -> Result<Option<Received>, QueueError> {
        let getting = self
            .channel
            .basic_get(DEAD_LETTERS.into(), BasicGetOptions::default());
        let got = self.settled(getting).await?;
        Ok(got.map(|got| got.delivery))
    }

    /// Gives back what is still held, and returns when the broker has it.
    async fn give_back(self) -> Result<(), QueueError> {
        let all = BasicNackOptions {
            multiple: true,
            requeue: true,
        };
        self.settled(self.channel.basic_nack(0, all)).await?;
        self.settled(self.channel.close(200, "done".into())).await
    }

    async fn settled<T>(
        &self,
        operation: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, QueueError> {
        // It listens from before anything is sent.
        let unreadable = unreadable(&self.letters.connection);
        tokio::select! {
            // Cancel-safe: what was under way is lost with the connection.
            error = unreadable => Err(self.refusal(&error)),
            // Cancel-safe: as above.
            outcome = timeout(OPERATION_TIMEOUT, operation) => outcome
                .map_err(|_| silence(self.operation))?
                .map_err(|error| self.refusal(&error)),
        }
    }

    fn refusal(&self, error: &lapin::Error) -> QueueError {
        let broker = &self.letters.broker;
        if !matches!(error.kind(), ErrorKind::ParsingError(_)) {
            return broker.refused(self.operation, error);
        }
        let vhost = broker.vhost();
        fatal(
            self.operation,
            format!(
                "one of them has a property that is no UTF-8, which keycard cannot read. Remedy: \
                 take it out with other means, or all of them with: rabbitmqctl purge_queue -p \
                 '{vhost}' {DEAD_LETTERS}"
            ),
        )
    }
}

/// Returns when the broker has sent what lapin cannot read, of which it tells nobody who waits.
fn unreadable(connection: &Connection) -> impl Future<Output = lapin::Error> {
    let mut events = connection.events_listener();
    async move {
        while let Some(event) = events.next().await {
            if let Event::Error(error) = event
                && matches!(error.kind(), ErrorKind::ParsingError(_))
            {
                return error;
            }
        }
        std::future::pending().await
    }
}

fn silence(operation: &'static str) -> QueueError {
    later(operation, "the broker does not answer".to_owned())
}
