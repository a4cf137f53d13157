//! What only a broker has: queues to look into and to bind, and clients that wait for direct replies.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use serde_json::Value;
use tokio::time::timeout;

use super::client::{Heard, SOON};
use super::services::WORKER;
use super::site::Site;

/// Somebody who may look into every queue of a site.
pub struct Administrator {
    pub channel: Channel,
    _connection: Connection,
}

impl Administrator {
    pub async fn of(site: &Site) -> Self {
        // The worker's own user may do everything in the vhost.
        let connection = connect(site, WORKER).await;
        let channel = confirming_channel(&connection).await;
        Self {
            channel,
            _connection: connection,
        }
    }

    /// How many messages a queue holds right now, which the management API says a second later.
    pub async fn messages(&self, queue: &str) -> u32 {
        look_at(&self.channel, queue).await.message_count()
    }

    /// How many take messages from a queue.
    pub async fn consumers(&self, queue: &str) -> u32 {
        look_at(&self.channel, queue).await.consumer_count()
    }
}

/// A client that waits for direct replies, as RPC clients do.
pub struct DirectReply {
    channel: Channel,
    replies: Consumer,
    /// Commands published so far.
    pub published: usize,
    _connection: Connection,
}

/// The pseudo-queue that the broker turns into an address of the client's own.
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

impl DirectReply {
    pub async fn of(site: &Site, user: &str) -> Self {
        let connection = connect(site, user).await;
        let channel = confirming_channel(&connection).await;
        Self {
            replies: take_all(&channel, REPLY_TO).await,
            published: 0,
            channel,
            _connection: connection,
        }
    }

    /// Publishes a command and waits for the reply to it; again, as callers do, when none comes: a
    /// reply that the broker does not take within two seconds is given up.
    pub async fn call(
        &mut self,
        exchange: &str,
        command: &Value,
        properties: BasicProperties,
    ) -> Heard {
        let properties = properties.with_reply_to(REPLY_TO.into());
        let body = command.to_string();
        for _ in 0..4 {
            self.published += 1;
            let publishing = publish_to(
                &self.channel,
                exchange,
                "",
                body.as_bytes(),
                properties.clone(),
            );
            publishing.await;
            let waiting = Duration::from_secs(SOON);
            if let Ok(reply) = timeout(waiting, self.reply_to(&command["id"])).await {
                return reply;
            }
        }
        panic!("no direct reply to {command}")
    }

    /// The next reply to the command of this id; others are of commands that were published again.
    async fn reply_to(&mut self, id: &Value) -> Heard {
        loop {
            let reply = self.replies.next().await.unwrap().unwrap();
            let heard = Heard::from(reply);
            if heard.event["correlationid"] == *id {
                return heard;
            }
        }
    }
}

/// Publishes anything anywhere, and waits for the broker to have it.
pub async fn publish_to(
    channel: &Channel,
    exchange: &str,
    routing_key: &str,
    body: &[u8],
    properties: BasicProperties,
) {
    let confirmation = channel
        .basic_publish(
            exchange.into(),
            routing_key.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        )
        .await
        .unwrap()
        .await
        .unwrap();
    assert!(confirmation.is_ack(), "{confirmation:?}");
}

async fn connect(site: &Site, user: &str) -> Connection {
    Connection::connect(&site.uri(user), ConnectionProperties::default())
        .await
        .unwrap_or_else(|error| panic!("{user} cannot connect: {error}"))
}

/// A channel on which the broker confirms what is published.
pub async fn confirming_channel(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    channel
}

/// What the broker says of a queue right now; the management API says it a second later.
pub async fn look_at(channel: &Channel, queue: &str) -> lapin::Queue {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
    declared.await.unwrap()
}

/// A queue that lives as long as the channel's connection; its name.
pub async fn own_queue(channel: &Channel) -> String {
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare("".into(), exclusive, FieldTable::default());
    declared.await.unwrap().name().to_string()
}

/// Binds a queue to the results with these routing keys, if the broker allows it.
pub async fn bind(channel: &Channel, queue: &str, key: &str) -> lapin::Result<()> {
    let binding = channel.queue_bind(
        queue.into(),
        "keycard.events".into(),
        key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    binding.await
}

/// Everything that comes to a queue, acknowledged by being sent.
pub async fn take_all(channel: &Channel, queue: &str) -> Consumer {
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    consuming.await.unwrap()
}
