//! What depends on a login besides its sessions, and how it is cleared away before the drop.
//!
//! The login is disabled and without sessions by then, but nothing it made is trusted: nothing here
//! runs its code, and what would later run with the rights of a new owner is made harmless first, or
//! stays where it is.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::{Client, GenericClient, Transaction};

use super::change::{Refusal, own, server_version};
use super::keeper;
use super::sqlstate::describe;
use super::template::Owned;

/// Catalogues whose rows are about the login itself and no objects of their own.
const ABOUT_THE_LOGIN: &str =
    "('pg_default_acl'::regclass, 'pg_user_mapping'::regclass, 'pg_auth_members'::regclass)";

/// A login that is to be dropped.
#[derive(Debug, Clone, Copy)]
pub struct Leaver<'a> {
    /// Its name.
    pub username: &'a str,
    /// Its OID as the ledger recorded it.
    pub oid: u32,
    /// What becomes of what it owns; `None` where statements of its role look after privileges and
    /// objects.
    pub owned: Option<&'a Owned>,
}

/// The databases in which something depends on a login; the connected one for what all share.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn databases(client: &Client, oid: u32) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT DISTINCT coalesce(datname, current_database())::text FROM (
                 SELECT dbid FROM pg_shdepend
                 WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1
                 UNION ALL
                 SELECT dbid FROM pg_prepared_xact() WHERE ownerid = $1
                 UNION ALL
                 SELECT 0 FROM pg_auth_members WHERE grantor = $1
             ) AS depending (dbid) LEFT JOIN pg_database ON oid = dbid ORDER BY 1",
            &[&oid],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Clears away what depends on the login in the connected database: prepared transactions, then, in
/// one transaction, memberships it granted, what it owns, and its privileges. The connection should
/// be closed afterwards. Returns what Postgres will not do, for people.
///
/// # Errors
/// When the connection broke.
pub async fn clear(
    client: &mut Client,
    leaver: &Leaver<'_>,
) -> Result<Option<String>, tokio_postgres::Error> {
    match try_clear(client, leaver).await {
        Ok(()) => Ok(None),
        Err(Refusal::Reason(reason)) => Ok(Some(reason)),
        Err(Refusal::Postgres(error)) if error.code().is_none() => Err(error),
        Err(Refusal::Postgres(error)) => Ok(Some(describe(&error))),
    }
}

async fn try_clear(client: &mut Client, leaver: &Leaver<'_>) -> Result<(), Refusal> {
    // Names in this database are anybody's, and so are locks: others must not wait behind ours.
    client
        .batch_execute(
            "SET search_path = pg_catalog, pg_temp; SET lock_timeout = '2s';
             SET statement_timeout = '10s'",
        )
        .await?;
    if own(client, leaver.username, Some(leaver.oid))
        .await?
        .is_none()
    {
        return Ok(());
    }
    join(client, leaver.username).await?;
    let cleared = clear_as_member(client, leaver).await;
    // Also what a worker left that died in between.
    part(client, leaver.username).await?;
    cleared
}

async fn clear_as_member(client: &mut Client, leaver: &Leaver<'_>) -> Result<(), Refusal> {
    roll_back_prepared(client, leaver).await?;
    let transaction = client.transaction().await?;
    let cleared = clear_within(&transaction, leaver).await;
    if cleared.is_ok() {
        transaction.commit().await?;
        return Ok(());
    }
    transaction.rollback().await?;
    let transaction = client.transaction().await?;
    keeper::disarm(&transaction, leaver.oid).await?;
    transaction.commit().await?;
    cleared
}

/// Only who prepared a transaction, or a superuser, may roll it back, and only in its database.
async fn roll_back_prepared(client: &Client, leaver: &Leaver<'_>) -> Result<(), Refusal> {
    let prepared = client
        .query(
            "SELECT gid FROM pg_prepared_xact() p JOIN pg_database d ON d.oid = p.dbid
             WHERE ownerid = $1 AND datname = current_database()",
            &[&leaver.oid],
        )
        .await?;
    if prepared.is_empty() {
        return Ok(());
    }
    let login = escape_identifier(leaver.username);
    client.batch_execute(&format!("SET ROLE {login}")).await?;
    let mut rolled_back = Ok(());
    for row in prepared {
        let gid = escape_literal(row.get(0));
        let statement = format!("ROLLBACK PREPARED {gid}");
        rolled_back = rolled_back.and(client.batch_execute(&statement).await);
    }
    client.batch_execute("RESET ROLE").await?;
    Ok(rolled_back?)
}

async fn clear_within(transaction: &Transaction<'_>, leaver: &Leaver<'_>) -> Result<(), Refusal> {
    revoke_granted_memberships(transaction, leaver).await?;
    let Some(owned) = leaver.owned else {
        return Ok(());
    };
    let login = escape_identifier(leaver.username);
    if owns_objects(transaction, leaver.oid).await? {
        match owned {
            // DROP OWNED knows no privileges without objects. The login is shut out, and so is who would
            // use them through what it leaves.
            Owned::Kept => return keeper::disarm(transaction, leaver.oid).await,
            Owned::Dropped => {}
            Owned::Reassigned(keeper) => keeper::reassign(transaction, leaver, keeper).await?,
        }
    }
    transaction
        .batch_execute(&format!("DROP OWNED BY {login}"))
        .await?;
    Ok(())
}

/// Membership that the login granted to others would outlive it: before version 16 for good, from
/// then on for as long as the login stays.
async fn revoke_granted_memberships(
    transaction: &Transaction<'_>,
    leaver: &Leaver<'_>,
) -> Result<(), Refusal> {
    let granted = transaction
        .query(
            "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members
             WHERE grantor = $1 ORDER BY 1, 2",
            &[&leaver.oid],
        )
        .await?;
    if granted.is_empty() {
        return Ok(());
    }
    let by = if server_version(transaction).await? >= 160_000 {
        format!(" GRANTED BY {}", escape_identifier(leaver.username))
    } else {
        String::new()
    };
    for row in granted {
        let (group, member): (&str, &str) = (row.get(0), row.get(1));
        transaction
            .batch_execute(&format!("REVOKE {group} FROM {member}{by} CASCADE"))
            .await?;
    }
    Ok(())
}

async fn owns_objects(
    transaction: &Transaction<'_>,
    oid: u32,
) -> Result<bool, tokio_postgres::Error> {
    let row = transaction
        .query_one(
            &format!(
                "SELECT EXISTS (
                     SELECT FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
                     WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1
                       AND deptype = 'o' AND classid NOT IN {ABOUT_THE_LOGIN}
                       AND datname = current_database())"
            ),
            &[&oid],
        )
        .await?;
    Ok(row.get(0))
}

/// Refuses the drop for what DROP ROLE itself would leave behind without a word.
pub(super) async fn check_hidden(transaction: &Transaction<'_>, oid: u32) -> Result<(), Refusal> {
    let row = transaction
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_prepared_xact() WHERE ownerid = $1),
                    current_setting('server_version_num')::integer < 160000
                    AND EXISTS (SELECT FROM pg_auth_members WHERE grantor = $1)",
            &[&oid],
        )
        .await?;
    if row.get(0) {
        return Err(Refusal::Reason(
            "the login has prepared transactions".to_owned(),
        ));
    }
    if row.get(1) {
        return Err(Refusal::Reason(
            "the login has made others members of a role".to_owned(),
        ));
    }
    Ok(())
}

/// Makes keycard's user a member of a role, with its privileges, unless it has those already. Says
/// whether it did.
pub(super) async fn join(
    client: &impl GenericClient,
    role: &str,
) -> Result<bool, tokio_postgres::Error> {
    let (mode, options) = if server_version(client).await? >= 160_000 {
        ("SET", " WITH INHERIT TRUE, SET TRUE")
    } else {
        ("MEMBER", "")
    };
    let row = client
        .query_one(
            "SELECT pg_has_role(current_user, $1::text::name, 'USAGE')
                AND pg_has_role(current_user, $1::text::name, $2::text)",
            &[&role, &mode],
        )
        .await?;
    if row.get(0) {
        return Ok(false);
    }
    let role = escape_identifier(role);
    client
        .batch_execute(&format!("GRANT {role} TO CURRENT_USER{options}"))
        .await?;
    Ok(true)
}

/// Takes back what [`join`] did.
pub(super) async fn part(
    client: &impl GenericClient,
    role: &str,
) -> Result<(), tokio_postgres::Error> {
    let role = escape_identifier(role);
    client
        .batch_execute(&format!("REVOKE {role} FROM CURRENT_USER"))
        .await
}

/// Takes the login's groups from it, as far as keycard's user may: it stays for now, and what others
/// can call or write of what it owns (a definer's function, a rule) runs with its rights. A login
/// whose objects go to a keeper keeps them, as a keeper is measured by them.
///
/// # Errors
/// When Postgres cannot be asked, or refuses.
pub async fn withdraw(client: &Client, leaver: &Leaver<'_>) -> Result<(), tokio_postgres::Error> {
    if !matches!(leaver.owned, Some(Owned::Kept | Owned::Dropped)) {
        return Ok(());
    }
    let granted_by = server_version(client).await? >= 160_000;
    let groups = client
        .query(
            "SELECT format('REVOKE %s FROM %s %s CASCADE', roleid::regrole, member::regrole,
                        CASE WHEN $2 THEN 'GRANTED BY ' || grantor::regrole ELSE '' END)
             FROM pg_auth_members
             WHERE member = $1 AND (NOT $2 OR pg_has_role(grantor, 'USAGE')) ORDER BY 1",
            &[&leaver.oid, &granted_by],
        )
        .await?;
    for row in groups {
        client.batch_execute(row.get(0)).await?;
    }
    Ok(())
}

/// What still depends on the login anywhere, and what somebody can do about it; `None` when nothing
/// does.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn left(
    client: &Client,
    leaver: &Leaver<'_>,
) -> Result<Option<String>, tokio_postgres::Error> {
    let rows = client
        .query(
            &format!(
                "SELECT deptype = 'o' AND classid NOT IN {ABOUT_THE_LOGIN},
                        datname::text, classid::regclass::text, count(DISTINCT objid)
                 FROM pg_shdepend LEFT JOIN pg_database d ON d.oid = dbid
                 WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1
                 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
            ),
            &[&leaver.oid],
        )
        .await?;
    let mut owned = Vec::new();
    let mut others = Vec::new();
    for row in rows {
        let place = row
            .get::<_, Option<&str>>(1)
            .map_or_else(String::new, |dbname| format!(" in database {dbname:?}"));
        let count: i64 = row.get(3);
        let counted = format!("{count} {}{place}", kind(row.get(2), count));
        if row.get(0) {
            owned.push(counted);
        } else {
            others.push(counted);
        }
    }
    let mut reasons = Vec::new();
    if !owned.is_empty() {
        reasons.push(format!(
            "the login owns {}: drop them or give them away (DROP OWNED, REASSIGN OWNED); for leases \
             issued from now on the role's reassign_owned_to or drop_owned = true does that",
            owned.join(", ")
        ));
    }
    // While it owns something its privileges are left alone.
    if owned.is_empty() && !others.is_empty() {
        reasons.push(format!(
            "the login is still named by {}: keycard's user may not change that; revoke it as who \
             granted it, or as the owner",
            others.join(", ")
        ));
    }
    Ok((!reasons.is_empty()).then(|| reasons.join("; ")))
}

/// What a catalogue's rows are, for people.
fn kind(catalogue: &str, count: i64) -> String {
    let (one, several) = match catalogue {
        "pg_class" => (
            "table, view or sequence",
            "tables, views, sequences or such",
        ),
        "pg_proc" => ("routine", "routines"),
        "pg_type" => ("type", "types"),
        "pg_namespace" => ("schema", "schemas"),
        "pg_largeobject" | "pg_largeobject_metadata" => ("large object", "large objects"),
        "pg_policy" => ("policy", "policies"),
        "pg_database" => ("database", "databases"),
        "pg_tablespace" => ("tablespace", "tablespaces"),
        "pg_parameter_acl" => ("parameter", "parameters"),
        "pg_default_acl" => ("set of default privileges", "sets of default privileges"),
        other => return format!("of {other}"),
    };
    if count == 1 { one } else { several }.to_owned()
}
