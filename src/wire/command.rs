//! Commands: what a requester sends.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::field::{
    CONTENT_TYPE, Fields, LEASE_ID, REASON, ROLE, SECONDS, SPEC_VERSION, TEXT, TIME, TRACE_STATE,
};
use super::id::joined;
use super::json::{parse, shown};
use super::{Asked, CREDENTIAL_REQUEST, LEASE_RENEW, LEASE_REVOKE};
use crate::lease::{DenialCode, LeaseId, Requester};

/// Longest command, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// The attributes that a command's envelope may have.
const ENVELOPE: [&str; 12] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "data",
    "datacontenttype",
    "dataschema",
    "subject",
    "expirytime",
    "traceparent",
    "tracestate",
];

/// Which commands a lane takes: publishing to its exchange is a privilege of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// Credential requests.
    Requests,
    /// Renewals and revocations.
    Leases,
}

/// A command as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The sender's id for it; names it together with `source` and the requester.
    pub id: String,
    /// What the sender calls itself.
    pub source: String,
    /// When the sender says that it asked.
    pub time: Timestamp,
    /// From when on the sender no longer wants an answer.
    pub expires_at: Option<Timestamp>,
    /// The sender's trace as it says, whatever that is.
    pub traceparent: Option<String>,
    /// What it asks for.
    pub command: Command,
    /// [`Command::digest`] of `command`.
    pub digest: [u8; 32],
}

impl Incoming {
    /// The command as its answer refers to it.
    #[must_use]
    pub fn asked<'a>(&'a self, by: Option<&'a Requester>) -> Asked<'a> {
        Asked {
            requester: by,
            source: &self.source,
            id: &self.id,
            traceparent: self.traceparent.as_deref(),
        }
    }
}

/// What a requester asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A credential.
    Request {
        /// The role's name.
        role: String,
        /// Any number: the role's policy decides.
        ttl_seconds: Option<i64>,
    },
    /// Another end for a lease.
    Renew {
        /// Which lease.
        lease_id: LeaseId,
        /// From now; any number: the role's policy decides.
        ttl_seconds: Option<i64>,
    },
    /// The end of a lease.
    Revoke {
        /// Which lease.
        lease_id: LeaseId,
        /// For people.
        reason: Option<String>,
    },
}

impl Command {
    /// The event type.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Request { .. } => CREDENTIAL_REQUEST,
            Self::Renew { .. } => LEASE_RENEW,
            Self::Revoke { .. } => LEASE_REVOKE,
        }
    }

    /// SHA-256 over type and data as they were understood. The order of keys, white space, the
    /// spelling of numbers and every other attribute may differ between a command and its retry.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let seconds = |seconds: &Option<i64>| seconds.map(|seconds| seconds.to_string());
        let (about, detail) = match self {
            Self::Request { role, ttl_seconds } => (role.clone(), seconds(ttl_seconds)),
            Self::Renew {
                lease_id,
                ttl_seconds,
            } => (lease_id.to_string(), seconds(ttl_seconds)),
            Self::Revoke { lease_id, reason } => (lease_id.to_string(), reason.clone()),
        };
        // An absent detail has one part less than an empty one.
        let parts: Vec<&str> = [self.kind(), &about]
            .into_iter()
            .chain(detail.as_deref())
            .collect();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &joined(&parts)).as_ref());
        bytes
    }
}

/// A message that is no command keycard can carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// [`DenialCode::InvalidEvent`] or [`DenialCode::UnsupportedType`].
    pub code: DenialCode,
    /// The field, what is wrong with it and what to send instead. Holds at most 64 characters of
    /// the sender's own text, escaped.
    pub message: String,
    /// The event's id, if it is there and fits.
    pub id: Option<String>,
    /// The event's source, if it is there and fits.
    pub source: Option<String>,
}

impl std::error::Error for Refused {}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Refused {
    /// The message as its denial refers to it; `None` when it cannot be named.
    #[must_use]
    pub fn asked<'a>(&'a self, by: Option<&'a Requester>) -> Option<Asked<'a>> {
        Some(Asked {
            requester: by,
            source: self.source.as_deref()?,
            id: self.id.as_deref()?,
            traceparent: None,
        })
    }

    pub(super) fn unreadable(message: String) -> Self {
        Self {
            code: DenialCode::InvalidEvent,
            message,
            id: None,
            source: None,
        }
    }
}

/// Reads a command. What the schemas in events/ refuse, this refuses, and the reverse; a body of
/// more than [`BODY_BYTES_MAX`] bytes is refused unread.
///
/// # Errors
/// With the first fault; an unsupported type comes before all others but unreadable JSON.
pub fn decode(lane_accepts: Accepts, body: &[u8]) -> Result<Incoming, Refused> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Refused::unreadable(format!(
            "the body has {} bytes; send at most {BODY_BYTES_MAX}",
            body.len()
        )));
    }
    let envelope = envelope(body)?;
    read(lane_accepts, &envelope).map_err(|(code, message)| {
        let fields = Fields::of_envelope(&envelope);
        Refused {
            code,
            message,
            id: fields.optional("id", &TEXT).ok().flatten(),
            source: fields.optional("source", &TEXT).ok().flatten(),
        }
    })
}

/// The body as one JSON object.
pub(super) fn envelope(body: &[u8]) -> Result<Map<String, Value>, Refused> {
    match parse(body) {
        Ok(Value::Object(envelope)) => Ok(envelope),
        Ok(_) => Err(Refused::unreadable(
            "the body is JSON but not an object; send one CloudEvent in structured JSON".into(),
        )),
        Err(problem) => Err(Refused::unreadable(format!(
            "the body is not unambiguous JSON ({problem}); send one CloudEvent in structured JSON"
        ))),
    }
}

fn read(
    lane_accepts: Accepts,
    envelope: &Map<String, Value>,
) -> Result<Incoming, (DenialCode, String)> {
    let invalid = |message| (DenialCode::InvalidEvent, message);
    let kind = match envelope.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        None | Some(_) => {
            return Err(invalid(format!(
                "`type` is missing or no string; send {CREDENTIAL_REQUEST}, {LEASE_RENEW} or {LEASE_REVOKE}"
            )));
        }
    };
    match (lane_accepts, kind) {
        (Accepts::Requests, CREDENTIAL_REQUEST) => {
            understand(envelope, &["role", "ttl_seconds"], |data| {
                Ok(Command::Request {
                    role: data.required("role", &ROLE)?,
                    ttl_seconds: data.optional("ttl_seconds", &SECONDS)?,
                })
            })
            .map_err(invalid)
        }
        (Accepts::Leases, LEASE_RENEW) => {
            understand(envelope, &["lease_id", "ttl_seconds"], |data| {
                Ok(Command::Renew {
                    lease_id: data.required("lease_id", &LEASE_ID)?,
                    ttl_seconds: data.optional("ttl_seconds", &SECONDS)?,
                })
            })
            .map_err(invalid)
        }
        (Accepts::Leases, LEASE_REVOKE) => understand(envelope, &["lease_id", "reason"], |data| {
            Ok(Command::Revoke {
                lease_id: data.required("lease_id", &LEASE_ID)?,
                reason: data.optional("reason", &REASON)?,
            })
        })
        .map_err(invalid),
        (Accepts::Requests | Accepts::Leases, _) => Err((
            DenialCode::UnsupportedType,
            format!(
                "`type` {} is not taken here; send {CREDENTIAL_REQUEST} as a request, {LEASE_RENEW} or {LEASE_REVOKE} as a command about a lease",
                shown(kind)
            ),
        )),
    }
}

/// Reads the envelope, and with `command` its data, which has no other fields than `known`.
fn understand(
    envelope: &Map<String, Value>,
    known: &[&str],
    command: impl FnOnce(&Fields<'_>) -> Result<Command, String>,
) -> Result<Incoming, String> {
    let attributes = Fields::of_envelope(envelope);
    attributes.required("specversion", &SPEC_VERSION)?;
    attributes.only(&ENVELOPE)?;
    let id = attributes.required("id", &TEXT)?;
    let source = attributes.required("source", &TEXT)?;
    let time = attributes.required("time", &TIME)?;
    let expires_at = attributes.optional("expirytime", &TIME)?;
    let traceparent = attributes.optional("traceparent", &TEXT)?;
    attributes.optional("datacontenttype", &CONTENT_TYPE)?;
    attributes.optional("dataschema", &TEXT)?;
    attributes.optional("subject", &TEXT)?;
    attributes.optional("tracestate", &TRACE_STATE)?;

    let data = Fields::of_data(envelope)?;
    data.only(known)?;
    let command = command(&data)?;
    Ok(Incoming {
        id,
        source,
        time,
        expires_at,
        traceparent,
        digest: command.digest(),
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVOKE: &str = r#"{
        "specversion": "1.0", "id": "1", "source": "orders", "type": "keycard.lease.revoke.v1",
        "time": "2026-01-31T12:00:00Z",
        "data": {"lease_id": "app-db.01890a5d-ac96-774b-bcce-b302099a8057"}
    }"#;

    fn hex(digest: [u8; 32]) -> String {
        use std::fmt::Write as _;
        digest.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })
    }

    #[test]
    fn digests_do_not_change_between_versions() {
        let request = Command::Request {
            role: "app".into(),
            ttl_seconds: Some(3600),
        };
        assert_eq!(
            hex(request.digest()),
            "18b134588fd6d576b439703172c519f0e3c35b7ae078ad8b0b7cedfbbea10baf"
        );
        let revoke = decode(Accepts::Leases, REVOKE.as_bytes()).unwrap();
        assert_eq!(revoke.digest, revoke.command.digest());
        assert_eq!(
            hex(revoke.digest),
            "1fe484978b0332cb5278b366af65ce0bb85153c82583d741f3803bc12e5fa7db"
        );
    }

    #[test]
    fn digests_tell_commands_apart() {
        let id: LeaseId = "app-db.01890a5d-ac96-774b-bcce-b302099a8057"
            .parse()
            .unwrap();
        let renew = |ttl_seconds| Command::Renew {
            lease_id: id.clone(),
            ttl_seconds,
        };
        let revoke = |reason: Option<&str>| Command::Revoke {
            lease_id: id.clone(),
            reason: reason.map(str::to_owned),
        };
        let commands = [
            renew(None),
            renew(Some(0)),
            renew(Some(1)),
            revoke(None),
            revoke(Some("")),
            revoke(Some("0")),
            Command::Request {
                role: "app".into(),
                ttl_seconds: None,
            },
        ];
        for (i, one) in commands.iter().enumerate() {
            for other in &commands[..i] {
                assert_ne!(one.digest(), other.digest());
            }
        }
    }

    #[test]
    fn only_what_is_asked_for_counts_for_the_digest() {
        let first = decode(Accepts::Leases, REVOKE.as_bytes()).unwrap();
        let retry = br#"{"data":{"reason":null,"lease_id":"app-db.01890a5d-ac96-774b-bcce-b302099a8057"},
            "traceparent":"x","time":"2026-01-31T12:00:07.5+00:00","subject":"s","expirytime":"2026-02-01T00:00:00Z",
            "type":"keycard.lease.revoke.v1","source":"orders","id":"1","specversion":"1.0"}"#;
        let retry = decode(Accepts::Leases, retry).unwrap();
        assert_eq!(first.digest, retry.digest);
        assert_ne!(first.time, retry.time);
    }
}
