//! What comes after a restore: whether the server was started again, which secrets there must be,
//! and how a ledger that was written elsewhere becomes this database's.

use jiff::Timestamp;
use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Transaction};
use uuid::Uuid;

use super::audit::{self, AuditRow};
use super::reconcile::View;
use super::schema::MIGRATION_LOCK;
use super::{Ledger, LedgerError};

/// Leases that are asked for together.
const PAGE: i64 = 1_000;

/// Whose a ledger is, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Name of the installation.
    pub installation: String,
    /// The cluster's own number.
    pub system_identifier: i64,
    /// OID of the database in that cluster.
    pub database_oid: u32,
}

/// What a ledger says of itself, and what is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What it says.
    pub recorded: Record,
    /// What it would say, had it been written here.
    pub here: Record,
    /// The database of this cluster in which it was written, if that is another one.
    pub original: Option<String>,
    /// Whether leases of it are called by this database's key in the configuration.
    pub has_our_key: bool,
    /// Another key that leases of it are called by.
    pub other_key: Option<String>,
    /// Leases that have not ended.
    pub open: i64,
    /// Those among them whose login is here, by name and OID.
    pub with_login: i64,
    /// Those whose login is here by name alone, under another OID.
    pub with_other_oid: i64,
}

/// A start of the server that delivered leases were not compared with the store under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// When it was.
    pub at: Timestamp,
    /// Since when the store is taken to have lost its secrets.
    pub secrets_lost_at: Option<Timestamp>,
}

/// What a ledger that was written elsewhere is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// A copy: its leases, their logins and secrets are the original's.
    Copy,
    /// The original is gone and this takes its place: its leases are this ledger's.
    Moved,
}

impl Standing {
    /// Whether the ledger was written here, for this installation.
    #[must_use]
    pub fn is_at_home(&self) -> bool {
        self.recorded == self.here
    }

    /// Why it must not be adopted so, and what to do.
    #[must_use]
    pub fn objection(&self, how: Adoption) -> Option<String> {
        let installation = &self.recorded.installation;
        let is_same_installation = *installation == self.here.installation;
        match how {
            Adoption::Copy if is_same_installation && self.has_our_key => Some(
                "its leases bear this installation's name and this database's key, so expiry events \
                 of the original's would be taken for the copy's; if the original is gone, add \
                 --moved; if it is not, give the copy an `installation`, or a key in [databases], of \
                 its own"
                    .to_owned(),
            ),
            Adoption::Moved if !is_same_installation => Some(format!(
                "its leases are of installation {installation:?}; write that name as `installation`, \
                 or adopt it as a copy, without --moved"
            )),
            Adoption::Moved => match (&self.other_key, &self.original) {
                (Some(key), _) => Some(format!(
                    "its leases bear another key than this database has in [databases]; name it \
                     {key:?} there, or adopt it as a copy, without --moved"
                )),
                (None, Some(original)) => Some(format!(
                    "it was written in database {original:?} of this cluster, which is still there; \
                     drop that one if this takes its place, or adopt this as a copy, without --moved"
                )),
                (None, None) => None,
            },
            Adoption::Copy => None,
        }
    }
}

impl View {
    /// What the ledger says of itself, and what is here.
    ///
    /// # Errors
    /// When the database cannot be asked, or has no ledger.
    pub async fn standing(&self, installation: &str) -> Result<Standing, LedgerError> {
        standing(&self.client, self.database(), installation).await
    }

    /// Delivered leases after this one and where the secret of each is, in the order of their ids;
    /// none when there are no more.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn delivered(&self, after: Uuid) -> Result<Vec<(Uuid, String)>, LedgerError> {
        let rows = self
            .ask(
                "SELECT id, locators[cardinality(locators)] FROM keycard.leases
                 WHERE state = 'active' AND id > $1 AND cardinality(locators) > 0
                 ORDER BY id LIMIT $2",
                &[&after, &PAGE],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

impl Ledger {
    /// Waits until a connection leads to a server that was started again.
    pub async fn restarted(&self) {
        self.restarted.notified().await;
    }

    /// The server's start, if delivered leases were not compared with the store since.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn uncompared(&self) -> Result<Option<Start>, LedgerError> {
        let row = self
            .connection()
            .await?
            .query_opt(
                "SELECT pg_postmaster_start_time(), secrets_lost_at
                 FROM keycard.ledger
                 WHERE server_started_at IS DISTINCT FROM pg_postmaster_start_time()",
                &[],
            )
            .await
            .map_err(|error| self.sql("ask when the server was started", &error))?;
        Ok(row.map(|row| Start {
            at: row.get(0),
            secrets_lost_at: row.get(1),
        }))
    }

    /// Notes that delivered leases were compared with the store under the server that was started
    /// then, and that none lacks its secret.
    ///
    /// # Errors
    /// When the database cannot be told: they will be compared again.
    pub async fn mark_compared(&self, started_at: Timestamp) -> Result<(), LedgerError> {
        self.connection()
            .await?
            .execute(
                "UPDATE keycard.ledger SET server_started_at = $1, secrets_lost_at = NULL",
                &[&started_at],
            )
            .await
            .map(|_| ())
            .map_err(|error| self.sql("note when the server was started", &error))
    }

    /// Notes that the store is taken to have lost its secrets, until [`Ledger::mark_compared`]: as
    /// leases end and others come fewer are missing, which makes it no more believable.
    ///
    /// # Errors
    /// When the database cannot be told.
    pub async fn mark_lost(&self) -> Result<(), LedgerError> {
        self.connection()
            .await?
            .execute(
                "UPDATE keycard.ledger SET secrets_lost_at = clock_timestamp()
                 WHERE secrets_lost_at IS NULL
                   AND server_started_at IS DISTINCT FROM pg_postmaster_start_time()",
                &[],
            )
            .await
            .map(|_| ())
            .map_err(|error| self.sql("note that secrets are lost", &error))
    }

    /// Makes a ledger that was written elsewhere this database's and this installation's. Touches
    /// neither logins nor secrets. The next worker compares its delivered leases with the store.
    ///
    /// # Errors
    /// [`LedgerError::NotAdopted`], or as for [`Ledger::prepare`].
    pub async fn adopt(&self, how: Adoption) -> Result<(), LedgerError> {
        match self.prepare().await {
            Ok(()) | Err(LedgerError::Foreign { .. }) => {}
            Err(error) => return Err(error),
        }
        let endpoint = &self.pool.manager().endpoint;
        let mut client = endpoint.connect(&self.database).await?;
        let sql = |error| self.sql("adopt the ledger", &error);
        let transaction = client.transaction().await.map_err(sql)?;
        transaction
            .execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])
            .await
            .map_err(sql)?;
        let standing = standing(&transaction, &self.database, &self.rules.installation).await?;
        if standing.is_at_home() {
            return Ok(());
        }
        if let Some(problem) = standing.objection(how) {
            return Err(LedgerError::NotAdopted {
                database: self.database.clone(),
                problem,
            });
        }
        let rows = adopt(&transaction, &standing, how).await.map_err(sql)?;
        transaction.commit().await.map_err(sql)?;
        for row in &rows {
            audit::tell(&self.rules, row);
        }
        Ok(())
    }
}

async fn standing(
    client: &impl GenericClient,
    database: &str,
    installation: &str,
) -> Result<Standing, LedgerError> {
    let row = client
        .query_one(
            r#"WITH open AS MATERIALIZED (
                   SELECT l.login_oid, r.oid
                   FROM keycard.leases l
                   LEFT JOIN pg_roles r ON r.rolname::text COLLATE "default" = l.username
                   WHERE l.state <> 'closed'),
               keys AS MATERIALIZED (
                   -- A locator's last part is the key, a dot and a uuid.
                   SELECT DISTINCT left(split_part(locators[1], '/', -1), -37) AS key
                   FROM keycard.leases)
               SELECT l.installation, l.system_identifier, l.database_oid,
                      here.system_identifier, d.oid, original.datname::text,
                      EXISTS (SELECT FROM keys WHERE key = $1),
                      (SELECT min(key) FROM keys WHERE key <> $1),
                      (SELECT count(*) FROM open),
                      (SELECT count(*) FROM open WHERE oid = login_oid),
                      (SELECT count(*) FROM open WHERE oid <> login_oid)
               FROM keycard.ledger l
               CROSS JOIN pg_control_system() AS here
               JOIN pg_database d ON d.datname = current_database()
               LEFT JOIN pg_database original ON original.oid = l.database_oid
                   AND original.oid <> d.oid AND l.system_identifier = here.system_identifier"#,
            &[&database],
        )
        .await
        .map_err(|error| match error.code() {
            Some(&SqlState::UNDEFINED_TABLE) => LedgerError::NoLedger {
                database: database.to_owned(),
            },
            _ => LedgerError::sql("look at the ledger's record", database, &error),
        })?;
    Ok(Standing {
        recorded: Record {
            installation: row.get(0),
            system_identifier: row.get(1),
            database_oid: row.get(2),
        },
        here: Record {
            installation: installation.to_owned(),
            system_identifier: row.get(3),
            database_oid: row.get(4),
        },
        original: row.get(5),
        has_our_key: row.get(6),
        other_key: row.get(7),
        open: row.get(8),
        with_login: row.get(9),
        with_other_oid: row.get(10),
    })
}

async fn adopt(
    transaction: &Transaction<'_>,
    standing: &Standing,
    how: Adoption,
) -> Result<Vec<AuditRow>, tokio_postgres::Error> {
    let Record {
        installation,
        system_identifier,
        database_oid,
    } = &standing.recorded;
    let origin = format!(
        "it was written for installation {installation:?} in database {database_oid} of cluster \
         {system_identifier}"
    );
    let mut rows = match how {
        Adoption::Copy => forget(transaction).await?,
        Adoption::Moved => {
            recognise(transaction).await?;
            vec![]
        }
    };
    let row = AuditRow {
        at: transaction
            .query_one("SELECT clock_timestamp()", &[])
            .await?
            .get(0),
        action: "adopted".to_owned(),
        reason: match how {
            Adoption::Copy => format!("a copy: {origin}"),
            Adoption::Moved => format!("in the original's place: {origin}"),
        },
        ..AuditRow::default()
    };
    audit::write(transaction, &row).await?;
    rows.push(row);
    let here = &standing.here;
    transaction
        .execute(
            "UPDATE keycard.ledger SET installation = $1, system_identifier = $2, database_oid = $3,
                 server_started_at = NULL, secrets_lost_at = NULL",
            &[
                &here.installation,
                &here.system_identifier,
                &here.database_oid,
            ],
        )
        .await?;
    Ok(rows)
}

/// What is the original's goes: a closed lease, too, would prove that logins and secrets of the
/// original's may be removed.
async fn forget(transaction: &Transaction<'_>) -> Result<Vec<AuditRow>, tokio_postgres::Error> {
    let forgotten = transaction
        .query(
            &format!(
                "INSERT INTO keycard.audit (at, action, lease_id, role, requester, username,
                     generation, expires_at, reason)
                 SELECT clock_timestamp(), 'forgotten', split_part(locators[1], '/', -1), role,
                     requester, username, generation, expires_at, 'it is the original''s'
                 FROM keycard.leases WHERE state <> 'closed'
                 RETURNING {}",
                audit::COLUMNS
            ),
            &[],
        )
        .await?;
    transaction
        .batch_execute(
            "TRUNCATE keycard.leases, keycard.requests, keycard.messages, keycard.results,
                 keycard.dead_letters",
        )
        .await?;
    Ok(forgotten.iter().map(audit::from_row).collect())
}

/// Recognises logins by their names. OIDs of another cluster are other roles' here: sessions are
/// ended by them.
async fn recognise(transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
    transaction
        .execute(
            r#"UPDATE keycard.leases l SET login_oid = coalesce(
                   (SELECT r.oid FROM pg_roles r
                    WHERE r.rolname::text COLLATE "default" = l.username
                      AND (r.oid = l.login_oid OR l.state IN ('issuing', 'active', 'revoking'))), 0)"#,
            &[],
        )
        .await?;
    Ok(())
}
