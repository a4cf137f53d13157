//! Counts leases and dead letters for the metrics, apart from the sweep, which may be at work for
//! long, and tells with it what the worker reaches.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Worker, each};
use crate::metrics::{self, Need, Readiness};

/// More often than Prometheus usually reads. Secrets Manager takes money for questions: so many cost
/// 1.30 dollars a month for each worker.
const PERIOD: Duration = Duration::from_secs(10);

/// How long the lanes may take until they are consumed, for the look that comes as they begin.
const SUBSCRIBING: Duration = Duration::from_secs(5);

/// Where no secret is: those of a lease are deeper.
const NO_SECRET: &str = "readiness";

impl Worker {
    /// Counts the leases of one database at once and then periodically, until the worker stops.
    pub(super) async fn count(self: Arc<Self>, database: String, readiness: Arc<Readiness>) {
        let Some(ledger) = self.ledgers.get(&database) else {
            return;
        };
        let mut ticks = each(PERIOD);
        while self.goes_on(&mut ticks).await {
            let counted = ledger.count().await;
            if let Err(error) = &counted {
                // The sweep says so louder.
                tracing::debug!(database, %error, "leases cannot be counted");
            }
            readiness.looked_at(Need::Database(database.clone()), counted.is_ok());
            metrics::counted(&database, counted.ok());
        }
    }

    /// Counts the dead letters, and sees whether every lane is consumed, likewise.
    pub(super) async fn count_dead_letters(self: Arc<Self>, readiness: Arc<Readiness>) {
        let mut ticks = each(PERIOD);
        while self.goes_on(&mut ticks).await {
            let counted = self.queue.dead_letters().await;
            if let Err(error) = &counted {
                tracing::debug!(%error, "dead letters cannot be counted");
            }
            let consumed = timeout(SUBSCRIBING, self.queue.consumed());
            // Cancel-safe: it only looks.
            let consumed = self.stop.run_until_cancelled(consumed).await;
            let is_consumed = consumed.is_some_and(|consumed| consumed.is_ok());
            if !is_consumed {
                // Its consumer says so louder.
                tracing::debug!("a lane is not consumed");
            }
            readiness.looked_at(Need::Queue, counted.is_ok() && is_consumed);
            metrics::dead_letters(counted.ok());
        }
    }

    /// Asks the store about a secret, likewise.
    pub(super) async fn look_at_store(self: Arc<Self>, readiness: Arc<Readiness>) {
        let locator = format!("{}/{NO_SECRET}", self.rules.prefix);
        let mut ticks = each(PERIOD);
        while self.goes_on(&mut ticks).await {
            let described = self.store.describe(&locator).await;
            if let Err(error) = &described {
                tracing::debug!(%error, "the secret store cannot be asked");
            }
            readiness.looked_at(Need::Store, described.is_ok());
        }
    }
}
