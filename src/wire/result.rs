//! Results: what keycard tells a requester.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::data::{
    Denied, Issued, Renewed, RequestRef, ResultData, RevocationFailed, Revoked, SecretPointer,
};
use super::id::event_id;
use super::{Expire, json};
use crate::lease::{Cause, DenialCode, Lease, LeaseId, Requester, State};

/// Who writes an event, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// The installation's name.
    pub installation: &'a str,
    /// The time of writing.
    pub at: Timestamp,
}

impl Stamp<'_> {
    pub(super) fn source(&self) -> String {
        format!("keycard/{}", self.installation)
    }
}

/// The command that an event answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Who sent it; `None` when the broker has validated nobody.
    pub requester: Option<&'a Requester>,
    /// Its source.
    pub source: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Its trace.
    pub traceparent: Option<&'a str>,
}

/// An event that tells a requester something. The same news always has the same id.
///
/// Reading one lets unknown fields pass: later versions of keycard may add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultEvent {
    specversion: SpecVersion,
    /// Names the event; deterministic.
    pub id: String,
    /// `keycard/<installation>`.
    pub source: String,
    /// When it was written.
    pub time: Timestamp,
    datacontenttype: ContentType,
    /// The lease that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The id of the command that it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<String>,
    /// The trace of the command that it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Type and data.
    #[serde(flatten)]
    pub data: ResultData,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum SpecVersion {
    #[serde(rename = "1.0")]
    V1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ContentType {
    #[serde(rename = "application/json")]
    Json,
}

/// What an `issued` event says beyond its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedDetails {
    /// Where the database is, for the requester.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its name.
    pub dbname: String,
    /// Where the password is.
    pub secret: SecretPointer,
}

impl ResultEvent {
    /// Answers a request: the credential is ready.
    #[must_use]
    pub fn issued(
        stamp: Stamp<'_>,
        asked: Asked<'_>,
        lease: &Lease,
        details: IssuedDetails,
    ) -> Self {
        let data = ResultData::Issued(Issued {
            lease_id: lease.id.to_string(),
            request: asked.request(),
            role: lease.role.clone(),
            requester: lease.requester.as_str().to_owned(),
            username: lease.username.clone(),
            host: details.host,
            port: details.port,
            dbname: details.dbname,
            issued_at: lease.issued_at,
            expires_at: lease.expires_at,
            max_expires_at: lease.max_expires_at,
            ttl_clamped: lease.ttl_clamped,
            generation: lease.generation,
            secret: details.secret,
        });
        Self::answer(stamp, asked, "", Some(&lease.id), data)
    }

    /// Answers a renewal. `lease` is the renewed one.
    #[must_use]
    pub fn renewed(
        stamp: Stamp<'_>,
        asked: Asked<'_>,
        lease: &Lease,
        previous_expires_at: Timestamp,
        ttl_clamped: bool,
    ) -> Self {
        let data = ResultData::Renewed(Renewed {
            lease_id: lease.id.to_string(),
            previous_expires_at,
            expires_at: lease.expires_at,
            max_expires_at: lease.max_expires_at,
            ttl_clamped,
            generation: lease.generation,
        });
        Self::answer(stamp, asked, "", Some(&lease.id), data)
    }

    /// Answers any command: nothing was done.
    #[must_use]
    pub fn denied(
        stamp: Stamp<'_>,
        asked: Asked<'_>,
        code: DenialCode,
        message: impl Into<String>,
    ) -> Self {
        let data = ResultData::Denied(Denied {
            request: asked.request(),
            code: code.as_str().to_owned(),
            message: message.into(),
            retryable: code.is_retryable(),
        });
        // One id can be denied twice: for what it asked, and later for having been used again.
        Self::answer(stamp, asked, code.as_str(), None, data)
    }

    /// Answers a revocation. `None` while the lease's login exists.
    #[must_use]
    pub fn revoked_as_asked(stamp: Stamp<'_>, asked: Asked<'_>, lease: &Lease) -> Option<Self> {
        let data = Revoked::of(lease)?;
        let data = ResultData::Revoked(data);
        Some(Self::answer(stamp, asked, "", Some(&lease.id), data))
    }

    /// Tells the lease's requester that it is over. Depends on nothing but the lease, so that it
    /// can be written again. `None` while the lease's login exists.
    #[must_use]
    pub fn revoked(installation: &str, lease: &Lease) -> Option<Self> {
        let data = Revoked::of(lease)?;
        let stamp = Stamp {
            installation,
            at: data.revoked_at,
        };
        Some(Self::revoked_notice(stamp, &lease.id, data))
    }

    /// Tells the requester that a lease is over which the ledger does not know. Has the id of the
    /// lease's other `revoked` event: whoever has seen that one needs no second.
    #[must_use]
    pub fn revoked_missing(stamp: Stamp<'_>, expire: &Expire) -> Self {
        let data = Revoked {
            lease_id: expire.lease_id.to_string(),
            role: expire.role.clone(),
            requester: expire.requester.as_str().to_owned(),
            username: expire.username.clone(),
            cause: Cause::Missing.as_str().to_owned(),
            sessions_terminated: 0,
            revoked_at: stamp.at,
        };
        Self::revoked_notice(stamp, &expire.lease_id, data)
    }

    /// Tells the lease's requester that its login is disabled but not gone. `None` unless the
    /// lease is being revoked.
    #[must_use]
    pub fn revocation_failed(
        stamp: Stamp<'_>,
        lease: &Lease,
        reason: impl Into<String>,
    ) -> Option<Self> {
        let State::Revoking {
            failures, retry_at, ..
        } = lease.state
        else {
            return None;
        };
        let lease_id = lease.id.to_string();
        let attempts = failures.to_string();
        let id = event_id(&[
            "revocation_failed",
            stamp.installation,
            &lease_id,
            &attempts,
        ]);
        let data = ResultData::RevocationFailed(RevocationFailed {
            lease_id,
            role: lease.role.clone(),
            username: lease.username.clone(),
            attempts: failures,
            reason: reason.into(),
            next_attempt_at: retry_at,
        });
        Some(Self::new(stamp, id, Some(&lease.id), data))
    }

    /// The event type.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.data.kind()
    }

    /// The event as structured JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        json::write(self)
    }

    /// Reads a result, for clients.
    ///
    /// # Errors
    /// When it is none of the types that this version knows, or lacks a field.
    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    fn answer(
        stamp: Stamp<'_>,
        asked: Asked<'_>,
        distinction: &str,
        about: Option<&LeaseId>,
        data: ResultData,
    ) -> Self {
        let id = event_id(&[
            "answer",
            stamp.installation,
            asked.requester.map_or("", Requester::as_str),
            asked.source,
            asked.id,
            data.kind(),
            distinction,
        ]);
        Self {
            correlationid: Some(asked.id.to_owned()),
            traceparent: asked.traceparent.map(str::to_owned),
            ..Self::new(stamp, id, about, data)
        }
    }

    fn revoked_notice(stamp: Stamp<'_>, lease_id: &LeaseId, data: Revoked) -> Self {
        let id = event_id(&["revoked", stamp.installation, &data.lease_id]);
        Self::new(stamp, id, Some(lease_id), ResultData::Revoked(data))
    }

    fn new(stamp: Stamp<'_>, id: String, about: Option<&LeaseId>, data: ResultData) -> Self {
        Self {
            specversion: SpecVersion::V1,
            id,
            source: stamp.source(),
            time: stamp.at,
            datacontenttype: ContentType::Json,
            subject: about.map(LeaseId::to_string),
            correlationid: None,
            traceparent: None,
            data,
        }
    }
}

impl Asked<'_> {
    fn request(&self) -> RequestRef {
        RequestRef {
            source: self.source.to_owned(),
            id: self.id.to_owned(),
        }
    }
}
