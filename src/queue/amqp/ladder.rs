//! The delay ladder: wait queues with one fixed time each, because `RabbitMQ` lets messages expire
//! only at a queue's head. A wait is a sequence of rungs, chosen without a clock.

use std::time::Duration;

/// How long the rungs hold a message, in seconds, shortest first. A rung's time is part of its
/// queue's name: changing it makes another queue.
pub(super) const RUNG_SECONDS: [u32; 15] = [
    1, 2, 5, 15, 30, 60, 120, 300, 900, 1_800, 3_600, 14_400, 43_200, 86_400, 604_800,
];

/// How far a wait may end from its due time. Without it a lease of one hour, 3,599.95 s before its
/// end, would take ten hops instead of one.
pub(super) const SLACK: Duration = Duration::from_millis(500);

/// One wait queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rung {
    seconds: u32,
}

impl Rung {
    /// Every rung, shortest first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        RUNG_SECONDS.into_iter().map(|seconds| Self { seconds })
    }

    /// How long it holds a message.
    pub(super) fn wait(self) -> Duration {
        Duration::from_secs(u64::from(self.seconds))
    }

    /// Its queue.
    pub(super) fn queue(self) -> String {
        format!("keycard.delay.{}s", self.seconds)
    }

    /// What is left of `delay` after it; nothing when that is within the slack.
    pub(super) fn remainder(self, delay: Duration) -> Option<Duration> {
        let left = delay.saturating_sub(self.wait());
        (left >= SLACK).then_some(left)
    }
}

/// The longest rung that ends at most [`SLACK`] after `delay`. None below half a second: such a
/// wait is slept in the worker.
pub(super) fn rung_for(delay: Duration) -> Option<Rung> {
    Rung::all()
        .take_while(|rung| rung.wait() <= delay.saturating_add(SLACK))
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(delay_milliseconds: u64) -> Option<u32> {
        rung_for(Duration::from_millis(delay_milliseconds)).map(|rung| rung.seconds)
    }

    #[test]
    fn the_longest_rung_within_the_slack_is_taken() {
        assert_eq!(seconds(0), None);
        assert_eq!(seconds(499), None);
        assert_eq!(seconds(500), Some(1));
        assert_eq!(seconds(1_499), Some(1));
        assert_eq!(seconds(1_500), Some(2));
        assert_eq!(seconds(3_599_499), Some(1_800));
        assert_eq!(seconds(3_599_950), Some(3_600));
        assert_eq!(seconds(u64::MAX), Some(604_800));
    }

    #[test]
    fn the_hops_of_a_wait_add_up_to_it() {
        // Every length up to a minute, then ever coarser ones up to 30 days.
        let mut milliseconds = 0_u64;
        while milliseconds < 30 * 86_400_000 {
            let delay = Duration::from_millis(milliseconds);
            let (mut waited, mut hops, mut left) = (Duration::ZERO, 0, Some(delay));
            while let Some(delay) = left {
                let Some(rung) = rung_for(delay) else {
                    waited += delay; // slept in the worker
                    break;
                };
                waited += rung.wait();
                hops += 1;
                left = rung.remainder(delay);
            }
            assert!(waited.abs_diff(delay) <= SLACK, "{delay:?}: {waited:?}");
            assert!(hops <= 40, "{delay:?}: {hops} hops");
            milliseconds += 1 + milliseconds / 60_000 * 37;
        }
    }
}
