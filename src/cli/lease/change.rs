//! `keycard lease renew` and `keycard lease revoke`: events like any service's.

use std::path::Path;

use clap::Args;

use crate::cli::Failure;
use crate::cli::output::{Output, event};
use crate::cli::service::Service;
use crate::config::{self, Environment};
use crate::lease::LeaseId;

#[derive(Debug, Args)]
pub(in crate::cli) struct Renew {
    /// The lease's id, as `keycard lease list` has it.
    lease_id: LeaseId,
    /// How long it shall live from now, such as 90s, 10m or 1h30m [default: the role's].
    #[arg(long, value_parser = config::duration)]
    ttl: Option<u64>,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Revoke {
    /// The lease's id, as `keycard lease list` has it.
    lease_id: LeaseId,
    /// Why, for the audit and the worker's log.
    #[arg(long)]
    reason: Option<String>,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn renew(
    path: Option<&Path>,
    environment: &Environment,
    arguments: &Renew,
) -> Result<(), Failure> {
    let service = Service::load(path, environment)?;
    let lease_id = arguments.lease_id.to_string();
    let renewed = service.renew(&lease_id, arguments.ttl).await?;
    event(&renewed.event, arguments.output);
    Ok(())
}

pub(super) async fn revoke(
    path: Option<&Path>,
    environment: &Environment,
    arguments: &Revoke,
) -> Result<(), Failure> {
    let service = Service::load(path, environment)?;
    let lease_id = arguments.lease_id.to_string();
    let revoked = service
        .revoke(&lease_id, arguments.reason.as_deref())
        .await?;
    event(&revoked.event, arguments.output);
    Ok(())
}
