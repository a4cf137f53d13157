//! A service's side of the broker, for the command line: publishes one command and waits for the
//! direct reply. Every service can do the same with any AMQP library.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection};
use tokio::time::timeout;

use super::Settings;
use super::connection::Broker;
use super::message::CONTENT_TYPE;
use super::topology::queue_of;
use crate::fault::Disposition;
use crate::queue::{Lane, QueueError};

/// The pseudo-queue that direct replies arrive on.
const DIRECT_REPLIES: &str = "amq.rabbitmq.reply-to";

/// How long a try waits for the reply. Replies are sent at most once, so the command is published
/// again after that: the same id gets the same answer.
const TRY: Duration = Duration::from_secs(10);

/// Publishes `command` for a lane as the settings' user, and waits for the answer to it.
///
/// # Errors
/// When the broker cannot be reached or refuses, or no answer came within `tries` times 10 s.
pub async fn ask(
    settings: &Settings,
    lane: Lane,
    command: &[u8],
    tries: u32,
) -> Result<Vec<u8>, QueueError> {
    let broker = Broker::new(settings)?;
    let connection = broker.open("client").await?;
    for _ in 0..tries {
        match timeout(TRY, ask_once(&connection, broker.user(), lane, command)).await {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => return Err(failed(error.to_string())),
        }
    }
    Err(failed(format!(
        "no answer came within {} s; is a worker running? The same command may be sent again",
        TRY.as_secs() * u64::from(tries)
    )))
}

async fn ask_once(
    connection: &Connection,
    user: &str,
    lane: Lane,
    command: &[u8],
) -> Result<Option<Vec<u8>>, lapin::Error> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    // Before the publish, and on the same channel: the address belongs to it.
    let mut replies = channel
        .basic_consume(
            DIRECT_REPLIES.into(),
            "".into(),
            BasicConsumeOptions {
                no_ack: true,
                ..BasicConsumeOptions::default()
            },
            FieldTable::default(),
        )
        .await?;
    let properties = BasicProperties::default()
        .with_user_id(user.into())
        .with_reply_to(DIRECT_REPLIES.into())
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(2);
    channel
        .basic_publish(
            // Exchange and queue of a lane have the same name.
            queue_of(lane).into(),
            "".into(),
            BasicPublishOptions::default(),
            command,
            properties,
        )
        .await?
        .await?;
    replies
        .next()
        .await
        .transpose()
        .map(|reply| reply.map(|reply| reply.data))
}

fn failed(problem: String) -> QueueError {
    QueueError {
        operation: "get an answer",
        problem,
        disposition: Disposition::Retry,
    }
}
