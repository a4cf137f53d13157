//! The crash matrix: every effect and every commit of every flow, with a worker that is killed before
//! or after it, to which it fails before or after it happened, or which does it twice.
//!
//! A cell is one lease of a role of its own. Cells that kill are brought to their places in one
//! worker together, which is then killed once for all of them; those that do not kill come last.
//! Recovery is the affair of the workers that come after it alone.

mod acts;
mod flows;
mod orders;
mod outcome;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use keycard::lease::{Effect, Notice, Secrets as Which};

use crate::support::audit::Secrets;
use crate::support::process::Worker;
use crate::support::queues::Queues;
use crate::support::secrets_manager::FakeSecretsManager;
use crate::support::services::QueueKind;
use crate::support::site::{Site, StoreKind, Wishes};
use crate::support::steady::Steady;
use acts::{Guest, Stage};
use flows::{Bottleneck, Flow};
use orders::Orders;

/// What goes wrong at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KilledBefore,
    KilledAfter,
    ErrorBefore,
    ErrorAfter,
    Twice,
}

impl Fault {
    const ALL: [Self; 5] = [
        Self::KilledBefore,
        Self::KilledAfter,
        Self::ErrorBefore,
        Self::ErrorAfter,
        Self::Twice,
    ];

    fn order(self) -> &'static str {
        match self {
            Self::KilledBefore => "stop_before",
            Self::KilledAfter => "stop_after",
            Self::ErrorBefore => "fail_before",
            Self::ErrorAfter => "fail_after",
            Self::Twice => "twice",
        }
    }

    fn kills(self) -> bool {
        matches!(self, Self::KilledBefore | Self::KilledAfter)
    }
}

/// One fault at the `n`th place of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    flow: Flow,
    n: usize,
    fault: Fault,
}

impl Cell {
    /// Its name, and its role's.
    fn name(self) -> String {
        format!("{:?}-{}-{:?}", self.flow, self.n, self.fault)
    }

    /// With how many of which others it may stop a worker.
    fn company(self) -> Bottleneck {
        let in_transaction = self.fault == Fault::KilledBefore && self.flow.commits(self.n);
        if let Some(bottleneck) = self.flow.bottleneck() {
            bottleneck
        } else if in_transaction && self.flow == Flow::Issue && self.n == 0 {
            // From version 16 on whoever is about to commit a grant of the group keeps all others
            // from granting it.
            ("creation", 1)
        } else if in_transaction {
            // A transaction is given up after 25 s, and comes again.
            ("transaction", 8)
        } else {
            ("", 32)
        }
    }
}

/// Every cell of these flows. A transaction cannot be committed twice: that it is taken twice is what
/// an error after it leads to.
fn cells(flows: &[Flow]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for flow in flows {
        for n in flow.first()..flow.places().len() {
            for fault in Fault::ALL {
                let flow = *flow;
                if fault != Fault::Twice || !flow.commits(n) {
                    cells.push(Cell { flow, n, fault });
                }
            }
        }
    }
    cells
}

/// Which cells are brought to their places before a worker is killed.
fn waves(cells: &[Cell]) -> Vec<Vec<Cell>> {
    let mut kinds: BTreeMap<_, Vec<Cell>> = BTreeMap::new();
    for cell in cells.iter().filter(|cell| cell.fault.kills()) {
        kinds.entry(cell.company()).or_default().push(*cell);
    }
    kinds
        .iter()
        .flat_map(|((_, most), cells)| cells.chunks(*most).map(<[Cell]>::to_vec))
        .collect()
}

/// Two of the faults for each place, others from place to place.
fn thinned(cells: &[Cell]) -> Vec<Cell> {
    let mut places: Vec<(Flow, usize)> = Vec::new();
    let mut thinned = cells.to_vec();
    thinned.retain(|cell| {
        if places.last() != Some(&(cell.flow, cell.n)) {
            places.push((cell.flow, cell.n));
        }
        let fault = Fault::ALL.iter().position(|fault| *fault == cell.fault);
        (places.len() + fault.unwrap()) % Fault::ALL.len() < 2
    });
    thinned
}

/// Which store: with a broker the cloud's and with Postgres files, or the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pairing {
    Usual,
    Crossed,
}

/// A site for these cells, each with a role of its own.
async fn site(cells: &[Cell], fake: Option<&FakeSecretsManager>) -> Site {
    let mut sections = String::new();
    for cell in cells {
        let _ = write!(
            sections,
            "[roles.{}]\ndatabase = \"app\"\ngroups = [\"GROUP\"]\nrequesters = [\"orders-svc\"]\n\
             default_ttl = \"1h\"\nmax_ttl = \"24h\"\nmin_ttl = \"1s\"\n{}\n",
            cell.name(),
            cell.flow.role(),
        );
    }
    let reconciles = cells
        .iter()
        .any(|cell| Flow::RECONCILIATION.contains(&cell.flow));
    let site = Site::new(Wishes {
        store: fake.map_or(StoreKind::Directory, |fake| StoreKind::Aws(fake.url())),
        sections,
        sweep_interval: "2s",
        reconcile_interval: if reconciles { "3s" } else { "7d" },
        ..Wishes::default()
    })
    .await;
    let grant = format!("GRANT CREATE ON SCHEMA public TO {}", site.group);
    site.sql().await.batch_execute(&grant).await.unwrap();
    site
}

/// A worker that takes orders. Whoever stops it in or after a transaction keeps a connection.
async fn worker(site: &Site, orders: &Orders) -> Worker {
    let worker = site.worker_unready(&[
        ("CRASH_MATRIX_ORDERS", orders.path()),
        ("KEYCARD_DATABASES__APP__MAX_CONNECTIONS", "48"),
        ("KEYCARD_QUEUE__PREFETCH", "100"),
    ]);
    worker.ready().await;
    worker
}

async fn hold(cells: Vec<Cell>, pairing: Pairing) {
    let is_amqp = matches!(QueueKind::default(), QueueKind::Amqp(_));
    let fake = (is_amqp == (pairing == Pairing::Usual)).then(FakeSecretsManager::start);
    if let Some(fake) = &fake {
        fake.set_deletion_takes(Duration::ZERO);
    }
    let site = site(&cells, fake.as_ref()).await;
    let orders = Orders::of(&site);
    let mut running = site.worker().await;
    let stage = Stage {
        site: &site,
        orders: &orders,
        service: Steady::start(&site, "orders-svc").await,
        queues: Queues::of(&site).await,
        sql: site.sql().await,
        secrets: fake.as_ref().map_or(Secrets::Files(&site), Secrets::Fake),
        fake: fake.as_ref(),
    };
    let mut guests: Vec<Guest> = stage.prepare(&cells).await;
    running.kill();
    running = worker(&site, &orders).await;
    let mut find = |cells: &[Cell]| -> Vec<Guest> {
        let (found, others) = guests
            .drain(..)
            .partition(|guest| cells.contains(&guest.cell));
        guests = others;
        found
    };
    let mut all = Vec::new();
    let mut killed = 0;
    for wave in waves(&cells) {
        let wave = find(&wave);
        // Who stops there keeps the next sweep, or comparison, from coming: one has to find all.
        if wave[0].cell.flow.bottleneck().is_some() {
            running.kill();
            stage.begin(&wave).await;
            running = worker(&site, &orders).await;
        } else {
            stage.begin(&wave).await;
        }
        stage.until_met(&wave).await;
        running.kill();
        killed += 1;
        for guest in &wave {
            orders.withdraw(&guest.whom());
        }
        running = worker(&site, &orders).await;
        all.extend(wave);
    }
    let rest = find(&cells);
    stage.begin(&rest).await;
    stage.until_met(&rest).await;
    all.extend(rest);
    outcome::assert_good(&stage, &all).await;
    println!("{} cells, {killed} workers killed", cells.len());
}

async fn hold_some(flows: &[Flow]) {
    hold(thinned(&cells(flows)), Pairing::Usual).await;
}

async fn hold_all(flows: &[Flow]) {
    for pairing in [Pairing::Usual, Pairing::Crossed] {
        hold(cells(flows), pairing).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_survive_faults() {
    hold_some(&Flow::COMMANDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_ups_survive_faults() {
    hold_some(&Flow::WAKE_UPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconciliation_survives_faults() {
    hold_some(&Flow::RECONCILIATION).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; make verify runs it"]
async fn commands_survive_every_fault_at_every_place() {
    hold_all(&Flow::COMMANDS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; make verify runs it"]
async fn wake_ups_survive_every_fault_at_every_place() {
    hold_all(&Flow::WAKE_UPS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; make verify runs it"]
async fn reconciliation_survives_every_fault_at_every_place() {
    hold_all(&Flow::RECONCILIATION).await;
}

/// An effect that no flow passes would not be in the matrix. What is new does not compile here.
#[test]
fn every_effect_is_in_the_matrix() {
    let named = |effect: &Effect| match effect {
        Effect::PutSecret => "PutSecret",
        Effect::ArmExpiry => "ArmExpiry",
        Effect::TerminateSessions => "TerminateSessions",
        Effect::ClearObjects => "ClearObjects",
        Effect::DeleteSecrets(Which::All) => "DeleteSecrets All",
        Effect::DeleteSecrets(Which::Superseded) => "DeleteSecrets Superseded",
        Effect::DeleteSecrets(Which::Of(_)) => "DeleteSecrets Of 1",
        Effect::Answer => "Answer",
        Effect::Publish(Notice::Revoked) => "Publish Revoked",
        Effect::Publish(Notice::Missing) => "Publish Missing",
        Effect::Publish(Notice::RevocationFailed { .. }) => "Publish RevocationFailed",
    };
    let all = [
        Effect::PutSecret,
        Effect::ArmExpiry,
        Effect::TerminateSessions,
        Effect::ClearObjects,
        Effect::DeleteSecrets(Which::All),
        Effect::DeleteSecrets(Which::Superseded),
        Effect::DeleteSecrets(Which::Of(1)),
        Effect::Answer,
        Effect::Publish(Notice::Revoked),
        Effect::Publish(Notice::Missing),
        Effect::Publish(Notice::RevocationFailed { reason: "".into() }),
    ];
    let cells = cells(&Flow::all().collect::<Vec<_>>());
    for effect in &all {
        for fault in Fault::ALL {
            let is_at = |cell: &&Cell| {
                let place = cell.flow.places()[cell.n];
                place.split_once('.').unwrap().1 == named(effect) && cell.fault == fault
            };
            assert!(
                cells.iter().any(|cell| is_at(&cell)),
                "{effect:?} {fault:?}"
            );
        }
    }
}
