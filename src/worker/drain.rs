//! One run instead of service: what waits in the queue is done, each database looked after once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::task::TaskTracker;

use super::lanes::Progress;
use super::{Worker, each, outage};
use crate::clock;
use crate::ledger::Ledger;
use crate::queue::Lane;

/// How often a lane is asked what is left.
const PERIOD: Duration = Duration::from_secs(1);

/// So many looks in a row must find nothing: a message on its way from the broker to this worker
/// is seen by none.
const LOOKS: u32 = 2;

/// How long a lane may stand still before it is given up: longer than any one delivery takes, whose
/// effects fail after 20 s each.
const STANDSTILL: Duration = Duration::from_mins(2);

impl Worker {
    /// Drains the lanes, looks after each database, and stops the worker; with a reason, if anything
    /// was out of reach or it was told to stop before.
    pub(super) async fn do_everything_once(self: Arc<Self>, tasks: TaskTracker) {
        join_all(Lane::ALL.map(|lane| Arc::clone(&self).drain_lane(lane, &tasks))).await;
        let mut undone = Vec::new();
        for (database, ledger) in &self.ledgers {
            tracing::info!(
                database,
                "the queue is drained; the database is looked after"
            );
            if let Err(reason) = self.look_after(ledger).await {
                undone.push(format!(
                    "database {database} could not be looked after: {reason}"
                ));
            }
        }
        if self.stop.is_cancelled() {
            undone.insert(0, "stopped before everything was done".to_owned());
        }
        let databases: Vec<_> = (self.ledgers.keys())
            .map(|name| outage::database(name))
            .collect();
        for (what, reason) in self.outages.going_on() {
            // Of databases everything was said.
            if !databases.contains(&what) {
                undone.push(format!("{what}: {reason}"));
            }
        }
        if !undone.is_empty() {
            self.fatal.get_or_init(|| undone.join("; "));
        }
        self.stop.cancel();
    }

    /// What a worker does about a database without being asked.
    async fn look_after(&self, ledger: &Ledger) -> Result<(), String> {
        let database = ledger.database();
        self.noted(database, "the sweep", self.sweep_once(ledger))
            .await?;
        let compared = self.compare_restored(ledger);
        self.noted(database, "looking for secrets", compared)
            .await?;
        self.noted(database, "removing what is old", self.forget_old(ledger))
            .await
    }

    /// Serves a lane, and returns once nothing is left in it, or as much is done as waited in the
    /// beginning: what comes meanwhile must not keep it for ever.
    async fn drain_lane(self: Arc<Self>, lane: Lane, tasks: &TaskTracker) {
        let what = format!("draining the lane {}", lane.name());
        let Some(waited) = self.look_into(lane).await else {
            // That the queue could not be asked is forgotten as soon as another lane's can.
            self.outages.failed(&what, "its queue could not be asked");
            return;
        };
        let progress = Arc::<Progress>::default();
        tasks.spawn(Arc::clone(&self).serve(lane, Arc::clone(&progress)));
        let mut ticks = each(PERIOD);
        let mut found_nothing = 0;
        let mut last = (0, None);
        let mut moved_at = clock::monotonic_now();
        while progress.settled() < waited && self.goes_on(&mut ticks).await {
            let waiting = self.look_into(lane).await;
            found_nothing = match (waiting, progress.in_hand()) {
                (Some(0), 0) => found_nothing + 1,
                (Some(_) | None, _) => 0,
            };
            if found_nothing == LOOKS {
                return;
            }
            let now = clock::monotonic_now();
            if last != (progress.settled(), waiting) {
                last = (progress.settled(), waiting);
                moved_at = now;
            } else if now - moved_at > STANDSTILL {
                self.outages.failed(&what, "it stands still");
                return;
            }
        }
    }

    /// How many messages wait in a lane, if its queue can be asked.
    async fn look_into(&self, lane: Lane) -> Option<u64> {
        match self.queue.waiting(lane).await {
            Ok(waiting) => {
                self.outages.over("the queue");
                Some(waiting)
            }
            Err(error) => {
                self.outages.failed("the queue", &error.to_string());
                None
            }
        }
    }
}
