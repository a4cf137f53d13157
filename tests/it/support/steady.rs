//! A service that survives its broker: it publishes until the broker has confirmed, and keeps a
//! durable queue for its results.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use keycard::lease::Requester;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::client::fresh_id;
use super::site::Site;

/// Its queue.
const RESULTS: &str = "results";

/// How long it waits for a confirmation before it publishes again on another connection.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// A connected service; it ends when dropped.
pub struct Steady {
    user: String,
    outbox: mpsc::UnboundedSender<Command>,
    sent: Mutex<Vec<String>>,
    heard: Arc<Mutex<Vec<Value>>>,
    _tasks: JoinSet<()>,
}

struct Command {
    exchange: &'static str,
    body: String,
}

impl Steady {
    /// Connects as `user`, who may keep a queue in this site from now on.
    pub async fn start(site: &Site, user: &str) -> Self {
        site.rabbitmq.set_permissions(
            &site.vhost,
            user,
            "^results$",
            "^(results|keycard\\.(requests|leases))$",
            "^(results|keycard\\.events)$",
        );
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (listening, mut is_listening) = watch::channel(false);
        let (outbox, commands) = mpsc::unbounded_channel();
        let (uri, name) = (site.uri(user), user.to_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(
            uri.clone(),
            name.clone(),
            Arc::clone(&heard),
            listening,
        ));
        tasks.spawn(publish(uri, name.clone(), commands));
        is_listening.wait_for(|listening| *listening).await.unwrap();
        Self {
            user: name,
            outbox,
            sent: Mutex::default(),
            heard,
            _tasks: tasks,
        }
    }

    /// Asks for a credential, sooner or later; the command's id.
    pub fn request(&self, role: &str) -> String {
        self.send(
            "keycard.requests",
            "credential.request.v1",
            &json!({ "role": role }),
        )
    }

    /// Asks for more time.
    pub fn renew(&self, lease_id: &str) -> String {
        let data = json!({ "lease_id": lease_id, "ttl_seconds": 7200 });
        self.send("keycard.leases", "lease.renew.v1", &data)
    }

    /// Asks for the end of a lease.
    pub fn revoke(&self, lease_id: &str) -> String {
        let data = json!({ "lease_id": lease_id });
        self.send("keycard.leases", "lease.revoke.v1", &data)
    }

    fn send(&self, exchange: &'static str, kind: &str, data: &Value) -> String {
        let id = fresh_id();
        let event = json!({
            "specversion": "1.0",
            "id": id,
            "source": format!("/{}", self.user),
            "type": format!("keycard.{kind}"),
            "time": keycard::clock::host_now(),
            "data": data,
        });
        let body = event.to_string();
        self.sent.lock().unwrap().push(id.clone());
        assert!(self.outbox.send(Command { exchange, body }).is_ok());
        id
    }

    /// Every command so far.
    pub fn sent(&self) -> Vec<String> {
        self.sent.lock().unwrap().clone()
    }

    /// Every result so far, as often as it came.
    pub fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().clone()
    }

    /// The different events that answer each command.
    pub fn answers(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut answers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for event in self.heard() {
            if let Some(id) = event["correlationid"].as_str() {
                let event = event.to_string();
                answers.entry(id.to_owned()).or_default().insert(event);
            }
        }
        answers
    }

    /// What `issued` events told, each once, in the order of their arrival.
    pub fn issued(&self) -> Vec<Value> {
        let mut told: Vec<Value> = Vec::new();
        for event in self.heard() {
            if event["type"] == "keycard.credential.issued.v1" && !told.contains(&event["data"]) {
                told.push(event["data"].clone());
            }
        }
        told
    }
}

async fn connected(uri: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

async fn listen(
    uri: String,
    user: String,
    heard: Arc<Mutex<Vec<Value>>>,
    listening: watch::Sender<bool>,
) {
    loop {
        // An error means another connection; what was not acknowledged comes again.
        let _ = listen_once(&uri, &user, &heard, &listening).await;
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn listen_once(
    uri: &str,
    user: &str,
    heard: &Mutex<Vec<Value>>,
    listening: &watch::Sender<bool>,
) -> lapin::Result<()> {
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
        .queue_declare(RESULTS.into(), durable, arguments)
        .await?;
    let key = format!("{}.#", Requester::new(user).unwrap().encoded());
    channel
        .queue_bind(
            RESULTS.into(),
            "keycard.events".into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut results = channel
        .basic_consume(
            RESULTS.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    listening.send_replace(true);
    while let Some(delivery) = results.next().await {
        let delivery = delivery?;
        let event = serde_json::from_slice(&delivery.data).unwrap();
        heard.lock().unwrap().push(event);
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

async fn publish(uri: String, user: String, mut commands: mpsc::UnboundedReceiver<Command>) {
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
                    command.exchange.into(),
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
