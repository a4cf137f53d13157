//! A Postgres, a broker, a secret store and two workers around [`decide`], small enough to break at
//! will. One lease and the commands about it; what must never be is asserted where it would happen.

use std::collections::BTreeSet;

use super::super::{Effect, LoginChange, Notice, Report, Secrets};
use super::parts::{Command, Faults, Login, Message, Rng, Task};
use super::*;

/// Decisions that one delivery may take: issue, deliver, expire, refuse, terminate, drop, clear,
/// close, and two more for failures.
const TURNS_MAX: u32 = 10;

/// A store call is given up after this long, even by a worker that slept.
const PUT_SECONDS_MAX: i64 = 600;

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: Timestamp,
    pub(super) faults: Faults,
    pub(super) commands: Vec<Command>,
    pub(super) queue: Vec<(Timestamp, Message)>,
    pub(super) lease: Option<Lease>,
    /// Every reason that a decision gave.
    pub(super) reasons: BTreeSet<String>,
    login: Option<Login>,
    pub(super) secrets: BTreeSet<u32>,
    /// Attempts whose locators were written.
    written: BTreeSet<u32>,
    /// Those of them that were written when another attempt had taken over.
    late: BTreeSet<u32>,
    tasks: [Option<Task>; 2],
    policy: Policy,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut policy = policy();
        if let Some(role) = &mut policy.role {
            role.default_ttl = seconds(120);
            role.max_ttl = seconds(400);
        }
        Self {
            rng: Rng::new(seed),
            now: t0(),
            faults: Faults::default(),
            commands: vec![],
            queue: vec![],
            lease: None,
            reasons: BTreeSet::new(),
            login: None,
            secrets: BTreeSet::new(),
            written: BTreeSet::new(),
            late: BTreeSet::new(),
            tasks: [None, None],
            policy,
        }
    }

    /// A client publishes a command.
    pub(super) fn publish(&mut self, event: Event, due: Timestamp) {
        self.queue
            .push((due, Message::Command(self.commands.len())));
        self.commands.push(Command {
            event,
            recorded: false,
            answer: None,
            is_told: false,
        });
    }

    /// An operator freezes revocations, or thaws them.
    pub(super) fn freeze(&mut self, frozen: bool) {
        self.policy.frozen = frozen;
    }

    pub(super) fn login_exists(&self) -> bool {
        self.login.is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tasks.iter().all(Option::is_none)
    }

    /// When something happens by itself: a message falls due or the sweep finds the lease.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        let messages = self.queue.iter().map(|(due, _)| *due);
        let sweep = self.lease.as_ref().and_then(Lease::wake_at);
        messages.chain(sweep.map(|at| at + seconds(2))).min()
    }

    /// One of the workers does one thing.
    pub(super) fn work(&mut self, worker: usize) {
        match self.tasks[worker].take() {
            // What was not acknowledged is delivered again.
            Some(task) if self.rng.percent(self.faults.crash) => {
                let message = task.message.map(|message| (self.now, message));
                self.queue.extend(message);
            }
            Some(task) => self.tasks[worker] = self.go_on(task),
            None if self.rng.percent(60) => self.tasks[worker] = self.receive(),
            None => self.tasks[worker] = self.sweep(),
        }
    }

    /// Takes any message that is due.
    fn receive(&mut self) -> Option<Task> {
        let due: Vec<usize> = (0..self.queue.len())
            .filter(|index| self.queue[*index].0 <= self.now)
            .collect();
        if due.is_empty() {
            return None;
        }
        let index = self.rng.pick(&due);
        let message = self.queue[index].1;
        if self.rng.percent(self.faults.duplicate) {
            let later = self.now + seconds(i64::try_from(self.rng.below(90)).unwrap());
            self.queue.push((later, message));
        }
        self.queue.swap_remove(index);
        match message {
            Message::Command(command) if self.commands[command].answer.is_some() => {
                self.tell(&[command]);
                if !self.commands[command].is_told {
                    self.queue.push((self.now + seconds(1), message));
                }
                None
            }
            Message::Command(command) => {
                let event = self.commands[command].event.clone();
                Some(self.turn(Some(message), &event, 0))
            }
            Message::Expire { generation } => {
                let event = Event::Wake {
                    generation: Some(generation),
                };
                Some(self.turn(Some(message), &event, 0))
            }
        }
    }

    /// Finds what is due or unfinished, and answers that nobody published.
    fn sweep(&mut self) -> Option<Task> {
        let unpublished: Vec<usize> = (0..self.commands.len())
            .filter(|index| {
                let command = &self.commands[*index];
                command.answer.is_some() && !command.is_told
            })
            .collect();
        self.tell(&unpublished);
        let at = self.lease.as_ref()?.wake_at()?;
        (at + seconds(2) <= self.now).then(|| self.turn(None, &Event::Wake { generation: None }, 0))
    }

    fn tell(&mut self, commands: &[usize]) -> bool {
        if self.faults.broker_is_down || self.rng.percent(self.faults.failure) {
            return false;
        }
        for command in commands {
            self.commands[*command].is_told = true;
        }
        true
    }

    /// One transaction.
    fn turn(&mut self, message: Option<Message>, event: &Event, turns: u32) -> Task {
        assert!(turns < TURNS_MAX, "the delivery never ends: {event:?}");
        let loaded = self.lease.clone();
        let mut decision = decide(loaded.as_ref(), event, self.now, &self.policy);
        let refusable = decision.login.is_some_and(|c| c != LoginChange::Disable);
        if refusable && self.rng.percent(self.faults.refusal) {
            self.reasons.insert(decision.reason.to_string());
            decision = decide(
                loaded.as_ref(),
                &refused(event.clone()),
                self.now,
                &self.policy,
            );
            assert!(matches!(decision.login, None | Some(LoginChange::Disable)));
        }
        self.reasons.insert(decision.reason.to_string());
        assert!(!(self.policy.frozen && decision.takes_away()));
        if let Some(next) = &decision.next {
            self.change_login(next, decision.login);
            self.check_early_end(next, event);
            self.lease = Some(next.clone());
            if let Some(Message::Command(command)) = message {
                self.commands[command].recorded = true;
            }
        }
        let answered = self.record(&decision, message);
        self.check();
        Task {
            message,
            lease: self.lease.clone(),
            pending: decision.effects.iter().cloned().collect(),
            decided_at: self.now,
            decision,
            answered,
            turns: turns + 1,
        }
    }

    fn change_login(&mut self, next: &Lease, change: Option<LoginChange>) {
        match change {
            None => {}
            Some(LoginChange::Create) => {
                assert!(self.login.is_none() && self.lease.is_none());
                self.login = Some(Login {
                    password_of: next.attempt,
                    is_enabled: true,
                    valid_until: next.expires_at,
                });
            }
            Some(LoginChange::Drop) => assert!(self.login.take().is_some()),
            Some(change) => {
                let login = self.login.as_mut().expect("a login to change");
                match change {
                    LoginChange::ResetPassword => login.password_of = next.attempt,
                    LoginChange::Renew => login.valid_until = next.expires_at,
                    LoginChange::Disable => login.is_enabled = false,
                    LoginChange::Create | LoginChange::Drop => unreachable!(),
                }
            }
        }
    }

    /// A credential that was told lives until its end, unless somebody who may asks otherwise.
    fn check_early_end(&self, next: &Lease, event: &Event) {
        let was_active = self
            .lease
            .as_ref()
            .is_some_and(|lease| lease.state == State::Active);
        if was_active && next.state != State::Active && self.now < next.expires_at {
            assert!(
                matches!(event, Event::Revoke(asking) if asking.by.as_str() != "mallory"),
                "ended early by {event:?}"
            );
        }
    }

    /// Writes the answers of a decision; each command has at most one, ever.
    fn record(&mut self, decision: &Decision, message: Option<Message>) -> Vec<usize> {
        let mut answered = vec![];
        for answer in &decision.answers {
            let whose: Vec<usize> = match (answer.to, message) {
                (Whose::Asker, Some(Message::Command(command))) => vec![command],
                (Whose::Asker, other) => panic!("nobody asked: {:?}", other.is_some()),
                (Whose::Issue, _) => vec![0],
                (Whose::Revokers, _) => (0..self.commands.len())
                    .filter(|index| {
                        let command = &self.commands[*index];
                        command.recorded
                            && command.answer.is_none()
                            && matches!(command.event, Event::Revoke(_))
                    })
                    .collect(),
            };
            for command in whose {
                let earlier = self.commands[command]
                    .answer
                    .replace(answer.outcome.clone());
                assert_eq!(earlier, None, "answered twice: {decision:?}");
                answered.push(command);
            }
            if answer.outcome == Outcome::Issued {
                let login = self.login.as_ref().expect("a login to tell of");
                assert!(login.is_enabled && self.now < login.valid_until);
            }
        }
        answered
    }

    /// What holds between any two steps.
    fn check(&self) {
        let Some(lease) = &self.lease else {
            assert!(self.login.is_none());
            return;
        };
        match (&lease.state, &self.login) {
            (State::Issuing, Some(login)) => assert!(login.is_enabled),
            (State::Active, Some(login)) => {
                assert!(login.is_enabled);
                assert_eq!(login.valid_until, lease.expires_at);
                assert_eq!(login.password_of, lease.attempt);
                assert!(
                    self.secrets.contains(&lease.attempt),
                    "the told secret is gone"
                );
            }
            (State::Revoking { .. }, Some(login)) => assert!(!login.is_enabled),
            (State::Dropped { .. }, None) => {}
            (State::Closed { .. }, None) => {
                assert!(self.secrets.is_subset(&self.late), "secrets are left");
            }
            (state, login) => panic!("{state:?}, login: {}", login.is_some()),
        }
    }

    /// The next effect of the task, or what follows its effects.
    fn go_on(&mut self, mut task: Task) -> Option<Task> {
        if let Some(effect) = task.pending.pop_front() {
            if self.run(&effect, &task) {
                self.check();
                return Some(task);
            }
            self.check();
            let event = task.decision.failure("it is down".into());
            return Some(self.turn(task.message, &event, task.turns));
        }
        let attempt = task.lease.as_ref().map_or(0, |lease| lease.attempt);
        let event = match task.decision.then {
            Then::Ack => return None,
            Then::Defer(until) => {
                if let Some(message) = task.message {
                    self.queue.push((until, message));
                }
                return None;
            }
            Then::Report(Report::Delivered) => Event::Delivered { attempt },
            Then::Report(Report::SessionsGone) => Event::SessionsGone {
                attempt,
                terminated: 1,
                left: self
                    .rng
                    .percent(self.faults.refusal)
                    .then(|| "it owns 2 tables".into()),
            },
            Then::Report(Report::Cleared) => Event::Cleared { attempt },
        };
        Some(self.turn(task.message, &event, task.turns))
    }

    /// Whether the effect is known to have happened; when not, it may have.
    fn run(&mut self, effect: &Effect, task: &Task) -> bool {
        let is_down = match effect {
            Effect::PutSecret | Effect::DeleteSecrets(_) => self.faults.store_is_down,
            Effect::ArmExpiry | Effect::Answer | Effect::Publish(_) => self.faults.broker_is_down,
            Effect::TerminateSessions | Effect::ClearObjects => false,
        };
        let fails = self.rng.percent(self.faults.failure);
        if is_down || fails && self.rng.percent(50) {
            return false;
        }
        let lease = || task.lease.as_ref().expect("a lease");
        match effect {
            Effect::PutSecret => {
                if self.now.duration_since(task.decided_at) > seconds(PUT_SECONDS_MAX) {
                    return false;
                }
                assert!(self.written.insert(lease().attempt), "a locator is reused");
                self.secrets.insert(lease().attempt);
                if self.lease.as_ref() != task.lease.as_ref() {
                    self.late.insert(lease().attempt);
                }
            }
            Effect::ArmExpiry => self.arm(lease()),
            Effect::TerminateSessions | Effect::ClearObjects => {}
            Effect::DeleteSecrets(Secrets::All) => {
                self.secrets.retain(|attempt| *attempt > lease().attempt);
            }
            Effect::DeleteSecrets(Secrets::Superseded) => {
                self.secrets.retain(|attempt| *attempt >= lease().attempt);
            }
            Effect::DeleteSecrets(Secrets::Of(attempt)) => {
                self.secrets.remove(attempt);
            }
            Effect::Answer => {
                if !self.tell(&task.answered) {
                    return false;
                }
            }
            Effect::Publish(Notice::Revoked) => assert!(self.login.is_none()),
            Effect::Publish(Notice::Missing) => panic!("the ledger lost a lease"),
            Effect::Publish(Notice::RevocationFailed { .. }) => assert!(lease().is_stuck()),
        }
        !fails
    }

    /// Expiry events come back early, on time, or never.
    fn arm(&mut self, lease: &Lease) {
        if self.rng.percent(self.faults.lost_expiry) {
            return;
        }
        let hop = seconds(self.rng.pick(&[1, 30, 300]));
        let due = lease.expires_at.min(self.now + hop);
        let generation = lease.generation;
        self.queue.push((due, Message::Expire { generation }));
    }
}
