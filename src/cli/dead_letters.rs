//! `keycard dead-letters`: what could not be processed, as an operator handles it.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Output, print_json, print_table};
use super::{Failure, print, stack};
use crate::app::{self, AppError};
use crate::config::{self, Environment};
use crate::queue::{DeadLetter, DeadLetters, Lane, Sender};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The dead letters, oldest first; they stay where they are.
    #[command(after_help = "Example:\n  keycard dead-letters list --output json")]
    List(List),
    /// One dead letter with its event.
    #[command(
        after_help = "Example:\n  keycard dead-letters show 01890a5d-ac96-774b-bcce-b302099a8057"
    )]
    Show(Show),
    /// Hand dead letters over to the worker again, as from their original senders: for when what
    /// was wrong has been mended. What fails again is a dead letter again, with a new id.
    #[command(
        after_help = "Example:\n  keycard dead-letters requeue 01890a5d-ac96-774b-bcce-b302099a8057"
    )]
    Requeue(Requeue),
    /// Remove dead letters for good.
    #[command(
        after_help = "Example:\n  keycard dead-letters drop 01890a5d-ac96-774b-bcce-b302099a8057"
    )]
    Drop(Drop),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Most letters.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// How the letters are printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The letter's id, as listed.
    id: String,
    /// How the letter is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Requeue {
    /// The letters' ids, as listed.
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// Every letter that is there now.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct Drop {
    /// The letters' ids, as listed.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    command: Command,
) -> Result<(), Failure> {
    stack::make_room(environment);
    let client = config::Client::load(path, environment)?;
    let letters = app::dead_letters(&client).await?;
    match command {
        Command::List(arguments) => list(&*letters, &arguments).await,
        Command::Show(arguments) => show(&*letters, &arguments).await,
        Command::Requeue(arguments) => requeue(&*letters, arguments).await,
        Command::Drop(arguments) => discard(&*letters, arguments.ids).await,
    }
}

async fn list(letters: &dyn DeadLetters, arguments: &List) -> Result<(), Failure> {
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let found = letters.list(limit).await.map_err(AppError::from)?;
    match arguments.output {
        Output::Json => print_json(&found.iter().map(value).collect::<Vec<_>>().into()),
        Output::Table => {
            let rows: Vec<Vec<String>> = found.iter().map(row).collect();
            print_table(&["LETTER", "SINCE", "LANE", "SENDER", "REASON"], &rows);
            if found.len() == limit {
                eprintln!("keycard: there may be more; --limit shows more than {limit}");
            }
        }
    }
    Ok(())
}

async fn show(letters: &dyn DeadLetters, arguments: &Show) -> Result<(), Failure> {
    let found = letters.list(usize::MAX).await.map_err(AppError::from)?;
    let letter = found
        .iter()
        .find(|letter| letter.id == arguments.id)
        .ok_or_else(|| missing(&[arguments.id.as_str()]))?;
    match arguments.output {
        Output::Json => print_json(&value(letter)),
        Output::Table => {
            let cells = ["letter", "since", "lane", "sender", "reason"].map(str::to_owned);
            let mut rows: Vec<Vec<String>> = (cells.into_iter().zip(row(letter)))
                .map(|(name, cell)| vec![name, cell])
                .collect();
            let body = String::from_utf8_lossy(&letter.body);
            rows.push(vec!["event".to_owned(), body.into_owned()]);
            print_table(&["FIELD", "VALUE"], &rows);
        }
    }
    Ok(())
}

async fn requeue(letters: &dyn DeadLetters, arguments: Requeue) -> Result<(), Failure> {
    let ids = if arguments.all {
        let found = letters.list(usize::MAX).await.map_err(AppError::from)?;
        found.into_iter().map(|letter| letter.id).collect()
    } else {
        arguments.ids
    };
    let mut left = Vec::new();
    for id in &ids {
        if letters.requeue(id).await.map_err(AppError::from)? {
            print(&format!("{id} requeued"));
        } else {
            left.push(id.as_str());
        }
    }
    all_found(&left)
}

async fn discard(letters: &dyn DeadLetters, ids: Vec<String>) -> Result<(), Failure> {
    let mut left = Vec::new();
    for id in &ids {
        if letters.discard(id).await.map_err(AppError::from)? {
            print(&format!("{id} dropped"));
        } else {
            left.push(id.as_str());
        }
    }
    all_found(&left)
}

fn all_found(left: &[&str]) -> Result<(), Failure> {
    if left.is_empty() {
        Ok(())
    } else {
        Err(missing(left))
    }
}

fn missing(ids: &[&str]) -> Failure {
    Failure::Failed(format!(
        "there is no dead letter {}; `keycard dead-letters list` shows those that there are",
        ids.join(", ")
    ))
}

fn row(letter: &DeadLetter) -> Vec<String> {
    vec![
        letter.id.clone(),
        letter
            .at
            .map_or_else(|| "-".to_owned(), |at| at.to_string()),
        letter.lane.map_or("-", Lane::name).to_owned(),
        match &letter.sender {
            Sender::Requester(requester) => requester.to_string(),
            Sender::Keycard => "(keycard)".to_owned(),
            Sender::Nobody(_) => "(nobody)".to_owned(),
        },
        letter.reason.clone(),
    ]
}

fn value(letter: &DeadLetter) -> Value {
    let (sender, requester) = match &letter.sender {
        Sender::Requester(requester) => ("requester", Some(requester.as_str())),
        Sender::Keycard => ("keycard", None),
        Sender::Nobody(_) => ("nobody", None),
    };
    let mut value = json!({
        "id": letter.id,
        "since": letter.at,
        "lane": letter.lane.map(Lane::name),
        "sender": sender,
        "requester": requester,
        "reason": letter.reason,
    });
    match std::str::from_utf8(&letter.body) {
        Ok(text) => value["event"] = text.into(),
        Err(_) => value["event_base64"] = BASE64_STANDARD.encode(&letter.body).into(),
    }
    value
}
