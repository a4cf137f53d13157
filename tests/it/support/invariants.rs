//! What must be true of a site: at every moment, and once everything that was asked is done.
//!
//! Nothing here takes part in what it judges: it reads Postgres, the store and the queue as their
//! administrator, and what services say they sent and heard. What does not hold is a [`Violation`],
//! told with the whole audit of its lease.

mod endings;
mod events;
mod logins;
mod records;
mod secrets;
#[cfg(test)]
mod tests;
mod trail;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use keycard::clock::monotonic_now;
use keycard::queue::Lane;
use serde_json::Value;

use super::audit::Secrets;
use super::queues::Queues;
use super::site::Site;
use super::steady::Steady;

pub use logins::standing;
use records::Records;

/// How often a site is looked at until all is true, and after how many looks what is not is said.
const LOOK: Duration = Duration::from_secs(1);
const PATIENCE: usize = 45;

/// What one service sent and heard.
pub struct Testimony {
    /// Who it is.
    pub service: String,
    /// Its commands, each once however often it sent it.
    pub sent: Vec<Value>,
    /// Its results, as often as they came.
    pub heard: Vec<Value>,
}

impl Testimony {
    pub fn of(steady: &Steady) -> Self {
        Self {
            service: steady.user().to_owned(),
            sent: steady.commands(),
            heard: steady.heard(),
        }
    }
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The lease's id, where one is concerned.
    pub lease: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl Violation {
    pub fn of(lease: &str, what: impl Into<String>) -> Self {
        Self {
            lease: Some(lease.to_owned()),
            what: what.into(),
        }
    }

    pub fn at_large(what: impl Into<String>) -> Self {
        Self {
            lease: None,
            what: what.into(),
        }
    }
}

/// Waits until everything holds, and returns what still does not after `seconds`.
pub async fn unsettled(
    site: &Site,
    secrets: &Secrets<'_>,
    testify: impl Fn() -> Vec<Testimony>,
    seconds: u64,
) -> Vec<Violation> {
    let deadline = monotonic_now() + Duration::from_secs(seconds);
    for look in 1.. {
        let violations = at_rest(site, secrets, &testify()).await;
        if violations.is_empty() || monotonic_now() > deadline {
            return violations;
        }
        if look % PATIENCE == 0 {
            println!(
                "still {}:\n{}",
                violations.len(),
                explain(site, &violations[..1]).await
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    unreachable!("the deadline comes first")
}

/// What does not hold though nothing is under way any more, or what is still under way.
///
/// # Panics
/// When Postgres or the queue is away.
pub async fn at_rest(
    site: &Site,
    secrets: &Secrets<'_>,
    testimonies: &[Testimony],
) -> Vec<Violation> {
    let mut violations = Vec::new();
    let queues = Queues::of(site).await;
    for lane in Lane::ALL {
        let ready = queues.ready(lane).await;
        if ready > 0 {
            violations.push(Violation::at_large(format!("{ready} wait in {lane:?}")));
        }
    }
    let sql = site.sql().await;
    // Before the ledger: what is told now was recorded before.
    let kept = secrets.all();
    violations.extend(standing(&sql, &site.group).await.unwrap());
    violations.extend(logins::sessions(&sql).await.unwrap());
    let records = Records::read(&sql).await;
    violations.extend(events::answers(&records, testimonies));
    violations.extend(events::credentials(&records, testimonies));
    violations.extend(endings::endings(&records, testimonies));
    violations.extend(trail::trail(&records));
    violations.extend(secrets::secrets(&records, &kept));
    violations
}

/// Dead letters and results that nobody hears; each of `unreadable` must be among the letters, and
/// nothing else. Takes the letters out.
pub async fn lost(site: &Site, unreadable: &BTreeSet<String>) -> Vec<Violation> {
    let queues = Queues::of(site).await;
    let mut missing = unreadable.clone();
    let mut violations = Vec::new();
    while let Some(letter) = queues.next_dead_letter().await {
        let body = String::from_utf8_lossy(&letter.body).into_owned();
        missing.remove(&body);
        if !unreadable.contains(&body) {
            violations.push(Violation::at_large(format!("a dead letter: {letter:?}")));
        }
    }
    violations.extend(
        missing.iter().map(|body| {
            Violation::at_large(format!("unreadable and yet no dead letter: {body:?}"))
        }),
    );
    let unheard = queues.unheard().await;
    if unheard > 0 {
        let what = format!("{unheard} results were published for nobody");
        violations.push(Violation::at_large(what));
    }
    violations
}

/// For people: each violation with the whole audit of its lease.
pub async fn explain(site: &Site, violations: &[Violation]) -> String {
    let records = Records::read(&site.sql().await).await;
    let mut text = String::new();
    for violation in violations {
        let _ = writeln!(text, "* {}", violation.what);
        let Some(id) = &violation.lease else {
            continue;
        };
        match records.leases.get(id) {
            Some(lease) => {
                let _ = writeln!(text, "  {lease:?}");
            }
            None => {
                let _ = writeln!(text, "  {id} is not in the ledger");
            }
        }
        for row in records.audit_of(id) {
            let _ = writeln!(text, "    {row}");
        }
    }
    text
}
