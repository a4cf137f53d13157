//! The sweep: finds what is due or unfinished, whatever should have woken it.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::carry::Context;
use super::{Worker, each};
use crate::lease::Event;
use crate::ledger::{Ledger, LedgerError, Subject};

/// Leases that one sweep of a database works on at a time.
const SIDE_BY_SIDE: usize = 8;

impl Worker {
    /// Sweeps one database at once and then periodically, until the worker stops.
    pub(super) async fn sweep(self: Arc<Self>, database: String) {
        let Some(ledger) = self.ledgers.get(&database) else {
            return;
        };
        let mut ticks = each(self.sweep_interval);
        while self.goes_on(&mut ticks).await {
            // It is noted, and the next sweep tries again.
            let swept = self.sweep_once(ledger);
            let _ = self.noted(&database, "the sweep", swept).await;
        }
    }

    pub(super) async fn sweep_once(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        // The database may have been away when the worker started.
        ledger.prepare().await?;
        ledger.check_again().await?;
        let context = Context {
            ledger,
            asked: None,
            reply_to: None,
            expire: None,
        };
        if let Some(frozen) = ledger.frozen().await? {
            tracing::warn!(
                database = ledger.database(),
                since = %frozen.since,
                reason = frozen.reason,
                waiting = frozen.waiting,
                "revocations are frozen: nothing is revoked before `keycard thaw`"
            );
        }
        let mut last = None;
        loop {
            let due = ledger.due(last).await?;
            let Some(end) = due.last() else {
                break;
            };
            last = Some(*end);
            tracing::info!(
                database = ledger.database(),
                leases = due.len(),
                "the sweep found leases that nobody looked after"
            );
            stream::iter(due)
                .for_each_concurrent(SIDE_BY_SIDE, |(_, id)| async move {
                    if self.stop.is_cancelled() {
                        return;
                    }
                    let wake = Event::Wake { generation: None };
                    // Whatever is left to do is found again by the next sweep.
                    let _ = self.carry(context, Subject::Known(id), wake).await;
                })
                .await;
        }
        for recorded in ledger.unpublished().await? {
            if let Err(reason) = self.answer_again(context, None, &recorded, true).await {
                tracing::warn!(
                    database = ledger.database(),
                    request.id = recorded.id,
                    request.by = recorded.requester.as_str(),
                    error = reason,
                    "an answer is still unpublished; the next sweep tries again"
                );
            }
        }
        Ok(())
    }
}
