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
use super::topology::{self, Looked};
use super::{OPERATION_TIMEOUT, Settings};
use crate::check::Check;
use crate::clock;
use crate::queue::QueueError;

const PERMISSIONS: &str = "queue.permissions";

/// A user that nobody is: who may publish as it may publish as anybody.
const NOBODY: &str = "keycard-doctor";

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
    let mut checks = vec![Check::ok(CONNECTION, seen)];
    checks.push(match permissions(&broker, &connection).await {
        Ok(check) => check,
        Err(error) => Check::failed(PERMISSIONS, &error),
    });
    checks.push(match impersonator(&broker, &connection).await {
        Ok(check) => check,
        Err(error) => Check::failed("queue.impersonator", &error),
    });
    match topology(&broker, &connection).await {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(Check::failed("queue.topology", &error)),
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
        let confirmed = publish(&channel, &queue, broker.user()).await?;
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
        match publish(&channel, &queue, NOBODY).await {
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
                format!("rabbitmqctl set_user_tags '{user}', without impersonator"),
            )
        } else {
            Check::ok(NAME, format!("'{user}' may publish as nobody else"))
        },
    )
}

/// Whether keycard's exchanges and queues are there and as they must be, and what waits in them.
async fn topology(broker: &Broker, connection: &Connection) -> Result<Vec<Check>, QueueError> {
    const NAME: &str = "queue.topology";
    let Looked {
        missing,
        dead_letters,
        unrouted,
    } = topology::look(broker, connection).await?;
    if !missing.is_empty() {
        return Ok(vec![Check::warning(
            NAME,
            format!("missing: {}", missing.join(", ")),
            "start `keycard worker`, which makes them",
        )]);
    }
    // Declares what is there already, as every worker does: it only compares.
    topology::declare(broker, connection).await?;
    let seen = "every exchange and queue is there, of this installation";
    let mut checks = vec![Check::ok(NAME, seen)];
    checks.push(if dead_letters == 0 {
        Check::ok("queue.dead_letters", "none waits")
    } else {
        Check::warning(
            "queue.dead_letters",
            format!("{dead_letters} messages could not be processed"),
            "`keycard dead-letters list` says why",
        )
    });
    checks.push(if unrouted == 0 {
        Check::ok("queue.unrouted", "every result had a reader")
    } else {
        Check::warning(
            "queue.unrouted",
            format!("{unrouted} results were for services that had bound no queue"),
            "have each service bind its queue to keycard.events before it asks; then purge keycard.unrouted",
        )
    });
    Ok(checks)
}

/// A channel with confirmations, and a queue for this connection alone.
async fn own_queue(connection: &Connection) -> lapin::Result<(Channel, String)> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
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

async fn publish(channel: &Channel, queue: &str, user: &str) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default().with_user_id(user.into());
    channel
        .basic_publish("".into(), queue.into(), options, b"doctor", properties)
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
