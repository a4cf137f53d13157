//! What is done to bring cells to their places.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use keycard::clock::{host_now, uuid_v7};
use keycard::lease::{LeaseId, Requester};
use keycard::store::SecretStore;
use keycard::store::directory::Directory;
use keycard::wire::{Expire, Stamp};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::Cell;
use super::flows::Flow;
use super::orders::Orders;
use crate::store::aws;
use crate::support::audit::Secrets;
use crate::support::client::fresh_id;
use crate::support::eventually;
use crate::support::queues::Queues;
use crate::support::secrets_manager::FakeSecretsManager;
use crate::support::site::Site;
use crate::support::steady::Steady;

/// For what a whole matrix does at once, on a busy machine.
const ALL_SECONDS: u64 = 300;

/// Where the cells act.
pub struct Stage<'a> {
    pub site: &'a Site,
    pub orders: &'a Orders,
    pub service: Steady,
    pub queues: Queues,
    pub sql: tokio_postgres::Client,
    pub secrets: Secrets<'a>,
    pub fake: Option<&'a FakeSecretsManager>,
}

/// A cell, and the lease that it has from the beginning, if it does.
pub struct Guest {
    pub cell: Cell,
    /// The id of its request, and what that was told.
    lease: Option<(String, Value)>,
    /// The id of the command that it will send.
    command: String,
}

impl Guest {
    fn text(&self, key: &str) -> &str {
        self.lease.as_ref().unwrap().1[key].as_str().unwrap()
    }

    /// The lease's id within its database.
    fn uuid(&self) -> &str {
        self.text("lease_id").split_once('.').unwrap().1
    }

    /// Whom its orders concern.
    pub fn whom(&self) -> String {
        let flow = self.cell.flow;
        if flow == Flow::Lose {
            self.uuid().to_owned()
        } else if flow == Flow::Defer {
            self.command.clone()
        } else if matches!(flow, Flow::ReplayEnded | Flow::SweepAnswer) {
            self.lease.as_ref().unwrap().0.clone()
        } else {
            self.cell.name()
        }
    }

    fn stops(&self) -> bool {
        self.cell.fault.kills()
    }
}

impl Stage<'_> {
    /// Leases for those who need one to begin with, as far as their flow has it gone.
    pub async fn prepare(&self, cells: &[Cell]) -> Vec<Guest> {
        let mut guests: Vec<Guest> = cells
            .iter()
            .map(|cell| Guest {
                cell: *cell,
                lease: needs_lease(cell.flow).then(|| (self.request(*cell, 3600), Value::Null)),
                command: fresh_id(),
            })
            .collect();
        let requests = guests.iter().filter_map(|guest| guest.lease.as_ref());
        let requests: Vec<String> = requests.map(|(id, _)| id.clone()).collect();
        let mut told = self.answers(&requests).await;
        for guest in &mut guests {
            if let Some((id, issued)) = &mut guest.lease {
                let answer = told.remove(id).unwrap();
                assert_eq!(answer["type"], "keycard.credential.issued.v1", "{answer}");
                *issued = answer["data"].clone();
            }
        }
        let mut before = Vec::new();
        for guest in &guests {
            let flow = guest.cell.flow;
            let ends = [
                Flow::ReplayEnded,
                Flow::SweepClosed,
                Flow::ReconcileSecretLeft,
            ];
            if flow == Flow::ReplayRenewal {
                self.renew(guest, 7200);
                before.push(guest.command.clone());
            } else if ends.contains(&flow) {
                before.push(self.service.revoke(guest.text("lease_id")));
            }
        }
        self.answers(&before).await;
        let owners = guests
            .iter()
            .filter(|guest| matches!(guest.cell.flow, Flow::RevokeSlowly | Flow::Stick));
        stream::iter(owners)
            .for_each_concurrent(8, |guest| self.own_a_table(guest))
            .await;
        guests
    }

    /// The first answer to each of these commands.
    pub async fn answers(&self, ids: &[String]) -> BTreeMap<String, Value> {
        eventually("all are answered", ALL_SECONDS, async || {
            let mut answers = BTreeMap::new();
            for event in self.service.heard() {
                if let Some(id) = event["correlationid"].as_str() {
                    answers.entry(id.to_owned()).or_insert(event);
                }
            }
            ids.iter()
                .all(|id| answers.contains_key(id))
                .then_some(answers)
        })
        .await
    }

    async fn own_a_table(&self, guest: &Guest) {
        let secret = self.secrets.read(&guest.lease.as_ref().unwrap().1);
        let password = secret["password"].as_str().unwrap();
        let session = self.site.login(guest.text("username"), password).await;
        let create = format!("CREATE TABLE public.\"{}\" ()", guest.cell.name());
        session.unwrap().batch_execute(&create).await.unwrap();
    }

    /// Has the worker come to the places of these cells.
    pub async fn begin(&self, guests: &[Guest]) {
        join_all(guests.iter().map(|guest| self.begin_alone(guest))).await;
    }

    /// Waits until it is there, and stays there if it is to be killed.
    pub async fn until_met(&self, guests: &[Guest]) {
        let all: Vec<(String, bool)> = guests
            .iter()
            .map(|guest| (guest.whom(), guest.stops()))
            .collect();
        self.orders.all_met(&all).await;
    }

    async fn begin_alone(&self, guest: &Guest) {
        let Cell { flow, n, fault } = guest.cell;
        self.orders.place(&guest.whom(), &flow.orders(n, fault));
        match flow {
            Flow::Issue | Flow::IssueAgain => {
                self.request(guest.cell, 3600);
            }
            Flow::Expire => {
                let expire = self.expire(guest).await;
                self.end_it(guest, 0).await;
                self.tell(&expire).await;
            }
            Flow::Overtaken => self.overtake(guest).await,
            Flow::Renew => self.renew(guest, 7200),
            Flow::ReplayRenewal => self.service.repeat(&guest.command),
            Flow::Deny => self.renew(guest, 0),
            Flow::Revoke | Flow::RevokeSlowly => self.revoke(guest),
            Flow::Stick => self.stick(guest).await,
            Flow::Defer => {
                let hold =
                    "UPDATE keycard.leases SET held_until = clock_timestamp() + interval '40 s'";
                self.change(guest, hold).await;
                self.revoke(guest);
            }
            Flow::Replay | Flow::ReplayEnded => {
                self.service.repeat(&guest.lease.as_ref().unwrap().0);
            }
            Flow::ExpireEarly => self.wake(guest).await,
            Flow::Lose => self.lose(guest).await,
            Flow::Sweep => self.end_it(guest, 3600).await,
            Flow::SweepClosed => {
                let pass = "UPDATE keycard.leases SET recheck_at = recheck_at - interval '16 min',
                                                      wake_at = wake_at - interval '16 min'";
                self.change(guest, pass).await;
            }
            Flow::SweepAnswer => {
                let id = &guest.lease.as_ref().unwrap().0;
                let forget = "UPDATE keycard.requests
                              SET published_at = NULL, answered_at = answered_at - interval '1 min'
                              WHERE id = $1";
                assert_eq!(self.sql.execute(forget, &[id]).await.unwrap(), 1);
            }
            Flow::ReconcileLoginMissing => {
                let drop = format!("DROP ROLE \"{}\"", guest.text("username"));
                self.sql.batch_execute(&drop).await.unwrap();
            }
            Flow::ReconcileLoginLeft => {
                let close = "UPDATE keycard.leases SET state = 'closed', cause = 'requested',
                                 revoked_at = clock_timestamp(), wake_at = NULL";
                self.change(guest, close).await;
            }
            Flow::ReconcileSecretLeft => self.put_back(guest).await,
        }
    }

    fn request(&self, cell: Cell, ttl_seconds: u32) -> String {
        let data = json!({ "role": cell.name(), "ttl_seconds": ttl_seconds });
        self.service
            .send("requests", "credential.request.v1", &data)
    }

    fn renew(&self, guest: &Guest, ttl_seconds: u32) {
        let data = json!({ "lease_id": guest.text("lease_id"), "ttl_seconds": ttl_seconds });
        let command = &guest.command;
        self.service
            .send_as(command, "leases", "lease.renew.v1", &data);
    }

    fn revoke(&self, guest: &Guest) {
        let data = json!({ "lease_id": guest.text("lease_id") });
        let command = &guest.command;
        self.service
            .send_as(command, "leases", "lease.revoke.v1", &data);
    }

    /// Changes the lease's row.
    async fn change(&self, guest: &Guest, update: &str) {
        let update = format!("{update} WHERE id = '{}'", guest.uuid());
        assert_eq!(self.sql.execute(&update, &[]).await.unwrap(), 1, "{update}");
    }

    /// Makes a lease one that has been due for so long, which the sweep finds after two seconds.
    async fn end_it(&self, guest: &Guest, seconds: u32) {
        let (id, username) = (guest.text("lease_id"), guest.text("username"));
        // The audit is told as well, over its trigger's head.
        let pass = format!(
            "SET LOCAL session_replication_role = replica;
             UPDATE keycard.leases
             SET expires_at = date_trunc('second', clock_timestamp()) - interval '{seconds} s'
             WHERE id = '{uuid}';
             UPDATE keycard.leases SET wake_at = expires_at WHERE id = '{uuid}';
             UPDATE keycard.audit SET expires_at =
                 (SELECT expires_at FROM keycard.leases WHERE id = '{uuid}') WHERE lease_id = '{id}';
             DO $$ BEGIN EXECUTE format('ALTER ROLE \"{username}\" VALID UNTIL %L',
                 (SELECT expires_at FROM keycard.leases WHERE username = '{username}')); END $$",
            uuid = guest.uuid()
        );
        self.sql.batch_execute(&pass).await.unwrap();
    }

    /// The first attempt is held up for longer than it holds its lease.
    async fn overtake(&self, guest: &Guest) {
        let whom = guest.whom();
        self.request(guest.cell, 3600);
        self.orders.halfway(&whom).await;
        let pass = "UPDATE keycard.leases SET held_until = held_until - interval '40 s',
                        wake_at = wake_at - interval '40 s' WHERE role = $1";
        let passed = self.sql.execute(pass, &[&whom]).await.unwrap();
        assert_eq!(passed, 1, "{whom}");
        eventually("another attempt delivers", ALL_SECONDS, async || {
            let answered = "active.Answer".to_owned();
            self.orders.passed(&whom).contains(&answered).then_some(())
        })
        .await;
        self.orders.release(&whom);
    }

    /// Five attempts at a revocation have failed before.
    async fn stick(&self, guest: &Guest) {
        self.revoke(guest);
        self.orders.halfway(&guest.whom()).await;
        self.change(guest, "UPDATE keycard.leases SET failures = 5")
            .await;
        self.orders.release(&guest.whom());
    }

    /// What keeps the login from being dropped goes.
    pub async fn unstick(&self, guest: &Guest) {
        let drop = format!("DROP TABLE public.\"{}\"", guest.cell.name());
        self.sql.batch_execute(&drop).await.unwrap();
    }

    /// The pause until the next attempt at a stuck revocation passes.
    pub async fn try_again(&self, guest: &Guest) {
        let pass = "UPDATE keycard.leases SET retry_at = retry_at - interval '2 h',
                                              wake_at = wake_at - interval '2 h'";
        self.change(guest, pass).await;
    }

    /// Whether nobody works on the lease, so that time may pass for it.
    pub async fn is_left_alone(&self, guest: &Guest) -> bool {
        let held = "SELECT held_until IS NULL FROM keycard.leases WHERE username = $1";
        let row = self.sql.query_one(held, &[&guest.text("username")]).await;
        row.unwrap().get(0)
    }

    async fn expire(&self, guest: &Guest) -> Expire {
        let lease_id: LeaseId = guest.text("lease_id").parse().unwrap();
        let locators = "SELECT locators FROM keycard.leases WHERE id = $1";
        let row = self.sql.query_one(locators, &[&lease_id.uuid]).await;
        Expire {
            generation: 1,
            due_at: guest.text("expires_at").parse().unwrap(),
            requester: Requester::new("orders-svc").unwrap(),
            role: guest.cell.name(),
            username: guest.text("username").to_owned(),
            locators: row.unwrap().get(0),
            lease_id,
        }
    }

    async fn wake(&self, guest: &Guest) {
        let expire = self.expire(guest).await;
        self.tell(&expire).await;
    }

    async fn tell(&self, expire: &Expire) {
        let stamp = Stamp {
            installation: &self.site.name,
            at: host_now(),
        };
        self.queues.wake(&expire.to_json(stamp)).await;
    }

    /// The ledger forgets a lease with its login, as after a failover, and its expiry event comes.
    async fn lose(&self, guest: &Guest) {
        let expire = self.expire(guest).await;
        let (id, username) = (guest.uuid(), guest.text("username"));
        let lose =
            format!("DELETE FROM keycard.leases WHERE id = '{id}'; DROP ROLE \"{username}\"");
        self.sql.batch_execute(&lose).await.unwrap();
        self.tell(&expire).await;
    }

    /// The secret of a closed lease is there again.
    async fn put_back(&self, guest: &Guest) {
        let id = guest.text("lease_id");
        eventually("the lease is closed", ALL_SECONDS, async || {
            let closed =
                "SELECT count(*) FROM keycard.leases WHERE state = 'closed' AND username = $1";
            let row = self.sql.query_one(closed, &[&guest.text("username")]).await;
            (row.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
        let store: Box<dyn SecretStore> = match self.fake {
            None => Box::new(Directory::open(&self.site.secrets).unwrap()),
            Some(fake) => Box::new(aws::store(fake)),
        };
        let locator = format!("keycard/orders-svc/{}/{id}", guest.cell.name());
        let value = SecretString::from(json!({ "lease_id": id }).to_string());
        let installation = ("keycard-installation".to_owned(), self.site.name.clone());
        let tags = BTreeMap::from([installation]);
        store.put(&locator, uuid_v7(), &value, &tags).await.unwrap();
    }
}

fn needs_lease(flow: Flow) -> bool {
    !matches!(flow, Flow::Issue | Flow::IssueAgain | Flow::Overtaken)
}

impl Guest {
    /// Its lease, if it had one from the beginning.
    pub fn lease_id(&self) -> Option<&str> {
        self.lease.as_ref().map(|_| self.text("lease_id"))
    }
}
