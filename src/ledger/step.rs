//! One step of one lease: load and lock, decide, change login, lease and answers, commit.

use std::time::Duration;

use deadpool::managed::Object;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::time::timeout;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use super::answers::ENDED;
use super::audit::{self, About, AuditRow, Refusal};
use super::freeze::clock_and_freeze;
use super::reconcile;
use super::requests::{self, Asked, Recorded};
use super::rows::{self, RowError, StoredLease};
use super::{Ledger, LedgerError};
use crate::injection::{self, Fault};
use crate::lease::{Decision, DenialCode, Event};
use crate::wire::SecretPointer;

/// No single statement takes longer than 10 s unless the server has stopped answering.
const STEP_TIMEOUT: Duration = Duration::from_secs(25);

/// What happens, to what.
#[derive(Debug)]
pub struct Step<'a> {
    /// The command, on the first step that it causes.
    pub asked: Option<&'a Asked>,
    /// Which lease.
    pub subject: Subject,
    /// What happens to it.
    pub event: Event,
    /// Where the credential was stored, for [`Event::Delivered`].
    pub secret: Option<SecretPointer>,
}

/// Which lease a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// One that the event names.
    Known(Uuid),
    /// The one that the request has created before, or else a new one of this id.
    New(Uuid),
}

/// What a step came to.
#[derive(Debug)]
pub enum Stepped {
    /// The command was answered before.
    Replayed(Box<Replayed>),
    /// The command's id was used before, with another content. This denial is not remembered.
    Reused(Recorded),
    /// The command was answered before, and that answer no longer holds. Once this denial is told,
    /// the answer must not be told any more.
    Ended(Recorded),
    /// It was decided and committed.
    Decided(Box<Decided>),
}

impl Stepped {
    fn stored(&self) -> Option<&StoredLease> {
        match self {
            Self::Decided(decided) => decided.stored.as_ref(),
            Self::Replayed(replayed) => replayed.stored.as_ref(),
            Self::Reused(_) | Self::Ended(_) => None,
        }
    }
}

/// An answer given before, and the lease as it is by now.
#[derive(Debug)]
pub struct Replayed {
    /// The answer.
    pub recorded: Recorded,
    /// The lease; `None` when the command concerned none.
    pub stored: Option<StoredLease>,
    /// The ledger's clock.
    pub now: Timestamp,
}

/// A decision that is committed.
#[derive(Debug)]
pub struct Decided {
    /// What was decided; its effects are still to come.
    pub decision: Decision,
    /// The lease as it is now; `None` when there is none.
    pub stored: Option<StoredLease>,
    /// The password just set, where one was.
    pub password: Option<SecretString>,
    /// The answers just recorded, for [`Effect::Answer`](crate::lease::Effect::Answer).
    pub answers: Vec<Recorded>,
    /// The ledger's clock, on which every time in the decision is.
    pub now: Timestamp,
}

impl Ledger {
    /// Decides what an event does to a lease, and does it, in one transaction.
    ///
    /// # Errors
    /// Nothing happened, or (if the connection broke during the commit) it is unknown whether it
    /// did. Either way the same step may be taken again.
    pub async fn step(&self, step: Step<'_>) -> Result<Stepped, LedgerError> {
        let mut client = self.connection().await?;
        let custom = step.event.request().is_some_and(|new| {
            let role = self.rules.roles.get(&new.role);
            role.is_some_and(|role| role.template.creation.is_some())
        });
        let stepped = self
            .step_in_session(&mut client, step)
            .await
            .map_err(|error| error.at("carry out a step", &self.database));
        let custom = custom
            || matches!(&stepped, Ok(Stepped::Decided(decided))
                if decided.stored.as_ref().is_some_and(|stored| stored.upkeep.has_statements()));
        let clean = stepped.is_ok()
            && (!custom
                || timeout(STEP_TIMEOUT, client.batch_execute("DISCARD ALL"))
                    .await
                    .is_ok_and(|discarded| discarded.is_ok()));
        if !clean {
            // The server may be gone, silent or read-only, or foreign statements may have left
            // something in the session: the next step gets another.
            drop(Object::take(client));
        }
        stepped
    }

    async fn step_in_session(
        &self,
        client: &mut Client,
        step: Step<'_>,
    ) -> Result<Stepped, RowError> {
        let (stepped, kept, fault) = timeout(STEP_TIMEOUT, self.commit(client, step))
            .await
            .unwrap_or(Err(RowError::Silent))?;
        fault.after(|| RowError::Silent).await?;
        for row in &kept {
            audit::tell(&self.rules, row);
        }
        Ok(stepped)
    }

    /// Carries the step out and commits it: what to tell of it, and the fault ordered for afterwards.
    async fn commit(
        &self,
        client: &mut Client,
        step: Step<'_>,
    ) -> Result<(Stepped, Vec<AuditRow>, Fault), RowError> {
        let asked = step.asked;
        let (Subject::Known(named) | Subject::New(named)) = step.subject;
        let mut transaction = client.transaction().await?;
        let (stepped, kept) = self.step_within(&mut transaction, step).await?;
        for row in &kept {
            audit::write(&transaction, row).await?;
        }
        let lease = stepped.stored().map(|stored| &stored.lease);
        let fault = injection::at(
            lease.map(|lease| (lease.role.as_str(), lease.state.as_str())),
            || asked.map_or_else(|| named.to_string(), |asked| asked.id.clone()),
            || "commit".to_owned(),
        );
        fault.before(|| RowError::Silent).await?;
        transaction.commit().await?;
        Ok((stepped, kept, fault))
    }

    async fn step_within(
        &self,
        transaction: &mut Transaction<'_>,
        step: Step<'_>,
    ) -> Result<(Stepped, Vec<AuditRow>), RowError> {
        let mut about = About::of(&step, &self.database);
        let (Subject::Known(named) | Subject::New(named)) = step.subject;
        let mut id = named;
        let mut known = false;
        if let Some(asked) = step.asked
            && let Some(before) = requests::remember(transaction, asked, Some(named)).await?
        {
            if before.digest != asked.digest {
                let (now, _) = clock_and_freeze(transaction).await?;
                let (code, message) = (
                    DenialCode::RequestIdReused,
                    "this id was used before with another content; give every command its own",
                );
                let refusal = Refusal {
                    asked,
                    about,
                    code,
                    message,
                };
                let denial = self.denial(asked, now, code, message);
                return Ok((Stepped::Reused(denial), vec![audit::refused(&refusal, now)]));
            }
            known = true;
            if let (Subject::New(_), Some(lease)) = (step.subject, before.lease) {
                id = lease;
            }
        }
        let stored = rows::lock(transaction, &self.database, id).await?;
        if let (true, Some(asked)) = (known, step.asked) {
            // Read again: the answer may have come while this waited for the lease.
            let again = requests::recall(transaction, asked).await?;
            if let Some(answer) = again.and_then(|known| known.answer) {
                let (now, _) = clock_and_freeze(transaction).await?;
                about.lease_id = stored.as_ref().map(|stored| stored.lease.id.clone());
                let stepped = self.replayed(asked, answer, stored, now);
                let kept = matches!(stepped, Stepped::Ended(_)).then(|| {
                    let refusal = Refusal {
                        asked,
                        about,
                        code: DenialCode::LeaseEnded,
                        message: ENDED,
                    };
                    audit::refused(&refusal, now)
                });
                return Ok((stepped, kept.into_iter().collect()));
            }
        }
        let mut event = step.event;
        if let (None, Event::Request(new)) = (&stored, &mut event) {
            let limited = self.rules.roles.get(&new.role);
            if limited.is_some_and(|role| role.policy.leases_max.is_some()) {
                new.live_leases =
                    live_leases(transaction, new.asking.by.as_str(), &new.role).await?;
            }
        }
        if let (Some(stored), Event::Differs(difference)) = (&stored, &event) {
            event = reconcile::look_again(transaction, stored, *difference).await?;
        }
        let (now, frozen) = clock_and_freeze(transaction).await?;
        let change = self
            .decide_and_apply(transaction, stored.as_ref(), event, now, frozen)
            .await?;
        let answers = self
            .record(transaction, step.asked, step.secret.as_ref(), &change, now)
            .await?;
        let before = stored.as_ref().map(|stored| &stored.lease);
        let kept = audit::decided(before, &change, step.asked, &about, now);
        let decided = Decided {
            decision: change.decision,
            stored: change.stored,
            password: change.password,
            answers,
            now,
        };
        Ok((Stepped::Decided(Box::new(decided)), kept))
    }
}

/// How many leases of a requester and role are alive. Until the end of the transaction nobody else
/// can add one.
async fn live_leases(
    transaction: &Transaction<'_>,
    requester: &str,
    role: &str,
) -> Result<u32, tokio_postgres::Error> {
    transaction
        .execute(
            "SELECT FROM keycard.turns
             WHERE id = hashtextextended($1 || chr(31) || $2, 0) & 63 FOR UPDATE",
            &[&requester, &role],
        )
        .await?;
    let row = transaction
        .query_one(
            "SELECT count(*) FROM keycard.leases
             WHERE requester = $1 AND role = $2 AND state IN ('issuing', 'active')
               AND expires_at > clock_timestamp()",
            &[&requester, &role],
        )
        .await?;
    Ok(u32::try_from(row.get::<_, i64>(0)).unwrap_or(u32::MAX))
}
