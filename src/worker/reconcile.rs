//! Reconciliation: logins and secrets against the ledgers, both ways. What the ledger proves is
//! carried out on the one path; everything else is reported.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};

use super::Worker;
use super::carry::Context;
use super::compare::Views;
use super::lanes::Settled;
use super::report::{Action, Finding, Kind, Report};
use crate::clock;
use crate::lease::Event;
use crate::ledger::Subject;
use crate::metrics;

/// Leases that are worked on at a time.
const SIDE_BY_SIDE: usize = 8;

/// Subjects named in one log line.
const NAMED: usize = 5;

impl Worker {
    /// Reconciles soon after the start and then periodically, until the worker stops. Times are
    /// spread, so that workers which started together do not meet.
    pub(super) async fn reconcile_periodically(self: Arc<Self>) {
        // After the start, and when something could not be compared, the next one comes sooner.
        let soon = self.reconcile_interval / 12;
        let mut pause = part_of(soon);
        loop {
            tokio::select! {
                // Cancel-safe: a sleep holds nothing.
                () = tokio::time::sleep(pause) => {}
                // Cancel-safe: a cancellation is not consumed.
                () = self.stop.cancelled() => return,
            }
            let reconciled = AssertUnwindSafe(self.reconcile()).catch_unwind().await;
            let complete = if let Ok(report) = reconciled {
                self.count_orphans(&report);
                self.log(&report)
            } else {
                tracing::error!("reconciliation made the worker panic");
                false
            };
            let interval = if complete {
                self.reconcile_interval
            } else {
                soon
            };
            pause = interval / 2 + part_of(interval);
        }
    }

    /// Reconciles once instead of serving.
    pub async fn reconcile_once(self) -> Report {
        let report = self.reconcile().await;
        self.queue.shut_down().await;
        report
    }

    /// Compares every database that no other keycard reconciles right now, and carries out what
    /// follows.
    async fn reconcile(&self) -> Report {
        let views = Views::open(self.ledgers.values(), true).await;
        let mut report = tokio::select! {
            report = views.compare(&self.rules, self.store.as_ref()) => report,
            // Cancel-safe: comparing only reads.
            () = self.stop.cancelled() => return Report::default(),
        };
        // Logins first: whoever ends a lease clears its secrets as well.
        for findings in report
            .findings
            .chunk_by_mut(|one, next| one.kind == next.kind)
        {
            stream::iter(findings)
                .for_each_concurrent(SIDE_BY_SIDE, |finding| async move {
                    if finding.action == Action::Due && !self.stop.is_cancelled() {
                        finding.action = self.carry_out(finding).await;
                    }
                })
                .await;
        }
        report
    }

    async fn carry_out(&self, finding: &Finding) -> Action {
        let (Some(ledger), Some(lease), Some(difference)) = (
            self.ledgers.get(&finding.database),
            &finding.lease,
            finding.kind.difference(),
        ) else {
            return Action::Reported;
        };
        let context = Context {
            ledger,
            asked: None,
            reply_to: None,
            expire: None,
        };
        let subject = Subject::Known(lease.uuid);
        match self
            .carry(context, subject, Event::Differs(difference))
            .await
        {
            Settled::Ack => Action::Done,
            // What is under way is found by the sweep, the rest by the next comparison.
            Settled::Defer(_) | Settled::DeadLetter(_) => Action::Unfinished,
        }
    }

    /// What is left of each kind in each database that was compared here.
    fn count_orphans(&self, report: &Report) {
        let failed = |name: &str| report.failed.iter().any(|(failed, _)| failed == name);
        for database in self.ledgers.keys() {
            if report.busy.contains(database) {
                continue;
            }
            for kind in Kind::ALL {
                let is_unknown =
                    failed(database) || kind.is_of_secrets() && failed(Report::SECRETS);
                let left = report.findings.iter().filter(|finding| {
                    (&finding.database, finding.kind) == (database, kind)
                        && finding.action != Action::Done
                });
                let left = (!is_unknown).then(|| u32::try_from(left.count()).unwrap_or(u32::MAX));
                metrics::orphans(database, kind.as_str(), left);
            }
        }
    }

    /// One line for each kind of finding in each database. Whether everything could be compared.
    fn log(&self, report: &Report) -> bool {
        let alike = |one: &Finding, next: &Finding| {
            (&one.database, one.kind) == (&next.database, next.kind)
        };
        for found in report.findings.chunk_by(alike) {
            let is_open = |one: &&Finding| [Action::Due, Action::Unfinished].contains(&one.action);
            tracing::warn!(
                database = found[0].database,
                kind = found[0].kind.as_str(),
                found = found.len(),
                unfinished = found.iter().filter(is_open).count(),
                examples = ?found.iter().take(NAMED).map(|one| &one.subject).collect::<Vec<_>>(),
                "reconciliation found what differs"
            );
        }
        let what = |name: &str| format!("reconciling {name}");
        for name in self
            .ledgers
            .keys()
            .map(String::as_str)
            .chain([Report::SECRETS])
        {
            match report.failed.iter().find(|(failed, _)| failed == name) {
                Some((_, error)) => self.outages.failed(&what(name), error),
                None => self.outages.over(&what(name)),
            }
        }
        report.failed.is_empty()
    }
}

/// A random part of a time, which is never none of it.
fn part_of(time: Duration) -> Duration {
    let [byte] = clock::random_bytes();
    time * (u32::from(byte) + 1) / 256
}
