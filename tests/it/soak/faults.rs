//! What goes wrong: with the workers and all that they talk through, and with the servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keycard::clock::monotonic_now;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::support::process::Worker;
use crate::support::proxy::Proxy;
use crate::support::queues::Queues;
use crate::support::secrets_manager::{Fault, Operation};
use crate::support::servers::Server;
use crate::support::services::WORKER;

use super::dice::Dice;
use super::town::Town;

/// A worker, its own ways to the servers, and its host's clock.
struct Post {
    worker: Worker,
    postgres: Proxy,
    rabbitmq: Option<Proxy>,
    clock: PathBuf,
}

impl Post {
    async fn man(town: &Town, number: usize) -> Self {
        let postgres = Proxy::start(&town.postgres.host, town.postgres.port).await;
        let rabbitmq = match town.rabbitmq {
            Some(rabbitmq) => Some(Proxy::start(&rabbitmq.host, rabbitmq.port).await),
            None => None,
        };
        let clock = town.site.path().join(format!("clock{number}"));
        std::fs::write(&clock, "+0").unwrap();
        let worker = start(town, &postgres, rabbitmq.as_ref(), &clock);
        worker.ready().await;
        Self {
            worker,
            postgres,
            rabbitmq,
            clock,
        }
    }

    /// Another worker in its place.
    fn replace(&mut self, town: &Town) {
        self.worker = start(town, &self.postgres, self.rabbitmq.as_ref(), &self.clock);
    }

    /// Sets the host's clock so many seconds off. keycard's monotonic clock goes on, as a host's does.
    fn shift_clock(&self, seconds: i64) {
        let next = self.clock.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}")).unwrap();
        std::fs::rename(&next, &self.clock).unwrap();
    }
}

fn start(town: &Town, postgres: &Proxy, rabbitmq: Option<&Proxy>, clock: &Path) -> Worker {
    let database = format!(
        "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/{}",
        postgres.port, town.site.dbname
    );
    let queue = rabbitmq.map(|proxy| {
        format!(
            "amqp://{WORKER}@127.0.0.1:{}/{}",
            proxy.port, town.site.vhost
        )
    });
    let library = format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1",
        std::env::consts::ARCH
    );
    assert!(
        std::fs::exists(&library).unwrap(),
        "no {library}: `make setup` installs it"
    );
    let mut variables = vec![
        ("KEYCARD_DATABASES__APP__CONNECTION_URL", database.as_str()),
        ("LD_PRELOAD", &library),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    if let Some(url) = &queue {
        variables.push(("KEYCARD_QUEUE__URL", url));
    }
    town.site.worker_unready(&variables)
}

#[derive(Debug, Clone, Copy)]
enum Nuisance {
    KillWorker,
    StopWorker,
    FreezeWorker,
    CutPostgres,
    CutRabbitMq,
    DelayPostgres,
    DelayRabbitMq,
    StoreFails(Fault),
    StoreForgets(Operation),
    StoreIsHeld,
    ShiftClock,
}

/// Each is dealt once before any comes again.
const NUISANCES: [Nuisance; 16] = [
    Nuisance::KillWorker,
    Nuisance::KillWorker,
    Nuisance::StopWorker,
    Nuisance::FreezeWorker,
    Nuisance::CutPostgres,
    Nuisance::CutRabbitMq,
    Nuisance::DelayPostgres,
    Nuisance::DelayRabbitMq,
    Nuisance::StoreFails(Fault::Status500),
    Nuisance::StoreFails(Fault::Status503),
    Nuisance::StoreFails(Fault::Throttle),
    Nuisance::StoreFails(Fault::LostReply),
    Nuisance::StoreForgets(Operation::CreateSecret),
    Nuisance::StoreForgets(Operation::DeleteSecret),
    Nuisance::StoreIsHeld,
    Nuisance::ShiftClock,
];

/// What happens to two workers.
pub struct Nuisances {
    town: Arc<Town>,
    dice: Dice,
    posts: [Post; 2],
}

impl Nuisances {
    pub async fn start(town: &Arc<Town>, seed: u64) -> Self {
        Self {
            dice: Dice::new(seed, 2),
            posts: [Post::man(town, 0).await, Post::man(town, 1).await],
            town: Arc::clone(town),
        }
    }

    pub async fn annoy_until(&mut self, end: Instant) {
        loop {
            for nuisance in self.dice.shuffled(&NUISANCES) {
                let pause = self.dice.pause(200, 1_500);
                let whose = self.dice.below(self.posts.len());
                sleep(pause).await;
                if monotonic_now() > end {
                    return;
                }
                self.annoy(nuisance, whose, end).await;
            }
        }
    }

    async fn annoy(&mut self, nuisance: Nuisance, whose: usize, end: Instant) {
        let (town, dice) = (&self.town, &mut self.dice);
        let post = &mut self.posts[whose];
        match nuisance {
            Nuisance::KillWorker => {
                let away = dice.pause(0, 2_000);
                town.inject("workers killed");
                post.worker.kill();
                sleep(away).await;
                post.replace(town);
            }
            Nuisance::StopWorker => {
                town.inject("workers stopped");
                post.worker.terminate();
                let status = post.worker.exit(180).await;
                assert!(status.success(), "{}", post.worker.log());
                post.replace(town);
            }
            // As a virtual machine that is moved: it goes on without knowing.
            Nuisance::FreezeWorker => {
                // 40 s are longer than an attempt may take, and than a lease is held for it.
                let seconds = [3, 3, 40][dice.below(3)];
                let lasts = Duration::from_secs(seconds);
                if monotonic_now() + lasts < end {
                    town.inject(&format!("workers frozen for {seconds} s"));
                    post.worker.signal("STOP");
                    sleep(lasts).await;
                    post.worker.signal("CONT");
                }
            }
            Nuisance::CutPostgres => {
                town.inject("cuts of the way to Postgres");
                post.postgres.cut();
            }
            Nuisance::CutRabbitMq => {
                if let Some(proxy) = &post.rabbitmq {
                    town.inject("cuts of the way to RabbitMQ");
                    proxy.cut();
                }
            }
            Nuisance::DelayPostgres => {
                let (delay, lasts) = (dice.pause(10, 800), dice.pause(500, 5_000));
                town.inject("delays on the way to Postgres");
                post.postgres.delay(delay);
                sleep(lasts).await;
                post.postgres.delay(Duration::ZERO);
            }
            Nuisance::DelayRabbitMq => {
                let (delay, lasts) = (dice.pause(10, 800), dice.pause(500, 5_000));
                if let Some(proxy) = &post.rabbitmq {
                    town.inject("delays on the way to RabbitMQ");
                    proxy.delay(delay);
                    sleep(lasts).await;
                    proxy.delay(Duration::ZERO);
                }
            }
            Nuisance::StoreFails(fault) => {
                let calls = 1 + dice.below(30);
                town.inject(&format!("bursts of the store's {fault:?}"));
                town.store.fail_next(calls, fault);
            }
            Nuisance::StoreForgets(operation) => {
                let calls = 1 + dice.below(5);
                town.inject(&format!("replies to {operation:?} lost, in bursts"));
                town.store.fail_next_of(operation, calls, Fault::LostReply);
            }
            // Some puts go on only when their workers have given up on them.
            Nuisance::StoreIsHeld => {
                let (calls, lasts) = (1 + dice.below(4), dice.pause(1_000, 8_000));
                town.inject("puts held");
                town.store.pause_next(calls);
                sleep(lasts).await;
                town.store.resume();
            }
            Nuisance::ShiftClock => {
                let seconds = dice.between(-100_000, 100_000);
                town.inject("clocks shifted");
                post.shift_clock(seconds);
            }
        }
    }

    /// Nothing goes wrong any more. Clocks stay as wrong as they are.
    pub async fn end(&self) {
        for post in &self.posts {
            post.worker.ready().await;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum ServerFault {
    KillPostgres,
    StopPostgres,
    KillRabbitMq,
    StopRabbitMq,
    PurgeDelays,
}

const SERVER_FAULTS: [ServerFault; 5] = [
    ServerFault::KillPostgres,
    ServerFault::StopPostgres,
    ServerFault::KillRabbitMq,
    ServerFault::StopRabbitMq,
    ServerFault::PurgeDelays,
];

/// What happens to the servers.
pub struct ServerFaults {
    town: Arc<Town>,
    dice: Dice,
}

impl ServerFaults {
    pub fn new(town: &Arc<Town>, seed: u64) -> Self {
        Self {
            town: Arc::clone(town),
            dice: Dice::new(seed, 3),
        }
    }

    pub async fn fail_until(&mut self, end: Instant) {
        loop {
            for fault in self.dice.shuffled(&SERVER_FAULTS) {
                let pause = self.dice.pause(1_000, 10_000);
                let away = self.dice.pause(0, 2_000);
                sleep(pause).await;
                if monotonic_now() > end {
                    return;
                }
                self.fail(fault, away).await;
            }
        }
    }

    async fn fail(&self, fault: ServerFault, away: Duration) {
        let town = &self.town;
        let (server, by_force): (&'static Server, bool) = match (fault, town.rabbitmq) {
            (ServerFault::KillPostgres, _) => (&town.postgres.server, true),
            (ServerFault::StopPostgres, _) => (&town.postgres.server, false),
            (ServerFault::KillRabbitMq, Some(rabbitmq)) => (&rabbitmq.server, true),
            (ServerFault::StopRabbitMq, Some(rabbitmq)) => (&rabbitmq.server, false),
            (ServerFault::KillRabbitMq | ServerFault::StopRabbitMq, None) => return,
            (ServerFault::PurgeDelays, _) => {
                town.inject("delay queues purged");
                town.lose(Queues::of(&town.site).await.take_waiting().await);
                return;
            }
        };
        town.inject(&format!("{fault:?}"));
        let end = if by_force { Server::kill } else { Server::stop };
        spawn_blocking(move || end(server)).await.unwrap();
        sleep(away).await;
        spawn_blocking(|| server.start_again()).await.unwrap();
    }
}
