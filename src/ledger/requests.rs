//! Commands and their answers, remembered so that a command that arrives twice is answered alike.

use tokio_postgres::{GenericClient, Row, Transaction};
use uuid::Uuid;

use super::rows::RowError;
use super::{Ledger, LedgerError};
use crate::lease::Requester;
use crate::wire;

/// A command as the ledger remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who sent it.
    pub requester: Requester,
    /// What the sender calls itself.
    pub source: String,
    /// The sender's id for it.
    pub id: String,
    /// What it asks for.
    pub kind: Kind,
    /// Of its content: the same id must come with the same.
    pub digest: [u8; 32],
    /// Given back with its answer.
    pub correlation_id: Option<String>,
    /// Given back with its answer.
    pub traceparent: Option<String>,
    /// Why, in the sender's words. Kept by the audit, not with the command.
    pub reason: Option<String>,
}

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A credential.
    Request,
    /// Another end for a lease.
    Renew,
    /// The end of a lease.
    Revoke,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Request, Self::Renew, Self::Revoke];

    /// Its name, in the ledger and in traces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
        }
    }
}

/// An answer as it is recorded, and published until somebody has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Whose command it answers.
    pub requester: Requester,
    /// The command's source.
    pub source: String,
    /// The command's id.
    pub id: String,
    /// The command's correlation id.
    pub correlation_id: Option<String>,
    /// The result event, byte for byte.
    pub answer: String,
    /// The requester of the lease that somebody else asked to renew: told too if it was renewed.
    pub owner: Option<Requester>,
}

impl Asked {
    /// The command as its answer refers to it.
    #[must_use]
    pub fn as_wire(&self) -> wire::Asked<'_> {
        wire::Asked {
            requester: Some(&self.requester),
            source: &self.source,
            id: &self.id,
            traceparent: self.traceparent.as_deref(),
        }
    }
}

/// What the ledger knew of a command.
pub(super) struct Known {
    pub(super) digest: Vec<u8>,
    pub(super) lease: Option<Uuid>,
    pub(super) answer: Option<String>,
}

/// Remembers a command, or says what is known of it already. Waits for a transaction that is about
/// to remember the same one.
pub(super) async fn remember(
    transaction: &Transaction<'_>,
    asked: &Asked,
    lease: Option<Uuid>,
) -> Result<Option<Known>, tokio_postgres::Error> {
    let inserted = transaction
        .execute(
            "INSERT INTO keycard.requests
                 (requester, source, id, kind, digest, lease, correlation_id, traceparent)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
            &[
                &asked.requester.as_str(),
                &asked.source,
                &asked.id,
                &asked.kind.as_str(),
                &asked.digest.as_slice(),
                &lease,
                &asked.correlation_id,
                &asked.traceparent,
            ],
        )
        .await?;
    if inserted == 1 {
        Ok(None)
    } else {
        recall(transaction, asked).await
    }
}

/// What is known of a command.
pub(super) async fn recall(
    transaction: &Transaction<'_>,
    asked: &Asked,
) -> Result<Option<Known>, tokio_postgres::Error> {
    let row = transaction
        .query_opt(
            "SELECT digest, lease, answer FROM keycard.requests
             WHERE requester = $1 AND source = $2 AND id = $3",
            &[&asked.requester.as_str(), &asked.source, &asked.id],
        )
        .await?;
    Ok(row.map(|row| Known {
        digest: row.get(0),
        lease: row.get(1),
        answer: row.get(2),
    }))
}

impl Ledger {
    /// The trace of the request that a lease is from, for as long as commands are remembered.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn traceparent(&self, lease: Uuid) -> Result<Option<String>, LedgerError> {
        let client = self.connection().await?;
        let row = client
            .query_opt(
                "SELECT traceparent FROM keycard.requests
                 WHERE lease = $1 AND kind = 'request' AND traceparent IS NOT NULL LIMIT 1",
                &[&lease],
            )
            .await
            .map_err(|error| self.sql("look for a trace", &error))?;
        Ok(row.map(|row| row.get(0)))
    }
}

/// The commands of one kind for a lease that have no answer yet.
pub(super) async fn open(
    transaction: &Transaction<'_>,
    lease: Uuid,
    kind: Kind,
) -> Result<Vec<Asked>, RowError> {
    let rows = transaction
        .query(
            "SELECT requester, source, id, digest, correlation_id, traceparent
             FROM keycard.requests WHERE lease = $1 AND kind = $2 AND answer IS NULL
             ORDER BY requester, source, id",
            &[&lease, &kind.as_str()],
        )
        .await?;
    rows.iter().map(|row| asked(row, kind)).collect()
}

/// Reads the columns that [`open`] selects.
fn asked(row: &Row, kind: Kind) -> Result<Asked, RowError> {
    let digest: &[u8] = row.get(3);
    Ok(Asked {
        requester: Requester::new(row.get::<_, String>(0))
            .map_err(|error| RowError::Content(error.to_string()))?,
        source: row.get(1),
        id: row.get(2),
        kind,
        digest: digest
            .try_into()
            .map_err(|_| RowError::Content("digest is not 32 bytes".to_owned()))?,
        correlation_id: row.get(4),
        traceparent: row.get(5),
        reason: None,
    })
}

/// Records an answer.
pub(super) async fn answer(
    transaction: &Transaction<'_>,
    recorded: &Recorded,
) -> Result<(), tokio_postgres::Error> {
    transaction
        .execute(
            "UPDATE keycard.requests SET answer = $4, answered_at = clock_timestamp()
             WHERE requester = $1 AND source = $2 AND id = $3",
            &[
                &recorded.requester.as_str(),
                &recorded.source,
                &recorded.id,
                &recorded.answer,
            ],
        )
        .await?;
    Ok(())
}

/// Notes that the broker has an answer.
pub(super) async fn mark_published(
    client: &impl GenericClient,
    recorded: &Recorded,
) -> Result<(), tokio_postgres::Error> {
    client
        .execute(
            "UPDATE keycard.requests SET published_at = clock_timestamp()
             WHERE requester = $1 AND source = $2 AND id = $3 AND published_at IS NULL",
            &[&recorded.requester.as_str(), &recorded.source, &recorded.id],
        )
        .await?;
    Ok(())
}

/// An answer that nobody has published.
pub(super) struct Unpublished {
    pub(super) asked: Asked,
    pub(super) lease: Option<Uuid>,
    pub(super) answer: String,
}

/// Answers that nobody has published though they were recorded a while ago: their worker died.
pub(super) async fn unpublished(
    client: &impl GenericClient,
    rows_max: i64,
) -> Result<Vec<Unpublished>, RowError> {
    let rows = client
        .query(
            "SELECT requester, source, id, digest, correlation_id, traceparent, kind, lease, answer
             FROM keycard.requests
             WHERE answer IS NOT NULL AND published_at IS NULL
               AND answered_at < clock_timestamp() - interval '10 seconds'
             ORDER BY random() LIMIT $1",
            &[&rows_max],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let kind = Kind::ALL
                .into_iter()
                .find(|kind| kind.as_str() == row.get::<_, &str>(6))
                .ok_or_else(|| RowError::Content("kind is unknown".to_owned()))?;
            Ok(Unpublished {
                asked: asked(row, kind)?,
                lease: row.get(7),
                answer: row.get(8),
            })
        })
        .collect()
}
