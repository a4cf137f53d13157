//! `keycard lease list` and `keycard lease show`: reads the ledgers, changes nothing.

use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::app::{self, AppError};
use crate::cli::output::{Output, fields, print_json, print_table};
use crate::cli::{Failure, freeze};
use crate::config::{Config, Environment};
use crate::lease::{Cause, LeaseId, State};
use crate::ledger::{Ledger, Search, StoredLease};

#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    /// Closed leases as well.
    #[arg(long)]
    all: bool,
    /// Only leases in this state.
    #[arg(long, value_enum)]
    state: Option<Wanted>,
    /// Only leases of this role.
    #[arg(long)]
    role: Option<String>,
    /// Only leases of this requester.
    #[arg(long)]
    requester: Option<String>,
    /// Most leases of each database.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// How they are printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// A state as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// The login exists, the requester has not been told.
    Issuing,
    /// In use.
    Active,
    /// The login is disabled and must be dropped.
    Revoking,
    /// Revoking, and failing so often that somebody should look at it.
    Stuck,
    /// The login is gone, its secret may not be.
    Dropped,
    /// Over.
    Closed,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    /// The lease's id, its username, or the id of a request about it.
    #[arg(value_name = "LEASE")]
    name: String,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn list(
    path: Option<&Path>,
    environment: &Environment,
    arguments: &List,
) -> Result<(), Failure> {
    let (state, stuck) = match arguments.state {
        None => (None, false),
        Some(Wanted::Issuing) => (Some("issuing"), false),
        Some(Wanted::Active) => (Some("active"), false),
        Some(Wanted::Revoking) => (Some("revoking"), false),
        Some(Wanted::Stuck) => (Some("revoking"), true),
        Some(Wanted::Dropped) => (Some("dropped"), false),
        Some(Wanted::Closed) => (Some("closed"), false),
    };
    let search = Search {
        state,
        stuck,
        closed: arguments.all || arguments.state == Some(Wanted::Closed),
        role: arguments.role.as_deref(),
        requester: arguments.requester.as_deref(),
        rows_max: arguments.limit,
    };
    let mut leases = Vec::new();
    for ledger in ledgers(path, environment)? {
        leases.extend(ledger.list(&search).await.map_err(AppError::from)?);
        freeze::warn(&ledger).await?;
    }
    match arguments.output {
        Output::Json => print_json(&leases.iter().map(value).collect::<Vec<_>>().into()),
        Output::Table => {
            let rows: Vec<Vec<String>> = leases.iter().map(row).collect();
            print_table(
                &[
                    "LEASE",
                    "ROLE",
                    "REQUESTER",
                    "STATE",
                    "EXPIRES AT",
                    "USERNAME",
                ],
                &rows,
            );
        }
    }
    Ok(())
}

pub(super) async fn show(
    path: Option<&Path>,
    environment: &Environment,
    arguments: &Show,
) -> Result<(), Failure> {
    let ledgers = ledgers(path, environment)?;
    let name = &arguments.name;
    let found = match name.parse() {
        Ok(id) => by_id(&ledgers, &id).await?,
        Err(_) => by_name(&ledgers, name).await?,
    };
    match found.as_slice() {
        [] => Err(Failure::Failed(format!(
            "there is no lease {name}, and none with this username or request id; \
             `keycard lease list --all` shows those that there are"
        ))),
        [one] => {
            let of = |ledger: &&Ledger| ledger.database() == one.lease.id.database;
            if let Some(ledger) = ledgers.iter().find(of) {
                freeze::warn(ledger).await?;
            }
            let value = value(one);
            match arguments.output {
                Output::Json => print_json(&value),
                Output::Table => print_table(&["FIELD", "VALUE"], &fields(&value)),
            }
            Ok(())
        }
        several => {
            let lines: Vec<String> = several
                .iter()
                .map(|stored| format!("{} of {}", stored.lease.id, stored.lease.requester))
                .collect();
            Err(Failure::Failed(format!(
                "several leases go by {name}; name one by its id:\n{}",
                lines.join("\n")
            )))
        }
    }
}

fn ledgers(path: Option<&Path>, environment: &Environment) -> Result<Vec<Ledger>, Failure> {
    let config = Config::load(path, environment)?;
    Ok(app::ledgers(&config, &Arc::new(app::rules(&config)))?)
}

async fn by_id(ledgers: &[Ledger], id: &LeaseId) -> Result<Vec<StoredLease>, Failure> {
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
    let found = ledger.show(id.uuid).await.map_err(AppError::from)?;
    Ok(found.into_iter().collect())
}

async fn by_name(ledgers: &[Ledger], name: &str) -> Result<Vec<StoredLease>, Failure> {
    let mut found = Vec::new();
    for ledger in ledgers {
        found.extend(ledger.find(name).await.map_err(AppError::from)?);
    }
    Ok(found)
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
