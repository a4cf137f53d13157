//! `keycard doctor`: is everything there that a worker needs?

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, print_json, print_table};
use super::{Failure, tell};
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
            &["STATUS", "CHECK", "SEEN, AND ITS REMEDY"],
            &checks.iter().flat_map(rows).collect::<Vec<_>>(),
        ),
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let (failures, warnings) = (count(Status::Failure), count(Status::Warning));
    let all = checks.len();
    let said = format!("{failures} of {all} checks failed, {warnings} warn; each says what to do");
    if failures > 0 {
        return Err(Failure::Failed(said));
    }
    if warnings > 0 {
        tell(&said);
    }
    Ok(())
}

/// The remedy has a row of its own: both are longer than most terminals are wide.
fn rows(check: &Check) -> Vec<Vec<String>> {
    let row = |status: &str, name: &str, text: &str| vec![status.into(), name.into(), text.into()];
    let seen = row(check.status.as_str(), &check.name, &check.seen);
    let remedy = check.remedy.as_ref();
    let remedy = remedy.map(|remedy| row("", "", &format!("-> {remedy}")));
    [Some(seen), remedy].into_iter().flatten().collect()
}

fn value(check: &Check) -> Value {
    json!({
        "name": check.name,
        "status": check.status.as_str(),
        "seen": check.seen,
        "remedy": check.remedy,
    })
}
