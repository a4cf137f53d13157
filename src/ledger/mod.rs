//! The ledger: leases and requests in schema `keycard` of the guarded database itself, and the one
//! transaction in which a lease, its login and its answer change together.

mod answers;
mod audit;
mod change;
mod clear;
mod connection;
mod counts;
mod examine;
mod freeze;
mod read;
mod reconcile;
mod requests;
mod restore;
mod rows;
mod rules;
mod schema;
mod step;
mod sweep;

pub use audit::{About, AuditFilter, AuditRow, Refusal};
pub use connection::Endpoint;
pub use examine::Examined;
pub use freeze::Frozen;
pub use read::Search;
pub use reconcile::{Known, Odd, View};
pub use requests::{Asked, Kind, Recorded};
pub use restore::{Adoption, Record, Standing, Start};
pub use rows::StoredLease;
pub use rules::{Role, Rules, Told};
pub use step::{Decided, Replayed, Step, Stepped, Subject};

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{Object, Pool, PoolError};

use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::fault::Disposition;
use crate::login;
use connection::Connections;

/// tokio-postgres's own limit ends with the socket; TLS and the start-up follow it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Logins that are cleared away at a time.
const CLEARING_MAX: usize = 2;

/// The ledger of one database.
#[derive(Debug)]
pub struct Ledger {
    /// Key of the database in the configuration, and first part of its lease ids.
    database: String,
    pool: Pool<Connections>,
    rules: Arc<Rules>,
    prepared: OnceCell<()>,
    /// Logins that are being cleared away at a time, each with a connection of its own.
    clearing: Semaphore,
    restarted: Arc<Notify>,
}

impl Ledger {
    /// Opens a ledger without connecting yet.
    ///
    /// # Errors
    /// Never in practice: only if the pool cannot be built.
    pub fn new(
        database: String,
        endpoint: Endpoint,
        connections_max: usize,
        rules: Arc<Rules>,
    ) -> Result<Self, LedgerError> {
        /// How long a step may wait for a free connection before its delivery is deferred.
        const CONNECTION_WAIT: Duration = Duration::from_secs(5);
        let restarted = Arc::new(Notify::new());
        let manager = Connections {
            endpoint,
            database: database.clone(),
            installation: rules.installation.clone(),
            restarted: Arc::clone(&restarted),
        };
        let pool = Pool::builder(manager)
            .max_size(connections_max)
            .runtime(deadpool::Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION_WAIT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .build()
            .map_err(|error| LedgerError::Pool {
                database: database.clone(),
                problem: error.to_string(),
            })?;
        Ok(Self {
            database,
            pool,
            rules,
            prepared: OnceCell::new(),
            clearing: Semaphore::new(CLEARING_MAX),
            restarted,
        })
    }

    /// Key of the database in the configuration.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Terminates every session of a login by its OID and waits until none is left.
    ///
    /// # Errors
    /// When the database cannot be asked, or sessions are left after five seconds.
    pub async fn terminate_sessions(&self, oid: u32) -> Result<u32, LedgerError> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let client = self.connection().await?;
        login::terminate_sessions(&client, oid, PATIENCE)
            .await
            .map_err(|error| self.sql("terminate sessions", &error))?
            .ok_or_else(|| LedgerError::SessionsLeft {
                database: self.database.clone(),
            })
    }

    /// What the configuration says about leases.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// A connection of the caller's own to the ledger, checked like the pool's. `woken` is notified
    /// as [`Endpoint::listen`] says.
    pub(crate) async fn listen(&self, woken: Arc<Notify>) -> Result<Client, LedgerError> {
        let endpoint = &self.pool.manager().endpoint;
        let connecting = async {
            let client = endpoint.listen(&self.database, woken).await?;
            schema::check_record(&client, &self.database, &self.rules.installation).await?;
            Ok(client)
        };
        timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| {
                Err(LedgerError::Silent {
                    operation: "connect",
                    database: self.database.clone(),
                })
            })
    }

    pub(crate) async fn connection(&self) -> Result<Object<Connections>, LedgerError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(_)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_) => LedgerError::Pool {
                database: self.database.clone(),
                problem: error.to_string(),
            },
        })
    }

    fn sql(&self, operation: &'static str, error: &tokio_postgres::Error) -> LedgerError {
        LedgerError::sql(operation, &self.database, error)
    }
}

/// A failed operation of a ledger. Its text never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The admin's password could not be read.
    #[error(
        "the password of database {database} cannot be read: {problem}; provide it, or name another place"
    )]
    Password {
        /// Which database.
        database: String,
        /// What went wrong.
        problem: String,
    },
    /// No connection was to be had.
    #[error("no connection to database {database}: {problem}")]
    Pool {
        /// Which database.
        database: String,
        /// What went wrong.
        problem: String,
    },
    /// Postgres did not do what was asked.
    #[error("could not {operation} in database {database}: {problem}")]
    Sql {
        /// What was attempted.
        operation: &'static str,
        /// Which database.
        database: String,
        /// What Postgres said, without statement or parameters.
        problem: String,
        /// What its SQLSTATE means.
        disposition: Disposition,
    },
    /// Postgres has stopped answering.
    #[error("could not {operation} in database {database}: Postgres does not answer")]
    Silent {
        /// What was attempted.
        operation: &'static str,
        /// Which database.
        database: String,
    },
    /// Sessions of a login outlived their termination.
    #[error("sessions of the login in database {database} did not end within 5 s")]
    SessionsLeft {
        /// Which database.
        database: String,
    },
    /// A row holds what no keycard has written.
    #[error("a row of the ledger in database {database} cannot be read: {problem}")]
    Row {
        /// Which database.
        database: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The ledger was written elsewhere, or for another installation.
    #[error(
        "the ledger in database {database} belongs elsewhere: {problem}. Nothing is issued or revoked there. If the configuration is wrong, mend `installation` or `connection_url`; if this database is a copy or was restored, `keycard adopt --database {database}` says what can be done"
    )]
    Foreign {
        /// Which database.
        database: String,
        /// What differs.
        problem: String,
    },
    /// An operator wanted to adopt a ledger that must not be.
    #[error("the ledger in database {database} was not adopted: {problem}")]
    NotAdopted {
        /// Which database.
        database: String,
        /// Why, and what to do.
        problem: String,
    },
    /// A newer keycard has changed the ledger in a way that this one does not know.
    #[error(
        "the ledger in database {database} needs keycard ledger version {needed} or newer and this keycard knows {known}; upgrade it"
    )]
    Newer {
        /// Which database.
        database: String,
        /// The version needed.
        needed: i32,
        /// The newest that this keycard knows.
        known: i32,
    },
    /// The ledger was not migrated yet to what this keycard works with.
    #[error(
        "the ledger in database {database} is of version {version} and this keycard works with {known}; a `keycard worker` of this version migrates it, at its next sweep"
    )]
    Older {
        /// Which database.
        database: String,
        /// Its version.
        version: i32,
        /// The version that this keycard works with.
        known: i32,
    },
    /// Somebody else owns a part of the ledger and could have planted something in it.
    #[error(
        "{object} in database {database} belongs to {owner:?} and not to keycard's own user; drop it or give it to keycard's user, then start again"
    )]
    Owner {
        /// Which database.
        database: String,
        /// What is owned.
        object: String,
        /// By whom.
        owner: String,
    },
    /// keycard's own user lacks a right that it needs.
    #[error(
        "keycard's user {user:?} {lacks} in database {database}; run the script of `keycard setup-sql --database {database}`"
    )]
    Admin {
        /// Which database.
        database: String,
        /// The user.
        user: String,
        /// What it lacks.
        lacks: &'static str,
    },
    /// The schema is missing and may not be created.
    #[error(
        "database {database} has no schema keycard and keycard may not create it; run the script of `keycard setup-sql --database {database}`"
    )]
    NoSchema {
        /// Which database.
        database: String,
    },
    /// There is no ledger, or not any more, or nobody has recorded yet whose it is.
    #[error("database {database} has no ledger; `keycard worker` makes it when it starts")]
    NoLedger {
        /// Which database.
        database: String,
    },
    /// Somebody's open transaction is in a migration's way.
    #[error(
        "the ledger in database {database} could not be migrated: an open transaction holds its tables, that of {holders}. It is tried again; commit that transaction, or end it with pg_terminate_backend"
    )]
    Locked {
        /// Which database.
        database: String,
        /// The processes that hold tables of the ledger, and their roles.
        holders: String,
    },
    /// The migration library failed.
    #[error("the ledger in database {database} could not be migrated: {problem}")]
    Migration {
        /// Which database.
        database: String,
        /// What it said.
        problem: String,
    },
}

impl LedgerError {
    pub(super) fn newer(database: &str, needed: i32) -> Self {
        Self::Newer {
            database: database.to_owned(),
            needed,
            known: schema::known_version(),
        }
    }

    pub(crate) fn sql(
        operation: &'static str,
        database: &str,
        error: &tokio_postgres::Error,
    ) -> Self {
        Self::Sql {
            operation,
            database: database.to_owned(),
            problem: login::describe(error),
            disposition: login::disposition(error),
        }
    }

    /// What to do about it. Nothing in a ledger is rejected: a command waits until it can be read.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Foreign { .. }
            | Self::NotAdopted { .. }
            | Self::Newer { .. }
            | Self::Owner { .. }
            | Self::Admin { .. }
            | Self::NoSchema { .. } => Disposition::Fatal,
            Self::Password { .. }
            | Self::Pool { .. }
            | Self::Sql { .. }
            | Self::Silent { .. }
            | Self::SessionsLeft { .. }
            | Self::NoLedger { .. }
            | Self::Older { .. }
            | Self::Row { .. }
            | Self::Locked { .. }
            | Self::Migration { .. } => Disposition::Retry,
        }
    }
}
