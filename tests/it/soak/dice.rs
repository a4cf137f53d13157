//! Choices that a seed decides.

use std::time::Duration;

/// Always the same numbers for the same seed: `SplitMix64`.
pub struct Dice(u64);

impl Dice {
    /// Each purpose has dice of its own, so that what one of them is used for moves no other.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut dice = Self(seed);
        Self(dice.number().wrapping_add(purpose))
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `sides` - 1.
    pub fn below(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides).unwrap();
        usize::try_from(self.number() % sides).unwrap()
    }

    /// From `least` to `most`.
    pub fn between(&mut self, least: i64, most: i64) -> i64 {
        let sides = usize::try_from(most - least + 1).unwrap();
        least + i64::try_from(self.below(sides)).unwrap()
    }

    /// A pause of so many milliseconds.
    pub fn pause(&mut self, least: i64, most: i64) -> Duration {
        Duration::from_millis(self.between(least, most).unsigned_abs())
    }

    /// In an order of its own.
    pub fn shuffled<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        let mut rest = all.to_vec();
        let mut order = Vec::with_capacity(rest.len());
        while !rest.is_empty() {
            order.push(rest.swap_remove(self.below(rest.len())));
        }
        order
    }
}
