//! The expiry event: keycard's note to itself that a lease is due.

use jiff::Timestamp;
use serde_json::json;

use super::command::envelope;
use super::field::{
    Fields, GENERATION, LEASE_ID, LOCATORS, REQUESTER, ROLE, SPEC_VERSION, TEXT, TIME,
};
use super::id::event_id;
use super::json::shown;
use super::{LEASE_EXPIRE, Refused, Stamp};
use crate::lease::{DenialCode, Lease, LeaseId, Requester};

/// Wakes the worker when a lease is due. The ledger decides what happens; the rest is for a ledger
/// that has lost the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expire {
    /// Which lease.
    pub lease_id: LeaseId,
    /// The lease's generation when it was armed.
    pub generation: u32,
    /// When the lease is due.
    pub due_at: Timestamp,
    /// Whose lease it is.
    pub requester: Requester,
    /// The role it was issued for.
    pub role: String,
    /// The login it owns.
    pub username: String,
    /// Where its secrets are.
    pub locators: Vec<String>,
}

impl Expire {
    /// The expiry event of the lease's generation.
    #[must_use]
    pub fn of(lease: &Lease, locators: Vec<String>) -> Self {
        Self {
            lease_id: lease.id.clone(),
            generation: lease.generation,
            due_at: lease.expires_at,
            requester: lease.requester.clone(),
            role: lease.role.clone(),
            username: lease.username.clone(),
            locators,
        }
    }

    /// The event as structured JSON.
    #[must_use]
    pub fn to_json(&self, stamp: Stamp<'_>) -> String {
        let lease_id = self.lease_id.to_string();
        let generation = self.generation.to_string();
        json!({
            "specversion": "1.0",
            "id": event_id(&["expire", stamp.installation, &lease_id, &generation]),
            "source": stamp.source(),
            "type": LEASE_EXPIRE,
            "time": stamp.at,
            "datacontenttype": "application/json",
            "subject": lease_id,
            "data": {
                "lease_id": lease_id,
                "generation": self.generation,
                "due_at": self.due_at,
                "requester": self.requester.as_str(),
                "role": self.role,
                "username": self.username,
                "locators": self.locators,
            },
        })
        .to_string()
    }

    /// Reads an expiry event of this version or a later one: added fields pass. Its size has no
    /// limit of its own, as only keycard may publish it.
    ///
    /// # Errors
    /// When the message is no expiry event.
    pub fn decode(body: &[u8]) -> Result<Self, Refused> {
        let envelope = envelope(body)?;
        match envelope.get("type").and_then(|kind| kind.as_str()) {
            Some(LEASE_EXPIRE) => {}
            other => {
                return Err(Refused {
                    code: DenialCode::UnsupportedType,
                    ..Refused::unreadable(format!(
                        "`type` {} is not taken here; only {LEASE_EXPIRE} is",
                        shown(other.unwrap_or_default())
                    ))
                });
            }
        }
        Fields::of_envelope(&envelope)
            .required("specversion", &SPEC_VERSION)
            .and_then(|()| Fields::of_data(&envelope))
            .and_then(|data| Self::read(&data))
            .map_err(Refused::unreadable)
    }

    fn read(data: &Fields<'_>) -> Result<Self, String> {
        Ok(Self {
            lease_id: data.required("lease_id", &LEASE_ID)?,
            generation: data.required("generation", &GENERATION)?,
            due_at: data.required("due_at", &TIME)?,
            requester: data.required("requester", &REQUESTER)?,
            role: data.required("role", &ROLE)?,
            username: data.required("username", &TEXT)?,
            locators: data.required("locators", &LOCATORS)?,
        })
    }
}
