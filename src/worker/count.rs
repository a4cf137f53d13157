//! Counts leases for the metrics, apart from the sweep, which may be at work for long.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Worker;
use crate::metrics;

/// More often than Prometheus usually reads.
const PERIOD: Duration = Duration::from_secs(10);

impl Worker {
    /// Counts the leases of one database at once and then periodically, until the worker stops.
    pub(super) async fn count(self: Arc<Self>, database: String) {
        let Some(ledger) = self.ledgers.get(&database) else {
            return;
        };
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Cancel-safe: a tick that is not taken comes again.
                _ = ticks.tick() => {}
                // Cancel-safe: a cancellation is not consumed.
                () = self.stop.cancelled() => return,
            }
            let counted = ledger.count().await;
            if let Err(error) = &counted {
                // The sweep says so louder.
                tracing::debug!(database, %error, "leases cannot be counted");
            }
            metrics::counted(&database, counted.ok());
        }
    }
}
