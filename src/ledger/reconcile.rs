//! Where the ledger and the database's roles differ, both ways. Only reads; each question is one
//! statement and so one snapshot, in which a lease and its login appear and go together.
//!
//! Materialised first is what is few (live leases, roles of the right name): a plan that walks over
//! all closed leases would take longer with every day. With 100,000 live leases and 500,000 closed
//! ones each question takes less than a second on a busy machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

use super::rows::StoredLease;
use super::schema::end_squatters;
use super::{Ledger, LedgerError};
use crate::lease::{Difference, Event};

/// `pg_advisory_lock` key of reconciliation: "reconcil" as ASCII.
const RECONCILE_LOCK: i64 = 0x7265_636f_6e63_696c;

/// Most rows of one answer. What is left is found the next time.
const ROWS_MAX: i64 = 10_000;

/// A look at one database, on a connection of its own.
#[derive(Debug)]
pub struct View {
    database: String,
    pub(super) client: Client,
}

/// A lease and a login that do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Odd {
    /// The lease, if the ledger has one.
    pub lease: Option<Uuid>,
    /// The login as the ledger knows it, or else as the database does.
    pub login: String,
    /// Another name: that of the role which has the lease's OID.
    pub renamed: Option<String>,
}

/// What the ledger knows of a lease's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Whether the lease is closed.
    pub closed: bool,
    /// Where its secrets were put.
    pub locators: Vec<String>,
}

impl Ledger {
    /// Opens a look at the database, through which nothing can be changed.
    ///
    /// # Errors
    /// When it cannot be reached, or has no ledger, or one that belongs elsewhere.
    pub async fn view(&self) -> Result<View, LedgerError> {
        // Nobody is told of a restart: whoever looks after one opens a view.
        let (client, _restarted) = self.pool.manager().open().await?;
        View::of(&self.database, client).await
    }

    /// The same at a database whose ledger may belong elsewhere.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn unchecked_view(&self) -> Result<View, LedgerError> {
        let endpoint = &self.pool.manager().endpoint;
        View::of(&self.database, endpoint.connect(&self.database).await?).await
    }
}

impl View {
    pub(super) async fn of(database: &str, client: Client) -> Result<Self, LedgerError> {
        let view = Self {
            database: database.to_owned(),
            client,
        };
        view.ask("SET default_transaction_read_only = on", &[])
            .await?;
        Ok(view)
    }

    /// Key of the database in the configuration.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Keeps every other keycard from reconciling this database for as long as this view lives.
    /// `false` when another does.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn claim(&self) -> Result<bool, LedgerError> {
        end_squatters(&self.client, RECONCILE_LOCK)
            .await
            .map_err(|error| LedgerError::sql("look who reconciles", &self.database, &error))?;
        let rows = self
            .ask("SELECT pg_try_advisory_lock($1)", &[&RECONCILE_LOCK])
            .await?;
        Ok(rows.iter().any(|row| row.get(0)))
    }

    /// Live leases whose login is gone, or has another name by now.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn without_login(&self) -> Result<Vec<Odd>, LedgerError> {
        let rows = self
            .ask(
                r#"WITH live AS MATERIALIZED (
                       SELECT id, username, login_oid FROM keycard.leases
                       WHERE state IN ('issuing', 'active'))
                   SELECT l.id, l.username, r.rolname::text
                   FROM live l LEFT JOIN pg_roles r ON r.oid = l.login_oid
                   WHERE r.oid IS NULL OR r.rolname::text COLLATE "default" <> l.username
                   LIMIT $1"#,
                &[&ROWS_MAX],
            )
            .await?;
        Ok(rows.iter().map(odd).collect())
    }

    /// Logins that are there, by OID and name, though their lease is over.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn left_over(&self) -> Result<Vec<Odd>, LedgerError> {
        let rows = self
            .ask(
                r#"WITH logins AS MATERIALIZED (
                       SELECT oid, rolname::text COLLATE "default" AS name FROM pg_roles
                       WHERE rolname >= 'kc_'::name AND rolname < 'kc`'::name)
                   SELECT l.id, l.username, NULL::text
                   FROM logins r JOIN keycard.leases l ON l.username = r.name
                   WHERE l.login_oid = r.oid AND l.state IN ('dropped', 'closed')
                   LIMIT $1"#,
                &[&ROWS_MAX],
            )
            .await?;
        Ok(rows.iter().map(odd).collect())
    }

    /// Roles that are named like keycard's logins and that this ledger does not prove to be its own,
    /// with their OIDs. From version 16 on those are left out whose maker is on record and somebody
    /// else: only keycard's own user and superusers could have made keycard's.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn unproven(&self) -> Result<Vec<(Odd, u32)>, LedgerError> {
        /// OID of the superuser that `initdb` made: the grantor of a role to its maker.
        const BOOTSTRAP_SUPERUSER: u32 = 10;
        let rows = self
            .ask(
                r#"SELECT l.id, r.rolname::text, NULL::text, r.oid
                   FROM pg_roles r
                   LEFT JOIN keycard.leases l ON l.username = r.rolname::text COLLATE "default"
                   WHERE r.rolname >= 'kc_'::name AND r.rolname < 'kc`'::name
                     AND l.login_oid IS DISTINCT FROM r.oid
                     AND NOT EXISTS (
                         SELECT FROM pg_auth_members m JOIN pg_roles maker ON maker.oid = m.member
                         WHERE m.roleid = r.oid AND m.grantor = $2 AND m.admin_option
                           AND maker.rolname <> current_user AND NOT maker.rolsuper)
                   ORDER BY r.rolname LIMIT $1"#,
                &[&ROWS_MAX, &BOOTSTRAP_SUPERUSER],
            )
            .await?;
        Ok(rows.iter().map(|row| (odd(row), row.get(3))).collect())
    }

    /// Which of these logins this ledger has made, whatever has become of them.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn has_made(&self, logins: &[(&str, u32)]) -> Result<BTreeSet<String>, LedgerError> {
        let (names, oids): (Vec<&str>, Vec<u32>) = logins.iter().copied().unzip();
        let rows = self
            .ask(
                "SELECT l.username FROM keycard.leases l
                 JOIN unnest($1::text[], $2::oid[]) AS asked (name, oid)
                   ON asked.name = l.username AND asked.oid = l.login_oid",
                &[&names, &oids],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// What the ledger knows of these leases; nothing of those that it does not know.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn known(&self, leases: &[Uuid]) -> Result<BTreeMap<Uuid, Known>, LedgerError> {
        let rows = self
            .ask(
                "SELECT id, state = 'closed', locators FROM keycard.leases WHERE id = ANY ($1)",
                &[&leases],
            )
            .await?;
        let known = |row: &Row| Known {
            closed: row.get(1),
            locators: row.get(2),
        };
        Ok(rows.iter().map(|row| (row.get(0), known(row))).collect())
    }

    pub(super) async fn ask(
        &self,
        question: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, LedgerError> {
        const OPERATION: &str = "look at ledger and roles";
        /// Postgres itself gives a statement 10 s; longer means that it does not answer.
        const PATIENCE: Duration = Duration::from_secs(25);
        timeout(PATIENCE, self.client.query(question, parameters))
            .await
            .map_err(|_| LedgerError::Silent {
                operation: OPERATION,
                database: self.database.clone(),
            })?
            .map_err(|error| LedgerError::sql(OPERATION, &self.database, &error))
    }
}

fn odd(row: &Row) -> Odd {
    Odd {
        lease: row.get(0),
        login: row.get(1),
        renamed: row.get(2),
    }
}

/// What is left of a difference, now that its lease is locked.
pub(super) async fn look_again(
    transaction: &Transaction<'_>,
    stored: &StoredLease,
    difference: Difference,
) -> Result<Event, tokio_postgres::Error> {
    let row = transaction
        .query_opt(
            "SELECT rolname::text FROM pg_roles WHERE oid = $1",
            &[&stored.login_oid],
        )
        .await?;
    let is_own = row
        .as_ref()
        .is_some_and(|row| row.get::<_, &str>(0) == stored.lease.username);
    let still = match difference {
        Difference::LoginMissing => row.is_none(),
        Difference::LoginLeft => is_own,
        // The lease's state decides: a delivered lease has one secret at one place to its end.
        Difference::SecretLeft | Difference::SecretMissing => true,
    };
    Ok(if still {
        Event::Differs(difference)
    } else {
        Event::Wake { generation: None }
    })
}
