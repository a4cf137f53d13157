//! keycard.toml and the environment, validated as a whole.
//!
//! This is the only reader of the environment. A variable overrides a key of the file: `KEYCARD_`
//! and the key's path in upper case, `__` for its dots, `_` for everything else that no variable's
//! name can hold (`KEYCARD_DATABASES__MY_POSTGRES_DB__CONNECTION_URL`). All faults are reported at
//! once, each with its key and its remedy; what could be secret is never repeated.
//!
//! [`KEYS`] lists every key with its default.

mod broker;
mod check;
mod client;
mod connection;
mod conninfo;
mod duration;
mod environment;
mod keys;
mod management;
mod overlay;
mod password;
mod problem;
mod queue;
mod role;
mod section;
mod statements;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Table;

pub use client::{AmqpClient, Client, PostgresClient};
pub use connection::TlsMode;
pub use environment::Environment;
pub use keys::{KEYS, Key, Takes};
pub use management::Management;
pub use password::{LocalPassword, PasswordError, PasswordSource};
pub use problem::{ConfigErrors, Problem};
pub use queue::{Amqp, Queue};
pub use store::{Aws, Directory, Store};

use crate::lease::{Requester, RolePolicy};
use crate::login::{Owned, Statements};

/// Where the file is looked for when no `--config` names it, in this order.
pub const FILES: [&str; 2] = ["./keycard.toml", "/etc/keycard/keycard.toml"];

/// A configuration without faults in itself: nothing was connected to.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names this keycard in ledgers, secret tags and queues.
    pub installation: String,
    /// Who may renew and revoke any lease.
    pub operators: BTreeSet<Requester>,
    /// The databases by name, at least one.
    pub databases: BTreeMap<String, Database>,
    /// The roles by name. Each names one of the databases, which allows it.
    pub roles: BTreeMap<String, Role>,
    /// Where commands come from and results go.
    pub queue: Queue,
    /// Where the doctor asks for the broker's users; nowhere by default.
    pub management: Option<Management>,
    /// Where credentials are put.
    pub store: Store,
    /// How the worker behaves.
    pub worker: Worker,
}

/// A Postgres database that keycard administers.
#[derive(Debug, Clone)]
pub struct Database {
    /// The admin user's password.
    pub password: PasswordSource,
    /// How connections are protected: `verify-full` unless the URL says otherwise or stays on this
    /// host.
    pub tls: TlsMode,
    /// PEM file of the authorities trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The host that clients are told.
    pub public_host: String,
    /// The port that clients are told.
    pub public_port: u16,
    /// The database's own name, which clients are told as well.
    pub dbname: String,
    /// Most connections of one worker. 4 by default, as in Vault.
    pub max_connections: u32,
    settings: tokio_postgres::Config,
}

impl Database {
    /// How to connect as the admin user, without its password. [`TlsMode`] says what the TLS of it
    /// has to verify.
    #[must_use]
    pub fn connection(&self) -> tokio_postgres::Config {
        self.settings.clone()
    }

    /// The admin user.
    #[must_use]
    pub fn user(&self) -> &str {
        self.settings.get_user().unwrap_or_default()
    }
}

/// A template of logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Key of its database.
    pub database: String,
    /// Group roles that each login becomes a member of; sorted, each once.
    pub groups: Vec<String>,
    /// SQL that creates the login; `None` only when there are groups.
    pub creation_statements: Option<Statements>,
    /// SQL that renews the login; `None` for keycard's own.
    pub renew_statements: Option<Statements>,
    /// SQL that comes before keycard's own DROP ROLE.
    pub revocation_statements: Option<Statements>,
    /// What becomes of what a login owns.
    pub owned: Owned,
    /// Most connections of one login at a time.
    pub connection_limit: Option<u32>,
    /// Times to live and the cap on live leases.
    pub policy: RolePolicy,
    /// Who may ask for it. Nobody, if empty.
    pub requesters: BTreeSet<Requester>,
    /// Iterations of the SCRAM verifier. 4096 by default, as in Postgres.
    pub scram_iterations: u32,
}

/// How the worker behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Time between two sweeps of a ledger. 30 s by default.
    pub sweep_interval: Duration,
    /// Time between two comparisons of ledgers, logins and secrets. 1 h by default.
    pub reconcile_interval: Duration,
    /// How long work in flight may take to finish after SIGTERM. 25 s by default, 5 s less than
    /// Kubernetes waits before it kills.
    pub shutdown_grace: Duration,
    /// Older requests are denied unless they carry their own expiry. 15 min by default.
    pub max_request_age: Duration,
    /// How long a closed lease is kept, counted from when nothing can wake it any more. 90 days by
    /// default.
    pub keep_closed_leases: Duration,
    /// How long a row of the audit is kept. 90 days by default.
    pub keep_audit: Duration,
    /// Where metrics are served; nowhere by default.
    pub metrics_address: Option<SocketAddr>,
    /// Base URL of the collector that traces are sent to; none by default.
    pub otlp_endpoint: Option<String>,
}

impl Config {
    /// Reads the file (`path`, or the first of [`FILES`] that exists) and the environment.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigErrors> {
        let (path, text) = read(path)?;
        let directory = std::path::absolute(&path).map_err(|error| {
            ConfigErrors::one(
                &path.display().to_string(),
                format!("has no absolute path: {error}"),
                "name the file by a path that begins with '/'",
            )
        })?;
        let directory = directory.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, directory, environment).map_err(|errors| errors.of_file(&path))
    }

    /// Validates a file's content together with the environment. `directory`, an absolute path, is
    /// where the file is, and its secrets if it does not say otherwise.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn parse(
        text: &str,
        directory: &Path,
        environment: &Environment,
    ) -> Result<Self, ConfigErrors> {
        parse(text, environment, |top| check::config(top, directory))
    }

    /// Tries every password that is in the environment or in a file: what a worker does when it
    /// starts, and what a check of the file alone does without.
    ///
    /// # Errors
    /// Every password that cannot be had.
    pub fn check_passwords(&self) -> Result<(), ConfigErrors> {
        check::passwords(self)
            .into_errors(|_| None)
            .map_or(Ok(()), Err)
    }
}

/// The variables that give passwords of keycard's own, set or not: no other program needs them.
///
/// # Errors
/// When the file cannot be read or is not TOML.
pub fn password_variables(
    path: Option<&Path>,
    environment: &Environment,
) -> Result<BTreeSet<String>, ConfigErrors> {
    let (_, text) = read(path)?;
    Ok(overlay::password_variables(table(&text)?, environment))
}

/// The seconds of a duration as the configuration writes it: `90s`, `10m`, `1h30m`, `7d`.
///
/// # Errors
/// When it is none; the text says how one looks.
pub fn duration(text: &str) -> Result<u64, String> {
    duration::parse(text).ok_or_else(|| format!("{text:?} is no duration; {}", duration::EXAMPLES))
}

/// Overlays a file's content with the environment, and reads of it what `sections` reads.
fn parse<T>(
    text: &str,
    environment: &Environment,
    sections: impl FnOnce(&section::Section) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let problems = problem::Problems::default();
    let raw = overlay::overlay(table(text)?, environment, &problems);
    keys::report_unknown(&raw.table, &problems);
    let read = sections(&section::Section::top(section::Context {
        raw: &raw,
        environment,
        problems: &problems,
    }));
    let variable = |key: &str| raw.variables.get(key).cloned();
    match (problems.into_errors(variable), read) {
        (None, Some(read)) => Ok(read),
        (Some(errors), _) => Err(errors),
        // Not reached: what cannot be read has been reported.
        (None, None) => Err(ConfigErrors::one(
            "keycard.toml",
            "cannot be used".to_owned(),
            "please report this with the file",
        )),
    }
}

/// `path`, or the first of [`FILES`] that exists, and its content.
fn read(path: Option<&Path>) -> Result<(PathBuf, String), ConfigErrors> {
    match path {
        Some(path) => read_first(&[path]),
        None => read_first(&FILES.map(Path::new)),
    }
}

fn read_first(candidates: &[&Path]) -> Result<(PathBuf, String), ConfigErrors> {
    for path in candidates {
        match std::fs::read_to_string(path) {
            Ok(text) => return Ok(((*path).to_owned(), text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(ConfigErrors::one(
                    &path.display().to_string(),
                    format!("cannot be read: {error}"),
                    "make it a UTF-8 file that keycard may read",
                ));
            }
        }
    }
    let tried: Vec<String> = candidates
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Err(ConfigErrors::one(
        "--config",
        format!("there is no {}", tried.join(" and no ")),
        "create the file, or name another with --config PATH",
    ))
}

fn table(text: &str) -> Result<Table, ConfigErrors> {
    text.parse().map_err(|error| syntax(text, &error))
}

fn syntax(text: &str, error: &toml::de::Error) -> ConfigErrors {
    let before = error
        .span()
        .and_then(|span| text.get(..span.start))
        .unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let start_of_line = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[start_of_line..].chars().count() + 1;
    ConfigErrors::one(
        &format!("line {line}, column {column}"),
        format!("is not TOML: {}", error.message().replace('\n', ", ")),
        "mend the file's syntax there",
    )
}
