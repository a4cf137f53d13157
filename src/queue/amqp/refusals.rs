//! When a refusal is worth another connection: its user may have come by a token that has expired,
//! which the broker tells no other way.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A connection that is refused something is given up once it is this old. A younger one would be
/// refused again.
const AGE_MIN: Duration = Duration::from_secs(10);

/// What a missing permission refuses, no other connection is allowed: then they get at least this
/// old, as each takes with it whatever else is under way.
const AGE_MAX: Duration = Duration::from_mins(10);

/// The operations that another connection did not help, each with the age of the next that is given
/// up for it.
#[derive(Default)]
pub(super) struct Refusals(Mutex<BTreeMap<&'static str, Duration>>);

impl Refusals {
    /// How old a connection must be to be given up because `operation` was refused.
    pub(super) fn age_min(&self, operation: &'static str) -> Duration {
        self.ages().get(operation).copied().unwrap_or(AGE_MIN)
    }

    /// A connection was given up because `operation` was refused: its successor lasts longer, unless
    /// it is allowed that.
    pub(super) fn gave_up(&self, operation: &'static str) {
        let longer = (self.age_min(operation) * 2).min(AGE_MAX);
        self.ages().insert(operation, longer);
    }

    /// `operation` was allowed.
    pub(super) fn allowed(&self, operation: &'static str) {
        self.ages().remove(operation);
    }

    fn ages(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_connection_does_not_help_is_tried_ever_more_rarely() {
        let refusals = Refusals::default();
        let ages: Vec<u64> = (0..8)
            .map(|_| {
                let age = refusals.age_min("publish a result").as_secs();
                refusals.gave_up("publish a result");
                age
            })
            .collect();
        assert_eq!(ages, [10, 20, 40, 80, 160, 320, 600, 600]);

        // A token that expires refuses everything.
        assert_eq!(refusals.age_min("arm an expiry event"), AGE_MIN);
        refusals.gave_up("arm an expiry event");
        refusals.allowed("arm an expiry event");
        assert_eq!(refusals.age_min("arm an expiry event"), AGE_MIN);
        assert_eq!(refusals.age_min("publish a result"), AGE_MAX);
    }
}
