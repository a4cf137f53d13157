//! What is to be done about an event, as values.

use jiff::Timestamp;

use super::{Event, Lease};

/// What is to be done about an event: `next`, `login` and `answers` in one transaction, then the
/// effects in their order, then `then`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The lease as it must be from now on; `None` when it stays as it is.
    pub next: Option<Lease>,
    /// What happens to the login in the same transaction.
    pub login: Option<LoginChange>,
    /// Answers to be recorded in the same transaction.
    pub answers: Vec<Answer>,
    /// What happens after the commit, each idempotent.
    pub effects: Vec<Effect>,
    /// What follows when every effect has happened.
    pub then: Then,
    /// Why, for the log.
    pub reason: Reason,
}

impl Decision {
    /// The event that tells of a failed effect. It names the attempt whose effects these are; a
    /// decision that leaves the lease alone speaks for no attempt (0), so that whoever does hold the
    /// lease is not disturbed.
    #[must_use]
    pub fn failure(&self, reason: Reason) -> Event {
        Event::Failed {
            attempt: self.next.as_ref().map_or(0, |lease| lease.attempt),
            reason,
        }
    }

    /// Whether it takes something away from a lease that has, or had, a credential.
    pub(super) fn takes_away(&self) -> bool {
        self.login.is_some_and(|change| match change {
            LoginChange::Disable | LoginChange::Drop => true,
            LoginChange::Create | LoginChange::ResetPassword | LoginChange::Renew => false,
        }) || self.effects.iter().any(|effect| match effect {
            Effect::TerminateSessions
            | Effect::ClearObjects
            | Effect::DeleteSecrets(Secrets::All) => true,
            // These are of attempts that nobody was told about.
            Effect::DeleteSecrets(Secrets::Superseded | Secrets::Of(_))
            | Effect::PutSecret
            | Effect::ArmExpiry
            | Effect::Answer
            | Effect::Publish(_) => false,
        })
    }
}

/// Why something is done or was refused; never holds a secret.
pub type Reason = std::borrow::Cow<'static, str>;

/// A change of the login, in the transaction that changes the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginChange {
    /// Create it, with a password that only the worker knows.
    Create,
    /// Give it a new password: the earlier one died with its worker.
    ResetPassword,
    /// Move VALID UNTIL to the lease's `expires_at`.
    Renew,
    /// Keep it from logging in, as well as Postgres lets us.
    Disable,
    /// Terminate its sessions and drop it.
    Drop,
}

/// The recorded answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whose command is answered.
    pub to: Whose,
    /// What it is told.
    pub outcome: Outcome,
}

/// Whose command is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The command at hand.
    Asker,
    /// The request that the lease was created for, if it has no answer yet.
    Issue,
    /// Every revoke command for this lease that has no answer yet.
    Revokers,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The credential is ready.
    Issued,
    /// The lease has a new end.
    Renewed {
        /// Its end until now.
        previous_expires_at: Timestamp,
        /// Whether it lives shorter than was asked.
        ttl_clamped: bool,
    },
    /// The lease is over.
    Revoked,
    /// Nothing was done.
    Denied(Denial),
}

/// Why nothing was done, as the requester is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The stable code.
    pub code: DenialCode,
    /// One sentence for people: the problem and the remedy.
    pub message: Reason,
}

/// The stable codes of `keycard.request.denied.v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenialCode {
    /// The event does not fit its schema.
    InvalidEvent,
    /// No such event type, or no such version of it.
    UnsupportedType,
    /// The broker has validated no user for the message.
    Unauthenticated,
    /// The role does not exist or is not for this requester.
    RoleNotAllowed,
    /// The time to live is zero, negative or below the role's minimum.
    TtlInvalid,
    /// The command waited too long, or its own deadline has passed.
    TooOld,
    /// The requester has as many live leases of this role as it may.
    LeaseLimit,
    /// No such lease, or somebody else's.
    LeaseUnknown,
    /// The lease is over.
    LeaseEnded,
    /// The same id was used before with another content.
    RequestIdReused,
    /// Postgres refused the role's statements.
    RoleUnusable,
}

impl DenialCode {
    /// Every code, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::InvalidEvent,
        Self::UnsupportedType,
        Self::Unauthenticated,
        Self::RoleNotAllowed,
        Self::TtlInvalid,
        Self::TooOld,
        Self::LeaseLimit,
        Self::LeaseUnknown,
        Self::LeaseEnded,
        Self::RequestIdReused,
        Self::RoleUnusable,
    ];

    /// The code as events write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidEvent => "invalid_event",
            Self::UnsupportedType => "unsupported_type",
            Self::Unauthenticated => "unauthenticated",
            Self::RoleNotAllowed => "role_not_allowed",
            Self::TtlInvalid => "ttl_invalid",
            Self::TooOld => "too_old",
            Self::LeaseLimit => "lease_limit",
            Self::LeaseUnknown => "lease_unknown",
            Self::LeaseEnded => "lease_ended",
            Self::RequestIdReused => "request_id_reused",
            Self::RoleUnusable => "role_unusable",
        }
    }

    /// Whether a new event with the same content may succeed though nobody changed anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::TooOld | Self::LeaseLimit)
    }
}

/// Something that happens outside the ledger, after the commit. Each may happen twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Store the credential at this attempt's own locator.
    PutSecret,
    /// Schedule the expiry event of the lease's generation.
    ArmExpiry,
    /// Terminate the login's sessions by its OID, until none is left.
    TerminateSessions,
    /// Clear away what depends on the login: prepared transactions, privileges, and what it owns as
    /// far as its role said when it was issued.
    ClearObjects,
    /// Delete secrets of the lease.
    DeleteSecrets(Secrets),
    /// Publish the answers recorded in this transaction.
    Answer,
    /// Tell the lease's requester.
    Publish(Notice),
}

/// Which secrets of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Secrets {
    /// Of every attempt.
    All,
    /// Of the attempts before the one that delivered.
    Superseded,
    /// Of one attempt that came too late.
    Of(u32),
}

/// News about a lease that no command asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The lease is over.
    Revoked,
    /// The lease is over and the ledger does not know it.
    Missing,
    /// The login could not be dropped; it is disabled and will be tried again.
    RevocationFailed {
        /// What Postgres said.
        reason: Reason,
    },
}

/// What follows when every effect has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Then {
    /// The delivery is done.
    Ack,
    /// The delivery comes back at this time.
    Defer(Timestamp),
    /// The worker reports the effects' success as the next event.
    Report(Report),
}

/// Which event reports that the effects have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Report {
    /// [`Event::Delivered`](super::Event::Delivered).
    Delivered,
    /// [`Event::SessionsGone`](super::Event::SessionsGone).
    SessionsGone,
    /// [`Event::Cleared`](super::Event::Cleared).
    Cleared,
}
