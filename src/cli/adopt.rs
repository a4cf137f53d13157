//! `keycard adopt`: what becomes of a ledger that finds itself elsewhere than it was written, or in
//! front of a store that has lost its secrets. Explains first.

use std::path::Path;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Failure, freeze, print};
use crate::app::{self, AppError};
use crate::config::{Config, Environment};
use crate::ledger::{Adoption, Record, Standing};
use crate::worker::Bereft;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The database's key in the configuration.
    #[arg(long, value_name = "NAME")]
    database: String,
    /// The original is gone, and this database takes its place.
    #[arg(long)]
    moved: bool,
    /// Do what is explained; without it nothing is changed.
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    arguments: &Arguments,
) -> Result<(), Failure> {
    let config = Config::load(path, environment)?;
    let name = &arguments.database;
    if !config.databases.contains_key(name) {
        return Err(Failure::Usage(format!(
            "the configuration has no database {name:?}; write one of [databases]"
        )));
    }
    let (ledger, store) = app::ledger_and_store(&config, name).await?;
    let view = ledger.unchecked_view().await.map_err(AppError::from)?;
    let installation = &config.installation;
    let standing = view.standing(installation).await.map_err(AppError::from)?;
    let bereft = Bereft::look(&view, store.as_ref()).await;
    print(&found(name, &standing, &bereft));
    if standing.is_at_home() {
        let bereft = bereft.map_err(|error| {
            Failure::Failed(format!(
                "whether secrets are gone cannot be told: {error}; mend that and try again"
            ))
        })?;
        freeze::warn(&ledger).await?;
        return at_home(&config, arguments, &bereft).await;
    }
    let how = if arguments.moved {
        Adoption::Moved
    } else {
        Adoption::Copy
    };
    print(plan(how, &standing));
    if let Some(problem) = standing.objection(how) {
        return Err(Failure::Failed(format!(
            "this ledger cannot be adopted so: {problem}"
        )));
    }
    if !arguments.yes {
        print(NOTHING_CHANGED);
        return Ok(());
    }
    ledger.adopt(how).await.map_err(AppError::from)?;
    print("Done. Start the workers again.");
    Ok(())
}

const NOTHING_CHANGED: &str = "Nothing was changed. Add --yes to have it done.";

/// The ledger is where it was written; its secrets may be gone all the same.
async fn at_home(config: &Config, arguments: &Arguments, bereft: &Bereft) -> Result<(), Failure> {
    if bereft.leases.is_empty() {
        print("It is where it was written, and there is nothing to adopt.");
        return Ok(());
    }
    print(
        "It is where it was written. If these secrets can be brought back, do that instead.\n\
         Otherwise the leases without a secret are revoked: their logins are dropped, their sessions\n\
         end, their requesters are told `revoked`, cause `missing`.",
    );
    if !arguments.yes {
        print(NOTHING_CHANGED);
        return Ok(());
    }
    config.check_passwords()?;
    let worker = app::worker(config, None, Some(app::PATIENCE), &CancellationToken::new()).await?;
    worker
        .revoke_bereft(&arguments.database)
        .await
        .map_err(Failure::Failed)?;
    print("Done. What could not be ended yet is gone on with by the workers.");
    Ok(())
}

/// What there is, before anything is said about what to do.
fn found(name: &str, standing: &Standing, bereft: &Result<Bereft, String>) -> String {
    let Standing {
        open,
        with_login,
        with_other_oid,
        ..
    } = standing;
    let original = standing.original.as_ref().map_or_else(String::new, |name| {
        format!("\n  (that is database {name:?}, which is still there)")
    });
    let secrets = match bereft {
        Ok(Bereft { delivered, leases }) => format!(
            "Secrets of the {delivered} delivered leases: {} in the store, {} gone.",
            delivered - leases.len(),
            leases.len()
        ),
        Err(error) => format!("Secrets of delivered leases: {error}."),
    };
    format!(
        "The ledger in database {name} was written for\n  {}{original}\nand is now in\n  {}\n\
         Leases that have not ended: {open}. Their logins: {with_login} here, {with_other_oid} here \
         under another OID, {} not here.\n{secrets}\n",
        place(&standing.recorded),
        place(&standing.here),
        open - with_login - with_other_oid,
    )
}

fn place(record: &Record) -> String {
    format!(
        "installation {:?}, cluster {}, database {}",
        record.installation, record.system_identifier, record.database_oid
    )
}

fn plan(how: Adoption, standing: &Standing) -> &'static str {
    match (how, standing.open) {
        (Adoption::Copy, _) => {
            "As a copy of an original that goes on (with --moved: in the place of one that is gone):\n\
             - The ledger is recorded as this database's, and begins anew: leases, requests, results,\n  \
               messages and dead letters are forgotten. The audit stays, and tells of it.\n\
             - Logins and secrets are the original's: none is dropped, disabled or deleted. Logins that\n  \
               are here end by VALID UNTIL; drop those yourself that the original does not use.\n"
        }
        (Adoption::Moved, 0) => {
            "In the place of an original that is gone:\n\
             - The ledger is recorded as this database's. No lease is concerned.\n"
        }
        (Adoption::Moved, _) => {
            "In the place of an original that is gone:\n\
             - The ledger is recorded as this database's. The audit tells of it.\n\
             - Leases whose logins are here by name, under whichever OID, go on and end on time: then the\n  \
               login is dropped and the secret deleted.\n\
             - Leases whose logins are not here are ended by the next reconciliation: their secrets are\n  \
               deleted and their requesters told `revoked`, cause `missing`.\n\
             - Delivered leases whose secrets are not in the store were revoked before, and are revoked\n  \
               again; if those are all, or more than five and more than a fifth, only after another\n  \
               `keycard adopt`.\n"
        }
    }
}
