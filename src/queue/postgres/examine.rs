//! Looking at the queue as `keycard doctor` does: who may use it, and what waits in it.

use postgres_protocol::escape::escape_identifier;

use crate::check::Check;
use crate::lease::Requester;
use crate::ledger::{Ledger, LedgerError};
use crate::queue::examine;

/// Looks at the queue in the database of this ledger, under the configuration's own rules.
pub async fn examine(ledger: &Ledger) -> Vec<Check> {
    match look(ledger).await {
        Ok(checks) => checks,
        Err(LedgerError::NoLedger { .. }) => vec![Check::warning(
            "queue",
            "there is none yet",
            "start `keycard worker`, which makes it",
        )],
        Err(error) => vec![Check::failed("queue", &error)],
    }
}

async fn look(ledger: &Ledger) -> Result<Vec<Check>, LedgerError> {
    let rules = ledger.rules();
    let mut names: Vec<&str> = rules
        .roles
        .values()
        .flat_map(|role| &role.requesters)
        .chain(&rules.operators)
        .map(Requester::as_str)
        .collect();
    names.sort_unstable();
    names.dedup();
    let client = ledger.connection().await?;
    let failed = |error| LedgerError::sql("look at the queue", ledger.database(), &error);
    let row = client
        .query_one(
            r#"SELECT (SELECT count(*) FROM keycard.dead_letters),
                      ARRAY(SELECT name FROM unnest($1::text[]) AS named (name)
                            WHERE NOT EXISTS (
                                SELECT FROM pg_roles
                                WHERE rolcanlogin AND rolname::text COLLATE "default" = name)
                            ORDER BY name),
                      (SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND usename = current_user
                         AND application_name LIKE '% requests'),
                      (SELECT count(*) FROM keycard.messages m
                       WHERE due_at <= clock_timestamp()
                         AND (holder IS NULL OR NOT EXISTS (
                             SELECT FROM keycard.sessions s WHERE s.id = m.holder)))"#,
            &[&names],
        )
        .await
        .map_err(failed)?;
    let (dead_letters, missing): (i64, Vec<String>) = (row.get(0), row.get(1));
    let mut checks = vec![
        examine::served(row.get(2), row.get(3)),
        examine::dead_letters(dead_letters),
    ];
    if missing.is_empty() {
        let seen = "every requester is a role that can log in";
        checks.push(Check::ok("queue.requesters", seen));
    }
    checks.extend(missing.iter().map(|name| {
        Check::warning(
            "queue.requesters",
            format!("no role {name:?} can log in, so it cannot ask"),
            format!(
                "CREATE ROLE {} LOGIN, and give it a password",
                escape_identifier(name)
            ),
        )
    }));
    Ok(checks)
}
