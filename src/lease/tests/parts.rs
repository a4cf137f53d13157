//! What the simulated world is made of.

use std::collections::VecDeque;

use super::super::Effect;
use super::*;

/// Xorshift (Marsaglia 2003), 64 bits.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(super) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        let index = self.below(u64::try_from(choices.len()).unwrap());
        choices[usize::try_from(index).unwrap()].clone()
    }
}

/// How hostile the world is, in percent.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) crash: u64,
    pub(super) failure: u64,
    pub(super) duplicate: u64,
    pub(super) lost_expiry: u64,
    pub(super) refusal: u64,
    pub(super) store_is_down: bool,
    pub(super) broker_is_down: bool,
}

pub(super) struct Command {
    pub(super) event: Event,
    /// The ledger has a row for it.
    pub(super) recorded: bool,
    pub(super) answer: Option<Outcome>,
    pub(super) is_told: bool,
}

pub(super) struct Login {
    /// The attempt that made its password.
    pub(super) password_of: u32,
    pub(super) is_enabled: bool,
    pub(super) valid_until: Timestamp,
}

#[derive(Clone, Copy)]
pub(super) enum Message {
    Command(usize),
    Expire { generation: u32 },
}

/// A worker in the middle of a delivery, or (no message) of a sweep.
pub(super) struct Task {
    pub(super) message: Option<Message>,
    /// The lease as this worker's last decision left it.
    pub(super) lease: Option<Lease>,
    pub(super) decision: Decision,
    pub(super) decided_at: Timestamp,
    pub(super) pending: VecDeque<Effect>,
    /// Commands answered by the last decision.
    pub(super) answered: Vec<usize>,
    pub(super) turns: u32,
}
