//! The worker: takes deliveries, asks the core what they mean, carries it out.
//!
//! One delivery goes through `command` (what does it ask?), `carry` (decide, commit, run the
//! effects, and again until the core is satisfied) and `lanes` (acknowledge or defer). The
//! `sweep` enters at `carry` with whatever nobody looked after, `reconcile` with whatever `compare`
//! found to differ. `drain` is a run that ends by itself.

mod carry;
mod command;
mod compare;
mod count;
mod drain;
mod effects;
mod lanes;
mod outage;
mod reconcile;
mod rehearse;
mod report;
mod restore;
mod retention;
mod sweep;
mod trace;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::RwLock;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fault::Disposition;
use crate::ledger::{Ledger, LedgerError, Rules};
use crate::metrics::Readiness;
use crate::queue::{Lane, Queue};
use crate::store::SecretStore;
pub use compare::Views;
use lanes::Bulkheads;
pub use lanes::pause;
use outage::Outages;
pub use rehearse::{rehearsal_rules, rehearse};
pub use report::{Action, Finding, Kind, Report};
pub use restore::Bereft;

/// How long an attempt keeps a lease to itself. Longer than `EFFECT_TIMEOUT`: whoever delivers
/// after that finds nobody still storing a secret. An attempt at ending a lease may take longer, as
/// its effects may happen twice.
pub const HOLD: Duration = Duration::from_secs(30);

/// How long one effect may take before it counts as failed.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A worker of one installation.
pub struct Worker {
    rules: Arc<Rules>,
    queue: Arc<dyn Queue>,
    store: Arc<dyn SecretStore>,
    ledgers: BTreeMap<String, Ledger>,
    sweep_interval: Duration,
    reconcile_interval: Duration,
    readiness: Option<Arc<Readiness>>,
    stop: CancellationToken,
    fatal: OnceLock<String>,
    /// Deliveries that may have ended a worker before are processed alone: they take it for writing.
    company: RwLock<()>,
    bulkheads: Bulkheads,
    outages: Outages,
}

/// What a worker works with.
pub struct Parts {
    /// The configuration's rules.
    pub rules: Arc<Rules>,
    /// Where events come from and go to.
    pub queue: Arc<dyn Queue>,
    /// Where credentials are put.
    pub store: Arc<dyn SecretStore>,
    /// One for each database.
    pub ledgers: Vec<Ledger>,
    /// How often the sweep looks for what nobody looked after.
    pub sweep_interval: Duration,
    /// How often ledgers, logins and secrets are compared.
    pub reconcile_interval: Duration,
    /// Where somebody reads what the worker reaches and counts: then leases and dead letters are
    /// counted, and the store is asked, for them.
    pub readiness: Option<Arc<Readiness>>,
    /// Deliveries in hand at a time, for each lane.
    pub prefetch: u16,
}

/// The worker stopped because it could not go on rightly.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Stopped(String);

impl Worker {
    /// Puts a worker together. It ends when `stop` is cancelled.
    #[must_use]
    pub fn new(parts: Parts, stop: CancellationToken) -> Self {
        let databases: Vec<&str> = parts.ledgers.iter().map(Ledger::database).collect();
        Self {
            bulkheads: Bulkheads::new(&databases, parts.prefetch),
            ledgers: parts
                .ledgers
                .into_iter()
                .map(|ledger| (ledger.database().to_owned(), ledger))
                .collect(),
            rules: parts.rules,
            queue: parts.queue,
            store: parts.store,
            sweep_interval: parts.sweep_interval,
            reconcile_interval: parts.reconcile_interval,
            readiness: parts.readiness,
            stop,
            fatal: OnceLock::new(),
            company: RwLock::new(()),
            outages: Outages::default(),
        }
    }

    /// Works until it is told to stop; then finishes what is in hand, for at most `grace`, and hands
    /// back the rest.
    ///
    /// # Errors
    /// When it came upon something that somebody must mend first.
    pub async fn run(self: Arc<Self>, grace: Duration) -> Result<(), Stopped> {
        let tasks = TaskTracker::new();
        for lane in Lane::ALL {
            tasks.spawn(Arc::clone(&self).serve(lane, Arc::default()));
        }
        for database in self.ledgers.keys() {
            tasks.spawn(Arc::clone(&self).sweep(database.clone()));
            tasks.spawn(Arc::clone(&self).watch_restores(database.clone()));
            tasks.spawn(Arc::clone(&self).forget(database.clone()));
        }
        if let Some(readiness) = &self.readiness {
            for database in self.ledgers.keys() {
                let count = Arc::clone(&self).count(database.clone(), Arc::clone(readiness));
                tasks.spawn(count);
            }
            tasks.spawn(Arc::clone(&self).count_dead_letters(Arc::clone(readiness)));
            tasks.spawn(Arc::clone(&self).look_at_store(Arc::clone(readiness)));
        }
        tasks.spawn(Arc::clone(&self).reconcile_periodically());
        self.finish(tasks, grace).await
    }

    /// Works off what waits in the queue, then looks once after each database, and stops as
    /// [`Worker::run`] does. What comes meanwhile, waits for its time or is deferred need not be
    /// done by then.
    ///
    /// # Errors
    /// What was out of reach, that it was told to stop before all was done, or what somebody must
    /// mend first.
    pub async fn drain(self: Arc<Self>, grace: Duration) -> Result<(), Stopped> {
        let tasks = TaskTracker::new();
        let draining = Arc::clone(&self).do_everything_once(tasks.clone());
        let worker = Arc::clone(&self);
        tasks.spawn(async move {
            // Nothing else would end the run.
            if AssertUnwindSafe(draining).catch_unwind().await.is_err() {
                let reason = "draining made the worker panic";
                worker.fatal.get_or_init(|| reason.to_owned());
                worker.stop.cancel();
            }
        });
        self.finish(tasks, grace).await
    }

    /// Waits until the worker is told to stop, then for what is in hand.
    async fn finish(&self, tasks: TaskTracker, grace: Duration) -> Result<(), Stopped> {
        tasks.close();
        self.stop.cancelled().await;
        tracing::info!("stopping: what is in hand is finished, the rest handed back");
        let finished = tokio::time::timeout(grace, async {
            self.queue.shut_down().await;
            tasks.wait().await;
        });
        if finished.await.is_err() {
            tracing::warn!(
                grace_seconds = grace.as_secs(),
                "some work did not finish in time; it will be taken up again"
            );
        }
        match self.fatal.get() {
            None => Ok(()),
            Some(reason) => Err(Stopped(reason.clone())),
        }
    }

    /// Waits for the next tick; `false` when the worker stops.
    async fn goes_on(&self, ticks: &mut Interval) -> bool {
        tokio::select! {
            // Cancel-safe: a tick that is not taken comes again.
            _ = ticks.tick() => true,
            // Cancel-safe: a cancellation is not consumed.
            () = self.stop.cancelled() => false,
        }
    }

    /// Does something about a database. What fails is noted, for whoever comes back to it, and why
    /// is given back.
    async fn noted(
        &self,
        database: &str,
        doing: &str,
        work: impl Future<Output = Result<(), LedgerError>>,
    ) -> Result<(), String> {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                self.note(database, &error);
                Err(error.to_string())
            }
            Err(_) => {
                tracing::error!(database, "{doing} made the worker panic");
                Err(format!("{doing} made the worker panic"))
            }
        }
    }

    /// Looks at what a failed ledger means: most pass, some end the worker.
    fn note(&self, database: &str, error: &LedgerError) {
        match error.disposition() {
            Disposition::Fatal => {
                // All that is in hand may come upon it.
                if self.fatal.set(error.to_string()).is_ok() {
                    tracing::error!(%error, "the worker cannot go on");
                }
                self.stop.cancel();
            }
            Disposition::Retry | Disposition::Reject => {
                let what = outage::database(database);
                self.outages.failed(&what, &error.to_string());
            }
        }
    }
}

/// Ticks at once and then with this period between the end of one task and the next.
fn each(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
