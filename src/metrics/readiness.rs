//! What a worker needs, and when each of it was last reached.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// How long something counts as reached. Each is looked at every ten seconds, so that only a look
/// that does not end takes so long.
const LATELY: Duration = Duration::from_secs(30);

/// Something that a worker cannot do without.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The queue.
    Queue,
    /// The secret store.
    Store,
    /// The database of this key, and the ledger in it.
    Database(String),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue => f.write_str("the queue"),
            Self::Store => f.write_str("the secret store"),
            Self::Database(name) => write!(f, "database {name}"),
        }
    }
}

/// Whether a worker reaches what it needs.
#[derive(Debug)]
pub struct Readiness(Mutex<BTreeMap<Need, Seen>>);

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// When it was last reached.
    reached: Option<Instant>,
    /// Whether the last look failed.
    fails: bool,
}

impl Readiness {
    /// Of a worker for these databases, which has asked for nothing yet.
    #[must_use]
    pub fn new<'a>(databases: impl Iterator<Item = &'a String>) -> Self {
        let needs = databases
            .map(|name| Need::Database(name.clone()))
            .chain([Need::Queue, Need::Store])
            .map(|need| (need, Seen::default()));
        Self(Mutex::new(needs.collect()))
    }

    /// Somebody has looked at one of them, and reached it or not: Prometheus is told as well.
    pub fn looked_at(&self, need: Need, reached: bool) {
        super::looked_at(&need, reached);
        let mut needs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = needs.entry(need).or_default();
        seen.fails = !reached;
        if reached {
            seen.reached = Some(clock::monotonic_now());
        }
    }

    /// A line for each that is out of reach; none when the worker is ready.
    pub(super) fn out_of_reach(&self) -> Vec<String> {
        let now = clock::monotonic_now();
        let needs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        needs
            .iter()
            .filter_map(|(need, seen)| match seen.reached {
                None if seen.fails => Some(format!("{need} has not been reached yet")),
                None => Some(format!("{need} has not been asked yet")),
                Some(at) if seen.fails || now - at > LATELY => {
                    let seconds = (now - at).as_secs();
                    Some(format!("{need} was last reached {seconds} s ago"))
                }
                Some(_) => None,
            })
            .collect()
    }
}
