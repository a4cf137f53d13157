//! What the tests stand on: real servers, a site of its own for each test, and clients.

pub mod answers;
pub mod audit;
pub mod authority;
pub mod broker;
pub mod client;
pub mod gate;
pub mod invariants;
pub mod process;
pub mod proxy;
pub mod queues;
pub mod raw;
pub mod secrets_manager;
pub mod servers;
pub mod services;
pub mod site;
pub mod steady;

use std::time::Duration;

use keycard::clock::monotonic_now;

/// Waits until `probe` gives something, and panics with `what` after `seconds`.
pub async fn eventually<T>(
    what: &str,
    seconds: u64,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = monotonic_now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(monotonic_now() < deadline, "not within {seconds} s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
