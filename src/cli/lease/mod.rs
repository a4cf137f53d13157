//! `keycard lease`: looks at leases in the ledgers themselves, and changes them as any service
//! would, through the queue.

mod change;
mod look;

use std::path::Path;

use clap::Subcommand;

use super::Failure;
use crate::config::Environment;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The newest leases of every database, newest first.
    #[command(
        after_help = "Example:\n  keycard lease list --all --requester orders-svc --output json"
    )]
    List(look::List),
    /// One lease, by its id, its username or the id of a request about it.
    #[command(
        after_help = "Example:\n  keycard lease show my-postgres-db.01890a5d-ac96-774b-bcce-b302099a8057"
    )]
    Show(look::Show),
    /// Ask for another end of a lease, as the user of the [client] section.
    #[command(
        after_help = "Example:\n  keycard lease renew my-postgres-db.01890a5d-ac96-774b-bcce-b302099a8057 --ttl 1h"
    )]
    Renew(change::Renew),
    /// Ask for the end of a lease now, as the user of the [client] section.
    #[command(
        after_help = "Example:\n  keycard lease revoke my-postgres-db.01890a5d-ac96-774b-bcce-b302099a8057 --reason 'laptop lost'"
    )]
    Revoke(change::Revoke),
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    command: Command,
) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => look::list(path, environment, &arguments).await,
        Command::Show(arguments) => look::show(path, environment, &arguments).await,
        Command::Renew(arguments) => change::renew(path, environment, &arguments).await,
        Command::Revoke(arguments) => change::revoke(path, environment, &arguments).await,
    }
}
