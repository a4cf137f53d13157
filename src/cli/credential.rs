//! Getting a credential: ask, read its secret, and leave nothing behind when that is interrupted.

use std::pin::pin;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::timeout;

use super::service::{Granted, REQUEST_WAITS, Service};
use super::signals::Signals;
use super::{Failure, tell};
use crate::app::{self, AppError};
use crate::fault::Disposition;
use crate::queue::ANSWER;
use crate::store::credential::Credential;
use crate::wire::Issued;

/// How long an interrupted command waits for an answer that may be on its way: a second try's, too,
/// as for a revocation.
const INTERRUPTED_PATIENCE: Duration = Duration::from_secs(25);

/// A credential, and the lease that it belongs to.
pub(super) struct Held {
    /// The answer that told of it.
    pub(super) granted: Granted<Issued>,
    /// What the secret store had.
    pub(super) json: SecretString,
    /// The same, read.
    pub(super) credential: Credential,
}

/// Asks for a credential. Interrupted, it waits shortly for the answer and gives the lease back.
pub(super) async fn ask(
    service: &Service,
    role: &str,
    ttl_seconds: Option<u64>,
    signals: &mut Signals,
) -> Result<Granted<Issued>, Failure> {
    let mut asking = pin!(service.request(role, ttl_seconds));
    let signal = tokio::select! {
        answer = &mut asking => return answer.map_err(unanswered),
        // Not cancel-safe for the request, which therefore goes on below.
        signal = signals.end() => signal,
    };
    tell("interrupted; waiting for the answer to the request, to give its credential back");
    let answer = tokio::select! {
        answer = timeout(INTERRUPTED_PATIENCE, &mut asking) => answer.ok(),
        // Not cancel-safe, and said so: nobody waits any longer.
        _ = signals.end() => None,
    };
    let left = match answer {
        Some(Ok(granted)) => given_back(service, &granted.data).await,
        Some(Err(Failure::Denied { .. })) => "no credential was issued".to_owned(),
        Some(Err(_)) | None => format!("no answer came; {}", may_be_issued()),
    };
    Err(Failure::Interrupted { signal, left })
}

/// Says what a request may leave behind that was sent and not answered.
fn unanswered(mut failure: Failure) -> Failure {
    if let Failure::App(AppError::Queue(error)) = &mut failure
        && error.operation == ANSWER
        && error.disposition == Disposition::Retry
    {
        error.problem = format!("{}; {}", error.problem, may_be_issued());
    }
    failure
}

fn may_be_issued() -> String {
    format!(
        "a credential issued for this request within the next {} minutes ends by itself with its \
         TTL",
        REQUEST_WAITS.as_secs() / 60
    )
}

/// Asks for a credential and reads its secret with the rights of whoever runs this. A credential
/// that cannot be read is given back.
pub(super) async fn obtain(
    service: &Service,
    role: &str,
    ttl_seconds: Option<u64>,
    signals: &mut Signals,
) -> Result<Held, Failure> {
    let granted = ask(service, role, ttl_seconds, signals).await?;
    let pointer = &granted.data.secret;
    let reading = async {
        let json = app::read_secret(pointer)
            .await
            .map_err(|error| error.to_string())?;
        let credential = Credential::from_secret(&json).ok_or_else(|| {
            format!(
                "the secret at {} is no credential as keycard writes it; is this keycard as new as \
                 the worker?",
                pointer.locator
            )
        })?;
        Ok((json, credential))
    };
    let read: Result<_, String> = tokio::select! {
        read = reading => read,
        // Cancel-safe: reading changes nothing.
        signal = signals.end() => {
            let left = given_back(service, &granted.data).await;
            return Err(Failure::Interrupted { signal, left });
        }
    };
    match read {
        Ok((json, credential)) => Ok(Held {
            granted,
            json,
            credential,
        }),
        Err(problem) => Err(unread(service, &granted.data, &problem).await),
    }
}

async fn unread(service: &Service, issued: &Issued, problem: &str) -> Failure {
    let reason = "its secret cannot be read";
    let given_back = service.give_back(&issued.lease_id, issued.expires_at, reason);
    let left = match given_back.await {
        Ok(()) => "the credential was revoked again".to_owned(),
        Err(left) => left,
    };
    Failure::Failed(format!("{problem}\n{left}"))
}

async fn given_back(service: &Service, issued: &Issued) -> String {
    let given_back = service.give_back(&issued.lease_id, issued.expires_at, "interrupted");
    match given_back.await {
        Ok(()) => format!("lease {} was revoked", issued.lease_id),
        Err(problem) => problem,
    }
}
