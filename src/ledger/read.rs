//! Looking at leases without touching them, for the command line.

use uuid::Uuid;

use super::rows::{self, RowError, StoredLease};
use super::{Ledger, LedgerError};

impl Ledger {
    /// One lease, without touching it.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn show(&self, id: Uuid) -> Result<Option<StoredLease>, LedgerError> {
        let client = self.connection().await?;
        let row = client
            .query_opt(
                &format!("SELECT {} FROM keycard.leases WHERE id = $1", rows::COLUMNS),
                &[&id],
            )
            .await
            .map_err(|error| self.sql("show a lease", &error))?;
        row.map(|row| rows::from_row(&row, &self.database))
            .transpose()
            .map_err(|error| error.at("show a lease", &self.database))
    }

    /// The newest leases, newest first; the closed ones only if asked for.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn list(&self, closed: bool, rows_max: i64) -> Result<Vec<StoredLease>, LedgerError> {
        let client = self.connection().await?;
        let rows = client
            .query(
                &format!(
                    "SELECT {} FROM keycard.leases WHERE $1 OR state <> 'closed'
                     ORDER BY id DESC LIMIT $2",
                    rows::COLUMNS
                ),
                &[&closed, &rows_max],
            )
            .await
            .map_err(|error| self.sql("list leases", &error))?;
        rows.iter()
            .map(|row| rows::from_row(row, &self.database))
            .collect::<Result<_, RowError>>()
            .map_err(|error| error.at("list leases", &self.database))
    }
}
