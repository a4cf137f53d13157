//! What is older than it is kept goes: apart from the sweep, which has more urgent things to do.

use std::sync::Arc;

use super::{Worker, each};
use crate::ledger::{Ledger, LedgerError};

impl Worker {
    /// Removes what is old from one database as often as it is swept, until the worker stops.
    pub(super) async fn forget(self: Arc<Self>, database: String) {
        let Some(ledger) = self.ledgers.get(&database) else {
            return;
        };
        let mut ticks = each(self.sweep_interval);
        while self.goes_on(&mut ticks).await {
            // It is noted, and tried again after the pause.
            let forgotten = self.forget_old(ledger);
            let _ = self
                .noted(&database, "removing what is old", forgotten)
                .await;
        }
    }

    /// A batch is a transaction, and gives its connection back.
    pub(super) async fn forget_old(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        while !self.stop.is_cancelled() && ledger.forget_old_requests().await? > 0 {}
        while !self.stop.is_cancelled() && ledger.forget_closed_leases().await? > 0 {}
        while !self.stop.is_cancelled() && ledger.forget_old_audit().await? > 0 {}
        Ok(())
    }
}
