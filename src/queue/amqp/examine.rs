//! Looking at a broker as `keycard doctor` does, with keycard's own user. What is made for that goes
//! with its connection.

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::time::timeout;

use super::connection::{Broker, Part, is_soft, later};
use super::publisher::close;
use super::topology::{self, EVENTS, Looked};
use super::{OPERATION_TIMEOUT, Settings};
use crate::check::{Check, DOCTOR, Status};
use crate::clock;
use crate::queue::{QueueError, examine};

const PERMISSIONS: &str = "queue.permissions";

/// Looks at the broker, at what keycard's user may do, and at what waits there for somebody. No
/// exchange or queue of keycard's is made, changed or read.
pub async fn examine(settings: &Settings) -> Vec<Check> {
    const CONNECTION: &str = "queue.connection";
    let opened = async {
        let broker = Broker::new(Part::Worker, settings)?;
        let connection = broker.open("doctor").await?;
        Ok::<_, QueueError>((broker, connection))
    };
    let (broker, connection) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return vec![Check::failed(CONNECTION, &error)],
    };
    let seen = format!("{} as user '{}'", broker.address(), broker.user());
    let mut checks = vec![if broker.is_protected() {
        Check::ok(CONNECTION, seen)
    } else {
        Check::warning(
            CONNECTION,
            format!("{seen}: whoever is between reads and changes what is said"),
            "have the broker take TLS, and write amqps:// in queue.url",
        )
    }];
    checks.push(match permissions(&broker, &connection).await {
        Ok(check) => check,
        Err(error) => Check::failed(PERMISSIONS, &error),
    });
    let impersonator = impersonator(&broker, &connection).await;
    let is_bound = impersonator
        .as_ref()
        .is_ok_and(|check| check.status == Status::Ok);
    checks.push(impersonator.unwrap_or_else(|error| Check::failed("queue.impersonator", &error)));
    match topology(&broker, &connection).await {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(Check::failed("queue.topology", &error)),
    }
    if is_bound && let Err(error) = results(&broker, &connection).await {
        checks.push(Check::failed(PERMISSIONS, &error));
    }
    close(&connection).await;
    checks
}

/// A message to itself through a queue that goes with the connection: what it takes to declare,
/// publish and read.
async fn permissions(broker: &Broker, connection: &Connection) -> Result<Check, QueueError> {
    const OPERATION: &str = "send itself a message";
    topology::check_version(broker, connection).await?;
    let sending = async {
        let (channel, queue) = own_queue(connection).await?;
        let confirmed = publish(&channel, "", &queue, broker.user()).await?;
        let options = BasicGetOptions { no_ack: true };
        let got = channel.basic_get(queue.as_str().into(), options).await?;
        Ok((confirmed, got.is_some()))
    };
    let (confirmed, is_there) = answered(OPERATION, broker, sending).await?;
    Ok(
        if matches!(confirmed, Confirmation::Ack(None)) && is_there {
            let seen = "the user may declare, publish and read what is keycard's";
            Check::ok(PERMISSIONS, seen)
        } else {
            let seen = "a message that keycard sent itself did not arrive";
            Check::failure(PERMISSIONS, seen, "read why in the broker's log")
        },
    )
}

/// Who is tagged impersonator speaks for anybody. Only keycard's own user can be looked at so.
async fn impersonator(broker: &Broker, connection: &Connection) -> Result<Check, QueueError> {
    const NAME: &str = "queue.impersonator";
    let user = broker.user();
    let speaking = async {
        let (channel, queue) = own_queue(connection).await?;
        match publish(&channel, "", &queue, DOCTOR).await {
            Ok(_) => Ok(true),
            Err(error) if is_soft(&error, AMQPSoftError::PRECONDITIONFAILED) => Ok(false),
            Err(error) => Err(error),
        }
    };
    Ok(
        if answered("speak as another user", broker, speaking).await? {
            Check::failure(
                NAME,
                format!("'{user}' may publish as any other user"),
                format!(
                    "`rabbitmqctl list_users` shows its tags; set them without impersonator: rabbitmqctl set_user_tags '{user}' ..."
                ),
            )
        } else {
            Check::ok(NAME, format!("'{user}' may publish as nobody else"))
        },
    )
}

/// Whether results may be published, tried by one that the broker refuses for the user that it
/// names, which it looks at after the permission.
async fn results(broker: &Broker, connection: &Connection) -> Result<(), QueueError> {
    let publishing = async {
        let channel = confirming_channel(connection).await?;
        match publish(&channel, EVENTS, "", DOCTOR).await {
            Err(error) if is_soft(&error, AMQPSoftError::ACCESSREFUSED) => Err(error),
            // One that is missing is the topology's.
            Ok(_) | Err(_) => Ok(()),
        }
    };
    answered("publish results", broker, publishing).await
}

/// Whether keycard's exchanges and queues are there and as they must be, and what waits in them.
async fn topology(broker: &Broker, connection: &Connection) -> Result<Vec<Check>, QueueError> {
    const NAME: &str = "queue.topology";
    let Looked {
        there,
        missing,
        waiting,
        workers,
        dead_letters,
        unrouted,
    } = topology::look(broker, connection).await?;
    if !missing.is_empty() {
        let seen = if there == 0 {
            "no exchange or queue is there yet".to_owned()
        } else {
            format!("missing: {}", missing.join(", "))
        };
        let remedy = "start `keycard worker`, which makes them";
        return Ok(vec![Check::warning(NAME, seen, remedy)]);
    }
    // Declares what is there already, as every worker does: it only compares.
    topology::declare(broker, connection).await?;
    let seen = "every exchange and queue is there, of this installation";
    let mut checks = vec![
        Check::ok(NAME, seen),
        examine::served(workers.into(), waiting.into()),
        examine::dead_letters(dead_letters.into()),
    ];
    checks.push(if unrouted == 0 {
        Check::ok("queue.unrouted", "every result had a reader")
    } else {
        Check::warning(
            "queue.unrouted",
            format!("{unrouted} results had no reader"),
            "have each service bind its queue to keycard.events before it asks, then purge keycard.unrouted; nothing is lost if they are of keycard's command line, which binds none, or of a doctor's lease that a worker had to end",
        )
    });
    Ok(checks)
}

async fn confirming_channel(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// A channel with confirmations, and a queue for this connection alone.
async fn own_queue(connection: &Connection) -> lapin::Result<(Channel, String)> {
    let channel = confirming_channel(connection).await?;
    let queue = format!("keycard.doctor.{}", clock::uuid_v7());
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.as_str().into(), options, FieldTable::default())
        .await?;
    Ok((channel, queue))
}

async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    user: &str,
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default().with_user_id(user.into());
    channel
        .basic_publish(exchange.into(), key.into(), options, b"doctor", properties)
        .await?
        .await
}

async fn answered<T>(
    operation: &'static str,
    broker: &Broker,
    asking: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    timeout(OPERATION_TIMEOUT, asking)
        .await
        .map_err(|_| later(operation, "the broker does not answer".to_owned()))?
        .map_err(|error| broker.refused(operation, &error))
}
