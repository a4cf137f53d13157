//! Every change of a login, each a part of the transaction that changes its lease.

use std::time::Duration;

use jiff::Timestamp;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::{GenericClient, Transaction};

use super::custom::{MayPass, run_custom};
use super::objects::{check_hidden, join};
use super::sessions::{Sessions, end_sessions};
use super::sqlstate::{concerns_the_login, describe, disposition};
use super::template::{Template, Upkeep};
use crate::fault::Disposition;
use crate::lease::LoginChange;

/// A login and what is to become of it.
pub struct Login<'a> {
    /// Its name.
    pub username: &'a str,
    /// Its OID as the ledger recorded it; `None` before it was created.
    pub oid: Option<u32>,
    /// VALID UNTIL.
    pub expires_at: Timestamp,
    /// The verifier of its password, where a password is set.
    pub verifier: Option<&'a str>,
    /// Its role's template, where the login is created.
    pub template: Option<&'a Template>,
    /// How it is renewed and revoked, as recorded when it was created.
    pub upkeep: &'a Upkeep,
}

/// What became of a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is done, once the transaction commits.
    Done {
        /// The login's OID, where it exists afterwards.
        oid: Option<u32>,
        /// How many sessions were told to end.
        terminated: u32,
    },
    /// Postgres will not do it, now or later; nothing of it happened.
    Refused {
        /// What Postgres said, without anything secret.
        reason: String,
        /// How many sessions were told to end all the same.
        terminated: u32,
    },
}

/// Makes `change` within `transaction`. After [`Applied::Refused`] the transaction may be broken: it
/// should be a savepoint that the caller rolls back.
///
/// # Errors
/// What may pass: the transaction is lost and should be tried again.
pub async fn apply(
    transaction: &Transaction<'_>,
    change: LoginChange,
    login: &Login<'_>,
) -> Result<Applied, tokio_postgres::Error> {
    /// Sessions usually end within milliseconds, and what they held is then no obstacle.
    const MOMENT: Duration = Duration::from_millis(500);
    let mut sessions = Sessions::default();
    if change == LoginChange::Drop
        && let Some(oid) = login.oid
    {
        match end_sessions(transaction, oid, MOMENT).await {
            Ok(ended) => sessions = ended,
            Err(error) if disposition(&error) == Disposition::Reject => {
                return Ok(Applied::Refused {
                    reason: describe(&error),
                    terminated: 0,
                });
            }
            Err(error) => return Err(error),
        }
    }
    let result = match change {
        LoginChange::Create => create(transaction, login).await,
        LoginChange::ResetPassword => reset_password(transaction, login).await,
        LoginChange::Renew => renew(transaction, login).await,
        LoginChange::Disable => disable(transaction, login).await,
        LoginChange::Drop => drop_login(transaction, login).await,
    };
    let reason = match result {
        Ok(oid) => {
            let terminated = sessions.seen();
            return Ok(Applied::Done { oid, terminated });
        }
        Err(Refusal::Postgres(error))
            if disposition(&error) != Disposition::Reject
                && !(matches!(change, LoginChange::Disable | LoginChange::Drop)
                    && concerns_the_login(&error)) =>
        {
            return Err(error);
        }
        Err(Refusal::Postgres(error)) => describe(&error),
        Err(Refusal::Reason(reason)) => reason,
    };
    // Those that are left will be seen, and counted, again.
    let terminated = sessions.ended();
    Ok(Applied::Refused { reason, terminated })
}

/// Why a change was not made.
pub(super) enum Refusal {
    Reason(String),
    Postgres(tokio_postgres::Error),
}

impl Refusal {
    /// Says which statements of the role it was.
    fn of(self, key: &str) -> Self {
        match self {
            Self::Reason(reason) => Self::Reason(format!("{key}: {reason}")),
            Self::Postgres(error) => Self::Postgres(error),
        }
    }
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

async fn create(transaction: &Transaction<'_>, login: &Login<'_>) -> Result<Option<u32>, Refusal> {
    let (Some(template), Some(verifier)) = (login.template, login.verifier) else {
        return Err(Refusal::Reason(
            "the configuration no longer has the role".to_owned(),
        ));
    };
    // Every option of a role is done here or named: the ledger records the upkeep, and the verifier
    // has its iterations.
    let Template {
        creation,
        groups,
        connection_limit,
        upkeep: _,
        scram_iterations: _,
    } = template;
    let name = escape_identifier(login.username);
    let expiry = escape_literal(&login.expires_at.to_string());
    match creation {
        None => {
            let verifier = escape_literal(verifier);
            transaction
                .batch_execute(&format!(
                    "CREATE ROLE {name} LOGIN PASSWORD {verifier} VALID UNTIL {expiry}"
                ))
                .await?;
        }
        Some(creation) => {
            let rendered = creation.render(login.username, Some(verifier), login.expires_at);
            run_custom(transaction, &rendered, MayPass::Retry).await?;
            let exists = "SELECT FROM pg_roles WHERE rolname = $1";
            let found = transaction.query_opt(exists, &[&login.username]).await?;
            found.ok_or_else(not_created)?;
            transaction
                .batch_execute(&format!("ALTER ROLE {name} VALID UNTIL {expiry}"))
                .await?;
        }
    }
    if let Some(limit) = connection_limit {
        transaction
            .batch_execute(&format!("ALTER ROLE {name} CONNECTION LIMIT {limit}"))
            .await?;
    }
    // Last, and sorted: since version 16 a GRANT locks the group until the commit.
    let options = if server_version(transaction).await? >= 160_000 {
        " WITH INHERIT TRUE, SET FALSE"
    } else {
        ""
    };
    for group in groups {
        let group = escape_identifier(group);
        transaction
            .batch_execute(&format!("GRANT {group} TO {name}{options}"))
            .await?;
    }
    check(transaction, login).await.map(Some)
}

/// After custom statements: the login exists, can log in, has the right end and nothing that would
/// make it more than a login. Returns its OID.
async fn check(transaction: &Transaction<'_>, login: &Login<'_>) -> Result<u32, Refusal> {
    let row = transaction
        .query_opt(
            "SELECT oid, rolcanlogin, rolvaliduntil = $2,
                    (WITH RECURSIVE reached (id) AS (
                         VALUES (login.oid)
                         UNION
                         SELECT roleid FROM pg_auth_members JOIN reached ON member = id
                     )
                     SELECT min(rolname::text) FROM pg_roles JOIN reached ON oid = id
                     WHERE rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication
                        OR rolbypassrls)
             FROM pg_roles login WHERE rolname = $1",
            &[&login.username, &login.expires_at],
        )
        .await?;
    let Some(row) = row else {
        return Err(not_created());
    };
    let reason = if !row.get::<_, bool>(1) {
        "the statements made no LOGIN role".to_owned()
    } else if row.get::<_, Option<bool>>(2) != Some(true) {
        "VALID UNTIL was not kept".to_owned()
    } else if let Some(role) = row.get::<_, Option<&str>>(3) {
        let elevated = "SUPERUSER, CREATEROLE, CREATEDB, REPLICATION or BYPASSRLS";
        if role == login.username {
            format!("the login has {elevated}")
        } else {
            format!("the login is a member of {role:?}, which has {elevated}")
        }
    } else {
        return Ok(row.get(0));
    };
    Err(Refusal::Reason(reason))
}

async fn reset_password(
    transaction: &Transaction<'_>,
    login: &Login<'_>,
) -> Result<Option<u32>, Refusal> {
    let oid = own(transaction, login.username, login.oid).await?;
    let (Some(oid), Some(verifier)) = (oid, login.verifier) else {
        return Err(gone());
    };
    transaction
        .batch_execute(&format!(
            "ALTER ROLE {} PASSWORD {}",
            escape_identifier(login.username),
            escape_literal(verifier)
        ))
        .await?;
    Ok(Some(oid))
}

async fn renew(transaction: &Transaction<'_>, login: &Login<'_>) -> Result<Option<u32>, Refusal> {
    let oid = own(transaction, login.username, login.oid)
        .await?
        .ok_or_else(gone)?;
    let custom = login.upkeep.renewal.as_ref();
    if let Some(statements) = custom {
        let rendered = statements.render(login.username, None, login.expires_at);
        run_custom(transaction, &rendered, MayPass::Retry)
            .await
            .map_err(|refusal| refusal.of("renew_statements"))?;
        own(transaction, login.username, login.oid)
            .await?
            .ok_or_else(gone)?;
    }
    transaction
        .batch_execute(&format!(
            "ALTER ROLE {} VALID UNTIL {}",
            escape_identifier(login.username),
            escape_literal(&login.expires_at.to_string())
        ))
        .await?;
    if custom.is_some() {
        check(transaction, login).await?;
    }
    Ok(Some(oid))
}

async fn disable(transaction: &Transaction<'_>, login: &Login<'_>) -> Result<Option<u32>, Refusal> {
    let oid = own(transaction, login.username, login.oid).await?;
    if oid.is_some() {
        transaction
            .batch_execute(&format!(
                "ALTER ROLE {} NOLOGIN VALID UNTIL '-infinity' CONNECTION LIMIT 0",
                escape_identifier(login.username)
            ))
            .await?;
    }
    Ok(oid)
}

async fn drop_login(
    transaction: &Transaction<'_>,
    login: &Login<'_>,
) -> Result<Option<u32>, Refusal> {
    let name = escape_identifier(login.username);
    let mut left = own(transaction, login.username, login.oid).await?;
    if let (Some(_), Some(statements)) = (left, &login.upkeep.revocation) {
        // DROP OWNED and REASSIGN OWNED, which the statements are likely to hold, ask for that. It ends
        // with the login.
        join(transaction, login.username).await?;
        let rendered = statements.render(login.username, None, login.expires_at);
        // Until they succeed the login must be kept from logging in.
        run_custom(transaction, &rendered, MayPass::Refuse)
            .await
            .map_err(|refusal| refusal.of("revocation_statements"))?;
        left = own(transaction, login.username, login.oid).await?;
    }
    if let Some(oid) = left {
        check_hidden(transaction, oid).await?;
        transaction
            .batch_execute(&format!("DROP ROLE {name}"))
            .await?;
    }
    Ok(None)
}

fn not_created() -> Refusal {
    Refusal::Reason("the creation statements did not create the login".to_owned())
}

fn gone() -> Refusal {
    Refusal::Reason("the login is gone".to_owned())
}

/// The OID of the login if it still is the one that the ledger recorded: same OID, same name.
/// `None` when it is gone; another role of that name is not keycard's to touch.
pub(super) async fn own(
    client: &impl GenericClient,
    username: &str,
    oid: Option<u32>,
) -> Result<Option<u32>, Refusal> {
    let Some(oid) = oid else {
        return Ok(None);
    };
    let row = client
        .query_opt("SELECT rolname::text FROM pg_roles WHERE oid = $1", &[&oid])
        .await?;
    match row {
        None => Ok(None),
        Some(row) if row.get::<_, &str>(0) == username => Ok(Some(oid)),
        Some(row) => Err(Refusal::Reason(format!(
            "the login was renamed to {:?}; rename it back",
            row.get::<_, &str>(0)
        ))),
    }
}

pub(super) async fn server_version(
    client: &impl GenericClient,
) -> Result<i32, tokio_postgres::Error> {
    let row = client
        .query_one("SELECT current_setting('server_version_num')::integer", &[])
        .await?;
    Ok(row.get(0))
}
