//! A service as keycard sees it: publishes commands, reads its own results.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use keycard::lease::Requester;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::broker::{bind, confirming_channel, own_queue, publish_to, take_all};
use super::eventually;
use super::services::QueueKind;
use super::site::Site;

/// Long enough, on a machine that is busy and stops for seconds, for everything that has no reason to
/// wait, for twenty seconds of a lease, or for another try after the 30 s for which an attempt holds
/// its lease.
pub const SOON: u64 = 90;

/// Longer than a revocation takes that has failed a few times, or met an attempt that holds the
/// lease: pauses between attempts grow to 20 s before it is stuck, and a hold is 30 s.
pub const TRIED_AGAIN: u64 = 180;

/// A connected service.
pub struct Client {
    pub user: String,
    wire: Wire,
    heard: Arc<Mutex<Vec<Heard>>>,
    listening: AbortHandle,
}

/// How it reaches the queue.
enum Wire {
    Amqp {
        connection: Connection,
        channel: Channel,
    },
    Postgres(tokio_postgres::Client),
}

/// How often a service of Postgres looks for results.
const LOOK: Duration = Duration::from_millis(50);

/// A result as it arrived.
#[derive(Debug, Clone)]
pub struct Heard {
    pub event: Value,
    pub bytes: Vec<u8>,
    /// Only a broker has it.
    pub routing_key: Option<String>,
    pub correlation_id: Option<String>,
}

impl From<lapin::message::Delivery> for Heard {
    fn from(delivery: lapin::message::Delivery) -> Self {
        Self {
            event: serde_json::from_slice(&delivery.data).unwrap(),
            routing_key: Some(delivery.routing_key.to_string()),
            correlation_id: delivery
                .properties
                .correlation_id()
                .as_ref()
                .map(ToString::to_string),
            bytes: delivery.data,
        }
    }
}

impl Heard {
    /// The event's type without the common beginning: `credential.issued.v1`.
    pub fn kind(&self) -> &str {
        let kind = self.event["type"].as_str().unwrap();
        kind.strip_prefix("keycard.").unwrap()
    }

    pub fn data(&self) -> &Value {
        &self.event["data"]
    }

    /// The id of the command that it answers.
    pub fn answers(&self) -> Option<&str> {
        self.event["correlationid"].as_str()
    }
}

impl Client {
    /// Connects as `user` and listens to everything that is published for it from now on.
    pub async fn connect(site: &Site, user: &str) -> Self {
        match site.queue {
            QueueKind::Amqp(_) => Self::of_rabbitmq(&site.uri(user), user).await,
            QueueKind::Postgres => Self::of_postgres(site, user).await,
        }
    }

    async fn of_postgres(site: &Site, user: &str) -> Self {
        let connect = async || {
            site.login(user, user)
                .await
                .unwrap_or_else(|error| panic!("{user} cannot connect: {error}"))
        };
        let listener = connect().await;
        let last = "SELECT coalesce(max(position), 0) FROM keycard.results(0)";
        let row = listener.query_one(last, &[]).await;
        let mut after: i64 = row
            .unwrap_or_else(|error| panic!("{user} has no results: {error:?}"))
            .get(0);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            let next = "SELECT position, event, correlation_id FROM keycard.results($1)";
            while let Ok(rows) = listener.query(next, &[&after]).await {
                for row in rows {
                    let event: String = row.get(1);
                    after = row.get(0);
                    all.lock().unwrap().push(Heard {
                        event: serde_json::from_str(&event).unwrap(),
                        routing_key: None,
                        correlation_id: row.get(2),
                        bytes: event.into_bytes(),
                    });
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self {
            user: user.to_owned(),
            wire: Wire::Postgres(connect().await),
            heard,
            listening: listening.abort_handle(),
        }
    }

    async fn of_rabbitmq(uri: &str, user: &str) -> Self {
        let connection = Connection::connect(uri, ConnectionProperties::default())
            .await
            .unwrap_or_else(|error| panic!("{user} cannot connect: {error}"));
        let channel = confirming_channel(&connection).await;
        let queue = own_queue(&channel).await;
        let key = format!("{}.#", Requester::new(user).unwrap().encoded());
        bind(&channel, &queue, &key).await.unwrap();
        let mut consumer = take_all(&channel, &queue).await;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                all.lock().unwrap().push(Heard::from(delivery));
            }
        });
        Self {
            user: user.to_owned(),
            wire: Wire::Amqp {
                connection,
                channel,
            },
            heard,
            listening: listening.abort_handle(),
        }
    }

    /// Its connection to the broker.
    pub fn connection(&self) -> &Connection {
        match &self.wire {
            Wire::Amqp { connection, .. } => connection,
            Wire::Postgres(_) => panic!("{} has no broker", self.user),
        }
    }

    /// Its channel of the broker.
    pub fn channel(&self) -> &Channel {
        match &self.wire {
            Wire::Amqp { channel, .. } => channel,
            Wire::Postgres(_) => panic!("{} has no broker", self.user),
        }
    }

    /// Asks for a credential; the command's id.
    pub async fn request(&self, role: &str, ttl_seconds: Option<i64>) -> String {
        let id = fresh_id();
        let mut data = json!({ "role": role });
        if let Some(seconds) = ttl_seconds {
            data["ttl_seconds"] = seconds.into();
        }
        self.send(&id, "credential.request.v1", data).await;
        id
    }

    /// Asks for more time; the command's id.
    pub async fn renew(&self, lease_id: &str, ttl_seconds: Option<i64>) -> String {
        let id = fresh_id();
        let mut data = json!({ "lease_id": lease_id });
        if let Some(seconds) = ttl_seconds {
            data["ttl_seconds"] = seconds.into();
        }
        self.send(&id, "lease.renew.v1", data).await;
        id
    }

    /// Asks for the end of a lease; the command's id.
    pub async fn revoke(&self, lease_id: &str) -> String {
        let id = fresh_id();
        self.send(&id, "lease.revoke.v1", json!({ "lease_id": lease_id }))
            .await;
        id
    }

    /// Publishes a command with an id of its own.
    pub async fn send(&self, id: &str, kind: &str, data: Value) {
        let event = self.event(id, kind, data);
        self.publish(lane_of(kind), event.to_string().as_bytes())
            .await;
    }

    /// A command as this service writes it.
    pub fn event(&self, id: &str, kind: &str, data: impl Into<Value>) -> Value {
        command_of(&self.user, id, kind, &data.into())
    }

    /// Publishes anything, and waits for the queue to have it; `lane` is `requests` or `leases`.
    pub async fn publish(&self, lane: &str, body: &[u8]) {
        match &self.wire {
            Wire::Amqp { .. } => {
                self.publish_to(&format!("keycard.{lane}"), body, self.properties())
                    .await;
            }
            Wire::Postgres(sql) => {
                sql.query_one("SELECT keycard.send($1, $2::bytea)", &[&lane, &body])
                    .await
                    .unwrap_or_else(|error| panic!("{} cannot send: {error:?}", self.user));
            }
        }
    }

    /// What every message of this service says to a broker.
    pub fn properties(&self) -> BasicProperties {
        BasicProperties::default()
            .with_user_id(self.user.as_str().into())
            .with_content_type("application/cloudevents+json".into())
            .with_delivery_mode(2)
    }

    /// Publishes anything to an exchange of the broker, and waits for it to be there.
    pub async fn publish_to(&self, exchange: &str, body: &[u8], properties: BasicProperties) {
        publish_to(self.channel(), exchange, "", body, properties).await;
    }

    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// What was heard so far, each event once: one that the broker does not confirm in time comes
    /// twice.
    pub fn told(&self) -> Vec<Heard> {
        let mut events = BTreeSet::new();
        let mut heard = self.heard();
        heard.retain(|heard| events.insert(heard.event["id"].to_string()));
        heard
    }

    /// Everything heard so far that answers a command.
    pub fn answers_to(&self, id: &str) -> Vec<Heard> {
        let mut answers = self.heard();
        answers.retain(|heard| heard.answers() == Some(id));
        answers
    }

    /// Waits for the answer to a command.
    pub async fn answer(&self, id: &str) -> Heard {
        self.answer_within(id, SOON).await
    }

    /// Waits for the answer to a command.
    pub async fn answer_within(&self, id: &str, seconds: u64) -> Heard {
        eventually(
            &format!("an answer to {id} for {}", self.user),
            seconds,
            async || self.answers_to(id).into_iter().next(),
        )
        .await
    }

    /// Waits for an event about a lease that answers nothing.
    pub async fn notice(&self, kind: &str, lease_id: &str, seconds: u64) -> Heard {
        eventually(
            &format!("{kind} of {lease_id} for {}", self.user),
            seconds,
            async || {
                self.heard().into_iter().find(|heard| {
                    heard.kind() == kind
                        && heard.answers().is_none()
                        && heard.data()["lease_id"] == lease_id
                })
            },
        )
        .await
    }

    /// Asks for a credential and waits for it.
    pub async fn issued(&self, role: &str, ttl_seconds: Option<i64>) -> Value {
        let id = self.request(role, ttl_seconds).await;
        let answer = self.answer(&id).await;
        assert_eq!(answer.kind(), "credential.issued.v1", "{}", answer.event);
        answer.data().clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

fn lane_of(kind: &str) -> &'static str {
    if kind.starts_with("lease.") {
        "leases"
    } else {
        "requests"
    }
}

/// A command as a service writes it.
pub fn command_of(user: &str, id: &str, kind: &str, data: &Value) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/{user}"),
        "type": format!("keycard.{kind}"),
        "time": keycard::clock::host_now(),
        "data": data,
    })
}

/// An id that no other command has.
pub fn fresh_id() -> String {
    keycard::clock::uuid_v7().to_string()
}
