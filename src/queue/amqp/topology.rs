//! The exchanges and queues that keycard lives on. They are declared anew on every connection, so
//! that a broker that has lost them gets them back.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind, Queue};
use tokio::time::timeout;

use super::OPERATION_TIMEOUT;
use super::connection::{Broker, fatal, is_soft, later, one_line};
use super::ladder::Rung;
use crate::queue::{Lane, QueueError};

/// Services publish credential requests here.
pub(super) const REQUESTS: &str = "keycard.requests";
/// Services publish renewals and revocations here.
pub(super) const LEASES: &str = "keycard.leases";
/// Results, by requester.
pub(super) const EVENTS: &str = "keycard.events";
/// Results that nobody had bound.
pub(super) const UNROUTED: &str = "keycard.unrouted";
/// Expiry events and deferred messages that are due.
pub(super) const EXPIRY: &str = "keycard.expiry";
/// What could not be processed.
pub(super) const DEAD_LETTERS: &str = "keycard.dead-letters";

/// Carries the installation's name in its `alternate-exchange`, which the broker compares on every
/// declaration: an argument of our own, `x-keycard-installation` say, it would store and ignore.
/// It is internal and has no bindings, so nothing is ever published to it.
const MARKER: &str = "keycard.installation";

/// Exists for a moment, on brokers that are too old.
const VERSION_CHECK: &str = "keycard.version-check";

/// Deliveries of one message before the broker gives it up. All that are in flight count one more
/// when a worker crashes, so a small limit buries the neighbours of a poisonous message.
const DELIVERY_LIMIT: i64 = 20;

/// Messages kept in a queue that nobody consumes; the oldest go first.
const PARKED_MESSAGES_MAX: i64 = 100_000;

/// Bytes kept in a queue that nobody consumes.
const PARKED_BYTES_MAX: i64 = 256 << 20;

/// Deliveries of one dead letter, which every look at it counts: no look may be its last, as it
/// would be with the 20 that `RabbitMQ` 4 takes without being told.
const LOOKS_MAX: i64 = 1_000_000_000;

const OPERATION: &str = "declare its exchanges and queues";

/// The queue of a lane.
pub(super) fn queue_of(lane: Lane) -> &'static str {
    match lane {
        Lane::Requests => REQUESTS,
        Lane::Leases => LEASES,
        Lane::Expiry => EXPIRY,
    }
}

/// Declares everything; what exists already must be the same.
pub(super) async fn declare(broker: &Broker, connection: &Connection) -> Result<(), QueueError> {
    let declaring = async {
        let channel = open_channel(connection).await?;
        declare_marker(broker, &channel).await?;
        let declare = Declare { broker, channel };
        declare.dead_letters().await?;
        declare.queue(UNROUTED, parking()).await?;
        for queue in [REQUESTS, LEASES, EXPIRY] {
            declare.working_queue(queue).await?;
        }
        for rung in Rung::all() {
            declare.rung(rung).await?;
        }
        for exchange in [REQUESTS, LEASES, UNROUTED] {
            let nothing = FieldTable::default();
            declare
                .exchange(exchange, ExchangeKind::Fanout, nothing)
                .await?;
            declare.bind(exchange).await?;
        }
        let unrouted = table([("alternate-exchange", string(UNROUTED))]);
        declare
            .exchange(EVENTS, ExchangeKind::Topic, unrouted)
            .await
    };
    timeout(OPERATION_TIMEOUT, declaring)
        .await
        .unwrap_or_else(|_| Err(silence()))
}

/// Which exchanges and queues are there, and what waits in them.
pub(super) async fn look(broker: &Broker, connection: &Connection) -> Result<Looked, QueueError> {
    let looking = async {
        let mut looked = Looked::default();
        let queues = [REQUESTS, LEASES, EXPIRY, DEAD_LETTERS, UNROUTED].map(str::to_owned);
        for queue in queues.into_iter().chain(Rung::all().map(Rung::queue)) {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            // One that is missing costs the channel.
            let channel = open_channel(connection).await?;
            let declaring = channel.queue_declare(queue.as_str().into(), options, table([]));
            match declaring.await {
                Ok(there) => looked.see(&queue, &there),
                Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => {
                    looked.missing.push(queue);
                }
                Err(error) => return Err(refusal(broker, &error)),
            }
        }
        for exchange in [MARKER, REQUESTS, LEASES, EVENTS, UNROUTED] {
            let options = ExchangeDeclareOptions {
                passive: true,
                ..ExchangeDeclareOptions::default()
            };
            let channel = open_channel(connection).await?;
            let kind = ExchangeKind::Fanout;
            match channel
                .exchange_declare(exchange.into(), kind, options, table([]))
                .await
            {
                Ok(()) => looked.there += 1,
                Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => {
                    looked.missing.push(format!("exchange {exchange}"));
                }
                Err(error) => return Err(refusal(broker, &error)),
            }
        }
        Ok(looked)
    };
    timeout(OPERATION_TIMEOUT, looking)
        .await
        .unwrap_or_else(|_| Err(silence()))
}

/// Keycard's exchanges and queues as they are.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// How many of them there are.
    pub(super) there: usize,
    /// Those that are not there.
    pub(super) missing: Vec<String>,
    /// Messages that no worker has taken yet, in all lanes.
    pub(super) waiting: u32,
    /// Workers that take requests.
    pub(super) workers: u32,
    /// Messages among the dead letters.
    pub(super) dead_letters: u32,
    /// Results that nobody had bound a queue for.
    pub(super) unrouted: u32,
}

impl Looked {
    fn see(&mut self, name: &str, queue: &Queue) {
        self.there += 1;
        let messages = queue.message_count();
        match name {
            DEAD_LETTERS => self.dead_letters = messages,
            UNROUTED => self.unrouted = messages,
            REQUESTS | LEASES | EXPIRY => self.waiting += messages,
            // A rung: what is in it waits for its time.
            _ => {}
        }
        if name == REQUESTS {
            self.workers = queue.consumer_count();
        }
    }
}

/// Refuses a broker without dead-lettering at least once, which came with `RabbitMQ` 3.10. lapin
/// keeps the server's version to itself, so the capability is asked for: a broker that knows the
/// argument refuses this value of it, one that does not makes a temporary queue.
pub(super) async fn check_version(
    broker: &Broker,
    connection: &Connection,
) -> Result<(), QueueError> {
    let asking = async {
        let channel = open_channel(connection).await?;
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let arguments = table([("x-dead-letter-strategy", string("which do you know?"))]);
        match channel
            .queue_declare(VERSION_CHECK.into(), options, arguments)
            .await
        {
            Err(error) if is_soft(&error, AMQPSoftError::PRECONDITIONFAILED) => Ok(()),
            Err(error) => Err(refusal(broker, &error)),
            Ok(_) => Err(fatal(
                "use this broker",
                "it is older than RabbitMQ 3.10 and would lose delayed messages. Remedy: upgrade it"
                    .to_owned(),
            )),
        }
    };
    timeout(OPERATION_TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| Err(silence()))
}

async fn declare_marker(broker: &Broker, channel: &Channel) -> Result<(), QueueError> {
    let name = format!("{MARKER}.{}", broker.installation);
    let options = ExchangeDeclareOptions {
        durable: true,
        internal: true,
        ..ExchangeDeclareOptions::default()
    };
    let arguments = table([("alternate-exchange", string(&name))]);
    channel
        .exchange_declare(MARKER.into(), ExchangeKind::Fanout, options, arguments)
        .await
        .map_err(|error| {
            if is_soft(&error, AMQPSoftError::PRECONDITIONFAILED) {
                fatal(
                    "use this vhost",
                    format!(
                        "it belongs to another installation than '{}': {}. Remedy: a vhost for \
                         each installation",
                        broker.installation,
                        one_line(&error)
                    ),
                )
            } else {
                refusal(broker, &error)
            }
        })
}

struct Declare<'a> {
    broker: &'a Broker,
    channel: Channel,
}

impl Declare<'_> {
    /// What cannot be processed leaves it for the dead letters, without getting lost on the way.
    async fn working_queue(&self, name: &str) -> Result<(), QueueError> {
        let mut arguments = dead_lettering_into(DEAD_LETTERS);
        arguments.insert("x-delivery-limit".into(), integer(DELIVERY_LIMIT));
        self.queue(name, arguments).await
    }

    /// What an operator rejects goes to the worker again, by the broker's hand: it comes as it was,
    /// under the user that it was published by, which no operator could do.
    ///
    /// Being bounded in size excludes moving at least once: a broker that dies in that moment can
    /// lose the letter. The bound matters more, as it never keeps anybody waiting. What it drops is
    /// moved as well, and the worker throws that away.
    async fn dead_letters(&self) -> Result<(), QueueError> {
        let mut arguments = parking();
        arguments.insert("x-dead-letter-exchange".into(), string(""));
        arguments.insert("x-dead-letter-routing-key".into(), string(EXPIRY));
        arguments.insert("x-dead-letter-strategy".into(), string("at-most-once"));
        arguments.insert("x-delivery-limit".into(), integer(LOOKS_MAX));
        self.queue(DEAD_LETTERS, arguments).await
    }

    async fn rung(&self, rung: Rung) -> Result<(), QueueError> {
        let mut arguments = dead_lettering_into(EXPIRY);
        let milliseconds = i64::try_from(rung.wait().as_millis()).unwrap_or(i64::MAX);
        arguments.insert("x-message-ttl".into(), integer(milliseconds));
        self.queue(&rung.queue(), arguments).await
    }

    async fn queue(&self, name: &str, mut arguments: FieldTable) -> Result<(), QueueError> {
        arguments.insert("x-queue-type".into(), string("quorum"));
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let vhost = self.broker.vhost();
        self.channel
            .queue_declare(name.into(), options, arguments)
            .await
            .map(drop)
            .map_err(|error| {
                let remedy = format!("rabbitmqctl delete_queue -p '{vhost}' {name}");
                self.difference("queue", name, &error, &remedy)
            })
    }

    async fn exchange(
        &self,
        name: &str,
        kind: ExchangeKind,
        arguments: FieldTable,
    ) -> Result<(), QueueError> {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let vhost = self.broker.vhost();
        self.channel
            .exchange_declare(name.into(), kind, options, arguments)
            .await
            .map_err(|error| {
                let remedy = format!("rabbitmqadmin --vhost='{vhost}' delete exchange name={name}");
                self.difference("exchange", name, &error, &remedy)
            })
    }

    /// The exchange to the queue of the same name.
    async fn bind(&self, name: &str) -> Result<(), QueueError> {
        self.channel
            .queue_bind(
                name.into(),
                name.into(),
                "".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(|error| refusal(self.broker, &error))
    }

    fn difference(&self, what: &str, name: &str, error: &lapin::Error, remedy: &str) -> QueueError {
        if is_soft(error, AMQPSoftError::PRECONDITIONFAILED) {
            fatal(
                OPERATION,
                format!(
                    "the {what} {name} exists and differs: {}. Remedy, once nothing in it is \
                     needed: {remedy}",
                    one_line(error)
                ),
            )
        } else {
            refusal(self.broker, error)
        }
    }
}

async fn open_channel(connection: &Connection) -> Result<Channel, QueueError> {
    connection
        .create_channel()
        .await
        .map_err(|error| later(OPERATION, one_line(&error)))
}

fn refusal(broker: &Broker, error: &lapin::Error) -> QueueError {
    if is_soft(error, AMQPSoftError::ACCESSREFUSED) {
        let remedy = broker.permissions();
        fatal(OPERATION, format!("{}. Remedy: {remedy}", one_line(error)))
    } else {
        later(OPERATION, one_line(error))
    }
}

fn silence() -> QueueError {
    later(OPERATION, "the broker does not answer".to_owned())
}

/// At least once needs a quorum queue, this strategy, this overflow, and a target that is always
/// there: the default exchange and the name of a queue.
fn dead_lettering_into(queue: &str) -> FieldTable {
    table([
        ("x-dead-letter-exchange", string("")),
        ("x-dead-letter-routing-key", string(queue)),
        ("x-dead-letter-strategy", string("at-least-once")),
        ("x-overflow", string("reject-publish")),
    ])
}

/// Bounded, because nobody consumes it.
fn parking() -> FieldTable {
    table([
        ("x-overflow", string("drop-head")),
        ("x-max-length", integer(PARKED_MESSAGES_MAX)),
        ("x-max-length-bytes", integer(PARKED_BYTES_MAX)),
    ])
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn integer(number: i64) -> AMQPValue {
    AMQPValue::LongLongInt(number)
}
