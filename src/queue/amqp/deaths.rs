//! What the broker notes on a message that it moves from one queue to another: `x-death`.
//!
//! The newest move comes first. A client can publish a message with entries of its own invention,
//! and up to `RabbitMQ` 3.13 the broker keeps them behind its own, in any order: once the broker has
//! moved a message, the first entry is true, and a queue that it has left is among the others.

use jiff::Timestamp;
use lapin::types::{AMQPValue, FieldTable};

use super::message::text;
use super::topology::queue_of;
use crate::queue::Lane;

/// A consumer gave it up, which nobody but an operator does among the dead letters.
pub(super) const REJECTED: &str = "rejected";

/// The message left a queue, for a reason of the broker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) queue: String,
    pub(super) reason: String,
    /// When it did so the first time.
    pub(super) at: Option<Timestamp>,
}

/// All of a message's, newest first. What is no entry of the broker's is left out.
pub(super) fn deaths(headers: Option<&FieldTable>) -> Vec<Death> {
    headers
        .and_then(|headers| headers.inner().get("x-death")?.as_array())
        .map_or(&[][..], |entries| entries.as_slice())
        .iter()
        .filter_map(AMQPValue::as_field_table)
        .filter_map(death)
        .collect()
}

fn death(entry: &FieldTable) -> Option<Death> {
    let seconds = entry.inner().get("time").and_then(AMQPValue::as_timestamp);
    Some(Death {
        queue: text(entry, "queue")?,
        reason: text(entry, "reason")?,
        at: seconds.and_then(timestamp),
    })
}

/// The lane that a client published the message to, if the broker has moved it out of there. Who
/// forges entries can make it the other lane, where the message is as much their own.
pub(super) fn command_lane(deaths: &[Death]) -> Option<Lane> {
    deaths.iter().find_map(|death| {
        [Lane::Requests, Lane::Leases]
            .into_iter()
            .find(|lane| death.queue == queue_of(*lane))
    })
}

/// AMQP's time.
pub(super) fn timestamp(seconds: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// Why it is a dead letter, for people.
impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { queue, reason, .. } = self;
        if reason == "delivery_limit" {
            write!(
                f,
                "delivered too often from {queue}: workers could not read it, or died of it"
            )
        } else {
            write!(f, "moved by the broker from {queue}: {reason}")
        }
    }
}
