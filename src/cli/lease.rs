//! `keycard lease list` and `keycard lease show`: reads the ledgers, changes nothing.

use std::path::Path;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Output, table};
use super::{Failure, print};
use crate::app::{self, AppError};
use crate::config::{Config, Environment};
use crate::lease::{Cause, LeaseId, State};
use crate::ledger::{Ledger, StoredLease};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The newest leases of every database, newest first.
    #[command(after_help = "Example:\n  keycard lease list --all --output json")]
    List(List),
    /// One lease.
    #[command(
        after_help = "Example:\n  keycard lease show my-postgres-db.01890a5d-ac96-774b-bcce-b302099a8057"
    )]
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Closed leases as well.
    #[arg(long)]
    all: bool,
    /// Most leases of each database.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The lease's id.
    lease_id: LeaseId,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    command: Command,
) -> Result<(), Failure> {
    let config = Config::load(path, environment)?;
    let rules = Arc::new(app::rules(&config));
    let ledgers = app::ledgers(&config, &rules)?;
    match command {
        Command::List(arguments) => list(&ledgers, &arguments).await,
        Command::Show(arguments) => show(&ledgers, &arguments).await,
    }
}

async fn list(ledgers: &[Ledger], arguments: &List) -> Result<(), Failure> {
    let mut leases = Vec::new();
    for ledger in ledgers {
        let found = ledger.list(arguments.all, arguments.limit).await;
        leases.extend(found.map_err(AppError::from)?);
    }
    match arguments.output {
        Output::Json => print_json(&leases.iter().map(value).collect::<Vec<_>>().into()),
        Output::Table => {
            let rows: Vec<Vec<String>> = leases.iter().map(row).collect();
            print(&table(
                &[
                    "LEASE",
                    "ROLE",
                    "REQUESTER",
                    "STATE",
                    "EXPIRES AT",
                    "USERNAME",
                ],
                &rows,
            ));
        }
    }
    Ok(())
}

async fn show(ledgers: &[Ledger], arguments: &Show) -> Result<(), Failure> {
    let id = &arguments.lease_id;
    let Some(ledger) = ledgers
        .iter()
        .find(|ledger| ledger.database() == id.database)
    else {
        let known: Vec<&str> = ledgers.iter().map(Ledger::database).collect();
        return Err(Failure::Usage(format!(
            "the configuration has no database {:?}, which the lease's id begins with; it has {}",
            id.database,
            known.join(", ")
        )));
    };
    let stored = ledger.show(id.uuid).await.map_err(AppError::from)?;
    let stored = stored.ok_or_else(|| {
        Failure::Failed(format!(
            "there is no lease {id}; `keycard lease list --all` shows those that there are"
        ))
    })?;
    let value = value(&stored);
    match (arguments.output, value.as_object()) {
        (Output::Table, Some(fields)) => {
            let rows: Vec<Vec<String>> = fields
                .iter()
                .map(|(key, value)| {
                    let text = value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned);
                    vec![key.clone(), text]
                })
                .collect();
            print(&table(&["FIELD", "VALUE"], &rows));
        }
        (Output::Json, _) | (Output::Table, None) => print_json(&value),
    }
    Ok(())
}

fn row(stored: &StoredLease) -> Vec<String> {
    let lease = &stored.lease;
    let state = if lease.is_stuck() {
        "revoking (stuck)".to_owned()
    } else {
        lease.state.as_str().to_owned()
    };
    vec![
        lease.id.to_string(),
        lease.role.clone(),
        lease.requester.to_string(),
        state,
        lease.expires_at.to_string(),
        lease.username.clone(),
    ]
}

fn value(stored: &StoredLease) -> Value {
    let lease = &stored.lease;
    let (cause, failures, revoked_at) = match lease.state {
        State::Issuing | State::Active => (None, 0, None),
        State::Revoking {
            cause, failures, ..
        } => (Some(cause), failures, None),
        State::Dropped {
            cause,
            failures,
            revoked_at,
            ..
        } => (Some(cause), failures, Some(revoked_at)),
        State::Closed {
            cause, revoked_at, ..
        } => (Some(cause), 0, Some(revoked_at)),
    };
    json!({
        "lease_id": lease.id.to_string(),
        "role": lease.role,
        "requester": lease.requester.as_str(),
        "username": lease.username,
        "state": lease.state.as_str(),
        "stuck": lease.is_stuck(),
        "issued_at": lease.issued_at,
        "expires_at": lease.expires_at,
        "max_expires_at": lease.max_expires_at,
        "generation": lease.generation,
        "attempt": lease.attempt,
        "cause": cause.map(Cause::as_str),
        "failures": failures,
        "last_failure": stored.last_failure,
        "revoked_at": revoked_at,
        "sessions_terminated": lease.sessions_terminated,
        "locators": stored.locators,
    })
}

fn print_json(value: &Value) {
    print(&format!("{value:#}"));
}
