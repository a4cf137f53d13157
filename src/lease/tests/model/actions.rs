//! What can happen next.

use super::super::super::Effect;
use super::scene::{Freeze, Message, Scene};
use super::*;

/// One thing that happens. Indices are into the scene's messages, tasks and rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A worker takes a message, up to the end of its first transaction.
    Take(usize, Commit),
    /// A worker's sweep wakes the lease.
    Sweep(Commit),
    /// A worker's sweep publishes an answer that nobody has.
    Republish(usize),
    /// A worker runs one of its effects.
    Run {
        task: usize,
        effect: usize,
        how: How,
    },
    /// A worker reports what became of its effects: the next transaction.
    Report(usize, Commit),
    /// The store carries out what its worker gave up.
    Land(usize),
    /// Nothing is left to be done now: the clock goes on to when something falls due.
    Tick,
    /// A worker dies; what it did not acknowledge is delivered again.
    Crash(usize),
    /// A worker falls asleep, until it does something again.
    Sleep(usize),
    /// A message will come once more, at any time. Also what becomes of one whose worker dies between
    /// its work and the acknowledgement.
    Duplicate(usize),
    /// A message comes late.
    Delay(usize),
    /// A delay queue loses an expiry event.
    Lose(usize),
    /// An operator freezes revocations, and thaws them.
    Freeze,
    Thaw,
    /// Somebody clears away what depends on the login.
    Mend,
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    Done,
    /// Postgres refuses the change of the login; what is decided on that is done.
    Refused,
    /// The database restarts before the commit.
    Aborted,
    /// The database restarts after it, and the worker does not know.
    Unknown,
}

/// How an effect ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Done,
    /// It is reported as failed, whether it happened or not.
    Failed {
        happened: bool,
    },
    /// It is reported as failed, and happens later.
    Late,
    /// What the login owns cannot be cleared away.
    Left,
}

impl Action {
    pub(super) fn is_fault(&self) -> bool {
        match self {
            Self::Take(_, commit) | Self::Sweep(commit) | Self::Report(_, commit) => {
                *commit != Commit::Done
            }
            Self::Run { how, .. } => *how != How::Done,
            Self::Crash(_)
            | Self::Sleep(_)
            | Self::Duplicate(_)
            | Self::Delay(_)
            | Self::Lose(_) => true,
            Self::Republish(_)
            | Self::Land(_)
            | Self::Tick
            | Self::Freeze
            | Self::Thaw
            | Self::Mend => false,
        }
    }
}

const COMMITS: [Commit; 4] = [
    Commit::Done,
    Commit::Refused,
    Commit::Aborted,
    Commit::Unknown,
];

impl Search {
    /// Everything that can happen next, faults as long as the bound allows them.
    pub(super) fn possible(&self, scene: &Scene, actions: &mut Vec<Action>) {
        if scene.tasks.len() < WORKERS {
            self.beginnings(scene, actions);
        }
        for (index, task) in scene.tasks.iter().enumerate() {
            let is_done = task.pending.is_empty() || self.reports_early(task);
            if task.has_failed || is_done {
                actions.extend(COMMITS.map(|commit| Action::Report(index, commit)));
            }
            let side_by_side = matches!(
                task.pending.as_slice(),
                [Effect::PutSecret, Effect::ArmExpiry, ..]
            );
            for (effect, what) in task
                .pending
                .iter()
                .enumerate()
                .take(1 + usize::from(side_by_side))
            {
                let mut hows = vec![
                    How::Done,
                    How::Failed { happened: false },
                    How::Failed { happened: true },
                ];
                match what {
                    Effect::PutSecret => hows.push(How::Late),
                    Effect::ClearObjects => hows.push(How::Left),
                    Effect::ArmExpiry
                    | Effect::TerminateSessions
                    | Effect::DeleteSecrets(_)
                    | Effect::Answer
                    | Effect::Publish(_) => {}
                }
                actions.extend(hows.into_iter().map(|how| Action::Run {
                    task: index,
                    effect,
                    how,
                }));
            }
            actions.push(Action::Crash(index));
            if !task.is_asleep {
                actions.push(Action::Sleep(index));
            }
        }
        for (index, delivery) in scene.queue.iter().enumerate() {
            actions.push(Action::Duplicate(index));
            if !delivery.is_slow {
                actions.push(Action::Delay(index));
            }
            if matches!(delivery.message, Message::Expire { .. }) {
                actions.push(Action::Lose(index));
            }
        }
        actions.extend((0..scene.late_puts.len()).map(Action::Land));
        match scene.freeze {
            Freeze::NotYet if self.script(scene).freezes => actions.push(Action::Freeze),
            Freeze::Frozen(_) => actions.push(Action::Thaw),
            Freeze::NotYet | Freeze::Thawed(_) => {}
        }
        if scene.has_obstacle {
            actions.push(Action::Mend);
        }
        if self.may_tick(scene) {
            actions.push(Action::Tick);
        }
        if scene.faults >= self.faults_max(scene) {
            actions.retain(|action| !action.is_fault());
        }
    }

    /// What a worker without work can begin.
    fn beginnings(&self, scene: &Scene, actions: &mut Vec<Action>) {
        for (index, delivery) in scene.queue.iter().enumerate() {
            let is_another = index == 0 || scene.queue[index - 1] != *delivery;
            if delivery.due <= scene.now && is_another {
                actions.extend(COMMITS.map(|commit| Action::Take(index, commit)));
            }
        }
        if !self.sweeps() {
            return;
        }
        if scene.is_sweepable() {
            actions.extend(COMMITS.map(Action::Sweep));
        }
        let unpublished = (0..scene.rows.len()).filter(|key| scene.is_unpublished(*key));
        actions.extend(unpublished.map(Action::Republish));
    }

    /// Time goes on when everybody has done what there is to do, unless they are asleep.
    fn may_tick(&self, scene: &Scene) -> bool {
        let is_message_due = |scene: &Scene| {
            scene
                .queue
                .iter()
                .any(|it| it.due <= scene.now && !it.is_slow)
        };
        let is_answer_due =
            |scene: &Scene| (0..scene.rows.len()).any(|key| scene.is_unpublished(key));
        let is_sweep_due =
            |scene: &Scene| self.sweeps() && (scene.is_sweepable() || is_answer_due(scene));
        let is_awake = scene.tasks.iter().any(|task| !task.is_asleep);
        let is_wanted =
            scene.tasks.len() < WORKERS && (is_message_due(scene) || is_sweep_due(scene));
        // People take their time, but not for ever.
        let is_mended_first = scene.has_obstacle
            && scene.lease.as_ref().is_some_and(|lease| {
                matches!(lease.state, State::Revoking { failures, .. } if failures > STUCK_AFTER_FAILURES)
            });
        let is_thawed_first = scene.freeze == Freeze::Frozen(FROZEN_TICKS_MAX);
        !(is_awake || is_wanted || is_mended_first || is_thawed_first)
            && scene.next_instant().is_some()
    }
}
