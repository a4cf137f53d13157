//! Counts leases and dead letters for the metrics, apart from the sweep, which may be at work for
//! long.

use std::sync::Arc;
use std::time::Duration;

use super::{Worker, each};
use crate::metrics;

/// More often than Prometheus usually reads.
const PERIOD: Duration = Duration::from_secs(10);

impl Worker {
    /// Counts the leases of one database at once and then periodically, until the worker stops.
    pub(super) async fn count(self: Arc<Self>, database: String) {
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
            metrics::counted(&database, counted.ok());
        }
    }

    /// Counts the dead letters, likewise.
    pub(super) async fn count_dead_letters(self: Arc<Self>) {
        let mut ticks = each(PERIOD);
        while self.goes_on(&mut ticks).await {
            let counted = self.queue.dead_letters().await;
            if let Err(error) = &counted {
                tracing::debug!(%error, "dead letters cannot be counted");
            }
            metrics::dead_letters(counted.ok());
        }
    }
}
