//! What every adapter does while its broker is away: tries again, and says so once.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::sleep;
use tracing::{info, warn};

use super::QueueError;
use crate::clock;
use crate::fault::Disposition;

/// Longest pause between two attempts to connect; the jitter at most doubles it.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Pauses between attempts: 0.2 s, doubling up to 15 to 30 s, for ever.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Says once that something is away, once per change of the reason, and once that it is back.
pub(super) struct Outage {
    broker: &'static str,
    connection: String,
    begun: Option<(Instant, String)>,
}

impl Outage {
    pub(super) fn new(broker: &'static str, connection: impl Into<String>) -> Self {
        Self {
            broker,
            connection: connection.into(),
            begun: None,
        }
    }

    pub(super) fn failed(&mut self, error: &QueueError) {
        let text = error.to_string();
        let (since, last) = match self.begun.take() {
            Some((since, last)) => (since, Some(last)),
            None => (clock::monotonic_now(), None),
        };
        if last.as_ref() != Some(&text) {
            warn!(
                queue.connection = self.connection,
                error = text,
                "{} is out of reach; keycard keeps trying",
                self.broker
            );
        }
        self.begun = Some((since, text));
    }

    /// Says that an attempt failed and waits before the next one; what no waiting mends is given
    /// back, and after `patience` everything.
    pub(super) async fn wait_out(
        &mut self,
        error: QueueError,
        pauses: &mut ExponentialBackoff,
        patience: Option<Duration>,
    ) -> Result<(), QueueError> {
        let lasts = self.begun.as_ref().map(|(since, _)| since.elapsed());
        let left = patience.map(|patience| patience.saturating_sub(lasts.unwrap_or_default()));
        if left == Some(Duration::ZERO) || error.disposition == Disposition::Fatal {
            return Err(error);
        }
        self.failed(&error);
        let pause = pauses.next().unwrap_or(PAUSE_MAX);
        sleep(left.map_or(pause, |left| pause.min(left))).await;
        Ok(())
    }

    pub(super) fn over(&mut self) {
        if let Some((since, _)) = self.begun.take() {
            info!(
                queue.connection = self.connection,
                outage_seconds = since.elapsed().as_secs(),
                "{} is back",
                self.broker
            );
        }
    }
}
