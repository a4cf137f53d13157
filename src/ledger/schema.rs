//! The ledger's schema: its migrations, its owner, and whose ledger it is.

use std::error::Error as _;
use std::sync::LazyLock;
use std::time::Duration;

use refinery::{Migration, Runner};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Ledger, LedgerError};
use crate::injection;

/// `pg_advisory_lock` key of the migrations: "keycard" as ASCII.
pub(super) const MIGRATION_LOCK: i64 = 0x006b_6579_6361_7264;

/// Waiting for another worker's migrations is the longest of it.
const PREPARE_TIMEOUT: Duration = Duration::from_mins(1);

/// While a migration waits for a table, everybody who comes after it waits as well.
const MIGRATION_PATIENCE: &str = "SET lock_timeout = '3s'";

mod embedded {
    refinery::embed_migrations!("src/ledger/migrations");
}

static MIGRATIONS: LazyLock<Vec<Migration>> = LazyLock::new(|| {
    let mut migrations = embedded::migrations::runner().get_migrations().clone();
    migrations.extend(injection::further_migrations());
    migrations
});

/// The newest migration that this keycard knows.
pub(super) fn known_version() -> i32 {
    MIGRATIONS.iter().map(Migration::version).max().unwrap_or(0)
}

impl Ledger {
    /// Brings the schema up to date under an advisory lock, after checking that nobody else has a
    /// hand in it, and records whose ledger it is. Once it has succeeded it does nothing more.
    ///
    /// # Errors
    /// [`LedgerError::Admin`], [`LedgerError::Owner`], [`LedgerError::Newer`],
    /// [`LedgerError::Foreign`], [`LedgerError::NoSchema`], or what may pass.
    pub async fn prepare(&self) -> Result<(), LedgerError> {
        let prepared = self.prepared.get_or_try_init(|| self.migrate_in_time());
        prepared.await.copied()
    }

    /// Checks that the ledger still admits this keycard: connections stay, and a newer one may have
    /// migrated it since. A ledger that a restore took back to before an upgrade is migrated again.
    ///
    /// # Errors
    /// [`LedgerError::Newer`], when the database cannot be asked, or as for [`Ledger::prepare`].
    pub async fn check_again(&self) -> Result<(), LedgerError> {
        let checking = async { check_version(&*self.connection().await?, &self.database).await };
        match checking.await {
            Err(LedgerError::Older { .. }) => self.migrate_in_time().await,
            checked => checked,
        }
    }

    async fn migrate_in_time(&self) -> Result<(), LedgerError> {
        timeout(PREPARE_TIMEOUT, self.migrate())
            .await
            .unwrap_or_else(|_| {
                Err(LedgerError::Silent {
                    operation: "prepare the ledger",
                    database: self.database.clone(),
                })
            })
    }

    async fn migrate(&self) -> Result<(), LedgerError> {
        let manager = self.pool.manager();
        // A connection of its own: it ends with this function, and the lock with it.
        let mut client = manager.endpoint.connect(&self.database).await?;
        let sql = |error| sql(&self.database, &error);
        end_squatters(&client, MIGRATION_LOCK).await.map_err(sql)?;
        client
            .execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK])
            .await
            .map_err(sql)?;
        check_admin(&client, &self.database).await?;
        create_schema(&client, &self.database).await?;
        check_owner(&client, &self.database).await?;
        match check_version(&client, &self.database).await {
            Ok(()) | Err(LedgerError::NoLedger { .. } | LedgerError::Older { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut migrations = Runner::new(&MIGRATIONS);
        migrations.set_migration_table_name("keycard.migrations");
        // A newer keycard may have run more; that it admits this one is checked.
        let migrations = migrations.set_abort_missing(false);
        client
            .batch_execute(MIGRATION_PATIENCE)
            .await
            .map_err(sql)?;
        if let Err(error) = migrations.run_async(&mut client).await {
            return Err(not_migrated(&client, &self.database, &error).await);
        }
        client
            .execute(
                "INSERT INTO keycard.ledger (installation, system_identifier, database_oid,
                     server_started_at)
                 SELECT $1, (SELECT system_identifier FROM pg_control_system()), oid,
                        pg_postmaster_start_time()
                 FROM pg_database WHERE datname = current_database()
                 ON CONFLICT DO NOTHING",
                &[&self.rules.installation],
            )
            .await
            .map_err(sql)?;
        check_owner(&client, &self.database).await?;
        check_record(&client, &self.database, &self.rules.installation)
            .await
            .map(|_restarted| ())
    }
}

/// Ends sessions of others that hold one of keycard's advisory locks. Whoever may connect may take
/// them, and a login could so keep the sweep or reconciliation, which would end it, from starting.
pub(super) async fn end_squatters(client: &Client, lock: i64) -> Result<(), tokio_postgres::Error> {
    let ended = client
        .query(
            "SELECT usename::text, pg_terminate_backend(pid, 1000)
             FROM pg_locks JOIN pg_stat_activity USING (pid) LEFT JOIN pg_roles r ON r.oid = usesysid
             WHERE locktype = 'advisory' AND objsubid = 1 AND datname = current_database()
               AND (classid::bigint << 32 | objid::bigint) = $1
               AND usename IS DISTINCT FROM current_user AND rolsuper IS NOT TRUE",
            &[&lock],
        )
        .await?;
    for row in &ended {
        tracing::warn!(
            postgres.role = row.get::<_, Option<&str>>(0),
            "a session held an advisory lock that is keycard's; it was ended"
        );
    }
    Ok(())
}

/// Without these rights nothing can be issued, or not be taken back.
async fn check_admin(client: &Client, database: &str) -> Result<(), LedgerError> {
    let row = client
        .query_one(
            "SELECT current_user::text, rolsuper OR rolcreaterole,
                    pg_has_role('pg_signal_backend', 'USAGE')
             FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await
        .map_err(|error| sql(database, &error))?;
    let lacks = match (row.get(1), row.get(2)) {
        (true, true) => return Ok(()),
        (false, _) => "has no CREATEROLE",
        (true, false) => "is no member of pg_signal_backend",
    };
    Err(LedgerError::Admin {
        database: database.to_owned(),
        user: row.get(0),
        lacks,
    })
}

/// Why a migration failed, and if somebody was in its way, who.
async fn not_migrated(client: &Client, database: &str, error: &refinery::Error) -> LedgerError {
    let database = database.to_owned();
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    if cause.and_then(tokio_postgres::Error::code) != Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return LedgerError::Migration {
            database,
            problem: error.to_string(),
        };
    }
    let holders = "SELECT string_agg(DISTINCT format('process %s of role %I', pid, usename), ', ')
         FROM pg_locks l JOIN pg_stat_activity USING (pid) JOIN pg_class c ON c.oid = relation
         WHERE relnamespace = 'keycard'::regnamespace AND granted AND pid <> pg_backend_pid()
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    match client.query_one(holders, &[]).await {
        Ok(row) => LedgerError::Locked {
            database,
            holders: row
                .get::<_, Option<String>>(0)
                .unwrap_or_else(|| "a process that has ended by now".to_owned()),
        },
        Err(error) => sql(&database, &error),
    }
}

async fn create_schema(client: &Client, database: &str) -> Result<(), LedgerError> {
    let exists: bool = client
        .query_one("SELECT to_regnamespace('keycard') IS NOT NULL", &[])
        .await
        .map_err(|error| sql(database, &error))?
        .get(0);
    if exists {
        return Ok(());
    }
    client
        .batch_execute("CREATE SCHEMA keycard; REVOKE ALL ON SCHEMA keycard FROM PUBLIC")
        .await
        .map_err(|error| {
            if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
                LedgerError::NoSchema {
                    database: database.to_owned(),
                }
            } else {
                sql(database, &error)
            }
        })
}

/// A trigger, a view or a function that somebody else put there would run with keycard's rights.
pub(super) async fn check_owner(client: &Client, database: &str) -> Result<(), LedgerError> {
    let foreign = client
        .query_opt(
            "SELECT object, pg_get_userbyid(owner)::text FROM (
                 SELECT 'schema keycard', nspowner FROM pg_namespace WHERE nspname = 'keycard'
                 UNION ALL
                 SELECT 'relation keycard.' || relname, relowner FROM pg_class
                 WHERE relnamespace = 'keycard'::regnamespace
                 UNION ALL
                 SELECT 'routine keycard.' || proname, proowner FROM pg_proc
                 WHERE pronamespace = 'keycard'::regnamespace
                 UNION ALL
                 SELECT 'type keycard.' || typname, typowner FROM pg_type t
                 WHERE typnamespace = 'keycard'::regnamespace
                   -- Postgres makes an array of every type, with the same owner.
                   AND NOT EXISTS (SELECT FROM pg_type element WHERE element.typarray = t.oid)
                 UNION ALL
                 SELECT 'trigger ' || t.tgname || ' of keycard.' || c.relname, p.proowner
                 FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
                 WHERE c.relnamespace = 'keycard'::regnamespace AND NOT t.tgisinternal
             ) AS objects (object, owner)
             WHERE owner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
             LIMIT 1",
            &[],
        )
        .await
        .map_err(|error| sql(database, &error))?;
    match foreign {
        None => Ok(()),
        Some(row) => Err(LedgerError::Owner {
            database: database.to_owned(),
            object: row.get(0),
            owner: row.get(1),
        }),
    }
}

/// Checks that this keycard and the ledger's migrations go together.
async fn check_version(client: &Client, database: &str) -> Result<(), LedgerError> {
    let row = client
        .query_one(
            "SELECT (SELECT max(version) FROM keycard.migrations),
                    (SELECT compatible_from FROM keycard.ledger)",
            &[],
        )
        .await
        .map_err(|error| unless_missing(database, &error))?;
    let (version, compatible_from): (Option<i32>, Option<i32>) = (row.get(0), row.get(1));
    if let Some(needed) = compatible_from {
        admits(needed).map_err(|needed| LedgerError::newer(database, needed))?;
    }
    let version = version.unwrap_or(0);
    if version < known_version() {
        return Err(LedgerError::Older {
            database: database.to_owned(),
            version,
            known: known_version(),
        });
    }
    Ok(())
}

/// Whether a ledger that needs this version may be used by this keycard; if not, which it needs.
pub(super) fn admits(compatible_from: i32) -> Result<(), i32> {
    if compatible_from > known_version() {
        Err(compatible_from)
    } else {
        Ok(())
    }
}

fn unless_missing(database: &str, error: &tokio_postgres::Error) -> LedgerError {
    if error.code() == Some(&SqlState::UNDEFINED_TABLE) {
        LedgerError::NoLedger {
            database: database.to_owned(),
        }
    } else {
        sql(database, error)
    }
}

/// Checks that this keycard may use the ledger, and that it was written in this database of this
/// cluster, for this installation. Says whether the server was started since secrets were last
/// compared with it.
pub(super) async fn check_record(
    client: &Client,
    database: &str,
    installation: &str,
) -> Result<bool, LedgerError> {
    check_version(client, database).await?;
    let row = client
        .query_opt(
            "SELECT l.installation,
                    l.system_identifier = (SELECT system_identifier FROM pg_control_system()),
                    l.database_oid = d.oid,
                    l.server_started_at IS DISTINCT FROM pg_postmaster_start_time()
             FROM keycard.ledger l, pg_database d WHERE d.datname = current_database()",
            &[],
        )
        .await
        .map_err(|error| sql(database, &error))?;
    let problem = match row {
        // Whoever prepares it has migrated it, and records next whose it is.
        None => {
            return Err(LedgerError::NoLedger {
                database: database.to_owned(),
            });
        }
        Some(row) if row.get::<_, &str>(0) != installation => format!(
            "it is the ledger of installation {:?}, and this is {installation:?}",
            row.get::<_, &str>(0)
        ),
        Some(row) if !row.get::<_, bool>(1) => "it was written in another cluster".to_owned(),
        Some(row) if !row.get::<_, bool>(2) => {
            "it was written in another database of this cluster".to_owned()
        }
        Some(row) => return Ok(row.get(3)),
    };
    Err(LedgerError::Foreign {
        database: database.to_owned(),
        problem,
    })
}

fn sql(database: &str, error: &tokio_postgres::Error) -> LedgerError {
    LedgerError::sql("prepare the ledger", database, error)
}
