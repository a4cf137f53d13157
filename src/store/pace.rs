//! Keeps calls below a quota, before the other side has to refuse them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::monotonic_now;

/// A token bucket: `burst` calls at once, then one every `interval`.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// How far ahead of the steady pace a burst may run.
    allowance: Duration,
    /// When the steady pace has caught up with every call so far.
    even_at: Mutex<Instant>,
}

impl Pace {
    /// At most `per_second + burst` calls in any one second.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        Self {
            interval,
            allowance: interval * burst.saturating_sub(1),
            even_at: Mutex::new(monotonic_now()),
        }
    }

    /// Waits for this call's turn. Turns are given in the order of asking; one that is cancelled
    /// while it waits is lost, which errs on the slow side.
    pub(super) async fn turn(&self) {
        let wait = self.reserve(monotonic_now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes the next turn; it comes after the returned wait.
    fn reserve(&self, now: Instant) -> Duration {
        let mut even_at = self.even_at.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*even_at).max(now);
        *even_at = turn + self.interval;
        turn.saturating_duration_since(now)
            .saturating_sub(self.allowance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_holds_more_calls_than_the_quota() {
        let pace = Pace::new(45, 5);
        let start = monotonic_now() + Duration::from_secs(1);
        let turns: Vec<Duration> = (0..200).map(|_| pace.reserve(start)).collect();
        assert_eq!(turns[..5], [Duration::ZERO; 5]);
        for (n, first) in turns.iter().enumerate() {
            let window = *first + Duration::from_secs(1);
            let calls = turns[n..].iter().take_while(|turn| **turn < window).count();
            assert!(calls <= 50, "{calls} calls in the second from {first:?}");
        }
        assert!(turns[199] < Duration::from_secs(5));
    }

    #[test]
    fn idleness_is_not_saved_up_beyond_the_burst() {
        let pace = Pace::new(10, 3);
        let start = monotonic_now() + Duration::from_secs(1);
        pace.reserve(start);
        let later = start + Duration::from_hours(1);
        let turns: Vec<Duration> = (0..5).map(|_| pace.reserve(later)).collect();
        assert_eq!(turns[..3], [Duration::ZERO; 3]);
        assert_eq!(turns[3], Duration::from_millis(100));
        assert_eq!(turns[4], Duration::from_millis(200));
    }
}
