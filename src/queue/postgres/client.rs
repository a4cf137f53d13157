//! A service's side of the queue, and an operator's. Every service can do the same with any
//! `PostgreSQL` client: call `keycard.send`, then read `keycard.results`.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::{OPERATION_TIMEOUT, POLL, later, sender};
use crate::clock;
use crate::fault::Disposition;
use crate::ledger::Endpoint;
use crate::login;
use crate::queue::{
    ANSWER, DeadLetter, DeadLetters, Lane, QueueError, Requesting, TRIES, TRY, unanswered,
};

/// A service or an operator, as its role in the queue's database.
pub struct Client {
    endpoint: Endpoint,
}

impl Client {
    /// Does not connect yet.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    async fn connect(&self, woken: Arc<Notify>) -> Result<tokio_postgres::Client, QueueError> {
        let database = self.endpoint.config.get_dbname().unwrap_or("?");
        timeout(OPERATION_TIMEOUT, self.endpoint.listen(database, woken))
            .await
            .map_err(|_| "Postgres does not answer".to_owned())
            .and_then(|connected| connected.map_err(|error| error.to_string()))
            .map_err(|problem| {
                let address = self.address();
                later("connect", format!("{address} (client.url): {problem}"))
            })
    }

    /// For messages: where Postgres is.
    fn address(&self) -> String {
        let config = &self.endpoint.config;
        let port = config.get_ports().first().unwrap_or(&5432);
        match config.get_hosts().first() {
            Some(Host::Tcp(host)) => format!("{host}:{port}"),
            Some(Host::Unix(directory)) => format!("{}:{port}", directory.display()),
            None => "?".to_owned(),
        }
    }

    /// What Postgres's refusal means to whoever asked.
    fn refusal(&self, operation: &'static str, error: &tokio_postgres::Error) -> QueueError {
        let user = self.endpoint.config.get_user().unwrap_or("?");
        let said = login::describe(error);
        let (problem, disposition) = match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => (
                format!(
                    "Postgres refuses role '{user}': {said}. Remedy: name it in `requesters` of \
                     the role to ask for (for dead letters in `operators`) and start the worker \
                     again; one whose queue is in this database lets a role in within a minute"
                ),
                Disposition::Reject,
            ),
            Some(
                &SqlState::UNDEFINED_FUNCTION
                | &SqlState::INVALID_SCHEMA_NAME
                | &SqlState::UNDEFINED_TABLE,
            ) => (
                format!(
                    "this database holds no queue of keycard's ({said}). Remedy: name the database \
                     of `queue.database` in the client's url, and start the worker once"
                ),
                Disposition::Reject,
            ),
            Some(&SqlState::PROGRAM_LIMIT_EXCEEDED) => (
                "the event takes more than 64 KiB".to_owned(),
                Disposition::Reject,
            ),
            Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED) => (
                format!(
                    "10,000 commands of role '{user}' are waiting already; is a worker running? \
                     Remedy: start one, and send again when they are answered"
                ),
                Disposition::Retry,
            ),
            Some(_) | None => (said, Disposition::Retry),
        };
        QueueError {
            operation,
            problem,
            disposition,
        }
    }

    /// Waits for Postgres, though not for ever.
    async fn timed<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, QueueError> {
        timeout(OPERATION_TIMEOUT, answer)
            .await
            .map_err(|_| later(operation, "Postgres does not answer".to_owned()))?
            .map_err(|error| self.refusal(operation, &error))
    }

    /// Calls a function of one dead letter.
    async fn settle(
        &self,
        operation: &'static str,
        statement: &str,
        letter: &str,
    ) -> Result<bool, QueueError> {
        let Ok(letter) = letter.parse::<i64>() else {
            return Ok(false);
        };
        let client = self.connect(Arc::default()).await?;
        Ok(self
            .timed(
                operation,
                client.query_typed_one(statement, &[(&letter, Type::INT8)]),
            )
            .await?
            .get(0))
    }
}

#[async_trait]
impl Requesting for Client {
    async fn ask(&self, lane: Lane, command: &[u8]) -> Result<Vec<u8>, QueueError> {
        let woken = Arc::new(Notify::new());
        let client = self.connect(Arc::clone(&woken)).await?;
        let listening = client.batch_execute("LISTEN keycard_results");
        self.timed(ANSWER, listening).await?;
        let correlation_id = clock::uuid_v7().to_string();
        let mut after = None;
        for _ in 0..TRIES {
            let position: i64 = self
                .timed(
                    ANSWER,
                    client.query_typed_one(
                        "SELECT keycard.send($1, $2, $3)",
                        &[
                            (&lane.name(), Type::TEXT),
                            (&command, Type::BYTEA),
                            (&correlation_id, Type::TEXT),
                        ],
                    ),
                )
                .await?
                .get(0);
            // A late answer to the first try will do.
            let after = after.get_or_insert(position);
            let waiting = self.answer(&client, &woken, after, &correlation_id);
            // Cancel-safe: results stay where they are, and `after` has seen them.
            if let Ok(answer) = timeout(TRY, waiting).await {
                return answer;
            }
        }
        Err(unanswered())
    }
}

impl Client {
    /// Reads on from a position until the answer is there.
    async fn answer(
        &self,
        client: &tokio_postgres::Client,
        woken: &Notify,
        after: &mut i64,
        correlation_id: &str,
    ) -> Result<Vec<u8>, QueueError> {
        loop {
            let rows = self
                .timed(
                    ANSWER,
                    client.query_typed(
                        "SELECT r.position, r.event, r.correlation_id FROM keycard.results($1) r",
                        &[(after, Type::INT8)],
                    ),
                )
                .await?;
            for row in &rows {
                if row.get::<_, Option<&str>>(2) == Some(correlation_id) {
                    return Ok(row.get::<_, String>(1).into_bytes());
                }
                *after = row.get(0);
            }
            if rows.is_empty() {
                tokio::select! {
                    // Cancel-safe, both: the results are read either way.
                    () = woken.notified() => {}
                    () = sleep(POLL) => {}
                }
            }
        }
    }
}

#[async_trait]
impl DeadLetters for Client {
    async fn list(&self, letters_max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        const OPERATION: &str = "list dead letters";
        let client = self.connect(Arc::default()).await?;
        let letters_max = i32::try_from(letters_max).unwrap_or(i32::MAX);
        let rows = self.timed(OPERATION, client.query_typed(
            "SELECT id, lane, sender, nobody, reason, died_at, event FROM keycard.dead_letters($1)",
            &[(&letters_max, Type::INT4)],
        )).await?;
        Ok(rows
            .iter()
            .map(|row| DeadLetter {
                id: row.get::<_, i64>(0).to_string(),
                lane: Lane::from_name(row.get(1)),
                sender: sender(row.get(2), row.get(3)),
                reason: row.get(4),
                at: Some(row.get(5)),
                body: row.get(6),
            })
            .collect())
    }

    async fn requeue(&self, id: &str) -> Result<bool, QueueError> {
        let statement = "SELECT keycard.requeue_dead_letter($1)";
        self.settle("requeue a dead letter", statement, id).await
    }

    async fn discard(&self, id: &str) -> Result<bool, QueueError> {
        let statement = "SELECT keycard.discard_dead_letter($1)";
        self.settle("discard a dead letter", statement, id).await
    }
}
