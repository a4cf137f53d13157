//! How long a lease lives for those who hold it, and how they make it live longer.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::service::{Granted, Service};
use super::{Failure, tell};
use crate::clock;
use crate::wire::Issued;

/// Pauses between renewals, and between tries at one that failed.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A lease's life. The database's clock decides about it; the host's monotonic clock only measures
/// it, from the request on, so that a wrong clock does no harm.
pub(super) struct Life {
    lease_id: String,
    asked_at: Instant,
    answered_at: Instant,
    issued_at: Timestamp,
    /// When it ends, by the database's clock.
    pub(super) expires_at: Timestamp,
    max_expires_at: Timestamp,
}

impl Life {
    pub(super) fn of(granted: &Granted<Issued>) -> Self {
        Self {
            lease_id: granted.data.lease_id.clone(),
            asked_at: granted.asked_at,
            answered_at: granted.answered_at,
            issued_at: granted.data.issued_at,
            expires_at: granted.data.expires_at,
            max_expires_at: granted.data.max_expires_at,
        }
    }

    /// What is left of it, cautiously: as if it had been issued when it was asked for.
    pub(super) fn left(&self) -> Duration {
        self.age_of(self.expires_at)
            .saturating_sub(since(self.asked_at))
    }

    /// When nothing is left of it for sure: as if it had been issued when the answer came.
    pub(super) fn left_at_most(&self) -> Duration {
        self.age_of(self.expires_at)
            .saturating_sub(since(self.answered_at))
    }

    /// What is left until half of its longest life is over.
    pub(super) fn left_of_half_the_longest(&self) -> Duration {
        (self.age_of(self.max_expires_at) / 2).saturating_sub(since(self.asked_at))
    }

    /// When it should be renewed: at half of what is left.
    pub(super) fn half(&self) -> Duration {
        (self.left() / 2).max(PAUSE_MIN)
    }

    /// Whether a renewal can change anything.
    pub(super) fn can_be_renewed(&self) -> bool {
        self.expires_at < self.max_expires_at
    }

    fn age_of(&self, then: Timestamp) -> Duration {
        Duration::try_from(then.duration_since(self.issued_at)).unwrap_or_default()
    }

    /// Renews it, trying again while there is life left and the failure may pass.
    ///
    /// Cancel-safe: a renewal that nobody waits for does no harm.
    pub(super) async fn renew(
        &mut self,
        service: &Service,
        ttl_seconds: Option<u64>,
    ) -> Result<(), Failure> {
        let mut told = false;
        loop {
            let failure = match service.renew(&self.lease_id, ttl_seconds).await {
                Ok(renewed) => {
                    self.expires_at = renewed.data.expires_at;
                    if told {
                        tell(&format!("the lease is renewed, until {}", self.expires_at));
                    }
                    return Ok(());
                }
                Err(failure) => failure,
            };
            if !failure.may_pass() || self.left().is_zero() {
                return Err(failure);
            }
            if !told {
                tell(&format!(
                    "the lease could not be renewed: {failure}; trying again until it ends at {}",
                    self.expires_at
                ));
                told = true;
            }
            let pause = (self.left() / 6).clamp(PAUSE_MIN, PAUSE_MAX);
            tokio::time::sleep(pause).await;
        }
    }
}

fn since(then: Instant) -> Duration {
    clock::monotonic_now().duration_since(then)
}
