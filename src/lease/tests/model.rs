//! Every order of events, searched: [`decide`] within a model of everything around it.
//!
//! Two workers play a script (who asks for what) against a ledger, a login, a store and a broker.
//! Each thing that can happen next is an action, and stateright tries them all in every order, with
//! at most so many faults in one play. The clock moves only when everybody has done what there is to
//! do; who is slow is a fault, or a command whose sender takes its time. So every play ends, and what
//! must be true at the end can be checked.

mod actions;
mod effects;
mod mutants;
mod properties;
mod scene;
mod scripts;
mod shell;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stateright::report::{ReportData, ReportDiscovery, Reporter};
use stateright::{Checker as _, DiscoveryClassification, HasDiscoveries, Model, Path, Property};

use super::super::STUCK_AFTER_FAILURES;
use super::*;
use actions::Action;
use mutants::Mutant;
use scene::{Delivery, Freeze, Message, Notices, Scene};
use scripts::Script;

/// Deliveries that are in hand at a time.
const WORKERS: usize = 2;

/// As `worker::HOLD`.
const HOLD: SignedDuration = SignedDuration::from_secs(30);

/// Deferrals grow over these, in seconds: as `worker::pause`.
const PAUSES: [i64; 5] = [1, 2, 5, 15, 30];

/// How long the sweep leaves a lease to its expiry event: as `Ledger::due`.
const SWEEP_GRACE: SignedDuration = SignedDuration::from_secs(2);

/// How long the sweep leaves an answer to who recorded it: as `Ledger::unpublished`.
const ANSWER_GRACE: SignedDuration = SignedDuration::from_secs(10);

/// As the configuration has it by default.
const REQUEST_AGE_MAX: SignedDuration = SignedDuration::from_mins(15);

/// Until when the store may carry out a put, even one that a sleeping worker sent.
const PUT_MAX: SignedDuration = SignedDuration::from_mins(10);

const TTL: SignedDuration = SignedDuration::from_secs(40);
const TTL_MAX: SignedDuration = SignedDuration::from_secs(60);

/// The longest rung of the delay queues: an expiry event comes early, and the rest is armed again.
const HOP: SignedDuration = SignedDuration::from_secs(25);

/// How often the clock moves at most while revocations are frozen.
const FROZEN_TICKS_MAX: u8 = 2;

/// When every play is over.
const HORIZON: SignedDuration = SignedDuration::from_hours(3);

/// A search through everything that can happen.
struct Search {
    scripts: Vec<Script>,
    /// Which of a script's bounds of faults holds.
    bound: usize,
    mutant: Option<Mutant>,
}

impl Search {
    fn script(&self, scene: &Scene) -> &Script {
        &self.scripts[scene.script]
    }

    fn faults_max(&self, scene: &Scene) -> u8 {
        self.script(scene).faults[self.bound]
    }

    /// Whether nothing can happen any more.
    fn is_at_rest(&self, scene: &Scene) -> bool {
        if !scene.tasks.is_empty() || !scene.queue.is_empty() {
            return false;
        }
        let mut actions = vec![];
        self.possible(scene, &mut actions);
        actions.is_empty()
    }

    fn beginning(&self, index: usize) -> Scene {
        let script = &self.scripts[index];
        let queue = script.commands.iter().enumerate();
        let mut scene = Scene {
            script: index,
            faults: 0,
            now: start(),
            lease: None,
            rows: vec![None; script.commands.len()],
            login: None,
            has_session: false,
            secrets: BTreeMap::new(),
            strays: BTreeSet::new(),
            late_puts: BTreeSet::new(),
            queue: queue
                .map(|(command, it)| Delivery {
                    due: start(),
                    message: Message::Command(command),
                    deferrals: 0,
                    is_slow: it.is_slow,
                })
                .collect(),
            tasks: vec![],
            told: BTreeSet::new(),
            notices: Notices::default(),
            setbacks: 0,
            has_obstacle: script.has_obstacle,
            freeze: Freeze::NotYet,
            deserted_until: start(),
        };
        scene.settle();
        scene
    }
}

impl Model for Search {
    type State = Scene;
    type Action = Action;

    fn init_states(&self) -> Vec<Scene> {
        (0..self.scripts.len())
            .map(|index| self.beginning(index))
            .collect()
    }

    fn actions(&self, scene: &Scene, actions: &mut Vec<Action>) {
        self.possible(scene, actions);
    }

    fn next_state(&self, last: &Scene, action: Action) -> Option<Scene> {
        let mut scene = last.clone();
        scene.faults += u8::from(action.is_fault());
        match action {
            Action::Take(index, commit) => self.take(&mut scene, index, commit)?,
            Action::Sweep(commit) => self.sweep(&mut scene, commit)?,
            Action::Republish(key) => Self::republish(&mut scene, key)?,
            Action::Run { task, effect, how } => self.run(&mut scene, task, effect, how),
            Action::Report(task, commit) => self.report(&mut scene, task, commit)?,
            Action::Crash(task) => self.crash(&mut scene, task),
            Action::Sleep(task) => scene.tasks[task].is_asleep = true,
            Action::Land(index) => {
                let put = *scene.late_puts.iter().nth(index)?;
                scene.late_puts.remove(&put);
                self.put(&mut scene, put.attempt);
            }
            Action::Duplicate(index) => {
                let copy = Delivery {
                    is_slow: true,
                    ..scene.queue[index]
                };
                scene.queue.push(copy);
            }
            Action::Delay(index) => scene.queue[index].is_slow = true,
            Action::Lose(index) => {
                scene.queue.remove(index);
            }
            Action::Freeze => scene.freeze = Freeze::Frozen(0),
            Action::Thaw => scene.freeze = Freeze::Thawed(scene.now),
            Action::Mend => scene.has_obstacle = false,
            Action::Tick => {
                scene.now = scene.next_instant()?;
                if scene.tasks.len() == WORKERS {
                    scene.deserted_until = scene.now;
                }
                if let Freeze::Frozen(ticks) = &mut scene.freeze {
                    *ticks += 1;
                }
            }
        }
        scene.settle();
        Some(scene)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        [properties::laws(), properties::sights()].concat()
    }
}

/// What was found, and how much was searched for it.
struct Findings {
    script: &'static str,
    seen: BTreeSet<&'static str>,
}

impl Reporter<Search> for Findings {
    fn report_checking(&mut self, data: ReportData) {
        if data.done {
            println!(
                "{}: {} steps, {} states, depth {}, {:.1} s",
                self.script,
                data.total_states,
                data.unique_states,
                data.max_depth,
                data.duration.as_secs_f64()
            );
        }
    }

    fn report_discoveries(
        &mut self,
        _: &Search,
        discoveries: BTreeMap<&'static str, ReportDiscovery<Search>>,
    ) {
        for (name, found) in discoveries {
            let is_broken = matches!(
                found.classification,
                DiscoveryClassification::Counterexample
            );
            assert!(
                !is_broken,
                "{}: broken: {name}\n{}",
                self.script,
                told(found.path)
            );
            self.seen.insert(name);
        }
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(20)
    }
}

/// A play as one can read it: what happened when, and what came of it.
fn told(path: Path<Scene, Action>) -> String {
    path.into_vec()
        .into_iter()
        .map(|(scene, action)| {
            let lease = scene.lease.as_ref();
            let after = scene.now.duration_since(start()).as_secs();
            let state = lease.map_or("no lease", |lease| lease.state.as_str());
            match action {
                Some(action) => format!("{after:5} s, {state}: {action:?}\n"),
                None => format!("{scene:#?}"),
            }
        })
        .collect()
}

/// Plays every script within a bound.
fn search_all(bound: usize) {
    let mut findings = Findings {
        script: "",
        seen: BTreeSet::new(),
    };
    for script in scripts::all() {
        findings.script = script.name;
        let search = Search {
            scripts: vec![script],
            bound,
            mutant: None,
        };
        search
            .checker()
            .threads(2)
            .spawn_bfs()
            .join_and_report(&mut findings);
    }
    for sight in properties::sights() {
        assert!(
            findings.seen.contains(sight.name),
            "never seen: {}",
            sight.name
        );
    }
}

#[test]
fn nothing_breaks_within_the_small_bound() {
    search_all(0);
}

#[test]
#[ignore = "takes minutes: make verify runs it"]
fn nothing_breaks_within_the_full_bound() {
    search_all(1);
}

#[test]
fn every_mistake_breaks_its_property() {
    let all: BTreeSet<&str> = properties::laws().iter().map(|law| law.name).collect();
    assert_eq!(all, Mutant::ALL.map(|(_, broken)| broken).into());
    for (mutant, broken) in Mutant::ALL {
        let search = Search {
            scripts: scripts::all(),
            bound: 0,
            mutant: Some(mutant),
        };
        let checker = search
            .checker()
            .finish_when(HasDiscoveries::AnyOf([broken].into()))
            .spawn_bfs()
            .join();
        assert!(
            checker.discovery(broken).is_some(),
            "{mutant:?} does not break: {broken}"
        );
    }
}
