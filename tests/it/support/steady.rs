//! A service that survives its queue: it sends until the queue has confirmed, and reads its results
//! from where it was.

mod amqp;
mod postgres;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::client::{command_of, fresh_id};
use super::services::QueueKind;
use super::site::Site;

/// How long it waits for the queue to have a command before it sends it again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// A connected service; it ends when dropped.
pub struct Steady {
    user: String,
    outbox: mpsc::UnboundedSender<Command>,
    sent: Mutex<Vec<(&'static str, Value)>>,
    heard: Arc<Mutex<Vec<Value>>>,
    _tasks: JoinSet<()>,
}

struct Command {
    lane: &'static str,
    body: String,
}

/// What was heard so far, and whether it listens yet.
#[derive(Clone)]
struct Ear {
    heard: Arc<Mutex<Vec<Value>>>,
    listening: watch::Sender<bool>,
}

impl Steady {
    /// Connects as `user` and listens.
    pub async fn start(site: &Site, user: &str) -> Self {
        let (listening, mut is_listening) = watch::channel(false);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Ear {
            heard: Arc::clone(&heard),
            listening,
        };
        let (outbox, commands) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        match site.queue {
            QueueKind::Amqp(rabbitmq) => {
                amqp::permit(site, rabbitmq, user);
                let uri = site.uri(user);
                tasks.spawn(amqp::listen(uri.clone(), user.to_owned(), ear));
                tasks.spawn(amqp::publish(uri, user.to_owned(), commands));
            }
            QueueKind::Postgres => {
                let config = site.connection(&site.dbname, user, user);
                tasks.spawn(postgres::listen(config.clone(), ear));
                tasks.spawn(postgres::publish(config, commands));
            }
        }
        is_listening.wait_for(|listening| *listening).await.unwrap();
        Self {
            user: user.to_owned(),
            outbox,
            sent: Mutex::default(),
            heard,
            _tasks: tasks,
        }
    }

    /// Asks for a credential, sooner or later; the command's id.
    pub fn request(&self, role: &str) -> String {
        self.send(
            "requests",
            "credential.request.v1",
            &json!({ "role": role }),
        )
    }

    /// Asks for more time.
    pub fn renew(&self, lease_id: &str) -> String {
        let data = json!({ "lease_id": lease_id, "ttl_seconds": 7200 });
        self.send("leases", "lease.renew.v1", &data)
    }

    /// Asks for the end of a lease.
    pub fn revoke(&self, lease_id: &str) -> String {
        let data = json!({ "lease_id": lease_id });
        self.send("leases", "lease.revoke.v1", &data)
    }

    /// Sends any command, sooner or later; its id.
    pub fn send(&self, lane: &'static str, kind: &str, data: &Value) -> String {
        let id = fresh_id();
        self.send_as(&id, lane, kind, data);
        id
    }

    /// Sends a command of this id, sooner or later.
    pub fn send_as(&self, id: &str, lane: &'static str, kind: &str, data: &Value) {
        let event = command_of(&self.user, id, kind, data);
        self.publish(lane, event.to_string());
        self.sent.lock().unwrap().push((lane, event));
    }

    /// Sends a command once more.
    pub fn repeat(&self, id: &str) {
        let sent = self.sent.lock().unwrap();
        let (lane, event) = sent.iter().rfind(|(_, event)| event["id"] == id).unwrap();
        self.publish(lane, event.to_string());
    }

    /// Sends anything, sooner or later.
    pub fn publish(&self, lane: &'static str, body: String) {
        assert!(self.outbox.send(Command { lane, body }).is_ok());
    }

    /// Who it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The id of every command so far.
    pub fn sent(&self) -> Vec<String> {
        let sent = self.sent.lock().unwrap();
        let ids = sent.iter().map(|(_, event)| event["id"].as_str().unwrap());
        ids.map(ToOwned::to_owned).collect()
    }

    /// Every command so far.
    pub fn commands(&self) -> Vec<Value> {
        let sent = self.sent.lock().unwrap();
        sent.iter().map(|(_, event)| event.clone()).collect()
    }

    /// The results after the first `known` ones, as often as they came.
    pub fn heard_since(&self, known: usize) -> Vec<Value> {
        self.heard.lock().unwrap()[known..].to_vec()
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

impl Drop for Steady {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let answers = self.answers();
            let sent = self.sent();
            let open: Vec<_> = sent
                .iter()
                .filter(|id| !answers.contains_key(*id))
                .collect();
            eprintln!(
                "--- {}: unanswered of {} commands: {open:?}",
                self.user,
                sent.len()
            );
        }
    }
}
