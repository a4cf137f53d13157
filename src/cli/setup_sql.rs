//! `keycard setup-sql`.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Failure, print};
use crate::config::{Config, Environment, Queue};
use crate::lease::Requester;
use crate::login;

pub(super) fn run(
    path: Option<&Path>,
    environment: &Environment,
    name: &str,
) -> Result<(), Failure> {
    let config = Config::load(path, environment)?;
    let Some(database) = config.databases.get(name) else {
        let known: Vec<&str> = config.databases.keys().map(String::as_str).collect();
        return Err(Failure::Usage(format!(
            "the configuration has no database {name:?}; it has {}",
            known.join(", ")
        )));
    };
    let groups: BTreeSet<&str> = config
        .roles
        .values()
        .filter(|role| role.database == name)
        .flat_map(|role| role.groups.iter().map(String::as_str))
        .collect();
    let groups: Vec<&str> = groups.into_iter().collect();
    let services: BTreeSet<&str> = match &config.queue {
        Queue::Postgres { database, .. } if database == name => config
            .roles
            .values()
            .flat_map(|role| &role.requesters)
            .chain(&config.operators)
            .map(Requester::as_str)
            .collect(),
        Queue::Postgres { .. } | Queue::Amqp(_) => BTreeSet::new(),
    };
    let services: Vec<&str> = services.into_iter().collect();
    print(&login::setup_sql(
        &database.dbname,
        database.user(),
        &groups,
        &services,
    ));
    Ok(())
}
