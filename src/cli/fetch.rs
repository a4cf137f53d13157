//! `keycard fetch`: keeps a file with a credential that works, for programs that read one.
//!
//! A new credential comes before the old one ends, so that whoever has read the file a moment ago
//! is not cut off. When it is told to stop, file and lease stay until the lease ends by itself:
//! the file's readers outlive a restart of whoever keeps it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::NamedTempFile;
use tokio::process::Command;
use tokio::time::sleep;

use super::credential;
use super::life::Life;
use super::secret::{self, Format};
use super::service::Service;
use super::signals::Signals;
use super::{Failure, tell};
use crate::config::{self, Environment};

/// Pauses between tries at a new credential.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The role to ask for.
    role: String,
    /// The file to keep; only its owner may read it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How the credential is written.
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// What sh -c runs after each new file.
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// How long a credential lives between renewals, such as 90s or 10m [default: the role's].
    #[arg(long, value_parser = config::duration)]
    ttl: Option<u64>,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    arguments: Arguments,
) -> Result<(), Failure> {
    let target = Target::check(&arguments.out)?;
    let service = Service::load(path, environment)?;
    let mut signals = Signals::ending()?;
    // The credential in the file.
    let mut current: Option<Life> = None;
    let mut pause = PAUSE_MIN;
    loop {
        match renewed_file(&service, &arguments, &target, &mut signals).await {
            Ok(life) => {
                tell(&format!(
                    "{} holds a new credential, which ends at {} unless renewed",
                    target.path.display(),
                    life.expires_at
                ));
                pause = PAUSE_MIN;
                let life = current.insert(life);
                if let Some(command) = &arguments.exec {
                    let mut shell = service.program(OsStr::new("sh"));
                    shell.args(["-c", command]);
                    tokio::spawn(execute(shell));
                }
                tokio::select! {
                    () = keep(&service, life, arguments.ttl) => {}
                    // Cancel-safe: a renewal that nobody waits for does no harm.
                    _ = signals.end() => break,
                }
            }
            Err(Failure::Interrupted { left, .. }) if current.is_some() => {
                tell(&left);
                break;
            }
            Err(failure) if current.is_none() && !failure.may_pass() => return Err(failure),
            Err(failure) => {
                tell(&format!(
                    "no new credential: {failure}; trying again in {} s",
                    pause.as_secs()
                ));
                tokio::select! {
                    () = sleep(pause) => {}
                    // Cancel-safe: nothing is under way.
                    _ = signals.end() => break,
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    if let Some(life) = current {
        tell(&format!(
            "stopped; the credential in {} ends by itself at {}",
            target.path.display(),
            life.expires_at
        ));
    }
    Ok(())
}

/// Asks for a new credential and writes it; one that cannot be written is given back.
async fn renewed_file(
    service: &Service,
    arguments: &Arguments,
    target: &Target,
    signals: &mut Signals,
) -> Result<Life, Failure> {
    // What cannot be written shall not be issued, time and again.
    target.try_out()?;
    let held = credential::obtain(service, &arguments.role, arguments.ttl, signals).await?;
    if let Err(error) = target.write(&secret::show(&held, arguments.format)) {
        let problem = target.unwritable(&error);
        let issued = &held.granted.data;
        let reason = "its file cannot be written";
        let given_back = service.give_back(&issued.lease_id, issued.expires_at, reason);
        return Err(Failure::Failed(match given_back.await {
            Ok(()) => problem,
            Err(left) => format!("{problem}\n{left}"),
        }));
    }
    Ok(Life::of(&held.granted))
}

/// Renews the lease at half of what is left of it, until it is time for another: at half of the
/// longest life, or when this one cannot be renewed although it should.
async fn keep(service: &Service, life: &mut Life, ttl_seconds: Option<u64>) {
    loop {
        let (change, half) = (life.left_of_half_the_longest(), life.half());
        if !life.can_be_renewed() || change <= half {
            // A lease that ends early has to be replaced early.
            return sleep(change.min(half)).await;
        }
        sleep(half).await;
        if let Err(failure) = life.renew(service, ttl_seconds).await {
            return tell(&format!("the lease could not be renewed: {failure}"));
        }
    }
}

/// Runs what is to be run after each new file.
async fn execute(mut shell: Command) {
    match shell.status().await {
        Ok(status) if status.success() => {}
        Ok(status) => tell(&format!("--exec failed with {status}")),
        Err(error) => tell(&format!("--exec cannot be run: {error}")),
    }
}

/// The file that is kept.
struct Target {
    path: PathBuf,
    directory: PathBuf,
}

impl Target {
    /// Finds out whether the file can be written, before anything is asked for.
    fn check(path: &Path) -> Result<Self, Failure> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let directory = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let target = Self {
            path: path.to_owned(),
            directory: directory.to_owned(),
        };
        if path.is_dir() || path.file_name().is_none() {
            return Err(Failure::Usage(format!(
                "--out {}: is no file's name; name a file",
                path.display()
            )));
        }
        target.try_out()?;
        Ok(target)
    }

    /// Finds out whether a file can take its place now.
    fn try_out(&self) -> Result<(), Failure> {
        match self.opened().and_then(|_| self.fresh()) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::Usage(self.unwritable(&error))),
        }
    }

    /// Replaces the file as a whole: a reader finds the old one or the new one. An error leaves
    /// the old one.
    fn write(&self, content: &SecretString) -> io::Result<()> {
        let directory = self.opened()?;
        let mut file = self.fresh()?;
        file.write_all(content.expose_secret().as_bytes())?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        // Its readers have it, whatever comes now.
        if let Err(error) = directory.sync_all() {
            tell(&format!(
                "{} may be gone after a power failure: {error}",
                self.path.display()
            ));
        }
        Ok(())
    }

    fn opened(&self) -> io::Result<File> {
        File::open(&self.directory)
    }

    /// A file beside it that only its owner may read, removed unless it takes its place.
    fn fresh(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(".keycard-")
            .tempfile_in(&self.directory)
    }

    fn unwritable(&self, error: &io::Error) -> String {
        // tempfile's own text names the random file; its kind says enough.
        format!(
            "--out {}: {} cannot be written: {}; name a file in a directory that exists and that \
             you may write",
            self.path.display(),
            self.directory.display(),
            error.kind()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_file_is_replaced_as_a_whole_and_only_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credential");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut reader = File::open(&path).unwrap();
        let target = Target::check(&path).unwrap();
        target.write(&"new".into()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let old = io::read_to_string(&mut reader).unwrap();
        assert_eq!(old, "old", "whoever has it open keeps what it was");
        let files = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(files, 1, "nothing else is left");
    }

    #[test]
    fn what_is_no_file_in_a_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["", "missing/file"] {
            let failure = Target::check(&directory.path().join(path)).err().unwrap();
            assert!(matches!(failure, Failure::Usage(_)), "{failure}");
        }
    }
}
