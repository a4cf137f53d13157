//! Carrying a lease from one resting state to the next: decide, commit, run the effects, report.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tracing::{Instrument as _, Span};

use super::effects::{Happened, happen};
use super::lanes::{Settled, pause};
use super::{Worker, outage, trace};
use crate::clock;
use crate::lease::{Effect, Event, LoginChange, Report, State, Then};
use crate::ledger::{
    Asked, Decided, Kind, Ledger, LedgerError, Recorded, Replayed, Step, Stepped, StoredLease,
    Subject,
};
use crate::metrics::{self, Stage};
use crate::queue::ReplyTo;
use crate::wire::Expire;

/// What a lease is carried for.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The ledger that knows the lease.
    pub(super) ledger: &'a Ledger,
    /// The command, if one caused it.
    pub(super) asked: Option<&'a Asked>,
    /// Where the command's sender waits for a direct reply.
    pub(super) reply_to: Option<&'a ReplyTo>,
    /// The expiry event, if one caused it.
    pub(super) expire: Option<&'a Expire>,
}

impl Worker {
    /// Carries a lease on until nothing is left to do, or nothing can be done for now.
    pub(super) async fn carry(
        &self,
        context: Context<'_>,
        subject: Subject,
        event: Event,
    ) -> Settled {
        let span = trace::carrying(context);
        let carried = async {
            let settled = self.carry_on(context, subject, event).await;
            if let (None, Subject::Known(lease)) = (context.asked, subject) {
                trace::link(context.ledger, lease).await;
            }
            settled
        };
        carried.instrument(span).await
    }

    async fn carry_on(&self, context: Context<'_>, subject: Subject, event: Event) -> Settled {
        let mut step = Step {
            asked: context.asked,
            subject,
            event,
            secret: None,
        };
        loop {
            let begun = clock::monotonic_now();
            let span = trace::stage(Stage::LedgerStep);
            let stepped = context.ledger.step(step).instrument(span.clone()).await;
            if stepped.is_err() {
                trace::failed(&span);
            }
            metrics::took(stage(&stepped), clock::monotonic_now() - begun);
            let decided = match stepped {
                Err(error) => {
                    self.note(context.ledger.database(), &error);
                    return Settled::Defer(pause(0));
                }
                Ok(Stepped::Replayed(replayed)) => {
                    let done = self.replay(context, &replayed).await;
                    return settled(context, done);
                }
                Ok(Stepped::Reused(recorded)) => {
                    let done = self.answer_again(context, None, &recorded, false).await;
                    return settled(context, done);
                }
                Ok(Stepped::Ended(recorded)) => {
                    let done = self.answer_again(context, None, &recorded, true).await;
                    return settled(context, done);
                }
                Ok(Stepped::Decided(decided)) => decided,
            };
            self.outages
                .over(&outage::database(context.ledger.database()));
            log(context, &decided);
            let attempt = decided
                .stored
                .as_ref()
                .map_or(0, |stored| stored.lease.attempt);
            let known = decided
                .stored
                .as_ref()
                .map_or(subject, |stored| Subject::Known(stored.lease.id.uuid));
            let mut secret = None;
            let event = match self.run_effects(context, &decided).await {
                Err(reason) => decided.decision.failure(reason.into()),
                Ok(happened) => match decided.decision.then {
                    Then::Ack => return Settled::Ack,
                    Then::Defer(until) => return Settled::Defer(between(decided.now, until)),
                    Then::Report(Report::Delivered) => {
                        secret = happened.into_iter().find_map(Happened::stored);
                        Event::Delivered { attempt }
                    }
                    Then::Report(Report::SessionsGone) => Event::SessionsGone {
                        attempt,
                        terminated: happened.iter().map(Happened::terminated).sum(),
                        left: happened
                            .into_iter()
                            .find_map(Happened::left)
                            .map(Into::into),
                    },
                    Then::Report(Report::Cleared) => Event::Cleared { attempt },
                },
            };
            step = Step {
                asked: None,
                subject: known,
                event,
                secret,
            };
        }
    }

    /// Gives an answer again. The worker that gave it first may not have come to arming the renewed
    /// lease's expiry.
    async fn replay(&self, context: Context<'_>, replayed: &Replayed) -> Result<(), String> {
        let stored = replayed.stored.as_ref();
        if let (Some(stored), Some(Kind::Renew)) = (stored, context.asked.map(|asked| asked.kind))
            && stored.lease.state == State::Active
        {
            happen(
                Some(stored),
                || replayed.recorded.id.clone(),
                &Effect::ArmExpiry,
                || async { self.arm_expiry(stored, replayed.now).await },
            )
            .await?;
        }
        self.answer_again(context, stored, &replayed.recorded, true)
            .await
    }

    /// Publishes an answer that no decision at hand has recorded.
    pub(super) async fn answer_again(
        &self,
        context: Context<'_>,
        stored: Option<&StoredLease>,
        recorded: &Recorded,
        remembered: bool,
    ) -> Result<(), String> {
        happen(
            stored,
            || recorded.id.clone(),
            &Effect::Answer,
            || async { self.publish_answer(context, recorded, remembered).await },
        )
        .await
    }
}

fn stage(stepped: &Result<Stepped, LedgerError>) -> Stage {
    match stepped {
        Ok(Stepped::Decided(decided)) if decided.decision.login == Some(LoginChange::Drop) => {
            Stage::DropLogin
        }
        Ok(Stepped::Decided(_) | Stepped::Replayed(_) | Stepped::Reused(_) | Stepped::Ended(_))
        | Err(_) => Stage::LedgerStep,
    }
}

fn settled(context: Context<'_>, done: Result<(), String>) -> Settled {
    match done {
        Ok(()) => Settled::Ack,
        Err(reason) => {
            tracing::warn!(
                request.id = context.asked.map(|asked| asked.id.as_str()),
                request.by = context.asked.map(|asked| asked.requester.as_str()),
                error = reason,
                "an answer could not be published; its command comes back"
            );
            Settled::Defer(pause(0))
        }
    }
}

/// One line for each decision: who asked, about what, what was decided and why.
fn log(context: Context<'_>, decided: &Decided) {
    let lease = decided.stored.as_ref().map(|stored| &stored.lease);
    if let Some(lease) = lease {
        let span = Span::current();
        span.record("lease.id", lease.id.to_string());
        span.record("lease.role", lease.role.as_str());
    }
    tracing::info!(
        request.id = context.asked.map(|asked| asked.id.as_str()),
        request.by = context.asked.map(|asked| asked.requester.as_str()),
        lease.id = lease.map(|lease| lease.id.to_string()),
        lease.role = lease.map(|lease| lease.role.as_str()),
        lease.requester = lease.map(|lease| lease.requester.as_str()),
        lease.state = lease.map(|lease| lease.state.as_str()),
        lease.generation = lease.map(|lease| lease.generation),
        lease.attempt = lease.map(|lease| lease.attempt),
        reason = %decided.decision.reason,
        "decided"
    );
}

/// The time from `now` to `until`, zero if that has passed.
pub(super) fn between(now: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now).max(SignedDuration::ZERO)).unwrap_or_default()
}
