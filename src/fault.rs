//! The one question every port's error answers: what now?

/// What to do about an error of a queue, a store, a ledger or a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It may pass: the same thing is tried again later, however long that takes.
    Retry,
    /// It will not pass for this input, and does not concern any other.
    Reject,
    /// Nothing can be done rightly before somebody mends it: the worker says so and stops.
    Fatal,
}
