//! The queue in `PostgreSQL`: the suite, and what only this adapter promises.

mod claims;
mod identity;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use keycard::lease::{Requester, RolePolicy};
use keycard::ledger::{Endpoint, Ledger, Role, Rules};
use keycard::login::{SCRAM_ITERATIONS, Setup, Template, Upkeep, setup_sql};
use keycard::queue::postgres::{Client, PostgresQueue, Settings};
use keycard::queue::{DeadLetters, Lane, Queue, QueueError, Requesting};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use secrecy::SecretString;
use tokio::sync::{Mutex, mpsc};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;

use super::conformance::{Backend, Command, DEADLINE, conformance};
use crate::support::servers::{Postgres, shared_postgres};

conformance!(Place::new());

const PASSWORD: &str = "not a secret: p@ss/w:rd?";
const SERVICES: [&str; 3] = ["orders", "orders.eu", "billing"];
/// Not one of the sites': those have other passwords on the same server.
const OPERATOR: &str = "ops";

/// A worker's, to its ledger: as many as a test publishes at once, as nobody waits for another's for
/// longer than five seconds.
const CONNECTIONS: usize = 4;

/// A database of a server, for one test, with a user of keycard's own that is no superuser.
struct Place {
    server: &'static Postgres,
    dbname: String,
    admin: String,
}

impl Place {
    async fn new() -> Self {
        let server = block_in_place(shared_postgres);
        let dbname = format!("queue_{}", keycard::clock::uuid_v7().simple());
        let place = Self {
            server,
            admin: format!("admin_{dbname}"),
            dbname,
        };
        let maintenance = place.superuser_in("postgres").await;
        maintenance
            .batch_execute(&format!("CREATE DATABASE {}", place.dbname))
            .await
            .unwrap();
        let database = place.superuser().await;
        let script = setup_sql(&place.dbname, &place.admin, &Setup::default());
        database.batch_execute(&script).await.unwrap();
        place.set_password(&database, &place.admin).await;
        for role in SERVICES.into_iter().chain([OPERATOR]) {
            place.add_role(role).await;
        }
        place
    }

    async fn count(&self, query: &str) -> i64 {
        let superuser = self.superuser().await;
        superuser.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Roles belong to the server, which other tests share.
    async fn add_role(&self, name: &str) {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let _alone = ALONE.lock().await;
        let database = self.superuser().await;
        database
            .batch_execute(&format!(
                "DO $$ BEGIN
                     IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {}) THEN
                         CREATE ROLE {} LOGIN PASSWORD {};
                     END IF;
                 END $$",
                escape_literal(name),
                escape_identifier(name),
                escape_literal(PASSWORD)
            ))
            .await
            .unwrap();
    }

    async fn set_password(&self, database: &tokio_postgres::Client, role: &str) {
        let (role, password) = (escape_identifier(role), escape_literal(PASSWORD));
        let statement = format!("ALTER ROLE {role} LOGIN PASSWORD {password}");
        database.batch_execute(&statement).await.unwrap();
    }

    fn config(&self, dbname: &str, user: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.server.host)
            .port(self.server.port)
            .dbname(dbname)
            .user(user);
        config
    }

    async fn superuser(&self) -> tokio_postgres::Client {
        self.superuser_in(&self.dbname).await
    }

    async fn superuser_in(&self, dbname: &str) -> tokio_postgres::Client {
        let mut config = self.config(dbname, &self.server.superuser);
        connect(config.password(&self.server.password)).await
    }

    /// Any `PostgreSQL` client of a service.
    async fn service(&self, name: &str) -> tokio_postgres::Client {
        connect(self.config(&self.dbname, name).password(PASSWORD)).await
    }

    fn endpoint(&self, user: &str) -> Endpoint {
        let mut config = self.config(&self.dbname, user);
        config.options("-c statement_timeout=10000 -c search_path=pg_catalog,pg_temp");
        Endpoint {
            config,
            password: Arc::new(|| Box::pin(async { Ok(SecretString::from(PASSWORD)) })),
            tls: None,
        }
    }

    fn client(&self, user: &str) -> Client {
        Client::new(self.endpoint(user))
    }

    fn ledger(&self, installation: &str, requesters: &[&str], operators: &[&str]) -> Ledger {
        let rules = rules(installation, requesters, operators);
        Ledger::new(
            "app".to_owned(),
            self.endpoint(&self.admin),
            CONNECTIONS,
            Arc::new(rules),
        )
        .unwrap()
    }

    async fn queue_for(
        &self,
        requesters: &[&str],
        operators: &[&str],
    ) -> Result<PostgresQueue, QueueError> {
        let settings = Settings {
            ledger: self.ledger("test", requesters, operators),
            prefetch: 64,
            patience: None,
        };
        timeout(DEADLINE, PostgresQueue::connect(settings))
            .await
            .expect("connected, or refused, in time")
    }

    async fn queue(&self) -> PostgresQueue {
        self.queue_for(&SERVICES, &[OPERATOR]).await.unwrap()
    }
}

async fn connect(config: &tokio_postgres::Config) -> tokio_postgres::Client {
    let (client, connection) = timeout(DEADLINE, config.connect(NoTls))
        .await
        .unwrap()
        .unwrap();
    tokio::spawn(connection);
    client
}

fn rules(installation: &str, requesters: &[&str], operators: &[&str]) -> Rules {
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| Requester::new(*name).unwrap())
            .collect()
    };
    let hour = SignedDuration::from_hours(1);
    let role = Role {
        database: "app".to_owned(),
        requesters: names(requesters),
        policy: RolePolicy {
            default_ttl: hour,
            max_ttl: hour,
            min_ttl: hour,
            leases_max: None,
        },
        template: Template {
            creation: None,
            upkeep: Upkeep::default(),
            groups: vec![],
            connection_limit: None,
            scram_iterations: SCRAM_ITERATIONS,
        },
    };
    Rules {
        installation: installation.to_owned(),
        operators: names(operators),
        hold: SignedDuration::from_secs(30),
        request_age_max: hour,
        keep_closed_leases: hour,
        keep_audit: hour,
        roles: BTreeMap::from([("app-role".to_owned(), role)]),
        databases: BTreeMap::new(),
        prefix: "keycard".to_owned(),
    }
}

#[async_trait]
impl Backend for Place {
    async fn worker(&self) -> Box<dyn Queue> {
        Box::new(self.queue().await)
    }

    async fn send(&self, service: &str, lane: Lane, command: Command) {
        let client = self.service(service).await;
        client
            .query_one(
                "SELECT keycard.send($1, $2::bytea, $3)",
                &[&lane.name(), &command.body, &command.correlation_id],
            )
            .await
            .unwrap();
    }

    async fn results(&self, service: &str) -> mpsc::Receiver<Vec<u8>> {
        let client = self.service(service).await;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut after = 0_i64;
            while !sender.is_closed() {
                let rows = client
                    .query("SELECT position, event FROM keycard.results($1)", &[&after])
                    .await
                    .unwrap();
                for row in rows {
                    after = row.get(0);
                    let _ = sender.send(row.get::<_, String>(1).into_bytes()).await;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        receiver
    }

    async fn break_connections(&self) {
        let superuser = self.superuser().await;
        superuser
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE usename = $1::text AND datname = current_database()",
                &[&self.admin],
            )
            .await
            .unwrap();
    }

    async fn dead_letters(&self) -> Vec<(Vec<u8>, String)> {
        let superuser = self.superuser().await;
        let rows = superuser
            .query(
                "SELECT body, reason FROM keycard.dead_letters ORDER BY id",
                &[],
            )
            .await
            .unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn letters(&self) -> Box<dyn DeadLetters> {
        Box::new(self.client(OPERATOR))
    }

    async fn requesting(&self, service: &str) -> Box<dyn Requesting> {
        Box::new(self.client(service))
    }
}

async fn send(service: &tokio_postgres::Client, body: &str) -> Result<i64, tokio_postgres::Error> {
    let statement = "SELECT keycard.send('requests', $1::text)";
    Ok(service.query_one(statement, &[&body]).await?.get(0))
}

/// A refusal's SQLSTATE and text.
fn refused<T: std::fmt::Debug>(result: Result<T, tokio_postgres::Error>) -> (String, String) {
    let error = result.unwrap_err();
    let error = error.as_db_error().unwrap();
    (error.code().code().to_owned(), error.message().to_owned())
}
