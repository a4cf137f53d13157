//! Time and chance: the only places where keycard reads the host's clock or draws random bytes.
//!
//! Neither decides anything about a lease: that is the database's clock.

use std::time::Instant;

use jiff::Timestamp;
use uuid::Uuid;

/// The host's wall clock, for what no database decides: the time in an event that no ledger has
/// recorded, and log lines.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one reading site")]
pub fn host_now() -> Timestamp {
    Timestamp::now()
}

/// The host's monotonic clock, for time-outs.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one reading site")]
pub fn monotonic_now() -> Instant {
    Instant::now()
}

/// Cryptographically random bytes.
///
/// # Panics
/// When the operating system has none, as then no password may be made.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one drawing site")]
#[expect(clippy::expect_used, reason = "without randomness nothing may go on")]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's random numbers");
    bytes
}

/// A fresh UUID version 7 (RFC 9562): sorts by the host's time, random beyond it.
#[must_use]
pub fn uuid_v7() -> Uuid {
    let milliseconds = u64::try_from(host_now().as_millisecond()).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(milliseconds, &random_bytes()).into_uuid()
}
