//! The queue of a site, and who its services are there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Mutex;

use keycard::lease::Requester;
use postgres_protocol::escape::{escape_identifier, escape_literal};

use super::servers::{RabbitMq, shared_rabbitmq};
use super::site::{Site, Wishes};

/// What carries a site's messages.
#[derive(Clone, Copy)]
pub enum QueueKind {
    /// A vhost of this broker.
    Amqp(&'static RabbitMq),
    /// The site's own database, as without any [queue].
    Postgres,
}

impl QueueKind {
    /// The adapter to test on a broker of its own, which is never stopped.
    pub fn of_its_own() -> Self {
        if is_amqp() {
            Self::Amqp(Box::leak(Box::new(RabbitMq::start(None))))
        } else {
            Self::Postgres
        }
    }
}

/// The adapter to test, on the shared broker.
impl Default for QueueKind {
    fn default() -> Self {
        if is_amqp() {
            Self::Amqp(shared_rabbitmq())
        } else {
            Self::Postgres
        }
    }
}

/// Which adapter to test: `KEYCARD_TEST_QUEUE`, else amqp.
#[expect(clippy::disallowed_methods, reason = "the tests' own setting")]
fn is_amqp() -> bool {
    match std::env::var("KEYCARD_TEST_QUEUE").as_deref() {
        Err(_) | Ok("amqp") => true,
        Ok("postgres") => false,
        Ok(other) => panic!("KEYCARD_TEST_QUEUE={other}: write amqp or postgres"),
    }
}

/// Users of every site, of the broker or of Postgres; their password is their name.
const USERS: [&str; 8] = [
    "orders-svc",
    "billing-svc",
    "platform-ops",
    "mallory",
    "a",
    "a.b",
    "a/b",
    "../x",
];

/// keycard's own user of the broker.
pub const WORKER: &str = "kc-worker";

impl Site {
    /// A site where mallory, too, may ask for something: whoever may ask for nothing cannot write
    /// into a queue in Postgres.
    pub async fn with_mallory() -> Self {
        Self::new(Wishes {
            sections: r#"
[roles.mallorys]
database = "app"
groups = ["GROUP"]
requesters = ["mallory"]
"#
            .to_owned(),
            ..Wishes::default()
        })
        .await
    }

    /// The broker; a site whose queue is in Postgres has none.
    pub fn rabbitmq(&self) -> &'static RabbitMq {
        match self.queue {
            QueueKind::Amqp(rabbitmq) => rabbitmq,
            QueueKind::Postgres => panic!("this site has no broker"),
        }
    }

    /// Makes a place for messages and everybody who uses it.
    pub async fn prepare_queue(&self) {
        if let QueueKind::Amqp(rabbitmq) = self.queue {
            rabbitmq.create_vhost(&self.vhost);
            add_user_once(rabbitmq, WORKER);
            let own = "^keycard\\.";
            let write = "^(keycard\\.|amq\\.default$)";
            rabbitmq.set_permissions(&self.vhost, WORKER, own, write, own);
        }
        self.add_services(&USERS).await;
    }

    /// Lets services use the queue. Postgres roles belong to all the databases of a server.
    pub async fn add_services(&self, names: &[&str]) {
        match self.queue {
            QueueKind::Amqp(rabbitmq) => {
                for name in names {
                    add_user_once(rabbitmq, name);
                    self.permit(rabbitmq, name);
                }
            }
            QueueKind::Postgres => {
                static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
                let _turn = TURN.lock().await;
                let mut script = String::new();
                for name in names {
                    let (identifier, literal) = (escape_identifier(name), escape_literal(name));
                    let _ = writeln!(
                        script,
                        "DO $script$ BEGIN
                             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal}) THEN
                                 CREATE ROLE {identifier} LOGIN PASSWORD {literal};
                             END IF;
                         END $script$;"
                    );
                }
                let server = self.sql_in("postgres").await;
                server.batch_execute(&script).await.unwrap();
            }
        }
    }

    /// Its own anonymous queue, the two command exchanges, results.
    fn permit(&self, rabbitmq: &RabbitMq, name: &str) {
        rabbitmq.set_permissions(
            &self.vhost,
            name,
            "^amq\\.gen.*",
            "^(amq\\.gen.*|keycard\\.(requests|leases))$",
            "^(amq\\.gen.*|keycard\\.events)$",
        );
        let own = format!("^{}\\.", Requester::new(name).unwrap().encoded());
        rabbitmq.set_topic_permissions(&self.vhost, name, "keycard.events", &own);
    }

    /// How a broker user of this site connects.
    pub fn uri(&self, user: &str) -> String {
        let rabbitmq = self.rabbitmq();
        let encoded =
            percent_encoding::utf8_percent_encode(user, percent_encoding::NON_ALPHANUMERIC);
        format!(
            "amqp://{encoded}:{encoded}@{}:{}/{}",
            rabbitmq.host, rabbitmq.port, self.vhost
        )
    }

    /// What a client's configuration says of the queue: `client.url`.
    pub fn client_url(&self, user: &str) -> String {
        match self.queue {
            QueueKind::Amqp(rabbitmq) => format!(
                "amqp://{user}@{}:{}/{}",
                rabbitmq.host, rabbitmq.port, self.vhost
            ),
            QueueKind::Postgres => format!(
                "postgresql://{user}@{}:{}/{}",
                self.postgres.host, self.postgres.port, self.dbname
            ),
        }
    }

    /// What the configuration says of the queue.
    pub fn queue_section(&self) -> String {
        match self.queue {
            QueueKind::Amqp(rabbitmq) => format!(
                r#"
[queue]
kind = "amqp"
url = "amqp://{WORKER}@{}:{}/{}"
password = {{ env = "BROKER_PASSWORD" }}
"#,
                rabbitmq.host, rabbitmq.port, self.vhost
            ),
            QueueKind::Postgres => String::new(),
        }
    }
}

/// Users belong to the broker, not to a vhost.
fn add_user_once(rabbitmq: &RabbitMq, user: &str) {
    static ADDED: Mutex<BTreeSet<(u16, String)>> = Mutex::new(BTreeSet::new());
    let mut added = ADDED.lock().unwrap();
    if added.insert((rabbitmq.port, user.to_owned())) {
        rabbitmq.add_user(user, user);
    }
}
