//! A service's side of the broker, for the command line: publishes one command and waits for the
//! direct reply. Every service can do the same with any AMQP library.

use async_trait::async_trait;
use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection};
use tokio::time::timeout;

use super::Settings;
use super::connection::{Broker, Part};
use super::message::CONTENT_TYPE;
use super::topology::queue_of;
use crate::queue::{ANSWER, Lane, QueueError, Requesting, TRIES, TRY, unanswered};

/// The pseudo-queue that direct replies arrive on.
const DIRECT_REPLIES: &str = "amq.rabbitmq.reply-to";

/// A service, as its user of the broker's.
pub struct Client {
    broker: Broker,
}

impl Client {
    /// A service with the settings' user. It declares nothing, so `installation` and `prefetch`
    /// are not looked at.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, QueueError> {
        Ok(Self {
            broker: Broker::new(Part::Client, settings)?,
        })
    }
}

#[async_trait]
impl Requesting for Client {
    async fn ask(&self, lane: Lane, command: &[u8]) -> Result<Vec<u8>, QueueError> {
        let connection = self.broker.open("client").await?;
        let user = self.broker.user();
        // Replies are sent at most once.
        for _ in 0..TRIES {
            match timeout(TRY, ask_once(&connection, user, lane, command)).await {
                Ok(Ok(Some(answer))) => return Ok(answer),
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => return Err(self.broker.refused(ANSWER, &error)),
            }
        }
        Err(unanswered())
    }
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
