//! Looking at leases without touching them, for the command line.

use uuid::Uuid;

use super::rows::{self, RowError, StoredLease};
use super::{Ledger, LedgerError};
use crate::lease::STUCK_AFTER_FAILURES;

/// Which leases are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// Only those in this state, as the ledger writes it.
    pub state: Option<&'a str>,
    /// Only those whose revocation keeps failing.
    pub stuck: bool,
    /// The closed ones as well.
    pub closed: bool,
    /// Only those of this role.
    pub role: Option<&'a str>,
    /// Only those of this requester.
    pub requester: Option<&'a str>,
    /// Most leases.
    pub rows_max: i64,
}

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

    /// The leases that go by a username, or that a command of this id was about; oldest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn find(&self, name: &str) -> Result<Vec<StoredLease>, LedgerError> {
        let client = self.connection().await?;
        let rows = client
            .query(
                &format!(
                    "SELECT {} FROM keycard.leases WHERE username = $1
                     OR id IN (SELECT lease FROM keycard.requests WHERE id = $1) ORDER BY id",
                    rows::COLUMNS
                ),
                &[&name],
            )
            .await
            .map_err(|error| self.sql("find a lease", &error))?;
        rows.iter()
            .map(|row| rows::from_row(row, &self.database))
            .collect::<Result<_, RowError>>()
            .map_err(|error| error.at("find a lease", &self.database))
    }

    /// The newest leases that fit, newest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn list(&self, search: &Search<'_>) -> Result<Vec<StoredLease>, LedgerError> {
        let failures_min = if search.stuck {
            STUCK_AFTER_FAILURES
        } else {
            0
        };
        let client = self.connection().await?;
        let rows = client
            .query(
                &format!(
                    "SELECT {} FROM keycard.leases
                     WHERE ($1 OR state <> 'closed') AND state = coalesce($2, state)
                     AND failures >= $3 AND role = coalesce($4, role)
                     AND requester = coalesce($5, requester)
                     ORDER BY id DESC LIMIT $6",
                    rows::COLUMNS
                ),
                &[
                    &search.closed,
                    &search.state,
                    &i32::try_from(failures_min).unwrap_or(i32::MAX),
                    &search.role,
                    &search.requester,
                    &search.rows_max,
                ],
            )
            .await
            .map_err(|error| self.sql("list leases", &error))?;
        rows.iter()
            .map(|row| rows::from_row(row, &self.database))
            .collect::<Result<_, RowError>>()
            .map_err(|error| error.at("list leases", &self.database))
    }
}
