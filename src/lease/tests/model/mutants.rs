//! Ways to build keycard wrongly, each of which must break a property.

use super::super::super::{Decision, Effect, LoginChange, Report, Then};
use super::scene::{Scene, Task, Telling, Told};
use super::*;

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    AcknowledgeBeforeCommit,
    TellBeforePut,
    SkipTheDueCheck,
    SkipTheGenerationFence,
    SkipTheAttemptFence,
    ReuseALocator,
    SkipTheDisable,
    CloseBeforeTheSecretIsGone,
    CreateOutsideTheTransaction,
    SkipTheSweep,
    CountFailuresSixfold,
    AnswerAnew,
}

impl Mutant {
    /// Each mistake and the property that it breaks.
    pub(super) const ALL: [(Self, &'static str); 12] = [
        (
            Self::AcknowledgeBeforeCommit,
            "every command is answered once",
        ),
        (Self::TellBeforePut, "what was told is true"),
        (Self::SkipTheDueCheck, "nobody's lease ends early"),
        (
            Self::SkipTheGenerationFence,
            "one expiry event for each generation",
        ),
        (Self::SkipTheAttemptFence, "what was told is true"),
        (Self::ReuseALocator, "what was told is true"),
        (Self::SkipTheDisable, "no login outlives its lease"),
        (
            Self::CloseBeforeTheSecretIsGone,
            "closed leases leave nothing",
        ),
        (
            Self::CreateOutsideTheTransaction,
            "no login without a lease",
        ),
        (Self::SkipTheSweep, "everything comes to its end"),
        (
            Self::CountFailuresSixfold,
            "stuck only when retries are spent",
        ),
        (Self::AnswerAnew, "every command is answered once"),
    ];
}

impl Search {
    fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(super) fn acknowledges_first(&self) -> bool {
        self.has(Mutant::AcknowledgeBeforeCommit)
    }

    pub(super) fn creates_outside(&self) -> bool {
        self.has(Mutant::CreateOutsideTheTransaction)
    }

    pub(super) fn sweeps(&self) -> bool {
        !self.has(Mutant::SkipTheSweep)
    }

    pub(super) fn answers_anew(&self) -> bool {
        self.has(Mutant::AnswerAnew)
    }

    /// Where an attempt puts its secret.
    pub(super) fn locator(&self, attempt: u32) -> u32 {
        if self.has(Mutant::ReuseALocator) {
            1
        } else {
            attempt
        }
    }

    /// Whether a worker reports although effects are still to come.
    pub(super) fn reports_early(&self, task: &Task) -> bool {
        self.has(Mutant::CloseBeforeTheSecretIsGone) && task.then == Then::Report(Report::Cleared)
    }

    /// The event and the time as `decide` is told them.
    pub(super) fn blinded(&self, scene: &Scene, mut event: Event) -> (Event, Timestamp) {
        let mut now = scene.now;
        let Some(lease) = &scene.lease else {
            return (event, now);
        };
        match &mut event {
            Event::Wake { .. } if self.has(Mutant::SkipTheDueCheck) => {
                now = now.max(lease.expires_at);
            }
            Event::Wake {
                generation: Some(generation),
            } if self.has(Mutant::SkipTheGenerationFence) => *generation = lease.generation,
            Event::Delivered { attempt }
            | Event::SessionsGone { attempt, .. }
            | Event::Cleared { attempt }
            | Event::Failed { attempt, .. }
                if self.has(Mutant::SkipTheAttemptFence) =>
            {
                *attempt = lease.attempt;
            }
            Event::Request(_)
            | Event::Renew { .. }
            | Event::Revoke(_)
            | Event::Wake { .. }
            | Event::Delivered { .. }
            | Event::SessionsGone { .. }
            | Event::Cleared { .. }
            | Event::Failed { .. }
            | Event::Differs(_)
            | Event::Refused { .. } => {}
        }
        (event, now)
    }

    /// The decision as the shell carries it out.
    pub(super) fn distorted(&self, mut decision: Decision) -> Decision {
        if self.has(Mutant::SkipTheDisable) && decision.login == Some(LoginChange::Disable) {
            decision.login = None;
        }
        if self.has(Mutant::CountFailuresSixfold)
            && let Some(next) = &mut decision.next
            && let State::Revoking { failures, .. } = &mut next.state
        {
            *failures *= 6;
        }
        if self.has(Mutant::TellBeforePut) && decision.effects.contains(&Effect::PutSecret) {
            decision.effects.insert(0, Effect::Answer);
        }
        decision
    }

    /// What is told besides the recorded answers.
    pub(super) fn hearsay(&self, decision: &Decision) -> Option<Telling> {
        let attempt = decision.next.as_ref()?.attempt;
        let is_early =
            self.has(Mutant::TellBeforePut) && decision.effects.contains(&Effect::PutSecret);
        is_early.then_some(Telling {
            command: 0,
            told: Told::Issued { attempt },
            is_remembered: false,
        })
    }
}
