//! What keycard does around [`decide`]: one transaction at a time, and what follows from it.
//!
//! True to `worker::carry`, `worker::lanes` and `ledger::step`; whoever changes those changes this.

use std::sync::Arc;

use super::super::super::{Decision, Effect, Lease, LoginChange, Report, Then};
use super::actions::Commit;
use super::scene::{Delivery, Login, Message, Row, Scene, Task, Telling, Told};
use super::scripts::Wish;
use super::*;

impl Search {
    /// A worker takes a message. `None` when the transaction cannot end like that.
    pub(super) fn take(&self, scene: &mut Scene, index: usize, commit: Commit) -> Option<()> {
        let delivery = scene.queue.remove(index);
        let command = match delivery.message {
            Message::Expire { generation } => {
                let event = Event::Wake {
                    generation: Some(generation),
                };
                return self.step(scene, Some(delivery), None, event, None, commit);
            }
            Message::Command(command) => command,
        };
        let order = &self.script(scene).commands[command];
        if let Some(row) = &scene.rows[order.key] {
            let told = if row.of == command {
                row.answer
            } else {
                Some(Told::Denied("request_id_reused"))
            };
            if let Some(told) = told.filter(|_| !self.answers_anew()) {
                let is_remembered = row.of == command;
                let effects = match &scene.lease {
                    Some(lease)
                        if is_remembered
                            && order.wish == Wish::Renewal
                            && lease.state == State::Active =>
                    {
                        vec![Effect::ArmExpiry, Effect::Answer]
                    }
                    _ => vec![Effect::Answer],
                };
                scene
                    .tasks
                    .push(replaying(scene, Some(delivery), command, told, effects));
                return (commit == Commit::Done).then_some(());
            }
        }
        let event = order.event(self.script(scene).live_leases);
        self.step(scene, Some(delivery), Some(command), event, None, commit)
    }

    /// A worker's sweep wakes the lease.
    pub(super) fn sweep(&self, scene: &mut Scene, commit: Commit) -> Option<()> {
        let event = Event::Wake { generation: None };
        self.step(scene, None, None, event, None, commit)
    }

    /// A worker's sweep publishes an answer that nobody has.
    pub(super) fn republish(scene: &mut Scene, key: usize) -> Option<()> {
        let row = scene.rows[key].as_ref()?;
        let (command, told) = (row.of, row.answer?);
        let task = replaying(scene, None, command, told, vec![Effect::Answer]);
        scene.tasks.push(task);
        Some(())
    }

    /// A worker reports what became of its effects.
    pub(super) fn report(&self, scene: &mut Scene, index: usize, commit: Commit) -> Option<()> {
        let task = scene.tasks.remove(index);
        let attempt = task.lease.as_ref().map_or(0, |lease| lease.attempt);
        let event = match (task.has_failed, task.then) {
            (true, _) => Event::Failed {
                attempt: task.fails_as?,
                reason: "it is down".into(),
            },
            (false, Then::Report(Report::Delivered)) => Event::Delivered { attempt },
            (false, Then::Report(Report::SessionsGone)) => Event::SessionsGone {
                attempt,
                terminated: 0,
                left: task.is_left.then(|| "it owns a table".into()),
            },
            (false, Then::Report(Report::Cleared)) => Event::Cleared { attempt },
            (false, Then::Ack | Then::Defer(_)) => return None,
        };
        let left_over = if task.has_failed {
            vec![]
        } else {
            task.pending
        };
        self.step(scene, task.delivery, None, event, Some(attempt), commit)?;
        if let (false, Some(closing)) = (left_over.is_empty(), scene.tasks.last_mut()) {
            closing.pending.splice(0..0, left_over);
        }
        Some(())
    }

    /// One transaction.
    fn step(
        &self,
        scene: &mut Scene,
        delivery: Option<Delivery>,
        asked: Option<usize>,
        event: Event,
        secret: Option<u32>,
        commit: Commit,
    ) -> Option<()> {
        let mut decision = self.decide(scene, event.clone());
        let is_refusable = decision
            .login
            .is_some_and(|change| change != LoginChange::Disable);
        let is_hindered = scene.has_obstacle && decision.login == Some(LoginChange::Drop);
        if commit == Commit::Refused && (!is_refusable || is_hindered) {
            return None;
        }
        if commit == Commit::Aborted {
            if self.creates_outside() && decision.login == Some(LoginChange::Create) {
                change_login(scene, &decision);
            }
            self.defer(scene, delivery, scene.now);
            return Some(());
        }
        if commit == Commit::Refused || is_hindered {
            if matches!(&scene.lease, Some(lease) if matches!(lease.state, State::Revoking { .. }))
            {
                scene.count_setback();
            }
            let refused = Event::Refused {
                event: Box::new(event),
                terminated: 0,
                reason: "permission denied".into(),
            };
            decision = self.decide(scene, refused);
        }
        if let Some(asked) = asked {
            let key = self.script(scene).commands[asked].key;
            scene.rows[key].get_or_insert(Row {
                of: asked,
                answer: None,
                answered_at: scene.now,
                is_published: false,
                is_rewritten: false,
            });
        }
        change_login(scene, &decision);
        if let Some(next) = &decision.next {
            scene.lease = Some(Arc::new(next.clone()));
        }
        let telling = self.record(scene, &decision, asked, secret);
        if commit == Commit::Unknown {
            self.defer(scene, delivery, scene.now);
            return Some(());
        }
        let task = Task {
            delivery,
            lease: scene.lease.clone(),
            decided_at: scene.now,
            then: decision.then,
            fails_as: Some(decision.next.as_ref().map_or(0, |lease| lease.attempt)),
            has_failed: false,
            is_left: false,
            telling,
            is_asleep: false,
            pending: decision.effects,
        };
        self.keep(scene, task);
        Some(())
    }

    fn decide(&self, scene: &Scene, event: Event) -> Decision {
        let (event, now) = self.blinded(scene, event);
        let policy = self.script(scene).policy(scene.is_frozen());
        self.distorted(decide(scene.lease.as_deref(), &event, now, &policy))
    }

    /// Records a decision's answers.
    fn record(
        &self,
        scene: &mut Scene,
        decision: &Decision,
        asked: Option<usize>,
        secret: Option<u32>,
    ) -> Vec<Telling> {
        let mut telling: Vec<Telling> = self.hearsay(decision).into_iter().collect();
        for answer in &decision.answers {
            let told = told(&answer.outcome, scene.lease.as_deref(), secret);
            let commands = &self.script(scene).commands;
            let own = asked.map(|command| commands[command].key);
            for row in scene.rows.iter_mut().enumerate() {
                let (key, Some(row)) = row else { continue };
                let is_request = matches!(commands[row.of].wish, Wish::Credential { .. });
                let is_meant = match answer.to {
                    Whose::Asker => own == Some(key),
                    Whose::Issue => is_request && row.answer.is_none(),
                    Whose::Revokers => commands[row.of].wish == Wish::End && row.answer.is_none(),
                };
                if !is_meant {
                    continue;
                }
                row.is_rewritten |= row.answer.is_some();
                row.answer = Some(told);
                row.answered_at = scene.now;
                telling.push(Telling {
                    command: row.of,
                    told,
                    is_remembered: true,
                });
            }
        }
        telling
    }

    /// A worker keeps what it still has to do; what it has done is acknowledged or deferred.
    pub(super) fn keep(&self, scene: &mut Scene, task: Task) {
        if task.fails_as.is_none() && task.has_failed {
            return self.defer(scene, task.delivery, scene.now);
        }
        if task.has_failed || !task.pending.is_empty() {
            return scene.tasks.push(task);
        }
        match task.then {
            Then::Ack => {}
            Then::Defer(until) => self.defer(scene, task.delivery, until),
            Then::Report(_) => scene.tasks.push(task),
        }
    }

    /// A message comes back, never at once.
    fn defer(&self, scene: &mut Scene, delivery: Option<Delivery>, until: Timestamp) {
        let Some(delivery) = delivery else { return };
        let pause = PAUSES[usize::try_from(delivery.deferrals)
            .unwrap()
            .min(PAUSES.len() - 1)];
        if !self.acknowledges_first() {
            scene.queue.push(Delivery {
                due: until.max(scene.now + seconds(pause)),
                deferrals: delivery.deferrals + 1,
                is_slow: false,
                ..delivery
            });
        }
    }

    /// A worker dies.
    pub(super) fn crash(&self, scene: &mut Scene, index: usize) {
        let task = scene.tasks.remove(index);
        if let (Some(delivery), false) = (task.delivery, self.acknowledges_first()) {
            scene.queue.push(Delivery {
                due: scene.now,
                is_slow: false,
                ..delivery
            });
        }
    }
}

/// An answer is given again; but a credential is not told again once it has ended.
fn replaying(
    scene: &Scene,
    delivery: Option<Delivery>,
    command: usize,
    told: Told,
    pending: Vec<Effect>,
) -> Task {
    let has_ended = scene
        .lease
        .as_ref()
        .is_none_or(|lease| lease.has_ended(scene.now));
    let told = if has_ended && matches!(told, Told::Issued { .. }) {
        Told::Denied("lease_ended")
    } else {
        told
    };
    Task {
        delivery,
        lease: scene.lease.clone(),
        decided_at: scene.now,
        pending,
        then: Then::Ack,
        fails_as: None,
        has_failed: false,
        is_left: false,
        telling: vec![Telling {
            command,
            told,
            is_remembered: told != Told::Denied("request_id_reused"),
        }],
        is_asleep: false,
    }
}

fn told(outcome: &Outcome, lease: Option<&Lease>, secret: Option<u32>) -> Told {
    match (outcome, lease) {
        (Outcome::Denied(denial), _) => Told::Denied(denial.code.as_str()),
        (Outcome::Issued, _) => Told::Issued {
            attempt: secret.expect("a secret to tell of"),
        },
        (Outcome::Renewed { .. }, Some(lease)) => Told::Renewed {
            generation: lease.generation,
            expires_at: lease.expires_at,
        },
        (Outcome::Revoked, Some(_)) => Told::Revoked,
        (Outcome::Renewed { .. } | Outcome::Revoked, None) => panic!("no lease to tell of"),
    }
}

fn change_login(scene: &mut Scene, decision: &Decision) {
    let (Some(change), Some(next)) = (decision.login, &decision.next) else {
        return;
    };
    match (change, &mut scene.login) {
        (LoginChange::Create, login) => {
            *login = Some(Login {
                password: next.attempt,
                is_enabled: true,
                valid_until: next.expires_at,
            });
        }
        (LoginChange::Drop, login) => *login = None,
        (LoginChange::ResetPassword, Some(login)) => login.password = next.attempt,
        (LoginChange::Renew, Some(login)) => login.valid_until = next.expires_at,
        (LoginChange::Disable, Some(login)) => login.is_enabled = false,
        (LoginChange::ResetPassword | LoginChange::Renew | LoginChange::Disable, None) => {
            panic!("no login to change: {change:?}")
        }
    }
}
