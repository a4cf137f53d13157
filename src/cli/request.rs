//! `keycard request`: asks for a credential as a service would.

use std::path::Path;

use clap::Args;
use secrecy::ExposeSecret as _;

use super::output::{Output, event};
use super::secret::{self, Format};
use super::service::Service;
use super::signals::Signals;
use super::{Failure, credential, print};
use crate::config::{self, Environment};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The role to ask for.
    role: String,
    /// How long the credential shall live, such as 90s, 10m or 1h30m [default: the role's].
    #[arg(long, value_parser = config::duration)]
    ttl: Option<u64>,
    /// Read the secret, and print the credential itself in this format.
    #[arg(long, value_enum, conflicts_with = "output")]
    format: Option<Format>,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    arguments: Arguments,
) -> Result<(), Failure> {
    let service = Service::load(path, environment)?;
    let mut signals = Signals::ending()?;
    let (role, ttl) = (&arguments.role, arguments.ttl);
    match arguments.format {
        None => {
            let granted = credential::ask(&service, role, ttl, &mut signals).await?;
            event(&granted.event, arguments.output);
        }
        Some(format) => {
            let held = credential::obtain(&service, role, ttl, &mut signals).await?;
            print(secret::show(&held, format).expose_secret());
        }
    }
    Ok(())
}
