//! keycard as a service meets it: commands go as events with the user of the [client] section, and
//! answers come back typed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::process::Command;

use super::Failure;
use crate::app::{self, AppError};
use crate::clock;
use crate::config::{self, Environment};
use crate::queue::{Lane, Requesting};
use crate::wire::{
    CREDENTIAL_REQUEST, Issued, LEASE_RENEW, LEASE_REVOKE, Renewed, ResultData, ResultEvent,
    Revoked,
};

/// What commands call their source; keycard tells senders apart by their user.
const SOURCE: &str = "/keycard/cli";

/// From when on nobody waits for a request's answer any more: a worker that finds it later then
/// issues nothing. Asking itself gives up after half a minute; the rest is for clocks that differ.
pub(super) const REQUEST_WAITS: Duration = Duration::from_mins(2);

/// How long a revocation may take before it is left to the lease's own end. A broker may lose an
/// answer, and asking asks again after ten seconds: so there is time for a second try.
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(25);

/// The user of the [client] section, able to send commands.
pub(super) struct Service {
    queue: Box<dyn Requesting>,
    /// Who it is to keycard.
    user: String,
    /// Variables that give passwords which a credential's user does without.
    withheld: BTreeSet<String>,
}

/// An answer that grants what was asked.
pub(super) struct Granted<T> {
    /// The event as it came.
    pub(super) event: ResultEvent,
    /// Its data.
    pub(super) data: T,
    /// When the command was sent, by the host's monotonic clock.
    pub(super) asked_at: Instant,
    /// When the answer had come.
    pub(super) answered_at: Instant,
}

impl Service {
    /// Reads the [client] section; of the others only which variables give their passwords.
    pub(super) fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, Failure> {
        let client = config::Client::load(path, environment)?;
        Ok(Self {
            queue: app::client(&client)?,
            user: client.user().to_owned(),
            withheld: config::password_variables(path, environment)?,
        })
    }

    /// A program to run with a credential, without keycard's own passwords: they live long.
    pub(super) fn program(&self, name: &OsStr) -> Command {
        let mut program = Command::new(name);
        for variable in &self.withheld {
            program.env_remove(variable);
        }
        program
    }

    /// Asks for a credential.
    pub(super) async fn request(
        &self,
        role: &str,
        ttl_seconds: Option<u64>,
    ) -> Result<Granted<Issued>, Failure> {
        let mut command = command(CREDENTIAL_REQUEST, &with_ttl("role", role, ttl_seconds));
        let waits = SignedDuration::from_secs(REQUEST_WAITS.as_secs().cast_signed());
        command["expirytime"] = json!(clock::host_now() + waits);
        self.ask(Lane::Requests, &command, |data| {
            if let ResultData::Issued(issued) = data {
                Some(issued)
            } else {
                None
            }
        })
        .await
    }

    /// Asks for more time for a lease.
    pub(super) async fn renew(
        &self,
        lease_id: &str,
        ttl_seconds: Option<u64>,
    ) -> Result<Granted<Renewed>, Failure> {
        let command = command(LEASE_RENEW, &with_ttl("lease_id", lease_id, ttl_seconds));
        self.ask(Lane::Leases, &command, |data| {
            if let ResultData::Renewed(renewed) = data {
                Some(renewed)
            } else {
                None
            }
        })
        .await
    }

    /// Asks for a lease's end.
    pub(super) async fn revoke(
        &self,
        lease_id: &str,
        reason: Option<&str>,
    ) -> Result<Granted<Revoked>, Failure> {
        let mut data = json!({ "lease_id": lease_id });
        if let Some(reason) = reason {
            data["reason"] = reason.into();
        }
        self.ask(Lane::Leases, &command(LEASE_REVOKE, &data), |data| {
            if let ResultData::Revoked(revoked) = data {
                Some(revoked)
            } else {
                None
            }
        })
        .await
    }

    /// Gives a lease back that is no longer needed; or says, in words, when it ends by itself.
    pub(super) async fn give_back(
        &self,
        lease_id: &str,
        expires_at: Timestamp,
        reason: &str,
    ) -> Result<(), String> {
        let asking = self.revoke(lease_id, Some(reason));
        let problem = match tokio::time::timeout(REVOCATION_TIMEOUT, asking).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(failure)) if failure.is_lease_ended() => return Ok(()),
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => format!("no answer came within {} s", REVOCATION_TIMEOUT.as_secs()),
        };
        Err(format!(
            "lease {lease_id} could not be revoked: {problem}; it ends by itself at {expires_at}"
        ))
    }

    async fn ask<T>(
        &self,
        lane: Lane,
        command: &Value,
        expected: impl FnOnce(ResultData) -> Option<T>,
    ) -> Result<Granted<T>, Failure> {
        let asked_at = clock::monotonic_now();
        let answer = self.queue.ask(lane, command.to_string().as_bytes()).await;
        let event = ResultEvent::from_json(&answer.map_err(AppError::from)?)
            .map_err(|error| Failure::Failed(format!("the answer cannot be read: {error}")))?;
        if let ResultData::Denied(denied) = event.data {
            return Err(Failure::Denied {
                code: denied.code,
                message: format!("{} (asked as '{}')", denied.message, self.user),
                retryable: denied.retryable,
            });
        }
        match expected(event.data.clone()) {
            Some(data) => Ok(Granted {
                event,
                data,
                asked_at,
                answered_at: clock::monotonic_now(),
            }),
            None => Err(Failure::Failed(format!(
                "the answer is of another kind than was asked: {}; is this keycard as new as the worker?",
                event.kind()
            ))),
        }
    }
}

fn command(kind: &str, data: &Value) -> Value {
    json!({
        "specversion": "1.0",
        "id": clock::uuid_v7(),
        "source": SOURCE,
        "type": kind,
        "time": clock::host_now(),
        "data": data,
    })
}

fn with_ttl(key: &str, value: &str, ttl_seconds: Option<u64>) -> Value {
    let mut data = json!({ key: value });
    if let Some(seconds) = ttl_seconds {
        data["ttl_seconds"] = seconds.into();
    }
    data
}
