//! Freezing revocations: an operator's word, kept in the ledger itself.

use jiff::Timestamp;
use tokio_postgres::Transaction;

use super::audit::{self, AuditRow};
use super::rows::RowError;
use super::schema::admits;
use super::{Ledger, LedgerError};

/// Revocations of one database are frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Since when.
    pub since: Timestamp,
    /// Why, as the operator said.
    pub reason: Option<String>,
    /// Leases that something would have happened to by now.
    pub waiting: i64,
}

impl Ledger {
    /// Freezes revocations. When they are frozen already, their reason is replaced if there is a
    /// new one.
    ///
    /// # Errors
    /// When the database cannot be told.
    pub async fn freeze(&self, reason: Option<&str>) -> Result<(), LedgerError> {
        self.set_freeze(
            "frozen",
            "UPDATE keycard.ledger SET frozen_at = coalesce(frozen_at, clock_timestamp()),
                 frozen_reason = coalesce($1, frozen_reason)
             WHERE frozen_at IS NULL OR frozen_reason IS DISTINCT FROM coalesce($1, frozen_reason)
             RETURNING clock_timestamp(), coalesce(frozen_reason, ''), session_user::text",
            reason,
        )
        .await
    }

    /// Has revocations go on.
    ///
    /// # Errors
    /// When the database cannot be told.
    pub async fn thaw(&self) -> Result<(), LedgerError> {
        self.set_freeze(
            "thawed",
            "UPDATE keycard.ledger SET frozen_at = NULL, frozen_reason = $1
             WHERE frozen_at IS NOT NULL
             RETURNING clock_timestamp(), 'revocations go on', session_user::text",
            None,
        )
        .await
    }

    /// Does it and audits it, if it changes anything.
    async fn set_freeze(
        &self,
        action: &str,
        statement: &str,
        reason: Option<&str>,
    ) -> Result<(), LedgerError> {
        let mut client = self.connection().await?;
        let set = async {
            let transaction = client.transaction().await?;
            let row = transaction.query_opt(statement, &[&reason]).await?;
            let row = row.map(|row| AuditRow {
                at: row.get(0),
                action: action.to_owned(),
                reason: row.get(1),
                asked_by: row.get(2),
                ..AuditRow::default()
            });
            if let Some(row) = &row {
                audit::write(&transaction, row).await?;
            }
            transaction.commit().await?;
            Ok(row)
        };
        let row = set.await.map_err(|error: tokio_postgres::Error| {
            self.sql("freeze or thaw revocations", &error)
        })?;
        if let Some(row) = &row {
            audit::tell(&self.rules, row);
        }
        Ok(())
    }

    /// Whether revocations are frozen.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn frozen(&self) -> Result<Option<Frozen>, LedgerError> {
        let client = self.connection().await?;
        let row = client
            .query_opt(
                "SELECT frozen_at, frozen_reason,
                        (SELECT count(*) FROM keycard.leases WHERE wake_at < clock_timestamp())
                 FROM keycard.ledger WHERE frozen_at IS NOT NULL",
                &[],
            )
            .await
            .map_err(|error| self.sql("look whether revocations are frozen", &error))?;
        Ok(row.map(|row| Frozen {
            since: row.get(0),
            reason: row.get(1),
            waiting: row.get(2),
        }))
    }
}

/// The one clock, and whether revocations are frozen. From here to the end of the transaction no
/// migration can leave this keycard behind: it would wait for this table.
pub(super) async fn clock_and_freeze(
    transaction: &Transaction<'_>,
) -> Result<(Timestamp, bool), RowError> {
    let row = transaction
        .query_one(
            "SELECT clock_timestamp(), frozen_at IS NOT NULL, compatible_from FROM keycard.ledger",
            &[],
        )
        .await?;
    admits(row.get(2)).map_err(RowError::Newer)?;
    Ok((row.get(0), row.get(1)))
}
