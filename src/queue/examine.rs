//! What `keycard doctor` says of either queue alike.

use crate::check::Check;

/// Whether somebody does what is asked for. Without a worker nothing is issued, and logins end by
/// themselves alone.
pub(super) fn served(workers: i64, waiting: i64) -> Check {
    const NAME: &str = "queue.workers";
    if workers > 0 {
        return Check::ok(NAME, format!("{workers} running, {waiting} messages wait"));
    }
    let remedy =
        "start `keycard worker`; where workers are scaled to zero one starts with the next message";
    Check::warning(
        NAME,
        format!("none is running, {waiting} messages wait"),
        remedy,
    )
}

/// What waits for an operator.
pub(super) fn dead_letters(count: i64) -> Check {
    const NAME: &str = "queue.dead_letters";
    if count == 0 {
        return Check::ok(NAME, "none waits");
    }
    Check::warning(
        NAME,
        format!("{count} messages could not be processed"),
        "`keycard dead-letters list` says why",
    )
}
