//! What results say: the types of their `data`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    CREDENTIAL_ISSUED, LEASE_RENEWED, LEASE_REVOCATION_FAILED, LEASE_REVOKED, REQUEST_DENIED,
};
use crate::lease::{Lease, State};

/// Type and data of a [`ResultEvent`](super::ResultEvent).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum ResultData {
    /// The credential is ready.
    #[serde(rename = "keycard.credential.issued.v1")]
    Issued(Issued),
    /// The lease has a new end.
    #[serde(rename = "keycard.lease.renewed.v1")]
    Renewed(Renewed),
    /// The lease is over.
    #[serde(rename = "keycard.lease.revoked.v1")]
    Revoked(Revoked),
    /// The login could not be dropped yet.
    #[serde(rename = "keycard.lease.revocation_failed.v1")]
    RevocationFailed(RevocationFailed),
    /// Nothing was done.
    #[serde(rename = "keycard.request.denied.v1")]
    Denied(Denied),
}

/// Data of `keycard.credential.issued.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Names the lease.
    pub lease_id: String,
    /// The request that is answered.
    pub request: RequestRef,
    /// The role asked for.
    pub role: String,
    /// Who asked.
    pub requester: String,
    /// The login's name.
    pub username: String,
    /// Where the database is.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its name.
    pub dbname: String,
    /// When the lease began.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The latest end that renewals can reach.
    pub max_expires_at: Timestamp,
    /// Whether it is shorter than was asked.
    pub ttl_clamped: bool,
    /// 1, and one more for every renewal.
    pub generation: u32,
    /// Where the password is.
    pub secret: SecretPointer,
}

/// Names a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRef {
    /// Its source.
    pub source: String,
    /// Its id.
    pub id: String,
}

/// Where a credential waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretPointer {
    /// The kind of store.
    pub store: String,
    /// What it is read by: the full ARN, or the path.
    pub locator: String,
    /// The store's region, if it has such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The version that was written.
    pub version: String,
}

/// Data of `keycard.lease.renewed.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// Names the lease.
    pub lease_id: String,
    /// Its end until now.
    pub previous_expires_at: Timestamp,
    /// Its end.
    pub expires_at: Timestamp,
    /// The latest end that renewals can reach.
    pub max_expires_at: Timestamp,
    /// Whether it is shorter than was asked.
    pub ttl_clamped: bool,
    /// 1, and one more for every renewal.
    pub generation: u32,
}

/// Data of `keycard.lease.revoked.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Names the lease.
    pub lease_id: String,
    /// The role it was issued for.
    pub role: String,
    /// Whose it was.
    pub requester: String,
    /// The login that is gone.
    pub username: String,
    /// Why it ended: [`Cause::as_str`](crate::lease::Cause::as_str), or a word of a later version.
    pub cause: String,
    /// Sessions that were terminated before the login was dropped.
    pub sessions_terminated: u32,
    /// When the login was dropped.
    pub revoked_at: Timestamp,
}

/// Data of `keycard.lease.revocation_failed.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationFailed {
    /// Names the lease.
    pub lease_id: String,
    /// The role it was issued for.
    pub role: String,
    /// The login that is disabled but not gone.
    pub username: String,
    /// Attempts that failed.
    pub attempts: u32,
    /// What Postgres said.
    pub reason: String,
    /// When it is tried again.
    pub next_attempt_at: Timestamp,
}

/// Data of `keycard.request.denied.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The command that is answered.
    pub request: RequestRef,
    /// Why: [`DenialCode::as_str`](crate::lease::DenialCode::as_str), or a word of a later version.
    pub code: String,
    /// The problem and the remedy, for people.
    pub message: String,
    /// Whether a new event with the same content may succeed though nobody changed anything.
    pub retryable: bool,
}

impl ResultData {
    /// The event type.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Issued(_) => CREDENTIAL_ISSUED,
            Self::Renewed(_) => LEASE_RENEWED,
            Self::Revoked(_) => LEASE_REVOKED,
            Self::RevocationFailed(_) => LEASE_REVOCATION_FAILED,
            Self::Denied(_) => REQUEST_DENIED,
        }
    }
}

impl Revoked {
    /// `None` while the lease's login exists.
    pub(super) fn of(lease: &Lease) -> Option<Self> {
        let (State::Dropped {
            cause, revoked_at, ..
        }
        | State::Closed {
            cause, revoked_at, ..
        }) = lease.state
        else {
            return None;
        };
        Some(Self {
            lease_id: lease.id.to_string(),
            role: lease.role.clone(),
            requester: lease.requester.as_str().to_owned(),
            username: lease.username.clone(),
            cause: cause.as_str().to_owned(),
            sessions_terminated: lease.sessions_terminated,
            revoked_at,
        })
    }
}
