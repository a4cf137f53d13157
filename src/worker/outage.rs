//! Outages, told once each: when something fails, when the reason changes, and when it is over.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// How soon another reason is told. Many differ by no more than a secret's name or AWS's id of a call.
const NEWS: Duration = Duration::from_mins(1);

/// What is out of reach at the moment.
#[derive(Debug, Default)]
pub(super) struct Outages(Mutex<BTreeMap<String, Told>>);

#[derive(Debug)]
struct Told {
    error: String,
    at: Instant,
}

/// What a database that is away is called.
pub(super) fn database(name: &str) -> String {
    format!("database {name}")
}

impl Outages {
    /// Something failed. Only news is worth waking somebody.
    pub(super) fn failed(&self, what: &str, error: &str) {
        if self.is_news(what, error) {
            tracing::warn!(what, error, "{what} fails; what needs it is tried again");
        } else {
            tracing::debug!(
                what,
                error,
                "{what} still fails; what needs it is tried again"
            );
        }
    }

    /// What fails at the moment, and why.
    pub(super) fn going_on(&self) -> BTreeMap<String, String> {
        let failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |(what, told): (&String, &Told)| (what.clone(), told.error.clone());
        failing.iter().map(told).collect()
    }

    fn is_news(&self, what: &str, error: &str) -> bool {
        let at = clock::monotonic_now();
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = failing.get(what);
        let is_news = told.is_none_or(|told| told.error != error && at - told.at >= NEWS);
        if is_news {
            let error = error.to_owned();
            failing.insert(what.to_owned(), Told { error, at });
        }
        is_news
    }

    /// It works.
    pub(super) fn over(&self, what: &str) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failing.remove(what);
        drop(failing);
        if before.is_some() {
            tracing::info!(what, "{what} works again");
        }
    }
}
