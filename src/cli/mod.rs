//! The command line: one file for each subcommand.

mod adopt;
mod audit;
mod config_check;
mod credential;
mod dead_letters;
mod doctor;
mod fetch;
mod freeze;
mod import;
mod lease;
mod life;
mod manual;
mod output;
mod reconcile;
mod request;
mod run;
mod secret;
mod service;
mod setup_sql;
mod signals;
mod stack;
mod worker;

pub use import::{Fate, Kind, TERMS, Term};

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use rustix::process::Signal;
use tracing::level_filters::LevelFilter;

use crate::app::AppError;
use crate::config::{ConfigErrors, Environment};
use crate::fault::Disposition;
use crate::lease::DenialCode;
use crate::telemetry::{self, Format};

/// Keeps these apart from the options of a command.
const GLOBAL: &str = "Options of every command";

/// The arguments of the command.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    about = "Short-lived PostgreSQL credentials on request, taken back on time.",
    after_help = "Example:\n  keycard --config keycard.toml config check\n\n\
                  Exit codes: 0 done; 1 failed, the message says what and what to do; 2 the \
                  arguments or the configuration are wrong; 3 the request was denied; 4 reconcile found \
                  what differs; 128 and a signal's number when that has interrupted it. run and \
                  connect exit as their command does, with 126 when it cannot be run and 127 when \
                  there is none."
)]
pub struct Arguments {
    /// The configuration [default: ./keycard.toml, then /etc/keycard/keycard.toml].
    #[arg(long, global = true, value_name = "PATH", help_heading = GLOBAL)]
    config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug or trace [default: info for the worker, else warn].
    #[arg(long, global = true, value_name = "LEVEL", help_heading = GLOBAL)]
    log_level: Option<LevelFilter>,
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t, help_heading = GLOBAL)]
    log_format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve: issue, renew, revoke and expire until SIGTERM.
    #[command(
        after_help = "Example:\n  keycard --config /etc/keycard/keycard.toml worker\n  keycard worker --drain",
        long_about = "Serve: issue, renew, revoke and expire until SIGTERM.\n\nWith --drain it ends \
                      by itself, for a cron job beside workers that are scaled to zero: a message \
                      that was lost wakes nobody. It does what waits in the queue when it begins, \
                      looks in each database for what is due and removes what is old, and exits with \
                      0; with 1 when something was out of reach, after doing the rest, or when it was \
                      stopped before. It serves no metrics."
    )]
    Worker(worker::Arguments),
    /// Look at the configuration.
    #[command(subcommand, after_help = "Example:\n  keycard config check")]
    Config(ConfigCommand),
    /// Look at everything that a worker needs, and rehearse every role; exit code 1 when something fails.
    #[command(
        after_help = "Example:\n  keycard doctor\n  keycard doctor --output json",
        long_about = "Look at everything that a worker needs, and rehearse every role; exit code 1 \
                      when something fails, 0 when there are warnings only.\n\nOf each role a login \
                      is created, used and dropped: a lease of the requester keycard-doctor, whose \
                      login is refused after 20 s whatever becomes of this command. A secret is \
                      written and deleted. Nothing else is changed.\n\nWith [management] an \
                      administrator of the broker is asked which users may publish in any name. \
                      Nothing is logged without --log-level."
    )]
    Doctor(doctor::Arguments),
    /// Print the script that a DBA runs once in a database, so that keycard needs no superuser.
    #[command(
        after_help = "Example:\n  keycard setup-sql --database my-postgres-db \\\n    | psql -v ON_ERROR_STOP=1 -d mydb"
    )]
    SetupSql {
        /// The database's key in the configuration.
        #[arg(long, value_name = "NAME")]
        database: String,
    },
    /// Ask for a credential, as a service would, with the user of the [client] section.
    #[command(
        after_help = "Example:\n  keycard request app-role --ttl 10m --output json\n  \
                      eval \"$(keycard request app-role --format env)\"",
        long_about = "Ask for a credential, as a service would, with the user of the [client] \
                      section.\n\nWhere the database is reached with TLS, libpq needs the \
                      authority's certificate in PGSSLROOTCERT or ~/.postgresql/root.crt."
    )]
    Request(request::Arguments),
    /// Run a command with a credential of its own, renewed while it runs and revoked afterwards.
    #[command(
        after_help = "Example:\n  keycard run app-role --ttl 10m -- pg_dump --table orders",
        long_about = "Run a command with a credential of its own, renewed while it runs and revoked \
                      afterwards.\n\nThe command finds PGHOST, PGPORT, PGDATABASE, PGUSER and \
                      PGPASSWORD in its environment, and PGSSLMODE=verify-full where the database \
                      is reached with TLS: libpq then needs the authority's certificate in \
                      PGSSLROOTCERT or ~/.postgresql/root.crt. Variables that give keycard's own passwords, as the \
                      configuration names them, are taken out of it. It gets keycard's signals, and \
                      keycard exits as it does. A lease that ends before the command does is told beforehand."
    )]
    Run(run::Run),
    /// Open psql with a credential of its own, renewed while it runs and revoked afterwards.
    #[command(
        after_help = "Example:\n  keycard connect app-role -- -c 'SELECT current_user'",
        long_about = "Open psql with a credential of its own, renewed while it runs and revoked \
                      afterwards.\n\npsql has the same environment as a command of `keycard run`."
    )]
    Connect(run::Connect),
    /// Keep a file with a credential that works, until SIGTERM.
    #[command(
        after_help = "Example:\n  keycard fetch app-role --out /run/app/db.json --exec 'systemctl reload app'",
        long_about = "Keep a file with a credential that works, until SIGTERM.\n\nThe file is \
                      replaced as a whole and readable for its owner only. The lease is renewed, and \
                      at half of the role's max_ttl replaced by a new one; the old one is left to end \
                      by itself, so that readers of the last file are not cut off. When it is told \
                      to stop, file and lease stay, until the lease ends by itself. What --exec runs \
                      gets no variable that gives a password of keycard's own."
    )]
    Fetch(fetch::Arguments),
    /// Look at leases in the ledger itself, and change them.
    #[command(subcommand, after_help = "Example:\n  keycard lease list")]
    Lease(lease::Command),
    /// Who had which credential, why it ended, and who was refused; the newest last.
    #[command(after_help = "Example:\n  keycard audit --role app-role --since 30d")]
    Audit(audit::Arguments),
    /// Compare ledgers, logins and secrets, both ways; exit code 4 when something differs.
    #[command(
        after_help = "Example:\n  keycard reconcile\n  keycard reconcile --apply --output json"
    )]
    Reconcile(reconcile::Arguments),
    /// Have nothing revoked, in any database of the configuration, until it is thawed.
    #[command(
        after_help = "Example:\n  keycard freeze --reason 'restoring a backup'",
        long_about = "Have nothing revoked, in any database of the configuration, until it is \
                      thawed.\n\nNo login is disabled, terminated or dropped, and no secret \
                      deleted. Credentials are issued and renewed as ever, and logins still end: \
                      Postgres refuses them from their VALID UNTIL on. Who asks for a revocation \
                      is answered once it is carried out."
    )]
    Freeze(freeze::Freeze),
    /// Have revocations go on after they were frozen.
    #[command(after_help = "Example:\n  keycard thaw")]
    Thaw,
    /// Make a ledger this database's that was written elsewhere, or go on without lost secrets.
    #[command(after_help = "Example:\n  keycard adopt --database my-postgres-db\n\n\
                      A ledger that was copied or restored elsewhere, or into another installation, \
                      issues and revokes nothing. This explains what there is and what would become \
                      of it; --yes does it.")]
    Adopt(adopt::Arguments),
    /// Look at what could not be processed, and hand it over again or drop it, with the user of the
    /// [client] section.
    #[command(
        subcommand,
        after_help = "Example:\n  keycard dead-letters list\n\n\
                      The user must be named in `operators`; with RabbitMQ it needs to read \
                      keycard.dead-letters instead, and nothing else of keycard's."
    )]
    DeadLetters(dead_letters::Command),
    /// Come from another system.
    #[command(
        subcommand,
        after_help = "Example:\n  keycard import vault my-db.json app-role.json"
    )]
    Import(import::Command),
    /// Print the script by which a shell completes these commands.
    #[command(after_help = "Example:\n  keycard completions bash > /etc/bash_completion.d/keycard")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page of keycard, or of one of its commands.
    #[command(after_help = "Example:\n  keycard man lease list | man -l -")]
    Man {
        /// The command's words.
        #[arg(value_name = "COMMAND")]
        words: Vec<String>,
    },
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
pub async fn run(arguments: Arguments, environment: &Environment) -> Result<ExitCode, Failure> {
    let (level, format) = (arguments.log_level, arguments.log_format);
    // A worker's begin with its traces, which the configuration says. The doctor's checks say what
    // is wrong, and lines beside them, those of the audit above all, would bury them.
    let is_worker = matches!(arguments.command, Command::Worker(_));
    let is_doctor = matches!(arguments.command, Command::Doctor(_));
    if !is_worker && (!is_doctor || level.is_some()) {
        telemetry::start(level.unwrap_or(LevelFilter::WARN), format, None);
    }
    let config = arguments.config.as_deref();
    let done = match arguments.command {
        Command::Worker(arguments) => {
            let level = level.unwrap_or(LevelFilter::INFO);
            worker::run(config, environment, &arguments, (level, format)).await
        }
        Command::Config(ConfigCommand::Check) => config_check::run(config, environment),
        Command::Doctor(arguments) => doctor::run(config, environment, arguments).await,
        Command::SetupSql { database } => setup_sql::run(config, environment, &database),
        Command::Adopt(arguments) => adopt::run(config, environment, &arguments).await,
        Command::Audit(audit) => audit::run(config, environment, audit).await,
        Command::Reconcile(arguments) => reconcile::run(config, environment, arguments).await,
        Command::Import(command) => import::run(&command),
        Command::Request(request) => request::run(config, environment, request).await,
        Command::Run(run) => return run::run(config, environment, run).await,
        Command::Connect(connect) => return run::connect(config, environment, connect).await,
        Command::Fetch(fetch) => fetch::run(config, environment, fetch).await,
        Command::Lease(command) => lease::run(config, environment, command).await,
        Command::Freeze(arguments) => freeze::freeze(config, environment, &arguments).await,
        Command::Thaw => freeze::thaw(config, environment).await,
        Command::DeadLetters(command) => dead_letters::run(config, environment, command).await,
        Command::Completions { shell } => {
            manual::completions(shell);
            Ok(())
        }
        Command::Man { words } => manual::page(&words),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong.
    #[error("the configuration{file} cannot be used\n{0}", file = named(.0))]
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
    /// Ledgers, logins and secrets do not agree.
    #[error("{0}")]
    Differs(String),
    /// keycard denied the request.
    #[error("denied ({code}): {message}")]
    Denied {
        /// The stable code.
        code: String,
        /// For people.
        message: String,
        /// Whether a new request may succeed though nobody changed anything.
        retryable: bool,
    },
    /// The command that was to have a credential cannot be run.
    #[error("{problem}")]
    NotRun {
        /// The exit code that shells have for it.
        code: u8,
        /// What cannot be run, why, and what to do.
        problem: String,
    },
    /// A signal came first.
    #[error("interrupted; {left}")]
    Interrupted {
        /// Which.
        signal: Signal,
        /// What is left behind, or what became of it.
        left: String,
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
            Self::Differs(_) => ExitCode::from(4),
            Self::NotRun { code, .. } => ExitCode::from(*code),
            Self::Interrupted { signal, .. } => ExitCode::from(signals::exit_code(signal.as_raw())),
        }
    }

    /// Whether the same may succeed later though nobody mends anything here.
    fn may_pass(&self) -> bool {
        match self {
            Self::App(AppError::Queue(error)) => error.disposition == Disposition::Retry,
            Self::Denied { retryable, .. } => *retryable,
            Self::Failed(_)
            | Self::App(_)
            | Self::Config(_)
            | Self::Usage(_)
            | Self::Differs(_)
            | Self::NotRun { .. }
            | Self::Interrupted { .. } => false,
        }
    }

    /// Whether it was denied because the lease is over.
    fn is_lease_ended(&self) -> bool {
        matches!(self, Self::Denied { code, .. } if code == DenialCode::LeaseEnded.as_str())
    }
}

fn named(errors: &ConfigErrors) -> String {
    errors
        .file()
        .map_or_else(String::new, |file| format!(" in {}", file.display()))
}

/// Prints a result. A reader that has gone away, as `head` does, is no failure.
fn print(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end_matches('\n'));
}

/// Tells the person at the terminal something that is no result.
fn tell(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "keycard: {text}");
}
