//! What effects do, and the ways in which they fail. True to `worker::effects`.

use super::super::super::{Effect, Notice, Secrets};
use super::actions::How;
use super::scene::{Delivery, LatePut, Message, Scene, Task};
use super::*;

impl Search {
    /// A worker runs one of its effects.
    pub(super) fn run(&self, scene: &mut Scene, task: usize, effect: usize, how: How) {
        let mut task = scene.tasks.remove(task);
        let effect = task.pending.remove(effect);
        task.is_asleep = false;
        let is_too_late = effect == Effect::PutSecret && scene.now > task.decided_at + PUT_MAX;
        let (happens, is_known) = match how {
            How::Done => (!is_too_late, !is_too_late),
            How::Failed { happened } => (happened && !is_too_late, false),
            How::Late => (false, false),
            How::Left => (false, true),
        };
        if happens {
            self.happen(scene, &effect, &task);
        }
        if effect == Effect::Answer && is_known {
            self.mark_published(scene, &task);
        }
        if how == How::Late {
            scene.late_puts.insert(LatePut {
                attempt: attempt_of(&task),
                until: task.decided_at + PUT_MAX,
            });
        }
        if effect == Effect::ClearObjects {
            task.is_left = is_known && (scene.has_obstacle || how == How::Left);
        }
        let is_of_the_end = matches!(effect, Effect::TerminateSessions | Effect::ClearObjects);
        if is_of_the_end && (!is_known || task.is_left) {
            scene.count_setback();
        }
        if !is_known {
            task.has_failed = true;
            task.pending.clear();
        }
        self.keep(scene, task);
    }

    fn happen(&self, scene: &mut Scene, effect: &Effect, task: &Task) {
        match effect {
            Effect::PutSecret => self.put(scene, attempt_of(task)),
            Effect::ArmExpiry => {
                let lease = task.lease.as_ref().expect("a lease to arm");
                scene.queue.push(Delivery {
                    due: lease.expires_at.clamp(scene.now, scene.now + HOP),
                    message: Message::Expire {
                        generation: lease.generation,
                    },
                    deferrals: 0,
                    is_slow: false,
                });
            }
            Effect::TerminateSessions => scene.has_session = false,
            // Whether something is left is its report's affair.
            Effect::ClearObjects => {}
            Effect::DeleteSecrets(which) => {
                let mine = attempt_of(task);
                for attempt in 1..=mine {
                    let is_meant = match which {
                        Secrets::All => true,
                        Secrets::Superseded => attempt < mine,
                        Secrets::Of(other) => attempt == *other,
                    };
                    if is_meant {
                        scene.secrets.remove(&self.locator(attempt));
                        scene.strays.remove(&self.locator(attempt));
                    }
                }
            }
            Effect::Answer => {
                let told = task.telling.iter().map(|it| (it.command, it.told));
                scene.told.extend(told);
            }
            Effect::Publish(Notice::Revoked) => scene.notices.end = true,
            Effect::Publish(Notice::RevocationFailed { .. }) => scene.notices.failure = true,
            Effect::Publish(Notice::Missing) => panic!("the ledger lost a lease"),
        }
    }

    /// The ledger notes that the broker has the answers; until then the sweep publishes them.
    fn mark_published(&self, scene: &mut Scene, task: &Task) {
        for telling in task.telling.iter().filter(|it| it.is_remembered) {
            let key = self.script(scene).commands[telling.command].key;
            if let Some(row) = &mut scene.rows[key] {
                row.is_published = true;
            }
        }
    }

    /// The store writes an attempt's secret.
    pub(super) fn put(&self, scene: &mut Scene, attempt: u32) {
        let locator = self.locator(attempt);
        scene.secrets.insert(locator, attempt);
        let is_mine = scene
            .lease
            .as_ref()
            .is_some_and(|lease| lease.attempt == attempt);
        if !is_mine {
            scene.strays.insert(locator);
        }
    }
}

/// The attempt that the ledger knew when the task was decided.
fn attempt_of(task: &Task) -> u32 {
    task.lease.as_ref().map_or(0, |lease| lease.attempt)
}
