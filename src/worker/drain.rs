//! One run instead of service: what waits in the queue is done, each database swept once.

use std::sync::Arc;
use std::time::Duration;

use super::{Worker, each};

/// How often the queue is asked what is left.
const PERIOD: Duration = Duration::from_secs(1);

/// So many looks in a row must find nothing: a message on its way from the broker to this worker
/// is seen by none.
const LOOKS: u32 = 2;

impl Worker {
    /// Stops the worker once nothing is left in the queue and each database was swept; with a
    /// reason, if one of them could not be.
    pub(super) async fn sweep_when_drained(self: Arc<Self>) {
        if !self.is_drained().await {
            return;
        }
        tracing::info!("nothing waits in the queue any more; the databases are swept");
        let mut failed = Vec::new();
        for (database, ledger) in &self.ledgers {
            if let Err(reason) = self.sweep_noted(ledger).await {
                failed.push(format!("database {database} could not be swept: {reason}"));
            }
        }
        if !failed.is_empty() {
            self.fatal.get_or_init(|| failed.join("\n"));
        }
        self.stop.cancel();
    }

    /// Waits until nothing is left in the queue, however long its broker is away; `false` when the
    /// worker stops before.
    async fn is_drained(&self) -> bool {
        let mut found_nothing = 0;
        let mut ticks = each(PERIOD);
        while self.goes_on(&mut ticks).await {
            let left = self.queue.backlog().await;
            match &left {
                Ok(_) => self.outages.over("the queue"),
                Err(error) => self.outages.failed("the queue", &error.to_string()),
            }
            found_nothing = match left {
                Ok(0) => found_nothing + 1,
                Ok(_) | Err(_) => 0,
            };
            if found_nothing == LOOKS {
                return true;
            }
        }
        false
    }
}
