//! The core: what a lease is and what happens to it, as pure functions.
//!
//! Nothing in here is asynchronous, reads a clock, draws a random number or imports another module
//! of keycard. [`decide()`] is the one place where a lease changes state; the worker carries out
//! what it returns.

mod audit;
mod decide;
mod decision;
mod denials;
mod ending;
mod event;
mod grant;
mod identity;
mod steps;
#[cfg(test)]
mod tests;

pub use audit::{Action, Audited, audited};
pub use decide::decide;
pub use decision::{
    Answer, Decision, Denial, DenialCode, Effect, LoginChange, Notice, Outcome, Reason, Report,
    Secrets, Then, Whose,
};
pub use event::{Asking, Difference, Event, NewLease, Policy, RolePolicy};
pub use identity::{IdentityError, LeaseId, Requester, is_name};

use jiff::{SignedDuration, Timestamp};

/// One login's life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Names the lease and the database whose ledger knows it.
    pub id: LeaseId,
    /// The role (the configuration's template) it was issued for.
    pub role: String,
    /// Who asked for it and is told about it.
    pub requester: Requester,
    /// The Postgres login it owns.
    pub username: String,
    /// When it was issued, a whole second of the database's clock.
    pub issued_at: Timestamp,
    /// When it ends, a whole second; equal to the login's VALID UNTIL as long as it lives.
    pub expires_at: Timestamp,
    /// The latest `expires_at` that renewals can reach.
    pub max_expires_at: Timestamp,
    /// Whether the request asked for longer than the role allows.
    pub ttl_clamped: bool,
    /// 1 at issue, one more for every renewal. Fences expiry events.
    pub generation: u32,
    /// Counts the attempts at delivering and at revoking. Fences their writes. Delivering comes
    /// first, so attempt `n` put its secret at the lease's `n`th locator.
    pub attempt: u32,
    /// Until when the current attempt, or the pause after a failed delivery, may not be disturbed;
    /// `None` when nobody works on it.
    pub held_until: Option<Timestamp>,
    /// Sessions of the login that revocation has terminated before it dropped the login.
    pub sessions_terminated: u32,
    /// Where in its life it is.
    pub state: State,
}

/// Where a lease is in its life. `stuck` is no state of its own: see [`Lease::is_stuck`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// The login exists; the requester has not been told.
    Issuing,
    /// The credential is in the secret store and the requester may use it.
    Active,
    /// The login is disabled and must be dropped.
    Revoking {
        /// Why the lease ends.
        cause: Cause,
        /// Attempts at dropping the login that failed.
        failures: u32,
        /// No further attempt before this time.
        retry_at: Timestamp,
    },
    /// The login is gone; its secrets may not be, and not everyone may have been told.
    Dropped {
        /// Why the lease ended.
        cause: Cause,
        /// When the login was dropped.
        revoked_at: Timestamp,
        /// Attempts at clearing up that failed.
        failures: u32,
        /// No further attempt before this time.
        retry_at: Timestamp,
    },
    /// Login and secrets are gone and the result is confirmed.
    Closed {
        /// Why the lease ended.
        cause: Cause,
        /// When the login was dropped.
        revoked_at: Timestamp,
        /// When the secrets are deleted once more, against writers that were late.
        recheck_at: Option<Timestamp>,
    },
}

impl State {
    /// The state as the ledger and the command line write it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Issuing => "issuing",
            Self::Active => "active",
            Self::Revoking { .. } => "revoking",
            Self::Dropped { .. } => "dropped",
            Self::Closed { .. } => "closed",
        }
    }
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its time was up.
    Expired,
    /// Its requester asked for it.
    Requested,
    /// An operator asked for it.
    Operator,
    /// The ledger did not know it, or its login was gone.
    Missing,
}

impl Cause {
    /// Every cause, in the order of the documentation.
    pub const ALL: [Self; 4] = [
        Self::Expired,
        Self::Requested,
        Self::Operator,
        Self::Missing,
    ];

    /// The cause as events and the ledger write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Requested => "requested",
            Self::Operator => "operator",
            Self::Missing => "missing",
        }
    }
}

/// Failed revocations after which a lease counts as stuck (Vault calls a lease irrevocable after
/// six attempts, too, but stops trying).
pub const STUCK_AFTER_FAILURES: u32 = 6;

/// The ledger keeps a command and its answer at least this long. A command is carried out until it
/// is 30 days old, and may be dated five minutes ahead; forgotten sooner, it could be done twice.
pub const ANSWERS_KEPT: SignedDuration = SignedDuration::from_mins(30 * 24 * 60 + 5);

impl Lease {
    /// Whether revocation has failed so often that somebody should look at it. It is still retried.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        matches!(self.state, State::Revoking { failures, .. } if failures >= STUCK_AFTER_FAILURES)
    }

    /// When the sweep has to look at this lease if nothing else did; `None` when never again.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Issuing => Some(self.held_until.unwrap_or(self.issued_at)),
            State::Active => Some(self.expires_at),
            State::Revoking { retry_at, .. } | State::Dropped { retry_at, .. } => {
                Some(self.held_until.map_or(retry_at, |held| held.max(retry_at)))
            }
            State::Closed { recheck_at, .. } => recheck_at,
        }
    }

    /// Whether the lease's credential is no longer to be used at `now`.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        !matches!(self.state, State::Issuing | State::Active) || self.is_due(now)
    }

    /// Whether the lease's time is up at `now`.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }
}
