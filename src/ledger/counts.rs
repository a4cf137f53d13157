//! How many leases there are that somebody should know of, for the metrics.

use super::{Ledger, LedgerError};
use crate::lease::STUCK_AFTER_FAILURES;
use crate::metrics::Leases;

impl Ledger {
    /// Counts the leases whose logins exist, by the ledger's clock. Costs as much as there are.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn count(&self) -> Result<Leases, LedgerError> {
        let client = self.connection().await?;
        let stuck_after = i32::try_from(STUCK_AFTER_FAILURES).unwrap_or(i32::MAX);
        let row = client
            .query_one(
                "SELECT count(*) FILTER (WHERE state <> 'revoking' AND expires_at > now),
                        count(*) FILTER (WHERE expires_at <= now),
                        greatest(extract(epoch FROM max(now - expires_at)), 0)::float8,
                        count(*) FILTER (WHERE state = 'revoking' AND failures >= $1),
                        EXISTS (SELECT FROM keycard.ledger WHERE frozen_at IS NOT NULL)
                 FROM keycard.leases, (SELECT statement_timestamp()) AS clock (now)
                 WHERE state IN ('issuing', 'active', 'revoking')",
                &[&stuck_after],
            )
            .await
            .map_err(|error| self.sql("count leases", &error))?;
        Ok(Leases {
            live: row.get(0),
            overdue: row.get(1),
            overdue_seconds_max: row.get(2),
            stuck: row.get(3),
            frozen: row.get(4),
        })
    }
}
