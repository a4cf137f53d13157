//! Statements of a role, which somebody else wrote: what they do is confined to their transaction.

use std::time::{Duration, Instant};

use postgres_protocol::escape::escape_literal;
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::change::Refusal;
use super::sqlstate::{describe, is_statements_fault, may_have_raced};
use super::template::Statements;
use crate::clock;

/// How long the statements of one change may take together: a step that took longer would be given
/// up, and with it what it does when they fail.
const LIMIT: Duration = Duration::from_secs(15);

/// What becomes of statements that failed for a reason which may pass by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayPass {
    /// The step is taken again; nobody has been told anything yet.
    Retry,
    /// They are refused: something else must be done at once.
    Refuse,
}

/// Runs statements, rendered. Once more if they may have failed because the same statements ran
/// elsewhere at the same moment.
///
/// They run with the admin's rights, so names are looked up in `pg_catalog` alone: in any other
/// schema somebody may have made an operator or a function that fits better than the one meant.
pub(super) async fn run_custom(
    transaction: &Transaction<'_>,
    statements: &Statements,
    may_pass: MayPass,
) -> Result<(), Refusal> {
    let deadline = clock::monotonic_now() + LIMIT;
    let mut last = false;
    loop {
        transaction
            .batch_execute("SAVEPOINT custom; SET LOCAL search_path = pg_catalog, pg_temp")
            .await?;
        let Err((error, place)) = run_texts(transaction, statements, deadline).await else {
            break;
        };
        if error.is_closed() {
            return Err(error.into());
        }
        transaction
            .batch_execute("ROLLBACK TO custom; RELEASE custom")
            .await?;
        if may_have_raced(&error) && !last {
            last = true;
        } else if may_pass == MayPass::Refuse || is_statements_fault(&error) {
            let problem = describe(&error);
            let (before, after) = hints(&error);
            return Err(Refusal::Reason(format!("{place}{before}{problem}{after}")));
        } else {
            return Err(error.into());
        }
    }
    // Not SET LOCAL: at the end of that the statements' own SET would come back.
    transaction
        .batch_execute("RESET ROLE; RESET ALL; SET CONSTRAINTS ALL IMMEDIATE; RELEASE custom")
        .await?;
    Ok(())
}

/// Runs the texts from within PL/pgSQL: there Postgres refuses to end the transaction, so neither a
/// COMMIT nor a ROLLBACK among them can part the login from its lease. Postgres itself takes a
/// script apart. An error comes with the place where it happened, as far as that is known.
async fn run_texts(
    transaction: &Transaction<'_>,
    statements: &Statements,
    deadline: Instant,
) -> Result<(), (tokio_postgres::Error, String)> {
    for (index, text) in statements.texts().enumerate() {
        let at = |error| match statements {
            Statements::Each(_) => (error, format!("statement {}: ", index + 1)),
            Statements::Script(_) => (error, String::new()),
        };
        let left = deadline.saturating_duration_since(clock::monotonic_now());
        // Postgres looks at it when a command of ours begins, whatever theirs set it to. 0 is no limit.
        let limit = format!("SET LOCAL statement_timeout = {}", left.as_millis().max(1));
        transaction.batch_execute(&limit).await.map_err(at)?;
        if let Statements::Each(_) = statements {
            // The extended protocol takes exactly one command.
            transaction.prepare(text).await.map_err(at)?;
        }
        let body = format!("BEGIN EXECUTE {}; END", escape_literal(text));
        transaction
            .batch_execute(&format!("DO {}", escape_literal(&body)))
            .await
            .map_err(at)?;
    }
    Ok(())
}

/// What most likely is behind an error, to be said before and after its description.
fn hints(error: &tokio_postgres::Error) -> (&'static str, &'static str) {
    let is = |codes: &[SqlState]| error.code().is_some_and(|code| codes.contains(code));
    if is(&[SqlState::SYNTAX_ERROR]) {
        let hint = "wrong syntax, or more than one command in one text of the array: ";
        (hint, "")
    } else if is(&[
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::INVALID_TRANSACTION_TERMINATION,
        SqlState::ACTIVE_SQL_TRANSACTION,
    ]) {
        let hint = "COMMIT, ROLLBACK and what cannot run in a transaction are not allowed: ";
        (hint, "")
    } else if is(&[
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_OBJECT,
        SqlState::INVALID_SCHEMA_NAME,
    ]) {
        let hint = " (names are looked up in pg_catalog alone: write them with their schema)";
        ("", hint)
    } else {
        ("", "")
    }
}
