//! The one question every port's error answers: what now? And how one that says little is told.

use std::error::Error;

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

/// An error and its causes in one line, for those whose own text says only that there was one.
#[must_use]
pub fn told_with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
