//! `keycard freeze` and `keycard thaw`: whether anything is revoked.

use std::path::Path;
use std::sync::Arc;

use clap::Args;

use super::{Failure, print, tell};
use crate::app::{self, AppError};
use crate::config::{Config, Environment};
use crate::ledger::{Ledger, LedgerError};

#[derive(Debug, Args)]
pub(super) struct Freeze {
    /// Why, for everybody who wonders.
    #[arg(long)]
    reason: Option<String>,
}

pub(super) async fn freeze(
    path: Option<&Path>,
    environment: &Environment,
    arguments: &Freeze,
) -> Result<(), Failure> {
    let reason = arguments.reason.as_deref();
    let done = "revocations are frozen; those under way finish within a minute";
    each(path, environment, done, async |ledger| {
        ledger.freeze(reason).await
    })
    .await
}

pub(super) async fn thaw(path: Option<&Path>, environment: &Environment) -> Result<(), Failure> {
    let done = "revocations go on; what is due ends with the next sweep";
    each(path, environment, done, async |ledger| ledger.thaw().await).await
}

/// Does it to every database that can be reached, and fails if one cannot.
async fn each(
    path: Option<&Path>,
    environment: &Environment,
    done: &str,
    change: impl AsyncFn(&Ledger) -> Result<(), LedgerError>,
) -> Result<(), Failure> {
    let config = Config::load(path, environment)?;
    let mut failures = Vec::new();
    for ledger in app::ledgers(&config, &Arc::new(app::rules(&config)))? {
        match change(&ledger).await {
            Ok(()) => print(&format!("{}: {done}", ledger.database())),
            Err(error) => failures.push(format!("{}: not done: {error}", ledger.database())),
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        failures.push("do it again when that is mended".to_owned());
        Err(Failure::Failed(failures.join("\n")))
    }
}

/// Tells whoever looks at leases that none of them ends for now.
pub(super) async fn warn(ledger: &Ledger) -> Result<(), Failure> {
    if let Some(frozen) = ledger.frozen().await.map_err(AppError::from)? {
        let reason = frozen
            .reason
            .map_or_else(String::new, |reason| format!(" ({reason})"));
        tell(&format!(
            "{}: revocations are frozen since {}{reason}; {} leases wait for `keycard thaw`",
            ledger.database(),
            frozen.since,
            frozen.waiting
        ));
    }
    Ok(())
}
