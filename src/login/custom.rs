//! Creation statements, which somebody else wrote: what they do is confined to their transaction.

use postgres_protocol::escape::escape_literal;
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::change::Refusal;
use super::sqlstate::{describe, is_statements_fault, may_have_raced};
use super::template::Creation;

/// Runs creation statements with Postgres's usual `search_path`. Once more if they may have failed
/// because the same statements ran elsewhere at the same moment.
pub(super) async fn run_custom(
    transaction: &Transaction<'_>,
    creation: &Creation,
) -> Result<(), Refusal> {
    let mut last = false;
    loop {
        transaction
            .batch_execute(r#"SAVEPOINT creation; SET LOCAL search_path = "$user", public"#)
            .await?;
        let Err((error, place)) = run_texts(transaction, creation).await else {
            break;
        };
        if error.is_closed() {
            return Err(error.into());
        }
        transaction
            .batch_execute("ROLLBACK TO creation; RELEASE creation")
            .await?;
        if may_have_raced(&error) && !last {
            last = true;
        } else if is_statements_fault(&error) {
            let problem = describe(&error);
            return Err(Refusal::Reason(format!("{place}{}{problem}", hint(&error))));
        } else {
            return Err(error.into());
        }
    }
    // Not SET LOCAL: at the end of that the statements' own SET would come back.
    transaction
        .batch_execute("RESET ROLE; RESET ALL; SET CONSTRAINTS ALL IMMEDIATE; RELEASE creation")
        .await?;
    Ok(())
}

/// Runs the texts from within PL/pgSQL: there Postgres refuses to end the transaction, so neither a
/// COMMIT nor a ROLLBACK among them can part the login from its lease. Postgres itself takes a
/// script apart. An error comes with the place where it happened, as far as that is known.
async fn run_texts(
    transaction: &Transaction<'_>,
    creation: &Creation,
) -> Result<(), (tokio_postgres::Error, String)> {
    for (index, text) in creation.texts().enumerate() {
        let at = |error| match creation {
            Creation::Each(_) => (error, format!("statement {}: ", index + 1)),
            Creation::Script(_) => (error, String::new()),
        };
        if let Creation::Each(_) = creation {
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

/// What most likely is behind an error whose message cannot be repeated.
fn hint(error: &tokio_postgres::Error) -> &'static str {
    let Some(code) = error.code() else {
        return "";
    };
    if *code == SqlState::SYNTAX_ERROR {
        "wrong syntax, or more than one command in one text of the array: "
    } else if [
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::INVALID_TRANSACTION_TERMINATION,
        SqlState::ACTIVE_SQL_TRANSACTION,
    ]
    .contains(code)
    {
        "COMMIT, ROLLBACK and what cannot run in a transaction are not allowed: "
    } else {
        ""
    }
}
