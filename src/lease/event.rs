//! What can happen to a lease, and the rules it happens under.

use jiff::{SignedDuration, Timestamp};

use super::{LeaseId, Reason, Requester};

/// Something that happens to a lease: a command, a wake-up, or what became of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A requester asks for a credential; also when the same request is delivered again.
    Request(NewLease),
    /// Somebody asks for more (or less) time.
    Renew {
        /// Who asks, and when.
        asking: Asking,
        /// Seconds from now; the role's default when absent.
        ttl_seconds: Option<i64>,
    },
    /// Somebody asks for the end.
    Revoke(Asking),
    /// An expiry event fell due, or (`generation: None`) the sweep came by. Only wakes: what
    /// happens is decided by the lease and the clock.
    Wake {
        /// The generation that the expiry event was armed for.
        generation: Option<u32>,
    },
    /// The secret of this attempt is stored and the expiry event is armed.
    Delivered {
        /// Which attempt says so.
        attempt: u32,
    },
    /// No session of the disabled login is left, and what depended on it is cleared away.
    SessionsGone {
        /// Which attempt says so.
        attempt: u32,
        /// How many sessions were terminated.
        terminated: u32,
        /// What could not be cleared away, for people: the login cannot be dropped yet.
        left: Option<Reason>,
    },
    /// Secrets are deleted and the result is confirmed.
    Cleared {
        /// Which attempt says so.
        attempt: u32,
    },
    /// An effect failed for now; whether it happened is unknown. Comes from
    /// [`super::Decision::failure`].
    Failed {
        /// Which attempt says so; 0 when the effects were no attempt's.
        attempt: u32,
        /// What went wrong, for people.
        reason: Reason,
    },
    /// Reconciliation found that the world differs from the lease. Looked at again under the
    /// lease's lock: what has passed meanwhile is a [`Event::Wake`].
    Differs(Difference),
    /// Postgres refused the login change that was decided on `event`, and nothing of that
    /// decision happened.
    Refused {
        /// What the refused change was an answer to.
        event: Box<Event>,
        /// Sessions of the login that were told to end all the same.
        terminated: u32,
        /// What Postgres said, for people.
        reason: Reason,
    },
}

impl Event {
    /// The lease that is asked for, if this is a request.
    #[must_use]
    pub fn request(&self) -> Option<&NewLease> {
        if let Self::Request(new) = self {
            Some(new)
        } else {
            None
        }
    }
}

/// How the world can differ from a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The lease is alive and its login is gone.
    LoginMissing,
    /// The lease is over and its login is there.
    LoginLeft,
    /// The lease is closed and a secret of it is there.
    SecretLeft,
    /// The lease is delivered and its secret is gone, so it was revoked before its ledger was
    /// restored.
    SecretMissing,
}

/// Who asks for something, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asking {
    /// The validated identity.
    pub by: Requester,
    /// Whether the configuration names it an operator, who may act on any lease.
    pub operator: bool,
    /// When it says that it asked.
    pub at: Timestamp,
    /// From when on it no longer wants an answer.
    pub expires_at: Option<Timestamp>,
}

/// The lease that a request becomes if it is granted. The worker draws the random parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLease {
    /// Who asks, and when.
    pub asking: Asking,
    /// A fresh id.
    pub id: LeaseId,
    /// The role asked for.
    pub role: String,
    /// A fresh username.
    pub username: String,
    /// Seconds; the role's default when absent.
    pub ttl_seconds: Option<i64>,
    /// Leases of this requester and role that have not ended, counted under a lock.
    pub live_leases: u32,
}

/// The rules of the installation and, where it still exists, of the lease's role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long an attempt may keep a lease to itself. Longer than any effect may take.
    pub hold: SignedDuration,
    /// Requests and renewals older than this are not honoured, unless they say otherwise.
    pub request_age_max: SignedDuration,
    /// Whether an operator has frozen revocations in the lease's database.
    pub frozen: bool,
    /// `None` when the configuration no longer has the role, or no longer grants it to the lease's
    /// requester.
    pub role: Option<RolePolicy>,
}

/// The rules of one role. Whole seconds, `min_ttl <= default_ttl <= max_ttl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePolicy {
    /// Time to live when none is asked for.
    pub default_ttl: SignedDuration,
    /// Longest life, counted from issue.
    pub max_ttl: SignedDuration,
    /// Shortest time to live that may be asked for.
    pub min_ttl: SignedDuration,
    /// Most live leases of one requester; `None` for no limit.
    pub leases_max: Option<u32>,
}
