//! Logins and leases, at any moment: they change in one transaction, so every snapshot shows both.

use tokio_postgres::{Client, Error};

use super::Violation;

/// Every login has its lease, and is what the lease says; a login is usable no longer than its lease
/// lives, as Postgres itself refuses it after VALID UNTIL. One statement, and so one snapshot.
///
/// # Errors
/// When Postgres cannot be asked, as it may be away.
pub async fn standing(sql: &Client, group: &str) -> Result<Vec<Violation>, Error> {
    let rows = sql
        .query(
            "WITH made AS (
                 SELECT * FROM pg_roles
                 WHERE rolname LIKE 'kc\\_%' AND (
                     rolname IN (SELECT username FROM keycard.leases)
                     OR oid IN (SELECT member FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                                WHERE g.rolname = $1))
             ), both_of AS (
                 SELECT l.id, l.username, l.state, l.expires_at, l.login_oid,
                        l.state IN ('issuing', 'active') AS lives,
                        m.rolname, m.oid, m.rolcanlogin, m.rolvaliduntil,
                        m.rolsuper OR m.rolcreaterole OR m.rolcreatedb OR m.rolreplication
                            OR m.rolbypassrls AS elevated
                 FROM keycard.leases l FULL JOIN made m ON m.rolname = l.username
             )
             SELECT 'app.' || id, problem || ': ' || coalesce(rolname, username)
             FROM both_of, LATERAL (
                 SELECT CASE
                     WHEN id IS NULL THEN 'a login without a lease'
                     WHEN rolname IS NULL AND state IN ('issuing', 'active', 'revoking')
                         THEN 'a lease in state ' || state || ' without its login'
                     WHEN rolname IS NULL THEN NULL
                     WHEN state IN ('dropped', 'closed') THEN 'a login whose lease is ' || state
                     WHEN oid <> login_oid THEN 'a login of another OID than its lease says'
                     WHEN elevated THEN 'a login that may more than log in'
                     WHEN lives AND rolvaliduntil IS DISTINCT FROM expires_at
                         THEN 'VALID UNTIL ' || coalesce(rolvaliduntil::text, 'for ever')
                              || ' and not ' || expires_at
                     WHEN lives AND NOT rolcanlogin THEN 'a disabled login of a lease that lives'
                     WHEN NOT lives AND rolcanlogin THEN 'a login that is being revoked and may log in'
                 END AS problem
             ) AS judged
             WHERE problem IS NOT NULL",
            &[&group],
        )
        .await?;
    let violation = |row: &tokio_postgres::Row| Violation {
        lease: row.get(0),
        what: row.get(1),
    };
    Ok(rows.iter().map(violation).collect())
}

/// Nobody is still connected by a login that is gone. That is so at rest only: what connects while
/// its login is dropped is thrown out right after.
pub async fn sessions(sql: &Client) -> Result<Option<Violation>, Error> {
    let left = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND usesysid IS NOT NULL
                  AND usesysid NOT IN (SELECT oid FROM pg_roles)";
    let left: i64 = sql.query_one(left, &[]).await?.get(0);
    let what = format!("{left} sessions of logins that are gone");
    Ok((left > 0).then(|| Violation::at_large(what)))
}
