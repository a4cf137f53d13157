//! Where it all happens: servers of its own, a store that obeys, and what everybody keeps count of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::task::block_in_place;
use tokio_postgres::Client;

use crate::support::invariants::Violation;
use crate::support::secrets_manager::FakeSecretsManager;
use crate::support::servers::{Postgres, RabbitMq, postgres_version};
use crate::support::services::QueueKind;
use crate::support::site::{Site, StoreKind, Wishes};

use super::dice::Dice;

/// Services that may ask for credentials; the last one is the operator.
pub const SERVICES: [&str; 4] = ["orders-svc", "billing-svc", "a.b", "platform-ops"];

/// Their roles. Whoever is a builder leaves tables, so that the fast path is not enough.
pub const ROLES: [&str; 2] = ["app-role", "builder"];

pub struct Town {
    pub site: Site,
    pub postgres: &'static Postgres,
    pub rabbitmq: Option<&'static RabbitMq>,
    pub store: FakeSecretsManager,
    injected: Mutex<BTreeMap<String, i64>>,
    found: Mutex<Vec<Violation>>,
    /// The superuser's connection; Postgres goes away now and then.
    sql: tokio::sync::Mutex<Option<Arc<Client>>>,
    /// Commands that a purge has taken: their senders have to send them again.
    lost: Mutex<Vec<Vec<u8>>>,
}

impl Town {
    pub async fn build(seed: u64) -> Self {
        let (postgres, queue) = block_in_place(|| {
            let postgres = Postgres::start(postgres_version(), &[], None);
            let postgres: &'static Postgres = Box::leak(Box::new(postgres));
            (postgres, QueueKind::of_its_own())
        });
        let store = FakeSecretsManager::start();
        // Reconciliation mends what else would be found.
        let reconciles = Dice::new(seed, 1).below(2) == 0;
        let site = Site::new(Wishes {
            postgres,
            queue,
            store: StoreKind::Aws(store.url()),
            role: "default_ttl = \"1h\"\nmax_ttl = \"2h\"\n".to_owned(),
            sections: format!(
                "[roles.builder]\ndatabase = \"app\"\ngroups = [\"GROUP\"]\nrequesters = {SERVICES:?}\n\
                 default_ttl = \"30s\"\nmax_ttl = \"3m\"\nmin_ttl = \"1s\"\ndrop_owned = true\n"
            ),
            sweep_interval: "2s",
            reconcile_interval: if reconciles { "5s" } else { "7d" },
            requesters: SERVICES.to_vec(),
        })
        .await;
        let may_build = format!("GRANT CREATE ON SCHEMA public TO {}", site.group);
        site.sql().await.batch_execute(&may_build).await.unwrap();
        let rabbitmq = match queue {
            QueueKind::Amqp(rabbitmq) => Some(rabbitmq),
            QueueKind::Postgres => None,
        };
        let town = Self {
            site,
            postgres,
            rabbitmq,
            store,
            injected: Mutex::default(),
            found: Mutex::default(),
            sql: tokio::sync::Mutex::default(),
            lost: Mutex::default(),
        };
        if reconciles {
            town.inject("reconciliation every 5 s");
        }
        town
    }

    /// Counts a fault.
    pub fn inject(&self, fault: &str) {
        *self
            .injected
            .lock()
            .unwrap()
            .entry(fault.to_owned())
            .or_default() += 1;
    }

    pub fn injected(&self) -> BTreeMap<String, i64> {
        self.injected.lock().unwrap().clone()
    }

    /// Keeps what somebody has seen that must not be.
    pub fn find(&self, violation: Violation) {
        println!("soak: {violation:?}");
        self.found.lock().unwrap().push(violation);
    }

    pub fn found(&self) -> Vec<Violation> {
        self.found.lock().unwrap().clone()
    }

    /// A superuser's connection; `None` while Postgres is away.
    pub async fn superuser(&self) -> Option<Arc<Client>> {
        let mut sql = self.sql.lock().await;
        if sql.as_ref().is_none_or(|sql| sql.is_closed()) {
            let (user, password) = (&self.postgres.superuser, &self.postgres.password);
            *sql = self.site.login(user, password).await.ok().map(Arc::new);
        }
        sql.clone()
    }

    pub fn lose(&self, messages: Vec<Vec<u8>>) {
        self.lost.lock().unwrap().extend(messages);
    }

    pub fn take_lost(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.lost.lock().unwrap())
    }

    /// Lets the quarter of an hour be over after which the secrets of a closed lease are deleted once
    /// more, against writers that were late.
    pub async fn look_at_closed_leases_again(&self) {
        let now =
            "UPDATE keycard.leases SET recheck_at = clock_timestamp(), wake_at = clock_timestamp()
                   WHERE state = 'closed' AND recheck_at IS NOT NULL";
        self.site.sql().await.batch_execute(now).await.unwrap();
    }

    /// Copies the workers' logs to where they outlive the run.
    pub fn keep_logs(&self, seed: u64) -> PathBuf {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/soak/{seed}"));
        fs::create_dir_all(&kept).unwrap();
        for entry in fs::read_dir(self.site.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                fs::copy(&path, kept.join(path.file_name().unwrap())).unwrap();
            }
        }
        kept
    }
}
