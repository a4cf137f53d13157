//! The one place where effects happen.

use futures_util::future::try_join_all;
use futures_util::{TryStreamExt as _, stream};
use jiff::Timestamp;
use tracing::Instrument as _;
use uuid::Uuid;

use super::carry::{Context, between};
use super::{EFFECT_TIMEOUT, Worker, trace};
use crate::lease::{Effect, Lease, Notice, Requester, Secrets};
use crate::ledger::{Decided, Recorded, StoredLease};
use crate::metrics::{self, Stage};
use crate::queue::Outgoing;
use crate::store::credential::{Credential, tags};
use crate::wire::{Expire, LEASE_RENEWED, ResultEvent, SecretPointer, Stamp};
use crate::{clock, injection};

/// Secrets of one lease that are deleted side by side: a long outage of the store leaves hundreds.
const DELETIONS_AT_ONCE: usize = 8;

/// What an effect came to.
pub(super) enum Happened {
    /// Nothing that anybody needs to know.
    Done,
    /// The credential is stored there.
    Stored(SecretPointer),
    /// So many sessions were terminated.
    Terminated(u32),
    /// This keeps the login from being dropped, for people.
    Left(String),
}

impl Happened {
    pub(super) fn stored(self) -> Option<SecretPointer> {
        match self {
            Self::Stored(pointer) => Some(pointer),
            Self::Done | Self::Terminated(_) | Self::Left(_) => None,
        }
    }

    pub(super) fn terminated(&self) -> u32 {
        match self {
            Self::Terminated(count) => *count,
            Self::Done | Self::Stored(_) | Self::Left(_) => 0,
        }
    }

    pub(super) fn left(self) -> Option<String> {
        match self {
            Self::Left(reason) => Some(reason),
            Self::Done | Self::Stored(_) | Self::Terminated(_) => None,
        }
    }
}

impl Worker {
    /// Runs a decision's effects in their order; storing the secret and arming its expiry go side
    /// by side.
    pub(super) async fn run_effects(
        &self,
        context: Context<'_>,
        decided: &Decided,
    ) -> Result<Vec<Happened>, String> {
        let mut happened = Vec::new();
        let side_by_side = |one: &Effect, next: &Effect| {
            matches!((one, next), (Effect::PutSecret, Effect::ArmExpiry))
        };
        for stage in decided.decision.effects.chunk_by(side_by_side) {
            let running = stage
                .iter()
                .map(|effect| self.run_in_time(effect, context, decided));
            happened.extend(try_join_all(running).await?);
        }
        Ok(happened)
    }

    async fn run_in_time(
        &self,
        effect: &Effect,
        context: Context<'_>,
        decided: &Decided,
    ) -> Result<Happened, String> {
        let begun = clock::monotonic_now();
        let whom = || match (context.asked, context.expire) {
            (Some(asked), _) => asked.id.clone(),
            (None, Some(expire)) => expire.lease_id.uuid.to_string(),
            (None, None) => "nobody".to_owned(),
        };
        let (stage, needs) = match effect {
            Effect::PutSecret => (Stage::PutSecret, "the secret store"),
            Effect::DeleteSecrets(_) => (Stage::DeleteSecrets, "the secret store"),
            Effect::ArmExpiry => (Stage::ArmExpiry, "the queue"),
            Effect::Answer | Effect::Publish(_) => (Stage::Publish, "the queue"),
            Effect::TerminateSessions => (Stage::TerminateSessions, "ending sessions"),
            Effect::ClearObjects => (Stage::ClearObjects, "clearing away what logins leave"),
        };
        let span = trace::stage(stage);
        let done = happen(decided.stored.as_ref(), whom, effect, || async {
            tokio::time::timeout(EFFECT_TIMEOUT, self.run_effect(effect, context, decided))
                .await
                .unwrap_or_else(|_| Err(format!("not done within {} s", EFFECT_TIMEOUT.as_secs())))
        })
        .instrument(span.clone())
        .await;
        metrics::took(stage, clock::monotonic_now() - begun);
        match &done {
            Ok(_) => self.outages.over(needs),
            Err(error) => {
                trace::failed(&span);
                tracing::debug!(
                    lease.id = decided
                        .stored
                        .as_ref()
                        .map(|stored| stored.lease.id.to_string()),
                    ?effect,
                    error,
                    "an effect failed"
                );
                self.outages.failed(needs, error);
            }
        }
        done
    }

    async fn run_effect(
        &self,
        effect: &Effect,
        context: Context<'_>,
        decided: &Decided,
    ) -> Result<Happened, String> {
        match effect {
            Effect::PutSecret => self.put_secret(decided).await.map(Happened::Stored),
            Effect::ArmExpiry => {
                self.arm_expiry(lease_of(decided)?, decided.now).await?;
                Ok(Happened::Done)
            }
            Effect::TerminateSessions => {
                let stored = lease_of(decided)?;
                context
                    .ledger
                    .terminate_sessions(stored.login_oid)
                    .await
                    .map(Happened::Terminated)
                    .map_err(|error| error.to_string())
            }
            Effect::ClearObjects => {
                let stored = lease_of(decided)?;
                let left = context
                    .ledger
                    .clear_objects(stored)
                    .await
                    .map_err(|error| error.to_string())?;
                if let Some(left) = &left {
                    tracing::warn!(
                        lease.id = %stored.lease.id,
                        left,
                        "a login stays, disabled: something depends on it"
                    );
                }
                Ok(left.map_or(Happened::Done, Happened::Left))
            }
            Effect::DeleteSecrets(which) => {
                stream::iter(locators(*which, context, decided).iter().map(Ok))
                    .try_for_each_concurrent(DELETIONS_AT_ONCE, |locator| async {
                        self.store
                            .delete(locator)
                            .await
                            .map_err(|error| error.to_string())
                    })
                    .await?;
                Ok(Happened::Done)
            }
            Effect::Answer => {
                for recorded in &decided.answers {
                    self.publish_answer(context, recorded, true).await?;
                }
                Ok(Happened::Done)
            }
            Effect::Publish(notice) => {
                let (to, event) = self.compose(notice, context, decided)?;
                let message = Outgoing {
                    to,
                    id: event.id.clone(),
                    kind: event.kind(),
                    body: event.to_json().into_bytes(),
                    correlation_id: None,
                };
                self.queue
                    .publish(&message)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(Happened::Done)
            }
        }
    }

    /// Schedules the expiry event of the lease's generation.
    pub(super) async fn arm_expiry(
        &self,
        stored: &StoredLease,
        now: Timestamp,
    ) -> Result<(), String> {
        let event = Expire::of(&stored.lease, stored.locators.clone()).to_json(self.stamp_at(now));
        self.queue
            .arm(event.as_bytes(), between(now, stored.lease.expires_at))
            .await
            .map_err(|error| error.to_string())
    }

    async fn put_secret(&self, decided: &Decided) -> Result<SecretPointer, String> {
        let stored = lease_of(decided)?;
        let lease = &stored.lease;
        let (Some(password), Some(locator), Some(told)) = (
            &decided.password,
            stored.locators.last(),
            self.rules.databases.get(&lease.id.database),
        ) else {
            return Err("there is no password to store".to_owned());
        };
        let credential = Credential {
            host: told.host.clone(),
            port: told.port,
            username: lease.username.clone(),
            password: password.clone(),
            dbname: told.dbname.clone(),
            ssl: told.tls,
            lease_id: lease.id.to_string(),
            expires_at: lease.expires_at,
        };
        let attempt = Uuid::new_v5(&lease.id.uuid, &lease.attempt.to_be_bytes());
        let stored = self
            .store
            .put(
                locator,
                attempt,
                &credential.to_secret(),
                &tags(&self.rules.installation, lease),
            )
            .await
            .map_err(|error| error.to_string())?;
        Ok(SecretPointer {
            store: stored.store.name().to_owned(),
            locator: stored.locator,
            region: stored.region,
            version: stored.version,
        })
    }

    /// Publishes a recorded answer, notes that the broker has it, and sends it straight to a client
    /// that waits for it.
    pub(super) async fn publish_answer(
        &self,
        context: Context<'_>,
        recorded: &Recorded,
        remembered: bool,
    ) -> Result<(), String> {
        let event = ResultEvent::from_json(recorded.answer.as_bytes())
            .map_err(|error| format!("a recorded answer cannot be read: {error}"))?;
        let message = Outgoing {
            to: recorded.requester.clone(),
            id: event.id.clone(),
            kind: event.kind(),
            body: recorded.answer.clone().into_bytes(),
            correlation_id: recorded.correlation_id.clone(),
        };
        let publish = async |message: &Outgoing| {
            self.queue
                .publish(message)
                .await
                .map_err(|error| error.to_string())
        };
        publish(&message).await?;
        // A denial is its asker's affair: the owner would take it for an answer to its own command.
        let owner = recorded.owner.as_ref();
        if let Some(owner) = owner.filter(|_| event.kind() == LEASE_RENEWED) {
            publish(&Outgoing {
                to: owner.clone(),
                ..message.clone()
            })
            .await?;
        }
        if remembered {
            context
                .ledger
                .mark_published(recorded)
                .await
                .map_err(|error| error.to_string())?;
        }
        let waits = context.asked.is_some_and(|asked| {
            (&asked.requester, &asked.source, &asked.id)
                == (&recorded.requester, &recorded.source, &recorded.id)
        });
        if let (true, Some(to)) = (waits, context.reply_to) {
            self.queue.reply(to, &message).await;
        }
        Ok(())
    }

    fn compose(
        &self,
        notice: &Notice,
        context: Context<'_>,
        decided: &Decided,
    ) -> Result<(Requester, ResultEvent), String> {
        let about = |lease: &Lease, event: Option<ResultEvent>| {
            event
                .map(|event| (lease.requester.clone(), event))
                .ok_or_else(|| "the notice does not fit the lease".to_owned())
        };
        match notice {
            Notice::Revoked => {
                let lease = &lease_of(decided)?.lease;
                about(lease, ResultEvent::revoked(&self.rules.installation, lease))
            }
            Notice::RevocationFailed { reason } => {
                let lease = &lease_of(decided)?.lease;
                let stamp = self.stamp_at(decided.now);
                about(
                    lease,
                    ResultEvent::revocation_failed(stamp, lease, reason.clone()),
                )
            }
            Notice::Missing => context
                .expire
                .map(|expire| {
                    let event = ResultEvent::revoked_missing(self.stamp_at(decided.now), expire);
                    (expire.requester.clone(), event)
                })
                .ok_or_else(|| "only an expiry event tells of a missing lease".to_owned()),
        }
    }

    fn stamp_at(&self, at: Timestamp) -> Stamp<'_> {
        Stamp {
            installation: &self.rules.installation,
            at,
        }
    }
}

/// The one place where an effect happens, to a lease or without one to `whom`: here the crash matrix
/// has it fail.
pub(super) async fn happen<T, Happening: Future<Output = Result<T, String>>>(
    stored: Option<&StoredLease>,
    whom: impl FnOnce() -> String,
    effect: &Effect,
    happen: impl Fn() -> Happening,
) -> Result<T, String> {
    let lease = stored.map(|stored| &stored.lease);
    let lease = lease.map(|lease| (lease.role.as_str(), lease.state.as_str()));
    let fault = injection::at(lease, whom, || {
        let effect = format!("{effect:?}");
        let name = effect.split(" {").next().unwrap_or(&effect);
        name.replace('(', " ").replace(')', "")
    });
    injection::around(fault, || "ordered to fail".to_owned(), happen).await
}

fn lease_of(decided: &Decided) -> Result<&StoredLease, String> {
    decided
        .stored
        .as_ref()
        .ok_or_else(|| "the ledger does not know the lease".to_owned())
}

/// Where the secrets are that are to be deleted. Attempt `n` at delivery has the `n`th locator.
fn locators<'a>(which: Secrets, context: Context<'a>, decided: &'a Decided) -> &'a [String] {
    let Some(stored) = &decided.stored else {
        return context
            .expire
            .map_or(&[], |expire| expire.locators.as_slice());
    };
    let all = stored.locators.as_slice();
    match which {
        Secrets::All => all,
        Secrets::Superseded => all.split_last().map_or(&[], |(_, before)| before),
        Secrets::Of(attempt) => usize::try_from(attempt)
            .ok()
            .and_then(|attempt| all.get(attempt.checked_sub(1)?..attempt))
            .unwrap_or(&[]),
    }
}
