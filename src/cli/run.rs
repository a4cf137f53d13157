//! `keycard run` and `keycard connect`: a command that has a credential for as long as it runs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitCode, ExitStatus, Stdio};

use clap::Args;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use tokio::process::Child;

use super::credential::{self, Held};
use super::life::Life;
use super::service::Service;
use super::signals::{self, Signals};
use super::{Failure, secret, tell};
use crate::config::{self, Environment};

/// As shells have it: the command is there and cannot be run, or it is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The role to ask for.
    role: String,
    /// How long the credential lives between renewals, such as 90s or 10m [default: the role's].
    #[arg(long, value_parser = config::duration)]
    ttl: Option<u64>,
    /// The command to run, after --.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct Connect {
    /// The role to ask for.
    role: String,
    /// How long the credential lives between renewals, such as 90s or 10m [default: the role's].
    #[arg(long, value_parser = config::duration)]
    ttl: Option<u64>,
    /// What psql gets, after --.
    #[arg(last = true, value_name = "PSQL ARGUMENT")]
    arguments: Vec<OsString>,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    arguments: Run,
) -> Result<ExitCode, Failure> {
    let service = Service::load(path, environment)?;
    hold(&service, &arguments.role, arguments.ttl, &arguments.command).await
}

pub(super) async fn connect(
    path: Option<&Path>,
    environment: &Environment,
    arguments: Connect,
) -> Result<ExitCode, Failure> {
    let service = Service::load(path, environment)?;
    // Before anything is asked for that would have to be given back.
    let found = service
        .program(OsStr::new("psql"))
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    if found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(Failure::NotRun {
            code: NOT_FOUND,
            problem: "psql is not installed, or not in PATH; install PostgreSQL's client, or use \
                      another with `keycard run ROLE -- CMD`"
                .to_owned(),
        });
    }
    let mut command = vec![OsString::from("psql")];
    command.extend(arguments.arguments);
    hold(&service, &arguments.role, arguments.ttl, &command).await
}

/// Runs a command with a credential, which is renewed while it runs and given back afterwards.
async fn hold(
    service: &Service,
    role: &str,
    ttl_seconds: Option<u64>,
    command: &[OsString],
) -> Result<ExitCode, Failure> {
    let mut signals = Signals::of_a_child()?;
    let held = credential::obtain(service, role, ttl_seconds, &mut signals).await?;
    let mut life = Life::of(&held.granted);
    let ended = match start(service, &held, command) {
        Ok(child) => accompany(service, &mut life, ttl_seconds, child, &mut signals).await,
        Err(failure) => Err(failure),
    };
    let lease_id = &held.granted.data.lease_id;
    let given_back = give_back(service, lease_id, life.expires_at, &mut signals).await;
    if let Err(problem) = given_back {
        tell(&problem);
    }
    ended.map(|status| ExitCode::from(code_of(status)))
}

/// Gives the lease back; interrupted twice, it is left. Once is not enough: the signal that has
/// ended the command is often keycard's as well, and arrives here after the command's end.
async fn give_back(
    service: &Service,
    lease_id: &str,
    expires_at: Timestamp,
    signals: &mut Signals,
) -> Result<(), String> {
    let mut giving = pin!(service.give_back(lease_id, expires_at, "its command has ended"));
    tokio::select! {
        done = &mut giving => return done,
        // Cancel-safe: none is lost.
        _ = signals.end() => {}
    }
    tell("revoking the lease; interrupt once more to leave it to its end");
    tokio::select! {
        done = &mut giving => done,
        // Not cancel-safe, and said so: nobody waits any longer.
        _ = signals.end() => Err(format!(
            "interrupted; lease {lease_id} may not be revoked, and ends by itself at {expires_at}"
        )),
    }
}

/// Starts the command. Only it gets the credential, in its environment.
fn start(service: &Service, held: &Held, command: &[OsString]) -> Result<Child, Failure> {
    let program = command.first().map_or(OsStr::new(""), OsString::as_os_str);
    let mut child = service.program(program);
    child
        .args(command.iter().skip(1))
        .envs(secret::variables(&held.credential))
        .env("PGPASSWORD", held.credential.password.expose_secret());
    for variable in secret::OVERRIDING {
        child.env_remove(variable);
    }
    child.spawn().map_err(|error| {
        let (code, remedy) = if error.kind() == io::ErrorKind::NotFound {
            (NOT_FOUND, "check its name and PATH")
        } else {
            (NOT_EXECUTABLE, "check that it is a program you may run")
        };
        Failure::NotRun {
            code,
            problem: format!("{} cannot be run: {error}; {remedy}", program.display()),
        }
    })
}

/// Waits for the child, passes signals on to it and keeps its lease alive.
async fn accompany(
    service: &Service,
    life: &mut Life,
    ttl_seconds: Option<u64>,
    mut child: Child,
    signals: &mut Signals,
) -> Result<ExitStatus, Failure> {
    let pid = child.id();
    let mut keeping = pin!(keep(service, life, ttl_seconds));
    let mut kept = false;
    let mut ending = pin!(child.wait());
    loop {
        tokio::select! {
            // Cancel-safe: a child's end is remembered.
            ended = &mut ending => {
                return ended.map_err(|error| {
                    Failure::Failed(format!("the command cannot be waited for: {error}"))
                });
            }
            // Not dropped while the loop goes on.
            () = &mut keeping, if !kept => kept = true,
            // Cancel-safe: none is lost.
            signal = signals.next() => {
                if let Some(pid) = pid {
                    signals::pass_on(signal, pid);
                }
            }
        }
    }
}

const ENDED: &str = "the lease has ended; the command goes on without a credential that works";

/// Renews a lease at half of what is left of it, and says beforehand when it ends anyway.
async fn keep(service: &Service, life: &mut Life, ttl_seconds: Option<u64>) {
    let why = loop {
        tokio::time::sleep(life.half()).await;
        if !life.can_be_renewed() {
            break "it has reached its role's max_ttl".to_owned();
        }
        match life.renew(service, ttl_seconds).await {
            Ok(()) => {}
            Err(failure) if failure.is_lease_ended() => {
                tell(&format!("{ENDED}; it was ended before {}", life.expires_at));
                return;
            }
            Err(failure) => break failure.to_string(),
        }
    };
    if !life.left().is_zero() {
        tell(&format!(
            "the lease ends at {}, in {} s, and cannot be renewed: {why}",
            life.expires_at,
            life.left().as_secs()
        ));
    }
    tokio::time::sleep(life.left_at_most()).await;
    tell(ENDED);
}

/// A signal's number and 128, as shells have it.
fn code_of(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => signals::exit_code(signal),
        (None, None) => u8::MAX,
    }
}
