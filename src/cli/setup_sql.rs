//! `keycard setup-sql`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Failure, print};
use crate::config::{Config, Environment, Queue};
use crate::lease::Requester;
use crate::login::{self, Owned, Setup};

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
    let mut keepers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for role in config.roles.values().filter(|role| role.database == name) {
        let Owned::Reassigned(keeper) = &role.owned else {
            continue;
        };
        let of_role: BTreeSet<&str> = role
            .groups
            .iter()
            .map(String::as_str)
            .filter(|group| group != keeper)
            .collect();
        // A keeper of several roles may hold only what all of them have.
        keepers
            .entry(keeper)
            .and_modify(|groups| groups.retain(|group| of_role.contains(group)))
            .or_insert(of_role);
    }
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
    print(&login::setup_sql(
        &database.dbname,
        database.user(),
        &Setup {
            groups,
            keepers,
            services,
        },
    ));
    Ok(())
}
