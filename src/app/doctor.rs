//! Everything that the configuration names, looked at as `keycard doctor` does.

use std::sync::Arc;

use futures_util::future::join_all;
use rustls::RootCertStore;
use tokio::join;

use super::tls::{tls, trusting};
use super::{AppError, as_worker, compare, ledger, reader, region, rules, store};
use crate::check::{Check, Status};
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
        let has_queue =
            matches!(&config.queue, config::Queue::Postgres { database, .. } if database == name);
        let examined = ledger.examine(has_queue).await;
        let mut checks = examined.checks;
        let roles = config
            .roles
            .iter()
            .filter(|(_, role)| role.database == *name);
        for (role, _) in roles {
            checks.push(match examined.fit {
                Ok(now) => rehearse(&ledger, role, now).await,
                Err(reason) => Check {
                    status: Status::Warning,
                    ..Check::ok(format!("roles.{role}"), format!("not rehearsed: {reason}"))
                },
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
        config::Queue::Amqp(broker) => {
            let settings = as_worker(config, broker);
            let (mut checks, users) =
                join!(amqp::examine(&settings), examined_users(config, &settings));
            checks.push(users);
            checks
        }
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

/// Who else may speak for anybody, as far as the broker's administrator may be asked.
async fn examined_users(config: &Config, settings: &amqp::Settings) -> Check {
    let Some(management) = &config.management else {
        return amqp::unknown_users();
    };
    match administration(config, management) {
        Ok(management) => management.examine(settings).await,
        Err(error) => amqp::unasked_users(&error, "mend management.ca_file"),
    }
}

fn administration(
    config: &Config,
    settings: &config::Management,
) -> Result<amqp::Management, AppError> {
    let tls = match settings.url.scheme_str() {
        Some("https") => tls(settings.ca_file.as_deref())?,
        // Trusts nobody, and is not asked to.
        Some(_) | None => trusting(RootCertStore::empty()),
    };
    Ok(amqp::Management {
        url: settings.url.clone(),
        user: settings.user.clone(),
        password: reader(&settings.password, region(config)),
        tls,
    })
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
    const REMEDY: &str = "mend what the other checks say, and ask again";
    let Ok(report) = compare(config).await else {
        return Check::warning(NAME, "nothing could be compared", REMEDY);
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
                REMEDY,
            )
        }
        (differ, _) => Check::warning(
            NAME,
            format!("{differ} logins or secrets differ from the ledgers"),
            "`keycard reconcile` lists them",
        ),
    }
}
