//! What the ledger and the worker need to know of the configuration.

use std::num::NonZeroU32;
use std::time::Duration;

use jiff::SignedDuration;

use crate::config::{self, Config, TlsMode};
use crate::ledger::{Role, Rules, Told};
use crate::login::{SCRAM_ITERATIONS, Template, Upkeep};
use crate::worker::HOLD;

/// The rules that a configuration makes.
#[must_use]
pub fn rules(config: &Config) -> Rules {
    let seconds = |duration: Duration| {
        SignedDuration::from_secs(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
    };
    let told = |database: &config::Database| Told {
        host: database.public_host.clone(),
        port: database.public_port,
        dbname: database.dbname.clone(),
        tls: database.tls == TlsMode::VerifyFull,
    };
    let by_name = |(name, settings): (&String, &config::Role)| (name.clone(), role(settings));
    Rules {
        installation: config.installation.clone(),
        operators: config.operators.clone(),
        hold: seconds(HOLD),
        request_age_max: seconds(config.worker.max_request_age),
        keep_closed_leases: seconds(config.worker.keep_closed_leases),
        keep_audit: seconds(config.worker.keep_audit),
        roles: config.roles.iter().map(by_name).collect(),
        databases: config
            .databases
            .iter()
            .map(|(name, database)| (name.clone(), told(database)))
            .collect(),
        prefix: config.store.prefix().to_owned(),
    }
}

/// Names every setting, so that none is read and then forgotten.
fn role(settings: &config::Role) -> Role {
    let config::Role {
        database,
        groups,
        creation_statements,
        renew_statements,
        revocation_statements,
        owned,
        connection_limit,
        policy,
        requesters,
        scram_iterations,
    } = settings.clone();
    Role {
        database,
        requesters,
        policy,
        template: Template {
            creation: creation_statements,
            upkeep: Upkeep {
                renewal: renew_statements,
                revocation: revocation_statements,
                owned,
            },
            groups,
            connection_limit,
            scram_iterations: NonZeroU32::new(scram_iterations).unwrap_or(SCRAM_ITERATIONS),
        },
    }
}
