//! Builds the adapters that the configuration names; the only place that knows them all.

mod doctor;
mod rules;
mod tls;

pub use doctor::examine;
pub use rules::rules;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use secrecy::SecretString;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::tls::verified;
use crate::config::{self, Config, PasswordSource};
use crate::fault::Disposition;
use crate::lease::DenialCode;
use crate::ledger::{Endpoint, Ledger, LedgerError, Rules};
use crate::metrics::{self, Need, Readiness};
use crate::password::ReadPassword;
use crate::queue::amqp::{self, AmqpDeadLetters, AmqpQueue};
use crate::queue::postgres::{self, PostgresQueue};
use crate::queue::{DeadLetters, Queue, Requesting};
use crate::store::aws::{self, AwsSecretsManager};
use crate::store::directory::{self, Directory};
use crate::store::{FailureKind, SecretStore, StoreKind};
use crate::wire::SecretPointer;
use crate::worker::{Parts, Report, Views, Worker};

/// A part could not be built. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A file of certificate authorities cannot be used.
    #[error("{path}: {problem}; write a PEM file of certificate authorities that keycard may read")]
    Authorities {
        /// The file, or the system's.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] crate::queue::QueueError),
    /// The secret store cannot be used.
    #[error("{0}")]
    Store(String),
    /// A credential's secret cannot be read.
    #[error("{0}")]
    Secret(String),
    /// It was told to stop before it was ready.
    #[error("stopped before it was ready")]
    Stopped,
}

/// How long a run that ends by itself waits for a queue that is away.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Builds a worker: every ledger is migrated and checked, the broker's queues are declared. Waits
/// for whatever is away, for the queue no longer than `patience`, until `stop` is cancelled. With
/// `readiness` it tells there what it reaches, and counts for the metrics.
///
/// # Errors
/// What somebody must mend first.
pub async fn worker(
    config: &Config,
    readiness: Option<Arc<Readiness>>,
    patience: Option<Duration>,
    stop: &CancellationToken,
) -> Result<Worker, AppError> {
    tokio::select! {
        built = build_worker(config, readiness, patience, stop) => built,
        // Not cancel-safe, and nothing is lost: the process ends.
        () = stop.cancelled() => Err(AppError::Stopped),
    }
}

async fn build_worker(
    config: &Config,
    readiness: Option<Arc<Readiness>>,
    patience: Option<Duration>,
    stop: &CancellationToken,
) -> Result<Worker, AppError> {
    let rules = Arc::new(rules(config));
    let store = store(config).await?;
    let ledgers = ledgers(config, &rules)?;
    join_all(ledgers.iter().map(prepare))
        .await
        .into_iter()
        .collect::<Result<(), _>>()?;
    if let Some(readiness) = &readiness {
        // Until there is a worker that looks: nothing else is waited for.
        readiness.looked_at(Need::Queue, false);
    }
    let queue = queue(config, &rules, patience).await?;
    let parts = Parts {
        rules,
        queue,
        store,
        ledgers,
        sweep_interval: config.worker.sweep_interval,
        reconcile_interval: config.worker.reconcile_interval,
        readiness,
        prefetch: config.queue.prefetch(),
    };
    Ok(Worker::new(parts, stop.clone()))
}

/// Has what is counted for each role, and of the store's failures, begin at 0.
pub fn count_from_zero(config: &Config) {
    for role in config.roles.keys() {
        let denials = DenialCode::ALL.map(DenialCode::as_str);
        metrics::begin_role(role, denials.into_iter().chain(["issued", "renewed"]));
    }
    metrics::begin_store(FailureKind::ALL.map(FailureKind::as_str));
}

/// Compares ledgers, logins and secrets without changing anything or needing the queue.
///
/// # Errors
/// What somebody must mend first; a database that is away is told in the report.
pub async fn compare(config: &Config) -> Result<Report, AppError> {
    let rules = Arc::new(rules(config));
    let store = store(config).await?;
    let ledgers = ledgers(config, &rules)?;
    let views = Views::open(ledgers.iter(), false).await;
    Ok(views.compare(&rules, store.as_ref()).await)
}

async fn queue(
    config: &Config,
    rules: &Arc<Rules>,
    patience: Option<Duration>,
) -> Result<Arc<dyn Queue>, AppError> {
    match &config.queue {
        config::Queue::Amqp(broker) => {
            let queue = AmqpQueue::connect(amqp::Settings {
                patience,
                ..as_worker(config, broker)
            });
            Ok(Arc::new(queue.await?))
        }
        config::Queue::Postgres { database, prefetch } => {
            // The configuration has it, or it would not be one.
            let settings = &config.databases[database];
            let queue = PostgresQueue::connect(postgres::Settings {
                ledger: ledger(config, database, settings, rules)?,
                prefetch: *prefetch,
                patience,
            });
            Ok(Arc::new(queue.await?))
        }
    }
}

fn as_worker(config: &Config, broker: &config::Amqp) -> amqp::Settings {
    amqp::Settings {
        uri: broker.uri(),
        password: reader(&broker.password, region(config)),
        ca_file: broker.ca_file.clone(),
        installation: config.installation.clone(),
        prefetch: broker.prefetch,
        patience: None,
    }
}

/// The queue as the command line uses it: as a service, with a user of its own.
///
/// # Errors
/// When a file of certificate authorities cannot be used.
pub fn client(client: &config::Client) -> Result<Box<dyn Requesting>, AppError> {
    Ok(match client {
        config::Client::Amqp(broker) => Box::new(amqp::Client::new(&as_client(broker))?),
        config::Client::Postgres(database) => {
            Box::new(postgres::Client::new(client_endpoint(database)?))
        }
    })
}

/// The dead letters, as an operator of the client section reaches them.
///
/// # Errors
/// When the broker cannot be reached or refuses.
pub async fn dead_letters(client: &config::Client) -> Result<Box<dyn DeadLetters>, AppError> {
    Ok(match client {
        config::Client::Amqp(broker) => {
            Box::new(AmqpDeadLetters::connect(&as_client(broker)).await?)
        }
        config::Client::Postgres(database) => {
            Box::new(postgres::Client::new(client_endpoint(database)?))
        }
    })
}

fn as_client(broker: &config::AmqpClient) -> amqp::Settings {
    amqp::Settings {
        uri: broker.uri.clone(),
        password: reader(&broker.password, None),
        ca_file: broker.ca_file.clone(),
        // A client declares nothing and waits for nothing, so nobody looks at these three.
        installation: broker.uri.authority.userinfo.username.clone(),
        prefetch: 1,
        patience: None,
    }
}

fn client_endpoint(database: &config::PostgresClient) -> Result<Endpoint, AppError> {
    Ok(Endpoint {
        config: database.connection.clone(),
        password: reader(&database.password, None),
        tls: verified(database.tls, database.ca_file.as_deref())?,
    })
}

/// One database's ledger, not yet connected, and the store. `name` is one of the configuration's.
///
/// # Errors
/// What somebody must mend first.
pub async fn ledger_and_store(
    config: &Config,
    name: &str,
) -> Result<(Ledger, Arc<dyn SecretStore>), AppError> {
    let rules = Arc::new(rules(config));
    let ledger = ledger(config, name, &config.databases[name], &rules)?;
    Ok((ledger, store(config).await?))
}

/// Prepares a ledger if its database is there. One that is away keeps no other waiting: its sweep
/// prepares it later.
async fn prepare(ledger: &Ledger) -> Result<(), LedgerError> {
    const PATIENCE: Duration = Duration::from_secs(5);
    match timeout(PATIENCE, ledger.prepare()).await {
        Ok(Err(error)) if error.disposition() == Disposition::Fatal => Err(error),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a database cannot be used yet; its leases wait for it");
            Ok(())
        }
        Err(_) => {
            tracing::warn!(
                database = ledger.database(),
                "a database does not answer; its leases wait for it"
            );
            Ok(())
        }
        Ok(Ok(())) => Ok(()),
    }
}

/// The ledgers of every database, not yet connected.
///
/// # Errors
/// When a file of certificate authorities cannot be used.
pub fn ledgers(config: &Config, rules: &Arc<Rules>) -> Result<Vec<Ledger>, AppError> {
    config
        .databases
        .iter()
        .map(|(name, database)| ledger(config, name, database, rules))
        .collect()
}

fn ledger(
    config: &Config,
    name: &str,
    database: &config::Database,
    rules: &Arc<Rules>,
) -> Result<Ledger, AppError> {
    let endpoint = Endpoint {
        config: database.connection(),
        password: reader(&database.password, region(config)),
        tls: verified(database.tls, database.ca_file.as_deref())?,
    };
    Ok(Ledger::new(
        name.to_owned(),
        endpoint,
        usize::try_from(database.max_connections).unwrap_or(1),
        Arc::clone(rules),
    )?)
}

fn region(config: &Config) -> Option<&str> {
    match &config.store {
        config::Store::Aws(settings) => settings.region.as_deref(),
        config::Store::Directory(_) => None,
    }
}

/// Reads the secret that an answer points to, with the rights of whoever runs this.
///
/// # Errors
/// When it cannot be read; what to do about it.
pub async fn read_secret(pointer: &SecretPointer) -> Result<SecretString, AppError> {
    let locator = &pointer.locator;
    match StoreKind::from_name(&pointer.store) {
        Some(StoreKind::Directory) => {
            directory::read(locator).map_err(|error| AppError::Secret(error.to_string()))
        }
        Some(StoreKind::AwsSecretsManager) => {
            let environment = aws::environment(pointer.region.as_deref()).await;
            aws::read_value(&environment, locator)
                .await
                .map_err(|error| {
                    AppError::Secret(format!(
                        "{error}; it is read with the AWS credentials of this command's own \
                     environment: they have to be there, and to allow \
                     secretsmanager:GetSecretValue on the secrets of this requester"
                    ))
                })
        }
        None => Err(AppError::Secret(format!(
            "the secret is in a store of kind {:?}, which this keycard does not know; upgrade it",
            pointer.store
        ))),
    }
}

/// Reads a password where the configuration says that it is; a secret's name is looked up in
/// `region`, or else in the AWS environment's.
#[must_use]
pub fn reader(source: &PasswordSource, region: Option<&str>) -> ReadPassword {
    let source = source.clone();
    let region = region.map(str::to_owned);
    Arc::new(move || {
        let (source, region) = (source.clone(), region.clone());
        async move {
            match &source {
                PasswordSource::Local(local) => local.read().map_err(|error| error.to_string()),
                PasswordSource::Secret(secret) => {
                    aws::read_secret(&aws::environment(region.as_deref()).await, secret)
                        .await
                        .map_err(|error| error.to_string())
                }
            }
        }
        .boxed()
    })
}

async fn store(config: &Config) -> Result<Arc<dyn SecretStore>, AppError> {
    Ok(match &config.store {
        config::Store::Aws(settings) => {
            let environment = aws::environment(settings.region.as_deref()).await;
            let store = AwsSecretsManager::new(&environment, settings.kms_key_id.clone())
                .map_err(|error| AppError::Store(error.to_string()))?;
            Arc::new(store)
        }
        config::Store::Directory(settings) => {
            Arc::new(Directory::open(&settings.path).map_err(|error| {
                AppError::Store(format!("{error}; or name another directory in store.path"))
            })?)
        }
    })
}
