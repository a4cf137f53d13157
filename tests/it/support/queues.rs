//! What waits in the queue of a site, as its administrator sees it.

use keycard::queue::Lane;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueuePurgeOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::broker::{confirming_channel, look_at};
use super::client::SOON;
use super::eventually;
use super::services::{QueueKind, WORKER};
use super::site::Site;

/// Somebody who may look into everything and take from it.
pub enum Queues {
    Amqp {
        _connection: Connection,
        channel: Channel,
    },
    /// A superuser's connection.
    Postgres(tokio_postgres::Client),
}

/// A message that keycard gave up.
#[derive(Debug)]
pub struct DeadLetter {
    pub reason: String,
    pub requester: Option<String>,
    pub body: Vec<u8>,
}

/// Everything that a message can wait in at a broker, with the seconds that it stays there.
const WAITING: [(&str, u32); 16] = [
    ("keycard.expiry", 0),
    ("keycard.delay.1s", 1),
    ("keycard.delay.2s", 2),
    ("keycard.delay.5s", 5),
    ("keycard.delay.15s", 15),
    ("keycard.delay.30s", 30),
    ("keycard.delay.60s", 60),
    ("keycard.delay.120s", 120),
    ("keycard.delay.300s", 300),
    ("keycard.delay.900s", 900),
    ("keycard.delay.1800s", 1_800),
    ("keycard.delay.3600s", 3_600),
    ("keycard.delay.14400s", 14_400),
    ("keycard.delay.43200s", 43_200),
    ("keycard.delay.86400s", 86_400),
    ("keycard.delay.604800s", 604_800),
];

impl Queues {
    pub async fn of(site: &Site) -> Self {
        if let QueueKind::Postgres = site.queue {
            return Self::Postgres(site.sql().await);
        }
        // The worker's own user may do everything in the vhost.
        let connection = Connection::connect(&site.uri(WORKER), ConnectionProperties::default())
            .await
            .unwrap();
        let channel = confirming_channel(&connection).await;
        Self::Amqp {
            _connection: connection,
            channel,
        }
    }

    /// Messages of a lane that are ready to be handed out.
    pub async fn ready(&self, lane: Lane) -> u32 {
        match self {
            Self::Amqp { channel, .. } => {
                let declared = look_at(channel, &format!("keycard.{}", lane.name())).await;
                declared.message_count()
            }
            Self::Postgres(sql) => {
                let ready = format!(
                    "FROM keycard.messages WHERE stream = '{}' AND due_at <= clock_timestamp()
                     AND NOT EXISTS (SELECT FROM keycard.sessions s WHERE s.id = holder)",
                    lane.name()
                );
                count(sql, &ready).await
            }
        }
    }

    /// Messages that wait for their time, or to be looked at.
    pub async fn waiting(&self) -> u32 {
        self.waiting_within(u32::MAX).await
    }

    /// Those of them that come in the next seconds.
    pub async fn waiting_within(&self, seconds: u32) -> u32 {
        match self {
            Self::Amqp { channel, .. } => {
                let mut waiting = 0;
                for (queue, _) in WAITING.iter().filter(|(_, stay)| *stay <= seconds) {
                    waiting += look_at(channel, queue).await.message_count();
                }
                waiting
            }
            Self::Postgres(sql) => {
                let waiting = format!(
                    "FROM keycard.messages WHERE stream = 'expiry'
                     AND due_at <= clock_timestamp() + {seconds} * interval '1 second'"
                );
                count(sql, &waiting).await
            }
        }
    }

    /// Removes every message that waits; how many there were.
    pub async fn purge_waiting(&self) -> u64 {
        match self {
            Self::Amqp { channel, .. } => {
                let mut purged = 0;
                for (queue, _) in WAITING {
                    let purge = channel.queue_purge(queue.into(), QueuePurgeOptions::default());
                    purged += u64::from(purge.await.unwrap());
                }
                purged
            }
            Self::Postgres(_) => u64::try_from(self.take_waiting().await.len()).unwrap(),
        }
    }

    /// Removes every message that waits, one by one: what they were.
    pub async fn take_waiting(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Amqp { channel, .. } => {
                let mut taken = Vec::new();
                for (queue, _) in WAITING {
                    let options = BasicGetOptions { no_ack: true };
                    while let Some(got) = channel.basic_get(queue.into(), options).await.unwrap() {
                        taken.push(got.delivery.data);
                    }
                }
                taken
            }
            Self::Postgres(sql) => {
                let take = "DELETE FROM keycard.messages WHERE stream = 'expiry' RETURNING body";
                let rows = sql.query(take, &[]).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
        }
    }

    /// Puts an event where expiry events that are due arrive, as keycard itself does.
    pub async fn wake(&self, event: &str) {
        match self {
            Self::Amqp { channel, .. } => {
                let properties = BasicProperties::default()
                    .with_user_id(WORKER.into())
                    .with_delivery_mode(2);
                let options = BasicPublishOptions::default();
                let published = channel.basic_publish(
                    "".into(),
                    "keycard.expiry".into(),
                    options,
                    event.as_bytes(),
                    properties,
                );
                published.await.unwrap().await.unwrap();
            }
            Self::Postgres(sql) => {
                let wake = "WITH woken AS (
                                INSERT INTO keycard.messages (stream, lane, body)
                                VALUES ('expiry', 'expiry', $1))
                            SELECT pg_notify('keycard_expiry', '')";
                sql.query(wake, &[&event.as_bytes()]).await.unwrap();
            }
        }
    }

    /// Waits for the next dead letter and takes it out.
    pub async fn dead_letter(&self) -> DeadLetter {
        eventually("a dead letter", SOON, async || {
            self.next_dead_letter().await
        })
        .await
    }

    /// Takes the next dead letter out, if there is one.
    pub async fn next_dead_letter(&self) -> Option<DeadLetter> {
        match self {
            Self::Amqp { channel, .. } => {
                let options = BasicGetOptions { no_ack: true };
                let got = channel.basic_get("keycard.dead-letters".into(), options);
                let message = got.await.unwrap()?;
                let header = |name: &str| {
                    let headers = message.properties.headers().as_ref()?;
                    let value = headers.inner().get(name)?.as_long_string()?;
                    Some(String::from_utf8(value.as_bytes().to_vec()).unwrap())
                };
                Some(DeadLetter {
                    reason: header("x-keycard-reason").expect("a dead letter has a reason"),
                    requester: header("x-keycard-requester"),
                    body: message.delivery.data.clone(),
                })
            }
            Self::Postgres(sql) => {
                let take = "DELETE FROM keycard.dead_letters
                            WHERE id = (SELECT min(id) FROM keycard.dead_letters)
                            RETURNING reason, sender, body";
                let row = sql.query_opt(take, &[]).await.unwrap()?;
                Some(DeadLetter {
                    reason: row.get(0),
                    requester: row.get(1),
                    body: row.get(2),
                })
            }
        }
    }

    /// Results that were published for nobody; Postgres keeps all of them for those they are for.
    pub async fn unheard(&self) -> u32 {
        match self {
            Self::Amqp { channel, .. } => {
                look_at(channel, "keycard.unrouted").await.message_count()
            }
            Self::Postgres(_) => 0,
        }
    }

    /// Nothing that could be processed was given up, nor told to nobody.
    pub async fn assert_nothing_is_lost(&self) {
        self.assert_no_dead_letters().await;
        assert_eq!(self.unheard().await, 0, "results for nobody");
    }

    /// Nothing that could be processed was given up.
    pub async fn assert_no_dead_letters(&self) {
        let left = match self {
            Self::Amqp { channel, .. } => {
                let declared = look_at(channel, "keycard.dead-letters").await;
                declared.message_count()
            }
            Self::Postgres(sql) => count(sql, "FROM keycard.dead_letters").await,
        };
        assert_eq!(left, 0, "dead letters");
    }
}

impl Site {
    /// Nothing that could be processed was given up.
    pub async fn assert_no_dead_letters(&self) {
        Queues::of(self).await.assert_no_dead_letters().await;
    }
}

async fn count(sql: &tokio_postgres::Client, from: &str) -> u32 {
    let row = sql.query_one(&format!("SELECT count(*) {from}"), &[]).await;
    u32::try_from(row.unwrap().get::<_, i64>(0)).unwrap()
}
