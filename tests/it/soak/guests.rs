//! The services: they ask, use what they get, renew, give back, and make mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use keycard::clock::monotonic_now;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::invariants::Testimony;
use crate::support::steady::Steady;

use super::dice::Dice;
use super::stay::{Key, Use};
use super::town::{ROLES, SERVICES, Town};

/// What somebody does next; each as often as it is here.
const ACTS: [Act; 20] = [
    Act::Request,
    Act::Request,
    Act::Request,
    Act::Request,
    Act::Request,
    Act::Request,
    Act::Request,
    Act::Renew,
    Act::Renew,
    Act::Renew,
    Act::Revoke,
    Act::Revoke,
    Act::Enter(Use::Read),
    Act::Enter(Use::Read),
    Act::Enter(Use::Build),
    Act::Enter(Use::Stay),
    Act::Repeat,
    Act::Repeat,
    Act::RevokeAnybodys,
    Act::Mistake,
];

#[derive(Debug, Clone, Copy)]
enum Act {
    Request,
    Renew,
    Revoke,
    Enter(Use),
    /// Sends a command that was sent before.
    Repeat,
    /// A neighbour's lease, or as the operator.
    RevokeAnybodys,
    /// An unknown role, a time to live that no role has, or no event at all.
    Mistake,
}

/// Everybody takes one of the last so many leases or commands.
const RECENT: usize = 60;

/// Credentials tried at a time.
const SIDE_BY_SIDE: usize = 8;

/// All services of the town.
pub struct Guests {
    town: Arc<Town>,
    dice: Dice,
    services: Vec<Steady>,
    /// How many results of each service are known.
    known: Vec<usize>,
    keys: Vec<Arc<Key>>,
    stays: JoinSet<&'static str>,
    unreadable: BTreeSet<String>,
    done: BTreeMap<String, i64>,
}

impl Guests {
    pub async fn arrive(town: &Arc<Town>, seed: u64) -> Self {
        let services = SERVICES.map(|name| Steady::start(&town.site, name));
        Self {
            town: Arc::clone(town),
            dice: Dice::new(seed, 4),
            services: join_all(services).await,
            known: vec![0; SERVICES.len()],
            keys: Vec::new(),
            stays: JoinSet::new(),
            unreadable: BTreeSet::new(),
            done: BTreeMap::new(),
        }
    }

    pub async fn live_until(&mut self, end: Instant) {
        while monotonic_now() < end {
            // Drawn whether needed or not, so that one act's choices are not the next one's.
            let act = ACTS[self.dice.below(ACTS.len())];
            let who = self.dice.below(SERVICES.len());
            let which = self.dice.below(RECENT);
            let ttl_seconds = match self.dice.below(10) {
                0 => None,
                1 => Some(self.dice.between(3_600, 10_000)),
                2..=6 => Some(self.dice.between(30, 150)),
                _ => Some(self.dice.between(1, 30)),
            };
            let pause = self.dice.pause(10, 250);
            self.listen();
            self.repeat_what_is_lost();
            self.act(act, who, which, ttl_seconds);
            sleep(pause).await;
        }
    }

    fn act(&mut self, act: Act, who: usize, which: usize, ttl_seconds: Option<i64>) {
        let what = match act {
            Act::Request => {
                let role = ROLES[which % ROLES.len()];
                let data = json!({ "role": role, "ttl_seconds": ttl_seconds });
                self.services[who].send("requests", "credential.request.v1", &data);
                "requests"
            }
            Act::Renew => {
                let Some(key) = self.key(which, |key| key.owner == SERVICES[who]) else {
                    return;
                };
                let data = json!({ "lease_id": key.lease_id, "ttl_seconds": ttl_seconds });
                self.services[who].send("leases", "lease.renew.v1", &data);
                "renewals"
            }
            Act::Revoke => {
                let Some(key) = self.key(which, |key| key.owner == SERVICES[who]) else {
                    return;
                };
                self.services[who].revoke(&key.lease_id);
                "revocations"
            }
            Act::RevokeAnybodys => {
                let Some(key) = self.key(which, |_| true) else {
                    return;
                };
                self.services[who].revoke(&key.lease_id);
                "revocations of anybody's"
            }
            Act::Enter(purpose) => {
                let Some(key) = self.key(which, |_| true) else {
                    return;
                };
                self.enter(&key, purpose);
                return;
            }
            Act::Repeat => {
                let sent = self.services[who].sent();
                let Some(id) = sent.iter().nth_back(which) else {
                    return;
                };
                self.services[who].repeat(id);
                "commands sent again"
            }
            Act::Mistake => {
                self.mistake(who, which);
                "mistakes"
            }
        };
        *self.done.entry(what.to_owned()).or_default() += 1;
    }

    fn mistake(&mut self, who: usize, which: usize) {
        let service = &self.services[who];
        match which % 3 {
            0 => {
                service.request("no-such-role");
            }
            1 => {
                let data = json!({ "role": "app-role", "ttl_seconds": 0 });
                service.send("requests", "credential.request.v1", &data);
            }
            _ => {
                let body = format!("unreadable {}", self.unreadable.len());
                service.publish(["requests", "leases"][which % 2], body.clone());
                self.unreadable.insert(body);
            }
        }
    }

    fn key(&self, which: usize, fits: impl Fn(&Key) -> bool) -> Option<Arc<Key>> {
        let recent: Vec<_> = self
            .keys
            .iter()
            .rev()
            .filter(|key| fits(key))
            .take(RECENT)
            .collect();
        let chosen = recent.get(which % recent.len().max(1))?;
        Some(Arc::clone(chosen))
    }

    fn enter(&mut self, key: &Arc<Key>, purpose: Use) {
        let (town, key) = (Arc::clone(&self.town), Arc::clone(key));
        self.stays
            .spawn(async move { key.use_for(purpose, &town).await });
    }

    /// Hears what is new, and tries every new credential at once.
    fn listen(&mut self) {
        for (service, known) in self.services.iter().zip(&mut self.known) {
            let news = service.heard_since(*known);
            *known += news.len();
            let issued = news
                .iter()
                .filter(|event| event["type"] == "keycard.credential.issued.v1");
            for event in issued {
                let key = Key::of(service.user(), &event["data"]);
                if !self.keys.iter().any(|other| other.lease_id == key.lease_id) {
                    self.keys.push(Arc::new(key));
                    let (town, key) = (
                        Arc::clone(&self.town),
                        Arc::clone(&self.keys[self.keys.len() - 1]),
                    );
                    self.stays
                        .spawn(async move { key.use_for(Use::Read, &town).await });
                }
            }
        }
        while let Some(came_to) = self.stays.try_join_next() {
            *self.done.entry(came_to.unwrap().to_owned()).or_default() += 1;
        }
    }

    /// Sends again what a purge has taken, and nothing else: keycard itself loses nothing.
    pub fn repeat_what_is_lost(&mut self) {
        for message in self.town.take_lost() {
            let event: Value = serde_json::from_slice(&message).unwrap_or_default();
            let source = event["source"].as_str().unwrap_or_default();
            let sender = self
                .services
                .iter()
                .find(|service| format!("/{}", service.user()) == source);
            match (sender, event["id"].as_str()) {
                (Some(service), Some(id)) => {
                    service.repeat(id);
                    *self
                        .done
                        .entry("commands sent again after a purge".to_owned())
                        .or_default() += 1;
                }
                _ => self.town.inject("expiry events purged"),
            }
        }
    }

    /// Whatever was told and has not ended works.
    pub async fn use_all_that_lives(&mut self) {
        self.listen();
        let living = self.living().await;
        let keys = self
            .keys
            .iter()
            .filter(|key| living.contains(&key.lease_id));
        let used: Vec<&'static str> = stream::iter(keys)
            .map(|key| key.use_for(Use::Read, &self.town))
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        for came_to in used {
            *self
                .done
                .entry(format!("{came_to}, at the end"))
                .or_default() += 1;
        }
    }

    /// Ids of the leases that have not ended.
    async fn living(&self) -> BTreeSet<String> {
        let living = "SELECT 'app.' || id FROM keycard.leases WHERE state = 'active'";
        let rows = self.town.site.sql().await.query(living, &[]).await;
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The operator ends whatever lives.
    pub async fn give_all_back(&mut self) {
        let operator = self.services.last().unwrap();
        for lease_id in self.living().await {
            operator.revoke(&lease_id);
        }
    }

    pub fn testimonies(&self) -> Vec<Testimony> {
        self.services.iter().map(Testimony::of).collect()
    }

    /// Bodies that no worker can read.
    pub fn unreadable(&self) -> &BTreeSet<String> {
        &self.unreadable
    }

    pub fn done(&self) -> BTreeMap<String, i64> {
        self.done.clone()
    }
}
