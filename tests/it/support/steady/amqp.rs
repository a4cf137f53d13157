//! At a broker: publisher confirms, and a durable queue for its results.

use futures_util::StreamExt as _;
use keycard::lease::Requester;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{CONFIRM_TIMEOUT, CONNECT_TIMEOUT, Command, Ear, RECONNECT_PAUSE};
use crate::support::servers::RabbitMq;
use crate::support::site::Site;

/// Its own queue.
fn results(user: &str) -> String {
    format!("results.{}", Requester::new(user).unwrap().encoded())
}

/// Lets `user` keep a queue in this site from now on.
pub(super) fn permit(site: &Site, rabbitmq: &RabbitMq, user: &str) {
    rabbitmq.set_permissions(
        &site.vhost,
        user,
        "^results\\.",
        "^(results\\..*|keycard\\.(requests|leases))$",
        "^(results\\..*|keycard\\.events)$",
    );
}

async fn connected(uri: &str) -> lapin::Result<(Connection, Channel)> {
    let connecting = async {
        let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    };
    let silent = |_| lapin::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    timeout(CONNECT_TIMEOUT, connecting).await.map_err(silent)?
}

pub(super) async fn listen(uri: String, user: String, ear: Ear) {
    loop {
        // An error means another connection; what was not acknowledged comes again.
        let _ = listen_once(&uri, &user, &ear).await;
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn listen_once(uri: &str, user: &str, ear: &Ear) -> lapin::Result<()> {
    let queue = results(user);
    let (_connection, channel) = connected(uri).await?;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.clone().into(), durable, arguments)
        .await?;
    let key = format!("{}.#", Requester::new(user).unwrap().encoded());
    channel
        .queue_bind(
            queue.clone().into(),
            "keycard.events".into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut results = channel
        .basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    ear.listening.send_replace(true);
    while let Some(delivery) = results.next().await {
        let delivery = delivery?;
        let event = serde_json::from_slice(&delivery.data).unwrap();
        ear.heard.lock().unwrap().push(event);
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

pub(super) async fn publish(
    uri: String,
    user: String,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut unconfirmed = None;
    loop {
        // An error means another connection; what was not confirmed is published again.
        let _ = publish_once(&uri, &user, &mut commands, &mut unconfirmed).await;
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn publish_once(
    uri: &str,
    user: &str,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    unconfirmed: &mut Option<Command>,
) -> lapin::Result<()> {
    let (_connection, channel) = connected(uri).await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    loop {
        if unconfirmed.is_none() {
            *unconfirmed = commands.recv().await;
        }
        let Some(command) = unconfirmed else {
            return Ok(());
        };
        let properties = BasicProperties::default()
            .with_user_id(user.into())
            .with_content_type("application/cloudevents+json".into())
            .with_delivery_mode(2);
        let confirmed = timeout(CONFIRM_TIMEOUT, async {
            channel
                .basic_publish(
                    format!("keycard.{}", command.lane).into(),
                    "".into(),
                    BasicPublishOptions::default(),
                    command.body.as_bytes(),
                    properties,
                )
                .await?
                .await
        });
        match confirmed.await {
            Ok(Ok(confirmation)) if confirmation.is_ack() => *unconfirmed = None,
            Ok(Err(error)) => return Err(error),
            // Refused or silent.
            Ok(Ok(_)) | Err(_) => return Ok(()),
        }
    }
}
