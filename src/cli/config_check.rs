//! `keycard config check`.

use std::path::Path;

use super::{Failure, print};
use crate::config::{Config, Environment};

pub(super) fn run(path: Option<&Path>, environment: &Environment) -> Result<(), Failure> {
    let config = Config::load(path, environment)?;
    print(&format!(
        "The configuration of installation {:?} is right: {} database(s), {} role(s). \
         Nothing was connected to.",
        config.installation,
        config.databases.len(),
        config.roles.len()
    ));
    Ok(())
}
