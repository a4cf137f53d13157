//! The queue on `RabbitMQ`: the suite, and what only this adapter promises.

mod asking;
mod failures;
mod identity;
mod letters;
mod replies;
mod tls;
mod topology;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use keycard::queue::amqp::{self, AmqpDeadLetters, AmqpQueue, Settings};
use keycard::queue::{DeadLetters, Lane, Queue, QueueError, Requesting};
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::timeout;

use super::conformance::{Backend, Command, DEADLINE, conformance};
use crate::support::broker::{bind, confirming_channel, take_all};
use crate::support::servers::{RabbitMq, shared_rabbitmq};

conformance!(Vhost::new());

/// keycard's own user, with exactly the permissions that its error messages ask for.
const OWN_USER: &str = "keycard-worker";
const PASSWORD: &str = "not a secret: p@ss/w:rd?";

/// Handles the dead letters, with exactly the permission that it takes.
const OPERATOR: &str = "ops";

/// A vhost of a broker, for one test.
struct Vhost {
    broker: &'static RabbitMq,
    name: String,
}

impl Drop for Vhost {
    fn drop(&mut self) {
        self.broker.delete_vhost(&self.name);
    }
}

impl Vhost {
    #[expect(clippy::unused_async, reason = "the suite awaits every adapter's")]
    async fn new() -> Self {
        Self::of(block_in_place(shared_rabbitmq))
    }

    fn of(broker: &'static RabbitMq) -> Self {
        // The broker refuses to create a user twice at the same moment.
        static ALONE: Mutex<()> = Mutex::new(());
        let name = format!("test/{}", keycard::clock::uuid_v7());
        block_in_place(|| {
            let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            broker.create_vhost(&name);
            broker.add_user(OWN_USER, PASSWORD);
            let own = "^keycard\\.";
            let write = "^(keycard\\.|amq\\.default$)";
            broker.set_permissions(&name, OWN_USER, own, write, own);
            for service in ["orders", "orders.eu", "billing"] {
                broker.add_user(service, PASSWORD);
                let write = "^(keycard\\.(requests|leases)|service\\..*)$";
                let read = "^(keycard\\.events|service\\..*)$";
                broker.set_permissions(&name, service, "^service\\.", write, read);
            }
            broker.add_user(OPERATOR, PASSWORD);
            let read = "^keycard\\.dead-letters$";
            broker.set_permissions(&name, OPERATOR, "^$", "^$", read);
        });
        Self { broker, name }
    }

    fn url(&self, user: &str, password: &str) -> String {
        let encode = |text| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        format!(
            "amqp://{}:{}@{}:{}/{}",
            encode(user),
            encode(password),
            self.broker.host,
            self.broker.port,
            encode(&self.name)
        )
    }

    fn settings(&self) -> Settings {
        Settings {
            uri: self.url(OWN_USER, "this one is outdated").parse().unwrap(),
            password: Arc::new(|| Box::pin(async { Ok(SecretString::from(PASSWORD)) })),
            ca_file: None,
            installation: "test".to_owned(),
            prefetch: 64,
            patience: None,
        }
    }

    /// As another user connects, who declares nothing.
    fn settings_of(&self, user: &str) -> Settings {
        let mut settings = self.settings();
        user.clone_into(&mut settings.uri.authority.userinfo.username);
        settings
    }

    async fn letters(&self) -> AmqpDeadLetters {
        let settings = self.settings_of(OPERATOR);
        let connecting = AmqpDeadLetters::connect(&settings);
        timeout(DEADLINE, connecting).await.unwrap().unwrap()
    }

    async fn queue(&self) -> AmqpQueue {
        connect(self.settings()).await.unwrap()
    }

    async fn client(&self, user: &str) -> Client {
        let password = if user == self.broker.user {
            &self.broker.password
        } else {
            PASSWORD
        };
        Client::connect(&self.url(user, password)).await
    }

    async fn admin(&self) -> Client {
        self.client(&self.broker.user).await
    }
}

async fn connect(settings: Settings) -> Result<AmqpQueue, QueueError> {
    timeout(DEADLINE, AmqpQueue::connect(settings))
        .await
        .expect("connected, or refused, in time")
}

/// A service, as far as the broker sees it.
struct Client {
    connection: Connection,
    channel: Mutex<Channel>,
}

impl Client {
    async fn connect(url: &str) -> Self {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        let connection = timeout(DEADLINE, connecting).await.unwrap().unwrap();
        let channel = confirming_channel(&connection).await;
        Self {
            connection,
            channel: Mutex::new(channel),
        }
    }

    fn channel(&self) -> Channel {
        self.channel.lock().unwrap().clone()
    }

    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), String> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publishing = async {
            self.channel()
                .basic_publish(
                    exchange.into(),
                    routing_key.into(),
                    options,
                    body,
                    properties,
                )
                .await?
                .await
        };
        let confirmation = timeout(DEADLINE, publishing).await.unwrap();
        match confirmation.map_err(|error| error.to_string())? {
            Confirmation::Ack(None) => Ok(()),
            refused @ (Confirmation::Ack(_)
            | Confirmation::Nack(_)
            | Confirmation::NotRequested) => Err(format!("{refused:?}")),
        }
    }

    /// Takes one message out of a queue.
    async fn get(&self, queue: &str) -> Option<lapin::message::Delivery> {
        self.channel()
            .basic_get(queue.into(), BasicGetOptions { no_ack: true })
            .await
            .unwrap()
            .map(|got| got.delivery)
    }
}

fn exchange_of(lane: Lane) -> &'static str {
    match lane {
        Lane::Requests => "keycard.requests",
        Lane::Leases => "keycard.leases",
        Lane::Expiry => panic!("services have no business there"),
    }
}

#[async_trait]
impl Backend for Vhost {
    async fn worker(&self) -> Box<dyn Queue> {
        Box::new(self.queue().await)
    }

    async fn send(&self, service: &str, lane: Lane, command: Command) {
        let mut properties = BasicProperties::default().with_user_id(service.into());
        if let Some(id) = command.correlation_id {
            properties = properties.with_correlation_id(id.into());
        }
        let client = self.client(service).await;
        client
            .publish(exchange_of(lane), "", &command.body, properties)
            .await
            .unwrap();
        client.connection.close(200, "done".into()).await.unwrap();
    }

    async fn results(&self, service: &str) -> mpsc::Receiver<Vec<u8>> {
        let client = self.client(service).await;
        let channel = client.channel();
        let queue = format!("service.{service}");
        let encoded = keycard::lease::Requester::new(service).unwrap().encoded();
        channel
            .queue_declare(
                queue.as_str().into(),
                QueueDeclareOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        bind(&channel, &queue, &format!("{encoded}.#"))
            .await
            .unwrap();
        let mut consumer = take_all(&channel, &queue).await;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                assert_eq!(
                    delivery.properties.user_id().as_ref().unwrap().as_str(),
                    OWN_USER
                );
                if sender.send(delivery.data).await.is_err() {
                    break;
                }
            }
            drop(client);
        });
        receiver
    }

    async fn break_connections(&self) {
        block_in_place(|| self.broker.close_connections(&self.name));
    }

    async fn requesting(&self, service: &str) -> Box<dyn Requesting> {
        let settings = Settings {
            uri: self.url(service, "").parse().unwrap(),
            ..self.settings()
        };
        Box::new(amqp::Client::new(&settings).unwrap())
    }

    async fn dead_letters(&self) -> Vec<(Vec<u8>, String)> {
        let admin = self.admin().await;
        let mut letters = Vec::new();
        while let Some(letter) = admin.get("keycard.dead-letters").await {
            let reason = header(&letter.properties, "x-keycard-reason").unwrap_or_default();
            letters.push((letter.data, reason));
        }
        letters
    }

    async fn letters(&self) -> Box<dyn DeadLetters> {
        Box::new(self.letters().await)
    }
}

fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    let value = properties.headers().as_ref()?.inner().get(name)?;
    Some(value.as_long_string()?.to_string())
}
