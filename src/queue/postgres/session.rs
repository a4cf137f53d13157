//! One lane's session: what it has claimed is its own for as long as it lasts, as with AMQP. When it
//! ends, in whatever way, Postgres knows, and what it held is free.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::sleep;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::error;

use super::{from_ledger, later, sender, timed};
use crate::ledger::Ledger;
use crate::queue::outage::pauses;
use crate::queue::{Lane, QueueError, Receipt, Sender};

/// Deliveries of one message before it is given up. All that a worker held count one more when it
/// crashes, so a small limit buries the neighbours of a poisonous message.
const DELIVERIES_MAX: i32 = 20;

/// Pause when what is due could not be claimed: it fell due only after the claim, or somebody has
/// locked it.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// Claims and acknowledgements need no flush to disk: what a crash of the server forgets is
/// delivered again, and a later commit of a consequence flushes them with it. The server shall
/// notice a worker that is cut off, as only then it gives back what that one held.
/// Their names, which end in the lane's, say how many workers there are.
const SETTINGS: &str = "SET synchronous_commit = off; SET tcp_keepalives_idle = 20;
     SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 30000;";

pub(super) struct Session {
    client: Client,
    stream: Lane,
    /// Its id in `keycard.sessions`.
    id: String,
    /// Notified when there may be something to claim, and when the session has ended.
    pub(super) woken: Arc<Notify>,
    claim: Statement,
    acknowledge: Statement,
}

/// A message that this session holds.
pub(super) struct Claimed {
    pub(super) id: i64,
    pub(super) lane: Lane,
    pub(super) sender: Sender,
    pub(super) body: Vec<u8>,
    pub(super) correlation_id: Option<String>,
    pub(super) deferrals: u32,
    pub(super) deliveries: u32,
}

impl Session {
    /// Opens a session that is woken by what arrives in `stream`, and frees what the dead held.
    pub(super) async fn open(ledger: &Ledger, stream: Lane) -> Result<Self, QueueError> {
        const OPERATION: &str = "consume";
        let woken = Arc::new(Notify::new());
        let client = ledger
            .listen(Arc::clone(&woken))
            .await
            .map_err(|error| from_ledger(&error))?;
        let lane = stream.name();
        let listen = format!(
            "{SETTINGS}
             SELECT set_config('application_name',
                 left(current_setting('application_name'), 40) || ' {lane}', false);
             LISTEN keycard_{lane}"
        );
        timed(OPERATION, client.batch_execute(&listen)).await?;
        let id = timed(
            OPERATION,
            client.query_one(
                "SELECT id FROM keycard.sessions WHERE pid = pg_backend_pid()",
                &[],
            ),
        )
        .await?
        .get(0);
        // now() and not clock_timestamp(): a limit that may change while the index is read would
        // have the whole of it read.
        let claim = client.prepare(
            "WITH next AS MATERIALIZED (
                 SELECT id FROM keycard.messages
                 WHERE stream = $1 AND holder IS NULL AND due_at <= now()
                 ORDER BY due_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
             ), claimed AS (
                 UPDATE keycard.messages m SET holder = $2 FROM next WHERE m.id = next.id
                 RETURNING m.*
             )
             SELECT id, lane, sender, nobody, body, correlation_id, deferrals, deliveries
             FROM claimed ORDER BY due_at, id",
        );
        let claim = timed(OPERATION, claim).await?;
        let acknowledge =
            client.prepare("DELETE FROM keycard.messages WHERE id = $1 AND holder = $2");
        let acknowledge = timed(OPERATION, acknowledge).await?;
        let session = Self {
            client,
            stream,
            id,
            woken,
            claim,
            acknowledge,
        };
        session.free_what_the_dead_held().await?;
        Ok(session)
    }

    /// Whether what it has claimed is still its own.
    pub(super) fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    /// Claims at most `messages_max` that are due, the longest due first.
    pub(super) async fn claim(&self, messages_max: usize) -> Result<Vec<Claimed>, QueueError> {
        let limit = i64::try_from(messages_max).unwrap_or(i64::MAX);
        let stream = self.stream.name();
        let rows = timed(
            "consume",
            self.client.query(&self.claim, &[&stream, &self.id, &limit]),
        )
        .await?;
        let number = |number: i32| u32::try_from(number).unwrap_or_default();
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            let (id, deliveries) = (row.get(0), row.get(7));
            if deliveries >= DELIVERIES_MAX {
                self.bury(id).await?;
                continue;
            }
            claimed.push(Claimed {
                id,
                lane: Lane::from_name(row.get(1)).unwrap_or(self.stream),
                sender: sender(row.get(2), row.get(3)),
                body: row.get(4),
                correlation_id: row.get(5),
                deferrals: number(row.get(6)),
                deliveries: number(deliveries),
            });
        }
        Ok(claimed)
    }

    /// Makes a dead letter of a message that this session holds.
    async fn bury(&self, id: i64) -> Result<(), QueueError> {
        error!(
            message.id = id,
            queue.name = self.stream.name(),
            "a message was handed out {DELIVERIES_MAX} times and never acknowledged; it is a dead \
             letter now"
        );
        let reason = format!("handed out {DELIVERIES_MAX} times and never acknowledged");
        timed(
            "keep a dead letter",
            self.client.execute(
                "WITH gone AS (
                 DELETE FROM keycard.messages WHERE id = $1 AND holder = $2 RETURNING *
             )
             INSERT INTO keycard.dead_letters (lane, sender, nobody, body, correlation_id, reason)
             SELECT lane, sender, nobody, body, correlation_id, $3 FROM gone",
                &[&id, &self.id, &reason],
            ),
        )
        .await
        .map(drop)
    }

    /// How long until the next message of the stream falls due, at most `wait_max`.
    pub(super) async fn next_due(&self, wait_max: Duration) -> Result<Duration, QueueError> {
        let Some(row) = timed("consume", self.client.query_typed_opt(
            "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM keycard.messages
             WHERE stream = $1 AND holder IS NULL ORDER BY due_at, id LIMIT 1",
            &[(&self.stream.name(), Type::TEXT)],
        )).await? else {
            return Ok(wait_max);
        };
        let seconds: f64 = row.get(0);
        let wait = if seconds > 0.0 {
            Duration::try_from_secs_f64(seconds).unwrap_or(wait_max)
        } else {
            LOCKED_PAUSE
        };
        Ok(wait.min(wait_max))
    }

    /// Frees what sessions that have ended have left. A session that has ended stays so: what
    /// another one claims meanwhile is not touched.
    pub(super) async fn free_what_the_dead_held(&self) -> Result<(), QueueError> {
        timed(
            "consume",
            self.client.execute(
                "WITH dead AS MATERIALIZED (
                 SELECT DISTINCT holder FROM keycard.messages m
                 WHERE stream = $1 AND holder IS NOT NULL
                   AND NOT EXISTS (SELECT FROM keycard.sessions s WHERE s.id = m.holder)
             ), freed AS (
                 UPDATE keycard.messages m SET holder = NULL, deliveries = deliveries + 1
                 FROM dead WHERE m.stream = $1 AND m.holder = dead.holder
                 RETURNING m.id
             )
             SELECT pg_notify('keycard_' || $1, '') FROM freed",
                &[&self.stream.name()],
            ),
        )
        .await
        .map(drop)
    }

    /// Frees one message that this session holds. Done as well when it no longer does.
    async fn free(&self, id: i64, deliveries: i32) -> Result<(), QueueError> {
        timed(
            "hand a message back",
            self.client.query_typed(
                "UPDATE keycard.messages SET holder = NULL, deliveries = deliveries + $3
             WHERE id = $1 AND holder = $2
             RETURNING pg_notify('keycard_' || stream, '')",
                &[
                    (&id, Type::INT8),
                    (&self.id, Type::TEXT),
                    (&deliveries, Type::INT4),
                ],
            ),
        )
        .await
        .map(drop)
    }

    async fn acknowledge(&self, id: i64) -> Result<bool, QueueError> {
        if !self.is_open() {
            return Err(later("acknowledge", "its session has ended".to_owned()));
        }
        timed(
            "acknowledge",
            self.client.execute(&self.acknowledge, &[&id, &self.id]),
        )
        .await
        .map(|messages| messages == 1)
    }
}

/// Acknowledges one delivery. Dropped without that, it hands the message back, one delivery more on
/// its count; when the queue is stopping that says nothing about the message and is not counted.
pub(super) struct PostgresReceipt {
    held: Option<Held>,
    _place: OwnedSemaphorePermit,
}

struct Held {
    session: Arc<Session>,
    id: i64,
    stopping: CancellationToken,
    _handed_out: TaskTrackerToken,
}

impl PostgresReceipt {
    pub(super) fn new(
        session: Arc<Session>,
        id: i64,
        place: OwnedSemaphorePermit,
        stopping: CancellationToken,
        handed_out: TaskTrackerToken,
    ) -> Self {
        Self {
            held: Some(Held {
                session,
                id,
                stopping,
                _handed_out: handed_out,
            }),
            _place: place,
        }
    }
}

impl Held {
    /// Tries for as long as the session lasts, as for so long nobody else can have the message.
    async fn give_back(self) {
        let deliveries = i32::from(!self.stopping.is_cancelled());
        for pause in pauses() {
            if !self.session.is_open() || self.session.free(self.id, deliveries).await.is_ok() {
                return;
            }
            sleep(pause).await;
        }
    }
}

#[async_trait]
impl Receipt for PostgresReceipt {
    async fn ack(mut self: Box<Self>) -> bool {
        let Some(held) = &self.held else {
            return false;
        };
        match held.session.acknowledge(held.id).await {
            Ok(is_acknowledged) => {
                self.held = None;
                is_acknowledged
            }
            // The drop hands it back.
            Err(_) => false,
        }
    }

    fn is_live(&self) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| held.session.is_open())
    }
}

impl Drop for PostgresReceipt {
    fn drop(&mut self) {
        let Some(held) = self.held.take().filter(|held| held.session.is_open()) else {
            return;
        };
        // Without a runtime the process is ending, and its sessions with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(held.give_back());
        }
    }
}

impl std::fmt::Debug for PostgresReceipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresReceipt")
            .field("is_live", &self.is_live())
            .finish_non_exhaustive()
    }
}
