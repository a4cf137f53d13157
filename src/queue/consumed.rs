//! Which lanes are consumed: a queue that answers may still hand nothing out.

use std::sync::Arc;

use tokio::sync::watch;

use super::Lane;

/// How many lanes are consumed.
#[derive(Clone, Default)]
pub(super) struct Consumed(Arc<watch::Sender<usize>>);

/// A lane that is consumed for as long as this is held.
pub(super) struct ConsumedLane(Consumed);

impl Consumed {
    /// One more is, from now on.
    pub(super) fn lane(&self) -> ConsumedLane {
        self.0.send_modify(|lanes| *lanes += 1);
        ConsumedLane(self.clone())
    }

    /// Returns as soon as all are.
    ///
    /// Cancel-safe: it only looks.
    pub(super) async fn all(&self) {
        let mut lanes = self.0.subscribe();
        // It fails only without a sender, which is here.
        let _ = lanes.wait_for(|lanes| *lanes == Lane::ALL.len()).await;
    }
}

impl Drop for ConsumedLane {
    fn drop(&mut self) {
        self.0.0.send_modify(|lanes| *lanes -= 1);
    }
}
