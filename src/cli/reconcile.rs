//! `keycard reconcile`: what differs between ledgers, logins and secrets.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::output::{Output, print_json, print_table};
use super::{Failure, freeze, print};
use crate::app;
use crate::config::{Config, Environment};
use crate::worker::{Action, Finding, Kind, Report};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Carry out what the ledger proves, as a worker does; without it nothing is changed.
    #[arg(long)]
    apply: bool,
    /// How the differences are printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    arguments: Arguments,
) -> Result<(), Failure> {
    let config = Config::load(path, environment)?;
    let report = if arguments.apply {
        config.check_passwords()?;
        let worker = app::worker(
            &config,
            None,
            Some(app::PATIENCE),
            &CancellationToken::new(),
        )
        .await?;
        worker.reconcile_once().await
    } else {
        app::compare(&config).await?
    };
    match arguments.output {
        Output::Json => {
            let findings: Vec<Value> = report.findings.iter().map(value).collect();
            print_json(&Value::from(findings));
        }
        Output::Table if !report.findings.is_empty() => table(&report.findings),
        Output::Table if report.is_complete() => print("Ledgers, logins and secrets agree."),
        Output::Table => {}
    }
    for ledger in app::ledgers(&config, &Arc::new(app::rules(&config)))? {
        if !report
            .failed
            .iter()
            .any(|(failed, _)| failed == ledger.database())
        {
            freeze::warn(&ledger).await?;
        }
    }
    verdict(&report, arguments.apply)
}

/// What is left when everything was printed.
fn verdict(report: &Report, apply: bool) -> Result<(), Failure> {
    let busy = report.busy.iter().map(|database| {
        format!("database {database}: another keycard reconciles it right now; try again later")
    });
    let failed = report.failed.iter().map(|(_, error)| error.clone());
    let incomplete: Vec<String> = failed.chain(busy).collect();
    if !incomplete.is_empty() {
        return Err(Failure::Failed(format!(
            "not everything could be compared\n{}",
            incomplete.join("\n")
        )));
    }
    let left = report
        .findings
        .iter()
        .filter(|finding| finding.action != Action::Done)
        .count();
    match (left, apply) {
        (0, _) => Ok(()),
        (_, false) => Err(Failure::Differs(format!(
            "{left} differ; `keycard reconcile --apply` carries out what is due, what is only reported is for you to judge"
        ))),
        (_, true) => Err(Failure::Differs(format!(
            "{left} still differ; a worker goes on with what is unfinished, what is only reported is for you to judge"
        ))),
    }
}

fn table(findings: &[Finding]) {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            vec![
                finding.kind.as_str().to_owned(),
                finding.database.clone(),
                word(finding).replace('_', " "),
                finding.subject.clone(),
                lease(finding).unwrap_or_else(|| "-".to_owned()),
                finding.detail.clone(),
            ]
        })
        .collect();
    print_table(
        &[
            "KIND",
            "DATABASE",
            "ACTION",
            "LOGIN OR SECRET",
            "LEASE",
            "WHY",
        ],
        &rows,
    );
}

fn value(finding: &Finding) -> Value {
    let (login, secret) = if finding.kind.is_of_secrets() {
        (None, Some(&finding.subject))
    } else {
        (Some(&finding.subject), None)
    };
    json!({
        "kind": finding.kind.as_str(),
        "database": finding.database,
        "login": login,
        "secret": secret,
        "lease_id": lease(finding),
        "action": word(finding),
        "detail": finding.detail,
    })
}

fn lease(finding: &Finding) -> Option<String> {
    finding.lease.as_ref().map(ToString::to_string)
}

/// What became of a finding, in one word.
fn word(finding: &Finding) -> &'static str {
    match (finding.action, finding.kind) {
        (Action::Due, Kind::LoginMissing) => "would_close",
        (Action::Due, Kind::LoginLeft) => "would_drop",
        (Action::Due, Kind::SecretLeft) => "would_delete",
        (Action::Done, Kind::LoginMissing) => "closed",
        (Action::Done, Kind::LoginLeft) => "dropped",
        (Action::Done, Kind::SecretLeft) => "deleted",
        (Action::Unfinished, _) => "unfinished",
        (Action::Reported, _)
        | (
            Action::Due | Action::Done,
            Kind::LoginRenamed | Kind::LoginUnproven | Kind::SecretUnproven,
        ) => "reported",
    }
}
