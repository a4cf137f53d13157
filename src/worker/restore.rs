//! After a restore: a lease that was revoked early comes back alive, with its login, but without its
//! secret. Delivered leases are compared with the store once after each start of their server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use super::carry::Context;
use super::{Worker, each};
use crate::lease::{Difference, Event};
use crate::ledger::{Ledger, LedgerError, Subject, View};
use crate::store::{SecretStore, StoreError};

/// Secrets looked at, and leases worked on, at a time.
const SIDE_BY_SIDE: usize = 8;

/// So many secrets may be gone, as long as others are there.
const HANDFUL: usize = 5;

/// Delivered leases, and those among them without a secret.
#[derive(Debug)]
pub struct Bereft {
    /// How many leases are delivered.
    pub delivered: usize,
    /// Those whose secret is gone.
    pub leases: Vec<Uuid>,
}

impl Bereft {
    /// Looks every delivered lease's secret up, and what is gone once more: a store may be late with
    /// what was put just now. What cannot be looked up is an error, no absence.
    ///
    /// # Errors
    /// What the database or the store said.
    pub async fn look(view: &View, store: &dyn SecretStore) -> Result<Self, String> {
        const SECOND_LOOK: Duration = Duration::from_secs(3);
        let mut count = 0;
        let mut seen_gone = Vec::new();
        let mut last = Uuid::nil();
        loop {
            let delivered = view
                .delivered(last)
                .await
                .map_err(|error| error.to_string())?;
            let Some((end, _)) = delivered.last() else {
                break;
            };
            last = *end;
            count += delivered.len();
            seen_gone.extend(without_secret(store, delivered).await?);
        }
        if !seen_gone.is_empty() {
            tokio::time::sleep(SECOND_LOOK).await;
            seen_gone = without_secret(store, seen_gone).await?;
        }
        Ok(Self {
            delivered: count,
            leases: seen_gone.into_iter().map(|(id, _)| id).collect(),
        })
    }

    /// Whether it rather looks like the store's loss than like revocations: none of several secrets
    /// is there, as in a store that was emptied or is another one, or more than a handful and than a
    /// fifth are gone.
    #[must_use]
    pub fn are_too_many(&self) -> bool {
        let gone = self.leases.len();
        gone > 1 && gone == self.delivered || gone > HANDFUL && gone * 5 > self.delivered
    }
}

/// Those among these leases whose secret is gone.
async fn without_secret(
    store: &dyn SecretStore,
    leases: Vec<(Uuid, String)>,
) -> Result<Vec<(Uuid, String)>, String> {
    let looked: Vec<Option<_>> = stream::iter(leases)
        .map(|(id, locator)| async move {
            let secret = store.describe(&locator).await?;
            Ok(secret.is_none().then_some((id, locator)))
        })
        .buffered(SIDE_BY_SIDE)
        .try_collect()
        .await
        .map_err(|error: StoreError| error.to_string())?;
    Ok(looked.into_iter().flatten().collect())
}

impl Worker {
    /// Looks at the start, whenever a connection leads to a server that was started again, and as
    /// often as the sweep comes, until the worker stops. Apart from the sweep, which a slow store
    /// shall not delay.
    pub(super) async fn watch_restores(self: Arc<Self>, database: String) {
        let Some(ledger) = self.ledgers.get(&database) else {
            return;
        };
        let mut ticks = each(self.sweep_interval);
        loop {
            tokio::select! {
                // Cancel-safe: a tick that is not taken comes again.
                _ = ticks.tick() => {}
                // Cancel-safe: what was notified is kept for the next call.
                () = ledger.restarted() => {}
                // Cancel-safe: a cancellation is not consumed.
                () = self.stop.cancelled() => return,
            }
            // It is noted, and the next look tries again.
            let compared = self.compare_restored(ledger);
            let _ = self.noted(&database, "looking for secrets", compared).await;
        }
    }

    /// Compares delivered leases with the store if the server was started since that was done, and
    /// revokes again what was revoked.
    pub(super) async fn compare_restored(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        // The database may have been away when the worker started.
        ledger.prepare().await?;
        let Some(start) = ledger.uncompared().await? else {
            return Ok(());
        };
        // The sweep says so; it is looked at once revocations go on.
        if ledger.frozen().await?.is_some() {
            return Ok(());
        }
        let what = format!("looking for the secrets of {}", ledger.database());
        let view = ledger.view().await?;
        let bereft = match Bereft::look(&view, self.store.as_ref()).await {
            Ok(bereft) => bereft,
            Err(error) => {
                self.outages.failed(&what, &error);
                return Ok(());
            }
        };
        self.outages.over(&what);
        if bereft.leases.is_empty() {
            return ledger.mark_compared(start.at).await;
        }
        if bereft.are_too_many() || start.secrets_lost_at.is_some() {
            tracing::error!(
                database = ledger.database(),
                delivered = bereft.delivered,
                without_secret = bereft.leases.len(),
                since = start.secrets_lost_at.map(tracing::field::display),
                "the server was started again and too many secrets are gone to believe that all these \
                 leases were revoked before; nothing is revoked for it. Mend the store, or have them \
                 revoked by `keycard adopt --database {} --yes`",
                ledger.database()
            );
            return ledger.mark_lost().await;
        }
        self.revoke_again(ledger, &bereft).await;
        // The next sweep looks whether that is all.
        Ok(())
    }

    /// Revokes every delivered lease of a database whose secret is gone, however many they are,
    /// instead of serving.
    ///
    /// # Errors
    /// What could not be looked at, or that revocations are frozen.
    pub async fn revoke_bereft(self, database: &str) -> Result<(), String> {
        if let Some(ledger) = self.ledgers.get(database) {
            let frozen = ledger.frozen().await.map_err(|error| error.to_string())?;
            if frozen.is_some() {
                return Err(format!(
                    "revocations are frozen in database {database}, so nothing was revoked; run \
                     `keycard thaw` first"
                ));
            }
            let view = ledger.view().await.map_err(|error| error.to_string())?;
            let bereft = Bereft::look(&view, self.store.as_ref()).await?;
            self.revoke_again(ledger, &bereft).await;
        }
        self.queue.shut_down().await;
        Ok(())
    }

    async fn revoke_again(&self, ledger: &Ledger, bereft: &Bereft) {
        tracing::warn!(
            database = ledger.database(),
            leases = bereft.leases.len(),
            "secrets of delivered leases are gone: they were revoked before the ledger was restored, \
             and are revoked again"
        );
        let context = Context {
            ledger,
            asked: None,
            reply_to: None,
            expire: None,
        };
        let event = Event::Differs(Difference::SecretMissing);
        stream::iter(&bereft.leases)
            .for_each_concurrent(SIDE_BY_SIDE, |id| {
                let event = event.clone();
                async move {
                    if !self.stop.is_cancelled() {
                        // What is left to do is found by the sweep.
                        let _ = self.carry(context, Subject::Known(*id), event).await;
                    }
                }
            })
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_of_the_store_is_told_from_revocations() {
        let are_too_many = |gone: usize, delivered: usize| {
            let leases = vec![Uuid::nil(); gone];
            Bereft { delivered, leases }.are_too_many()
        };
        for (gone, delivered) in [(0, 0), (0, 9), (1, 1), (1, 2), (5, 6), (6, 30), (20, 100)] {
            assert!(!are_too_many(gone, delivered), "{gone} of {delivered}");
        }
        for (gone, delivered) in [(2, 2), (5, 5), (6, 29), (7, 8), (21, 100)] {
            assert!(are_too_many(gone, delivered), "{gone} of {delivered}");
        }
    }
}
