//! What an auditor is told of a decision: who had a credential, why it ended, who was refused.

use super::{Cause, Decision, DenialCode, Effect, Lease, Notice, Outcome, Reason, State, Whose};

/// A decision on a credential, as the audit keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// What was decided.
    pub action: Action,
    /// Why, for people.
    pub reason: Reason,
}

/// What was decided on a credential.
///
/// Attempts at delivering it, failed attempts at ending it, deferrals, acknowledgements, answers
/// given again and secrets deleted once more are not among it: they change nothing of who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The login was created.
    Created,
    /// The requester is told where the credential is.
    Issued,
    /// The login got another end.
    Renewed,
    /// The login cannot be dropped yet; it is disabled.
    Disabled(Cause),
    /// Ending it has failed so often that somebody should look at it.
    Stuck(Cause),
    /// The login is gone.
    Revoked(Cause),
    /// Its secrets are gone as well.
    Closed(Cause),
    /// The ledger does not know the lease: its secrets are gone, and its login is nobody's.
    Missing,
    /// A command was refused.
    Denied {
        /// Whose.
        whose: Whose,
        /// Why.
        code: DenialCode,
    },
}

impl Action {
    /// The action as the ledger, the log and the command line write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Issued => "issued",
            Self::Renewed => "renewed",
            Self::Disabled(_) => "disabled",
            Self::Stuck(_) => "stuck",
            Self::Revoked(_) => "revoked",
            Self::Closed(_) => "closed",
            Self::Missing => "missing",
            Self::Denied { .. } => "denied",
        }
    }

    /// Why the lease ends, where it does.
    #[must_use]
    pub fn cause(self) -> Option<Cause> {
        match self {
            Self::Disabled(cause)
            | Self::Stuck(cause)
            | Self::Revoked(cause)
            | Self::Closed(cause) => Some(cause),
            Self::Missing => Some(Cause::Missing),
            Self::Created | Self::Issued | Self::Renewed | Self::Denied { .. } => None,
        }
    }

    /// Why a command was refused, where it was.
    #[must_use]
    pub fn code(self) -> Option<DenialCode> {
        match self {
            Self::Denied { code, .. } => Some(code),
            Self::Created
            | Self::Issued
            | Self::Renewed
            | Self::Disabled(_)
            | Self::Stuck(_)
            | Self::Revoked(_)
            | Self::Closed(_)
            | Self::Missing => None,
        }
    }
}

/// What the audit keeps of a decision on a lease that was `before` until then, in its order.
#[must_use]
pub fn audited(before: Option<&Lease>, decision: &Decision) -> Vec<Audited> {
    let changes = decision
        .next
        .iter()
        .flat_map(|next| changes(before, next))
        .chain(
            decision
                .effects
                .contains(&Effect::Publish(Notice::Missing))
                .then_some(Action::Missing),
        )
        .map(|action| Audited {
            action,
            reason: decision.reason.clone(),
        });
    let denials = decision
        .answers
        .iter()
        .filter_map(|answer| match &answer.outcome {
            Outcome::Denied(denial) => Some(Audited {
                action: Action::Denied {
                    whose: answer.to,
                    code: denial.code,
                },
                reason: denial.message.clone(),
            }),
            Outcome::Issued | Outcome::Renewed { .. } | Outcome::Revoked => None,
        });
    changes.chain(denials).collect()
}

fn changes(before: Option<&Lease>, next: &Lease) -> Vec<Action> {
    let Some(before) = before else {
        return vec![Action::Created];
    };
    let mut actions = vec![];
    if before.state == State::Issuing && next.state == State::Active {
        actions.push(Action::Issued);
    }
    if next.generation > before.generation {
        actions.push(Action::Renewed);
    }
    let is = stage(&next.state);
    // A lease that goes back, as its login is there after all, comes to everything again.
    let was = stage(&before.state).filter(|was| is.is_none_or(|is| was.0 <= is.0));
    if let Some((reached, cause)) = is {
        let came_to = |stage| reached >= stage && was.is_none_or(|(before, _)| before < stage);
        if reached == Stage::Disabled && came_to(Stage::Disabled) {
            actions.push(Action::Disabled(cause));
        }
        if next.is_stuck() && !before.is_stuck() {
            actions.push(Action::Stuck(cause));
        }
        if came_to(Stage::Gone) {
            actions.push(Action::Revoked(cause));
        }
        if came_to(Stage::Cleared) {
            actions.push(Action::Closed(cause));
        }
    }
    actions
}

/// How far a lease's end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Disabled,
    Gone,
    Cleared,
}

fn stage(state: &State) -> Option<(Stage, Cause)> {
    match state {
        State::Issuing | State::Active => None,
        State::Revoking { cause, .. } => Some((Stage::Disabled, *cause)),
        State::Dropped { cause, .. } => Some((Stage::Gone, *cause)),
        State::Closed { cause, .. } => Some((Stage::Cleared, *cause)),
    }
}
