//! Answers: what is recorded of them, and what a repeated command is told.

use jiff::Timestamp;
use tokio_postgres::Transaction;

use super::Ledger;
use super::change::Change;
use super::requests::{self, Asked, Kind, Recorded};
use super::rows::{RowError, StoredLease};
use super::step::{Replayed, Stepped};
use crate::lease::{Answer, DenialCode, Lease, Outcome, Whose};
use crate::wire::{CREDENTIAL_ISSUED, IssuedDetails, ResultEvent, SecretPointer, Stamp};

/// Why a request is denied that was answered before.
pub(super) const ENDED: &str = "the credential of this request has ended; ask with a new id";

impl Ledger {
    /// Records a decision's answers in its transaction.
    pub(super) async fn record(
        &self,
        transaction: &Transaction<'_>,
        asked: Option<&Asked>,
        secret: Option<&SecretPointer>,
        change: &Change,
        now: Timestamp,
    ) -> Result<Vec<Recorded>, RowError> {
        let lease = change.stored.as_ref().map(|stored| &stored.lease);
        let mut answers = Vec::new();
        for Answer { to, outcome } in &change.decision.answers {
            let askers = match (to, lease) {
                (Whose::Asker, _) => asked.cloned().into_iter().collect(),
                (Whose::Issue, Some(lease)) => {
                    requests::open(transaction, lease.id.uuid, Kind::Request).await?
                }
                (Whose::Revokers, Some(lease)) => {
                    requests::open(transaction, lease.id.uuid, Kind::Revoke).await?
                }
                (Whose::Issue | Whose::Revokers, None) => vec![],
            };
            for asked in askers {
                let event = self.compose(&asked, outcome, lease, secret, now)?;
                let recorded = recorded(&asked, lease, event.to_json());
                requests::answer(transaction, &recorded).await?;
                answers.push(recorded);
            }
        }
        Ok(answers)
    }

    fn compose(
        &self,
        asked: &Asked,
        outcome: &Outcome,
        lease: Option<&Lease>,
        secret: Option<&SecretPointer>,
        now: Timestamp,
    ) -> Result<ResultEvent, RowError> {
        let stamp = Stamp {
            installation: &self.rules.installation,
            at: now,
        };
        let told = self.rules.databases.get(&self.database);
        let event = match (outcome, lease) {
            (Outcome::Denied(denial), _) => Some(ResultEvent::denied(
                stamp,
                asked.as_wire(),
                denial.code,
                denial.message.clone(),
            )),
            (Outcome::Issued, Some(lease)) => told.zip(secret).map(|(told, secret)| {
                let details = IssuedDetails {
                    host: told.host.clone(),
                    port: told.port,
                    dbname: told.dbname.clone(),
                    secret: secret.clone(),
                };
                ResultEvent::issued(stamp, asked.as_wire(), lease, details)
            }),
            (
                Outcome::Renewed {
                    previous_expires_at,
                    ttl_clamped,
                },
                Some(lease),
            ) => Some(ResultEvent::renewed(
                stamp,
                asked.as_wire(),
                lease,
                *previous_expires_at,
                *ttl_clamped,
            )),
            (Outcome::Revoked, Some(lease)) => {
                ResultEvent::revoked_as_asked(stamp, asked.as_wire(), lease)
            }
            (Outcome::Issued | Outcome::Renewed { .. } | Outcome::Revoked, None) => None,
        };
        event.ok_or_else(|| RowError::Content("an answer does not fit its lease".to_owned()))
    }

    /// The answer given before; but a credential is not told again once it has ended.
    pub(super) fn replayed(
        &self,
        asked: &Asked,
        answer: String,
        stored: Option<StoredLease>,
        now: Timestamp,
    ) -> Stepped {
        let lease = stored.as_ref().map(|stored| &stored.lease);
        let issued = ResultEvent::from_json(answer.as_bytes())
            .is_ok_and(|event| event.kind() == CREDENTIAL_ISSUED);
        if issued && lease.is_none_or(|lease| lease.has_ended(now)) {
            return Stepped::Ended(self.denial(asked, now, DenialCode::LeaseEnded, ENDED));
        }
        Stepped::Replayed(Box::new(Replayed {
            recorded: recorded(asked, lease, answer),
            stored,
            now,
        }))
    }

    /// Not remembered: the id has its answer already.
    pub(super) fn denial(
        &self,
        asked: &Asked,
        at: Timestamp,
        code: DenialCode,
        message: &'static str,
    ) -> Recorded {
        let stamp = Stamp {
            installation: &self.rules.installation,
            at,
        };
        let event = ResultEvent::denied(stamp, asked.as_wire(), code, message);
        recorded(asked, None, event.to_json())
    }
}

fn recorded(asked: &Asked, lease: Option<&Lease>, answer: String) -> Recorded {
    let owner = lease
        .map(|lease| &lease.requester)
        .filter(|owner| asked.kind == Kind::Renew && **owner != asked.requester)
        .cloned();
    Recorded {
        requester: asked.requester.clone(),
        source: asked.source.clone(),
        id: asked.id.clone(),
        correlation_id: asked.correlation_id.clone(),
        answer,
        owner,
    }
}
