//! What the sweep asks for: leases nobody looked after, answers nobody published, what may go.

use jiff::Timestamp;
use uuid::Uuid;

use super::requests::{self, Recorded, Unpublished};
use super::{Ledger, LedgerError, Stepped};
use crate::lease::ANSWERS_KEPT;

/// Rows per batch, so that no statement takes long.
const BATCH: i64 = 100;

impl Ledger {
    /// Leases that something should have happened to, oldest first, beginning after `last`; those
    /// that somebody works on are passed over. Expiry events get two seconds to come first. While
    /// revocations are frozen only deliveries go on.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn due(
        &self,
        last: Option<(Timestamp, Uuid)>,
    ) -> Result<Vec<(Timestamp, Uuid)>, LedgerError> {
        let (time, id) = last.unwrap_or((Timestamp::UNIX_EPOCH, Uuid::nil()));
        let client = self.connection().await?;
        let rows = client
            .query(
                "SELECT wake_at, id FROM keycard.leases
                 WHERE wake_at < clock_timestamp() - interval '2 seconds'
                   AND (wake_at, id) > ($1, $2)
                   AND (state = 'issuing' OR EXISTS (
                       SELECT FROM keycard.ledger WHERE frozen_at IS NULL))
                 ORDER BY wake_at, id LIMIT $3 FOR UPDATE SKIP LOCKED",
                &[&time, &id, &BATCH],
            )
            .await
            .map_err(|error| self.sql("look for due leases", &error))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Answers that were recorded some time ago and that nobody has published; for a credential that
    /// has ended meanwhile, that it has.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn unpublished(&self) -> Result<Vec<Recorded>, LedgerError> {
        let client = self.connection().await?;
        let unpublished = requests::unpublished(&*client, BATCH)
            .await
            .map_err(|error| error.at("look for unpublished answers", &self.database))?;
        let now: Timestamp = client
            .query_one("SELECT clock_timestamp()", &[])
            .await
            .map_err(|error| self.sql("look for unpublished answers", &error))?
            .get(0);
        drop(client);
        let mut answers = Vec::new();
        for Unpublished {
            asked,
            lease,
            answer,
        } in unpublished
        {
            let stored = match lease {
                Some(id) => self.show(id).await?,
                None => None,
            };
            match self.replayed(&asked, answer, stored, now) {
                Stepped::Replayed(replayed) => answers.push(replayed.recorded),
                Stepped::Ended(denial) => answers.push(denial),
                Stepped::Reused(_) | Stepped::Decided(_) => {}
            }
        }
        Ok(answers)
    }

    /// Notes that the broker has an answer.
    ///
    /// # Errors
    /// When the database cannot be told: the answer will be published again, with the same id.
    pub async fn mark_published(&self, recorded: &Recorded) -> Result<(), LedgerError> {
        let client = self.connection().await?;
        requests::mark_published(&*client, recorded)
            .await
            .map_err(|error| self.sql("note a published answer", &error))
    }

    /// Removes commands that are older than anything that may still be carried out. Returns how
    /// many; there may be more.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn forget_old_requests(&self) -> Result<u64, LedgerError> {
        let client = self.connection().await?;
        client
            .execute(
                "DELETE FROM keycard.requests WHERE (requester, source, id) IN (
                     SELECT requester, source, id FROM keycard.requests
                     WHERE recorded_at < clock_timestamp() - make_interval(secs => $1)
                       AND published_at IS NOT NULL
                     ORDER BY recorded_at LIMIT $2
                     FOR UPDATE SKIP LOCKED)",
                &[&ANSWERS_KEPT.as_secs_f64(), &BATCH],
            )
            .await
            .map_err(|error| self.sql("forget old requests", &error))
    }

    /// Removes closed leases that are older than they are kept. Expiry events may wake a lease until
    /// its `max_expires_at`, and without its row they would tell that it is missing. Returns how
    /// many; there may be more.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn forget_closed_leases(&self) -> Result<u64, LedgerError> {
        let client = self.connection().await?;
        client
            .execute(
                "DELETE FROM keycard.leases WHERE id IN (
                     SELECT id FROM keycard.leases
                     WHERE state = 'closed' AND recheck_at IS NULL
                       AND greatest(revoked_at, max_expires_at)
                           < clock_timestamp() - make_interval(secs => $1)
                     ORDER BY greatest(revoked_at, max_expires_at) LIMIT $2
                     FOR UPDATE SKIP LOCKED)",
                &[&self.rules.keep_closed_leases.as_secs_f64(), &BATCH],
            )
            .await
            .map_err(|error| self.sql("forget closed leases", &error))
    }
}
