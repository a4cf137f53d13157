//! `keycard audit`: reads what was decided, from every ledger.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::output::{Output, print_json, print_table};
use crate::app::{self, AppError};
use crate::config::{self, Config, Environment};
use crate::lease::LeaseId;
use crate::ledger::{AuditFilter, AuditRow};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only of this lease.
    #[arg(long, value_name = "ID")]
    lease: Option<LeaseId>,
    /// Only of what this requester has or has asked for.
    #[arg(long, value_name = "NAME")]
    requester: Option<String>,
    /// Only of this role.
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// Only of this login.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Only of the last 24h, or any other duration.
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    since: Option<u64>,
    /// Most decisions: the newest that fit.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// How they are printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    arguments: Arguments,
) -> Result<(), Failure> {
    let config = Config::load(path, environment)?;
    let rules = Arc::new(app::rules(&config));
    let filter = AuditFilter {
        lease_id: arguments.lease.map(|id| id.to_string()),
        requester: arguments.requester,
        role: arguments.role,
        username: arguments.username,
        since: arguments.since.map(Duration::from_secs),
    };
    let mut rows = Vec::new();
    for ledger in app::ledgers(&config, &rules)? {
        let found = ledger.audit(&filter, arguments.limit).await;
        rows.extend(found.map_err(AppError::from)?);
    }
    // Each ledger gave its newest first; what has one time keeps its order.
    rows.reverse();
    rows.sort_by_key(|row| row.at);
    let most = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let rows = &rows[rows.len().saturating_sub(most)..];
    match arguments.output {
        Output::Json => {
            print_json(&rows.iter().map(value).collect::<Vec<_>>().into());
        }
        Output::Table => print_table(
            &[
                "AT",
                "DECISION",
                "LEASE",
                "ROLE",
                "REQUESTER",
                "USERNAME",
                "ASKED BY",
                "WHY",
            ],
            &rows.iter().map(cells).collect::<Vec<_>>(),
        ),
    }
    Ok(())
}

fn cells(row: &AuditRow) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let why = match row.cause.as_ref().or(row.code.as_ref()) {
        Some(word) => format!("{word}: {}", row.reason),
        None => row.reason.clone(),
    };
    vec![
        row.at.to_string(),
        row.action.clone(),
        or_dash(&row.lease_id),
        or_dash(&row.role),
        or_dash(&row.requester),
        or_dash(&row.username),
        or_dash(&row.asked_by),
        why,
    ]
}

fn value(row: &AuditRow) -> Value {
    json!({
        "at": row.at,
        "decision": row.action,
        "lease_id": row.lease_id,
        "role": row.role,
        "requester": row.requester,
        "username": row.username,
        "generation": row.generation,
        "expires_at": row.expires_at,
        "cause": row.cause,
        "code": row.code,
        "reason": row.reason,
        "asked_by": row.asked_by,
        "request": row.request_id.as_ref().map(|id| json!({
            "source": row.request_source,
            "id": id,
        })),
    })
}
