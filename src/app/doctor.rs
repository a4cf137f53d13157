//! Everything that the configuration names, looked at as `keycard doctor` does.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::join;

use super::{as_worker, compare, ledger, rules, store};
use crate::check::Check;
use crate::config::{self, Config};
use crate::queue::{amqp, postgres};
use crate::store::examine as examine_store;
use crate::worker::{Report, rehearsal_rules, rehearse};

/// Looks at every part, side by side. What is wrong with one keeps no other from being looked at.
pub async fn examine(config: &Config) -> Vec<Check> {
    let to_rehearse = Arc::new(rehearsal_rules(rules(config)));
    let databases = config.databases.iter().map(async |(name, database)| {
        let ledger = match ledger(config, name, database, &to_rehearse) {
            Ok(ledger) => ledger,
            Err(error) => {
                return vec![Check::failed(
                    format!("databases.{name}.connection"),
                    &error,
                )];
            }
        };
        let examined = ledger.examine().await;
        let mut checks = examined.checks;
        let roles = config
            .roles
            .iter()
            .filter(|(_, role)| role.database == *name);
        for (role, _) in roles {
            checks.push(match examined.fit {
                Ok(now) => rehearse(&ledger, role, now).await,
                Err(reason) => Check::warning(
                    format!("roles.{role}"),
                    format!("not rehearsed: {reason}"),
                    "mend that, and ask again",
                ),
            });
        }
        checks
    });
    let (databases, queue, store, agreement) = join!(
        join_all(databases),
        examined_queue(config),
        examined_store(config),
        agreement(config)
    );
    databases
        .into_iter()
        .flatten()
        .chain(queue)
        .chain([store, agreement])
        .collect()
}

async fn examined_queue(config: &Config) -> Vec<Check> {
    match &config.queue {
        config::Queue::Amqp(broker) => amqp::examine(&as_worker(config, broker)).await,
        config::Queue::Postgres { database, .. } => {
            let rules = Arc::new(rules(config));
            // The configuration has it, or it would not be one.
            match ledger(config, database, &config.databases[database], &rules) {
                Ok(ledger) => postgres::examine(&ledger).await,
                Err(error) => vec![Check::failed("queue", &error)],
            }
        }
    }
}

async fn examined_store(config: &Config) -> Check {
    match store(config).await {
        Ok(store) => {
            let prefix = config.store.prefix();
            examine_store(store.as_ref(), prefix, &config.installation).await
        }
        Err(error) => Check::failed("store", &error),
    }
}

/// Whether ledgers, logins and secrets agree.
async fn agreement(config: &Config) -> Check {
    const NAME: &str = "agreement";
    let report = match compare(config).await {
        Ok(report) => report,
        Err(error) => return Check::failed(NAME, &error),
    };
    let Report {
        findings, failed, ..
    } = &report;
    match (findings.len(), failed.as_slice()) {
        (0, []) => Check::ok(NAME, "ledgers, logins and secrets agree"),
        (0, failed) => {
            let parts: Vec<&str> = failed.iter().map(|(part, _)| part.as_str()).collect();
            Check::warning(
                NAME,
                format!("could not be compared: {}", parts.join(", ")),
                "mend what their own checks say, and ask again",
            )
        }
        (differ, _) => Check::warning(
            NAME,
            format!("{differ} logins or secrets differ from the ledgers"),
            "`keycard reconcile` lists them",
        ),
    }
}
