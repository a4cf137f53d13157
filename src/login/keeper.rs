//! Giving what a login owns to the role that its own role names for that.

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::{Row, Transaction};

use super::change::Refusal;
use super::objects::{Leaver, join, part};

/// Gives everything the login owns in this database to `keeper`, within the transaction.
pub(super) async fn reassign(
    transaction: &Transaction<'_>,
    leaver: &Leaver<'_>,
    keeper: &str,
) -> Result<(), Refusal> {
    let keeper_oid = check(transaction, leaver.oid, keeper).await?;
    let joined = join(transaction, keeper).await?;
    disarm(transaction, leaver.oid).await?;
    // First the schemas: a keeper can have an object in one only where it may create it.
    let login = escape_identifier(leaver.username);
    let owner = escape_identifier(keeper);
    let schemas = transaction
        .query(
            "SELECT format('ALTER SCHEMA %I OWNER TO %I', nspname, $2::text)
             FROM pg_namespace WHERE nspowner = $1 ORDER BY 1",
            &[&leaver.oid, &keeper],
        )
        .await?;
    run(transaction, &schemas).await?;
    transaction
        .batch_execute(&format!("REASSIGN OWNED BY {login} TO {owner}"))
        .await?;
    check_harmless(transaction, keeper, keeper_oid).await?;
    if joined {
        part(transaction, keeper).await?;
    }
    Ok(())
}

/// A keeper has no rights that the login did not have: what the login made, the next login of the
/// role can use, and must get no further by it.
async fn check(transaction: &Transaction<'_>, login: u32, keeper: &str) -> Result<u32, Refusal> {
    let row = transaction
        .query_opt(
            "WITH RECURSIVE reached (start, id) AS (
                 SELECT oid, oid FROM pg_roles WHERE oid = $1 OR rolname = $2
                 UNION
                 SELECT start, roleid FROM reached JOIN pg_auth_members ON member = id
             ), logins (id) AS (SELECT id FROM reached WHERE start = $1)
             SELECT k.oid, rolcanlogin,
                    rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,
                    (SELECT min(id::regrole::text) FROM reached
                     WHERE start = k.oid AND id <> k.oid AND id NOT IN (SELECT id FROM logins)),
                    k.oid NOT IN (SELECT id FROM logins) AND EXISTS (
                        SELECT FROM pg_shdepend
                        WHERE refclassid = 'pg_authid'::regclass AND refobjid = k.oid
                          AND deptype = 'a' AND classid <> 'pg_namespace'::regclass)
             FROM pg_roles k WHERE rolname = $2",
            &[&login, &keeper],
        )
        .await?;
    let Some(row) = row else {
        return Err(refused(keeper, "does not exist; create it NOLOGIN"));
    };
    if row.get(1) {
        return Err(refused(keeper, "can log in; make it NOLOGIN"));
    }
    if row.get(2) {
        return Err(refused(
            keeper,
            "has SUPERUSER, CREATEROLE, CREATEDB, REPLICATION or BYPASSRLS; take that from it",
        ));
    }
    if let Some(group) = row.get::<_, Option<&str>>(3) {
        return Err(refused(
            keeper,
            &format!("is a member of {group}, which the login is not; take that from it"),
        ));
    }
    if row.get(4) {
        return Err(refused(
            keeper,
            "holds privileges of its own on more than schemas; revoke them, or grant them to a group \
             of the role",
        ));
    }
    Ok(row.get(0))
}

/// What would run with its owner's rights runs with its caller's instead, where Postgres has that:
/// nobody has the login's any more, and a new owner's are nobody else's.
pub(super) async fn disarm(transaction: &Transaction<'_>, login: u32) -> Result<(), Refusal> {
    let statements = transaction
        .query(
            "SELECT format('ALTER ROUTINE %s SECURITY INVOKER', oid::regprocedure)
             FROM pg_proc WHERE proowner = $1 AND prosecdef
             UNION ALL
             SELECT format('ALTER VIEW %s SET (security_invoker = true)', oid::regclass)
             FROM pg_class WHERE relowner = $1 AND relkind = 'v'",
            &[&login],
        )
        .await?;
    run(transaction, &statements).await
}

/// Whatever runs with the keeper's rights would run for everybody who can reach it. Asked last, of
/// all it owns: nobody can have slipped in anything meanwhile. Expressions of indexes and statistics
/// are run by maintenance, as the owner of their table, and so is the difference within a range; a
/// foreign key is checked as the owner of the tables, with casts between its columns' types.
async fn check_harmless(
    transaction: &Transaction<'_>,
    keeper: &str,
    oid: u32,
) -> Result<(), Refusal> {
    let row = transaction
        .query_opt(
            "WITH expressions (catalogue, id, name) AS (
                 SELECT 'pg_class'::regclass, indexrelid, 'index ' || indexrelid::regclass
                 FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
                 WHERE relowner = $1 AND (indexprs IS NOT NULL OR indpred IS NOT NULL)
                 UNION ALL
                 SELECT 'pg_statistic_ext'::regclass, s.oid, 'statistics ' || quote_ident(stxname)
                 FROM pg_statistic_ext s JOIN pg_class ON pg_class.oid = stxrelid
                 WHERE relowner = $1
             )
             SELECT 'SECURITY DEFINER routine ' || oid::regprocedure
             FROM pg_proc WHERE proowner = $1 AND prosecdef
             UNION ALL
             SELECT CASE relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END || oid::regclass
             FROM pg_class WHERE relowner = $1 AND (relkind = 'm' OR relkind = 'v' AND NOT coalesce(
                 (SELECT option_value::boolean FROM pg_options_to_table(reloptions)
                  WHERE option_name = 'security_invoker'), false))
             UNION ALL
             SELECT 'rule ' || quote_ident(rulename) || ' on ' || ev_class::regclass
             FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class
             WHERE relowner = $1 AND ev_type <> '1'
             UNION ALL
             SELECT 'trigger ' || quote_ident(tgname) || ' on ' || tgrelid::regclass
             FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
             WHERE relowner = $1 AND tgenabled IN ('A', 'R')
             UNION ALL
             SELECT 'foreign key ' || quote_ident(conname) || ' on ' || conrelid::regclass
             FROM pg_constraint JOIN pg_class ON pg_class.oid IN (conrelid, confrelid)
             WHERE relowner = $1 AND contype = 'f' AND EXISTS (
                 SELECT FROM unnest(conkey, confkey) AS pair (one, other)
                 JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = one
                 JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = other
                 -- Below 16384 are the types that Postgres comes with.
                 WHERE a.atttypid <> b.atttypid AND greatest(a.atttypid, b.atttypid) >= 16384)
             UNION ALL
             SELECT 'range type ' || rngtypid::regtype
             FROM pg_range JOIN pg_type t ON t.oid = rngtypid JOIN pg_proc p ON p.oid = rngsubdiff::oid
             JOIN pg_roles r ON r.oid = proowner
             WHERE NOT rolsuper AND (typowner = $1 OR EXISTS (
                 SELECT FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
                 WHERE relowner = $1 AND atttypid = rngtypid))
             UNION ALL
             SELECT name FROM expressions JOIN pg_depend ON classid = catalogue AND objid = id
             LEFT JOIN pg_proc p ON refclassid = 'pg_proc'::regclass AND refobjid = p.oid
             LEFT JOIN pg_operator o ON refclassid = 'pg_operator'::regclass AND refobjid = o.oid
             LEFT JOIN pg_type t ON refclassid = 'pg_type'::regclass AND refobjid = t.oid
             JOIN pg_roles r ON r.oid = coalesce(proowner, oprowner, typowner)
             WHERE NOT rolsuper
             LIMIT 1",
            &[&oid],
        )
        .await?;
    match row {
        None => Ok(()),
        Some(row) => Err(refused(
            keeper,
            &format!(
                "would own the {}, which runs with its owner's rights; drop that",
                row.get::<_, &str>(0)
            ),
        )),
    }
}

fn refused(keeper: &str, problem: &str) -> Refusal {
    Refusal::Reason(format!("reassign_owned_to: the role {keeper:?} {problem}"))
}

async fn run(transaction: &Transaction<'_>, statements: &[Row]) -> Result<(), Refusal> {
    for row in statements {
        transaction.batch_execute(row.get(0)).await?;
    }
    Ok(())
}
