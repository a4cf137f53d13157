//! Rows of `keycard.leases`, and leases.

use serde::{Deserialize, Serialize};
use tokio_postgres::types::Json;
use tokio_postgres::{GenericClient, Row, Transaction};
use uuid::Uuid;

use super::LedgerError;
use crate::lease::{Cause, Lease, LeaseId, Requester, State};
use crate::login::{Owned, Statements, Upkeep};

/// A lease with what only the outside world needs to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// The lease.
    pub lease: Lease,
    /// OID of its login, also when that is gone.
    pub login_oid: u32,
    /// How its login is renewed and revoked. Never changes.
    pub upkeep: Upkeep,
    /// Where the secret of each attempt at delivery was put, in their order.
    pub locators: Vec<String>,
    /// Why the last attempt failed.
    pub last_failure: Option<String>,
}

/// The columns that [`from_row`] reads.
pub(super) const COLUMNS: &str =
    "id, role, requester, username, state, generation, attempt, held_until,
    issued_at, expires_at, max_expires_at, ttl_clamped, locators, sessions_terminated, cause,
    revoked_at, failures, retry_at, recheck_at, last_failure, login_oid, renew_statements,
    revocation_statements, reassign_owned_to, drop_owned";

/// Statements as a row holds them: as the configuration writes them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Texts {
    Each(Vec<String>),
    Script(String),
}

fn texts(statements: Option<&Statements>) -> Option<Json<Texts>> {
    let texts = match statements?.clone() {
        Statements::Each(texts) => Texts::Each(texts),
        Statements::Script(text) => Texts::Script(text),
    };
    Some(Json(texts))
}

/// Loads a lease and locks it until the end of the transaction.
pub(super) async fn lock(
    transaction: &Transaction<'_>,
    database: &str,
    id: Uuid,
) -> Result<Option<StoredLease>, RowError> {
    let row = transaction
        .query_opt(
            &format!("SELECT {COLUMNS} FROM keycard.leases WHERE id = $1 FOR UPDATE"),
            &[&id],
        )
        .await?;
    row.map(|row| from_row(&row, database)).transpose()
}

/// Why a row could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error("{0}")]
    Content(String),
    #[error("Postgres does not answer")]
    Silent,
    /// A newer keycard has migrated the ledger, and this version is needed by now.
    #[error("it needs version {0}")]
    Newer(i32),
}

impl RowError {
    pub(super) fn at(self, operation: &'static str, database: &str) -> LedgerError {
        match self {
            Self::Postgres(error) => LedgerError::sql(operation, database, &error),
            Self::Silent => LedgerError::Silent {
                operation,
                database: database.to_owned(),
            },
            Self::Newer(needed) => LedgerError::newer(database, needed),
            Self::Content(problem) => LedgerError::Row {
                database: database.to_owned(),
                problem,
            },
        }
    }
}

pub(super) fn from_row(row: &Row, database: &str) -> Result<StoredLease, RowError> {
    let number = |column: &str| -> Result<u32, RowError> {
        let value: i32 = row.try_get(column)?;
        u32::try_from(value).map_err(|_| RowError::Content(format!("{column} is {value}")))
    };
    let required = |column: &str| RowError::Content(format!("{column} is missing"));
    let cause = || -> Result<Cause, RowError> {
        let text: Option<&str> = row.try_get("cause")?;
        Cause::ALL
            .into_iter()
            .find(|cause| Some(cause.as_str()) == text)
            .ok_or_else(|| required("cause"))
    };
    let time = |column: &str| -> Result<jiff::Timestamp, RowError> {
        row.try_get::<_, Option<jiff::Timestamp>>(column)?
            .ok_or_else(|| required(column))
    };
    let state = match row.try_get("state")? {
        "issuing" => State::Issuing,
        "active" => State::Active,
        "revoking" => State::Revoking {
            cause: cause()?,
            failures: number("failures")?,
            retry_at: time("retry_at")?,
        },
        "dropped" => State::Dropped {
            cause: cause()?,
            revoked_at: time("revoked_at")?,
            failures: number("failures")?,
            retry_at: time("retry_at")?,
        },
        "closed" => State::Closed {
            cause: cause()?,
            revoked_at: time("revoked_at")?,
            recheck_at: row.try_get("recheck_at")?,
        },
        other => return Err(RowError::Content(format!("state is {other:?}"))),
    };
    let statements = |column: &str| -> Result<Option<Statements>, RowError> {
        let texts: Option<Json<Texts>> = row.try_get(column)?;
        Ok(texts.map(|Json(texts)| match texts {
            Texts::Each(texts) => Statements::Each(texts),
            Texts::Script(text) => Statements::Script(text),
        }))
    };
    let requester: String = row.try_get("requester")?;
    Ok(StoredLease {
        lease: Lease {
            id: LeaseId {
                database: database.to_owned(),
                uuid: row.try_get("id")?,
            },
            role: row.try_get("role")?,
            requester: Requester::new(requester)
                .map_err(|error| RowError::Content(error.to_string()))?,
            username: row.try_get("username")?,
            issued_at: row.try_get("issued_at")?,
            expires_at: row.try_get("expires_at")?,
            max_expires_at: row.try_get("max_expires_at")?,
            ttl_clamped: row.try_get("ttl_clamped")?,
            generation: number("generation")?,
            attempt: number("attempt")?,
            held_until: row.try_get("held_until")?,
            sessions_terminated: number("sessions_terminated")?,
            state,
        },
        login_oid: row.try_get("login_oid")?,
        upkeep: Upkeep {
            renewal: statements("renew_statements")?,
            revocation: statements("revocation_statements")?,
            owned: match row.try_get("reassign_owned_to")? {
                Some(keeper) => Owned::Reassigned(keeper),
                None if row.try_get("drop_owned")? => Owned::Dropped,
                None => Owned::Kept,
            },
        },
        locators: row.try_get("locators")?,
        last_failure: row.try_get("last_failure")?,
    })
}

/// Writes a lease, new or not.
pub(super) async fn write(
    client: &impl GenericClient,
    stored: &StoredLease,
) -> Result<(), tokio_postgres::Error> {
    let lease = &stored.lease;
    let Upkeep {
        renewal,
        revocation,
        owned,
    } = &stored.upkeep;
    let (cause, revoked_at, failures, retry_at, recheck_at) = match lease.state {
        State::Issuing | State::Active => (None, None, 0, None, None),
        State::Revoking {
            cause,
            failures,
            retry_at,
        } => (Some(cause), None, failures, Some(retry_at), None),
        State::Dropped {
            cause,
            revoked_at,
            failures,
            retry_at,
        } => (
            Some(cause),
            Some(revoked_at),
            failures,
            Some(retry_at),
            None,
        ),
        State::Closed {
            cause,
            revoked_at,
            recheck_at,
        } => (Some(cause), Some(revoked_at), 0, None, recheck_at),
    };
    let keeper = match owned {
        Owned::Reassigned(keeper) => Some(keeper),
        Owned::Kept | Owned::Dropped => None,
    };
    let integer = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    client
        .execute(
            "INSERT INTO keycard.leases (id, role, requester, username, login_oid, state, generation,
                 attempt, held_until, issued_at, expires_at, max_expires_at, ttl_clamped, locators,
                 sessions_terminated, cause, revoked_at, failures, retry_at, recheck_at,
                 last_failure, wake_at, renew_statements, revocation_statements, reassign_owned_to,
                 drop_owned)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                 $18, $19, $20, $21, $22, $23, $24, $25, $26)
             ON CONFLICT (id) DO UPDATE SET
                 login_oid = excluded.login_oid, state = excluded.state,
                 generation = excluded.generation, attempt = excluded.attempt,
                 held_until = excluded.held_until, expires_at = excluded.expires_at,
                 locators = excluded.locators, sessions_terminated = excluded.sessions_terminated,
                 cause = excluded.cause, revoked_at = excluded.revoked_at,
                 failures = excluded.failures, retry_at = excluded.retry_at,
                 recheck_at = excluded.recheck_at, last_failure = excluded.last_failure,
                 wake_at = excluded.wake_at",
            &[
                &lease.id.uuid,
                &lease.role,
                &lease.requester.as_str(),
                &lease.username,
                &stored.login_oid,
                &lease.state.as_str(),
                &integer(lease.generation),
                &integer(lease.attempt),
                &lease.held_until,
                &lease.issued_at,
                &lease.expires_at,
                &lease.max_expires_at,
                &lease.ttl_clamped,
                &stored.locators,
                &integer(lease.sessions_terminated),
                &cause.map(Cause::as_str),
                &revoked_at,
                &integer(failures),
                &retry_at,
                &recheck_at,
                &stored.last_failure,
                &lease.wake_at(),
                &texts(renewal.as_ref()),
                &texts(revocation.as_ref()),
                &keeper,
                &(*owned == Owned::Dropped),
            ],
        )
        .await?;
    Ok(())
}
