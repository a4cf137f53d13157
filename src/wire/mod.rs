//! The events as they travel: `CloudEvents` 1.0 in structured JSON, to and from the core's types.
//!
//! `events/` holds a schema and examples for each type, and tests/it/contract.rs holds schemas and
//! code equal. Commands are closed: what keycard does not know it refuses. Results are open: their
//! readers must let fields pass that they do not know.

mod command;
mod data;
mod expire;
mod field;
mod id;
mod json;
mod result;

pub use command::{Accepts, BODY_BYTES_MAX, Command, Incoming, Refused, decode};
pub use data::{
    Denied, Issued, Renewed, RequestRef, ResultData, RevocationFailed, Revoked, SecretPointer,
};
pub use expire::Expire;
pub use result::{Asked, IssuedDetails, ResultEvent, Stamp};

/// Asks for a credential.
pub const CREDENTIAL_REQUEST: &str = "keycard.credential.request.v1";
/// Answers a request: the credential is ready.
pub const CREDENTIAL_ISSUED: &str = "keycard.credential.issued.v1";
/// Asks for another end of a lease.
pub const LEASE_RENEW: &str = "keycard.lease.renew.v1";
/// Answers a renewal: the lease has a new end.
pub const LEASE_RENEWED: &str = "keycard.lease.renewed.v1";
/// Asks for the end of a lease.
pub const LEASE_REVOKE: &str = "keycard.lease.revoke.v1";
/// Says that a lease is over.
pub const LEASE_REVOKED: &str = "keycard.lease.revoked.v1";
/// Says that a login could not be dropped yet.
pub const LEASE_REVOCATION_FAILED: &str = "keycard.lease.revocation_failed.v1";
/// Answers any command: nothing was done.
pub const REQUEST_DENIED: &str = "keycard.request.denied.v1";
/// Wakes keycard when a lease is due; internal.
pub const LEASE_EXPIRE: &str = "keycard.lease.expire.v1";
/// Reserved: nobody sends it and nobody takes it.
pub const LEASE_EXPIRING: &str = "keycard.lease.expiring.v1";

/// Every type that is in use, in the order of the documentation.
pub const TYPES: [&str; 9] = [
    CREDENTIAL_REQUEST,
    CREDENTIAL_ISSUED,
    LEASE_RENEW,
    LEASE_RENEWED,
    LEASE_REVOKE,
    LEASE_REVOKED,
    LEASE_REVOCATION_FAILED,
    REQUEST_DENIED,
    LEASE_EXPIRE,
];
