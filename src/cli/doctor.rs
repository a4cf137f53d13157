//! `keycard doctor`: is everything there that a worker needs?

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::output::{Output, print_json, print_table};
use crate::app;
use crate::check::{Check, Status};
use crate::config::{Config, Environment};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How the checks are printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    arguments: Arguments,
) -> Result<(), Failure> {
    let config = Config::load(path, environment)?;
    let checks = Box::pin(app::examine(&config)).await;
    match arguments.output {
        Output::Json => print_json(&checks.iter().map(value).collect()),
        Output::Table => print_table(
            &["STATUS", "CHECK", "SEEN", "REMEDY"],
            &checks.iter().map(row).collect::<Vec<_>>(),
        ),
    }
    let failures = checks
        .iter()
        .filter(|check| check.status == Status::Failure)
        .count();
    if failures > 0 {
        let all = checks.len();
        return Err(Failure::Failed(format!(
            "{failures} of {all} checks failed; the remedy is beside each"
        )));
    }
    Ok(())
}

fn row(check: &Check) -> Vec<String> {
    vec![
        check.status.as_str().to_owned(),
        check.name.clone(),
        check.seen.clone(),
        check.remedy.clone().unwrap_or_default(),
    ]
}

fn value(check: &Check) -> Value {
    json!({
        "name": check.name,
        "status": check.status.as_str(),
        "seen": check.seen,
        "remedy": check.remedy,
    })
}
