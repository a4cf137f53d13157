//! Outages, told once each: when something fails, when the reason changes, and when it is over.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What is out of reach at the moment, and why.
#[derive(Debug, Default)]
pub(super) struct Outages(Mutex<BTreeMap<String, String>>);

impl Outages {
    /// Something failed. Only news is worth waking somebody.
    pub(super) fn failed(&self, what: &str, error: &str) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failing.insert(what.to_owned(), error.to_owned());
        drop(failing);
        if before.as_deref() == Some(error) {
            tracing::debug!(what, error, "still fails; what needs it is tried again");
        } else {
            tracing::warn!(what, error, "fails; what needs it is tried again");
        }
    }

    /// What fails at the moment, and why.
    pub(super) fn going_on(&self) -> BTreeMap<String, String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// It works.
    pub(super) fn over(&self, what: &str) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failing.remove(what);
        drop(failing);
        if before.is_some() {
            tracing::info!(what, "works again");
        }
    }
}
