//! The command line: one file for each subcommand.

mod config_check;
mod lease;
mod output;
mod request;
mod setup_sql;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::app::AppError;
use crate::config::{ConfigErrors, Environment};
use crate::telemetry::{self, Format};

/// The arguments of the command.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    about = "Short-lived PostgreSQL credentials on request, taken back on time.",
    after_help = "Example:\n  keycard --config keycard.toml config check\n\n\
                  Exit codes: 0 done; 1 failed, the message says what and what to do; 2 the \
                  arguments or the configuration are wrong; 3 the request was denied."
)]
pub struct Arguments {
    /// The configuration [default: ./keycard.toml, then /etc/keycard/keycard.toml].
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug or trace [default: info for the worker, else warn].
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LevelFilter>,
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve: issue, renew, revoke and expire until SIGTERM.
    #[command(after_help = "Example:\n  keycard --config /etc/keycard/keycard.toml worker")]
    Worker,
    /// Look at the configuration.
    #[command(subcommand, after_help = "Example:\n  keycard config check")]
    Config(ConfigCommand),
    /// Print the script that a DBA runs once in a database, so that keycard needs no superuser.
    #[command(
        after_help = "Example:\n  keycard setup-sql --database my-postgres-db | psql -d mydb"
    )]
    SetupSql {
        /// The database's key in the configuration.
        #[arg(long, value_name = "NAME")]
        database: String,
    },
    /// Look at leases, in the ledger itself.
    #[command(subcommand, after_help = "Example:\n  keycard lease list")]
    Lease(lease::Command),
    /// Ask for a credential, as a service would, with the broker user of the [client] section.
    #[command(after_help = "Example:\n  keycard request app-role --ttl 10m --output json")]
    Request(request::Arguments),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report everything that is wrong with the configuration, without connecting anywhere.
    #[command(after_help = "Example:\n  keycard --config keycard.toml config check")]
    Check,
}

/// Runs the command that the arguments name.
///
/// # Errors
/// What went wrong, as the person who typed the command needs to know it.
pub async fn run(arguments: Arguments, environment: &Environment) -> Result<(), Failure> {
    let usual = match arguments.command {
        Command::Worker => LevelFilter::INFO,
        Command::Config(_) | Command::SetupSql { .. } | Command::Lease(_) | Command::Request(_) => {
            LevelFilter::WARN
        }
    };
    telemetry::start(arguments.log_level.unwrap_or(usual), arguments.log_format);
    let config = arguments.config.as_deref();
    match arguments.command {
        Command::Worker => worker::run(config, environment).await,
        Command::Config(ConfigCommand::Check) => config_check::run(config, environment),
        Command::SetupSql { database } => setup_sql::run(config, environment, &database),
        Command::Lease(command) => lease::run(config, environment, command).await,
        Command::Request(request) => request::run(config, environment, request).await,
    }
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong.
    #[error("the configuration cannot be used\n{0}")]
    Config(#[from] ConfigErrors),
    /// The arguments do not fit the configuration.
    #[error("{0}")]
    Usage(String),
    /// Something that the command needs cannot be had.
    #[error("{0}")]
    App(#[from] AppError),
    /// The command itself failed.
    #[error("{0}")]
    Failed(String),
    /// keycard denied the request.
    #[error("denied ({code}): {message}")]
    Denied {
        /// The stable code.
        code: String,
        /// For people.
        message: String,
    },
}

impl Failure {
    /// As documented in `keycard --help`.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::App(_) | Self::Failed(_) => ExitCode::from(1),
            Self::Config(_) | Self::Usage(_) => ExitCode::from(2),
            Self::Denied { .. } => ExitCode::from(3),
        }
    }
}

/// Prints a result. A reader that has gone away, as `head` does, is no failure.
fn print(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end_matches('\n'));
}
