//! What the model is made of: everything that a lease's life depends on, small enough to be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::super::{Effect, Lease, Then};
use super::*;

/// More setbacks are not told apart.
const STUCK_SETBACKS: u8 = 6;

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scene {
    /// Which of the search's scripts is played.
    pub(super) script: usize,
    /// Faults so far.
    pub(super) faults: u8,
    /// The database's clock.
    pub(super) now: Timestamp,
    /// The ledger's row of the one lease.
    pub(super) lease: Option<Arc<Lease>>,
    /// The ledger's rows of commands, by the sender's id for them.
    pub(super) rows: Vec<Option<Row>>,
    pub(super) login: Option<Login>,
    /// Whether the guest is connected. It connects whenever it can, and never leaves by itself.
    pub(super) has_session: bool,
    /// The attempt whose password is stored, by locator.
    pub(super) secrets: BTreeMap<u32, u32>,
    /// Locators that were written when their attempt had been overtaken.
    pub(super) strays: BTreeSet<u32>,
    /// Writes that the store may still carry out, though their worker gave them up.
    pub(super) late_puts: BTreeSet<LatePut>,
    /// What the broker has, in order.
    pub(super) queue: Vec<Delivery>,
    /// What the two workers have in hand, in any order.
    pub(super) tasks: Vec<Task>,
    /// What was published about each command.
    pub(super) told: BTreeSet<(usize, Told)>,
    pub(super) notices: Notices,
    /// Attempts at dropping the login that something came in the way of.
    pub(super) setbacks: u8,
    /// Whether something depends on the login that cannot be cleared away.
    pub(super) has_obstacle: bool,
    pub(super) freeze: Freeze,
    /// Until when both workers were asleep.
    pub(super) deserted_until: Timestamp,
}

/// A command as the ledger remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Row {
    /// The command with this content.
    pub(super) of: usize,
    pub(super) answer: Option<Told>,
    pub(super) answered_at: Timestamp,
    /// Whether the broker is known to have the answer.
    pub(super) is_published: bool,
    /// Whether an answer took another's place.
    pub(super) is_rewritten: bool,
}

/// The Postgres role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Login {
    /// The attempt that made its password.
    pub(super) password: u32,
    pub(super) is_enabled: bool,
    pub(super) valid_until: Timestamp,
}

/// An answer, and what it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Told {
    /// The credential is at this attempt's locator.
    Issued {
        attempt: u32,
    },
    Renewed {
        generation: u32,
        expires_at: Timestamp,
    },
    Revoked,
    /// The denial's code.
    Denied(&'static str),
}

/// What was published though nobody asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Notices {
    /// The lease is over.
    pub(super) end: bool,
    /// The login cannot be dropped.
    pub(super) failure: bool,
}

/// A message in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Delivery {
    pub(super) due: Timestamp,
    pub(super) message: Message,
    pub(super) deferrals: u32,
    /// It may come any time after it is due; others are taken before the clock moves.
    pub(super) is_slow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Message {
    /// The script's command of this index.
    Command(usize),
    Expire {
        generation: u32,
    },
}

/// What a worker has in hand between two of its transactions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Task {
    /// `None` for a sweep's.
    pub(super) delivery: Option<Delivery>,
    /// The lease as this worker's last transaction left it.
    pub(super) lease: Option<Arc<Lease>>,
    pub(super) decided_at: Timestamp,
    /// Effects to come.
    pub(super) pending: Vec<Effect>,
    pub(super) then: Then,
    /// The attempt that a failed effect is reported by; `None` for answers that are given again.
    pub(super) fails_as: Option<u32>,
    pub(super) has_failed: bool,
    /// Something that the login owns could not be cleared away.
    pub(super) is_left: bool,
    /// What [`Effect::Answer`] publishes.
    pub(super) telling: Vec<Telling>,
    /// The clock does not wait for it.
    pub(super) is_asleep: bool,
}

/// An answer on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Telling {
    pub(super) command: usize,
    pub(super) told: Told,
    /// Whether the ledger notes that it is published.
    pub(super) is_remembered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LatePut {
    pub(super) attempt: u32,
    /// The store has carried it out by then, or never will.
    pub(super) until: Timestamp,
}

/// Whether an operator has frozen revocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Freeze {
    NotYet,
    /// The clock has moved this often since.
    Frozen(u8),
    Thawed(Timestamp),
}

impl Scene {
    pub(super) fn is_frozen(&self) -> bool {
        matches!(self.freeze, Freeze::Frozen(_))
    }

    /// Whether the login lets anybody in.
    pub(super) fn is_usable(&self) -> bool {
        self.login
            .is_some_and(|login| login.is_enabled && self.now < login.valid_until)
    }

    /// Whether the sweep finds the lease.
    pub(super) fn is_sweepable(&self) -> bool {
        let Some(lease) = &self.lease else {
            return false;
        };
        // It would find an undelivered lease that is due, too, and let it be: nothing comes of that.
        let is_wanted =
            !self.is_frozen() || lease.state == State::Issuing && !lease.is_due(self.now);
        is_wanted
            && lease
                .wake_at()
                .is_some_and(|at| at + SWEEP_GRACE <= self.now)
    }

    /// Whether the sweep finds the answer.
    pub(super) fn is_unpublished(&self, key: usize) -> bool {
        self.rows[key].as_ref().is_some_and(|row| {
            row.answer.is_some() && !row.is_published && row.answered_at + ANSWER_GRACE <= self.now
        })
    }

    /// When something falls due next.
    pub(super) fn next_instant(&self) -> Option<Timestamp> {
        let lease = self.lease.as_deref();
        let swept = lease
            .and_then(Lease::wake_at)
            .map(|wake_at| wake_at + SWEEP_GRACE);
        let is_alive = lease.filter(|lease| !lease.has_ended(self.now));
        let unpublished = self.rows.iter().flatten().filter_map(|row| {
            (row.answer.is_some() && !row.is_published).then_some(row.answered_at + ANSWER_GRACE)
        });
        self.queue
            .iter()
            .map(|delivery| delivery.due)
            .chain(swept)
            .chain(is_alive.map(|lease| lease.expires_at))
            .chain(lease.and_then(|lease| lease.held_until))
            .chain(unpublished)
            .chain(self.late_puts.iter().map(|put| put.until))
            .filter(|at| *at > self.now)
            .min()
    }

    /// Something came in the way of dropping the login.
    pub(super) fn count_setback(&mut self) {
        self.setbacks = self.setbacks.saturating_add(1).min(STUCK_SETBACKS);
    }

    /// Things come to their resting order: whoever can log in does, and neither workers nor equal
    /// messages can be told apart.
    pub(super) fn settle(&mut self) {
        self.has_session |= self.is_usable();
        self.late_puts.retain(|put| self.now <= put.until);
        self.queue.sort_unstable();
        if let [one, other] = self.tasks.as_slice()
            && fingerprint(one) > fingerprint(other)
        {
            self.tasks.swap(0, 1);
        }
    }
}

fn fingerprint(task: &Task) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    task.hash(&mut hasher);
    hasher.finish()
}
