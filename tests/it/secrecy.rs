//! A password is in the worker's memory and in the store, nowhere else.

mod trace;

use serde_json::Value;

use self::trace::Trace;
use crate::support::client::{Client, SOON};
use crate::support::eventually;
use crate::support::servers::own_postgres;
use crate::support::site::{Site, Wishes};

/// Every row of every table of the ledger.
async fn ledger(site: &Site) -> String {
    let database = site.sql().await;
    let tables = database
        .query(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'keycard'",
            &[],
        )
        .await
        .unwrap();
    assert!(tables.len() >= 4, "{}", tables.len());
    let mut dump = String::new();
    for table in tables {
        let query = format!("SELECT t::text FROM keycard.{} t", table.get::<_, &str>(0));
        for row in database.query(&query, &[]).await.unwrap() {
            dump.push_str(row.get(0));
            dump.push('\n');
        }
    }
    dump
}

async fn verifier(site: &Site, username: &str) -> String {
    let row = site
        .sql()
        .await
        .query_one(
            "SELECT rolpassword FROM pg_authid WHERE rolname = $1",
            &[&username],
        )
        .await
        .unwrap();
    row.get(0)
}

fn bytes_as_postgres_writes_them(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What may and what must be found after a life.
struct Life {
    /// The part of the lease's id that is found everywhere.
    lease: String,
    password: String,
    verifier: String,
}

async fn live(site: &Site, orders: &Client, role: &str) -> Life {
    let issued = orders.issued(role, Some(3600)).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let username = text(&issued["username"]);
    let password = text(&Site::secret(&issued)["password"]);
    let lease_id = issued["lease_id"].as_str().unwrap();
    let life = Life {
        verifier: verifier(site, &username).await,
        lease: lease_id.rsplit_once('.').unwrap().1.to_owned(),
        password,
    };
    site.login(&username, &life.password).await.unwrap();
    let renewal = orders.renew(lease_id, Some(2)).await;
    assert_eq!(orders.answer(&renewal).await.kind(), "lease.renewed.v1");
    let wrong = orders.renew(lease_id, Some(0)).await;
    assert_eq!(orders.answer(&wrong).await.kind(), "request.denied.v1");
    orders.notice("lease.revoked.v1", lease_id, SOON).await;
    life
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_found_nowhere_but_in_the_store() {
    // A server of its own, whose log holds nothing else: every statement, slow or not, wherever
    // Postgres can show one.
    let settings = [
        ("log_min_duration_statement", "0"),
        ("log_min_error_statement", "debug5"),
    ];
    let postgres = own_postgres(&settings);
    let statements = r#"
[roles.custom]
database = "app"
requesters = ["orders-svc"]
min_ttl = "1s"
groups = ["GROUP"]
creation_statements = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'"]

[roles.failing]
database = "app"
requesters = ["orders-svc"]
creation_statements = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'", "SELECT 1 / 0"]
"#;
    let site = Site::new(Wishes {
        postgres,
        sections: statements.to_owned(),
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker_at("trace", &[]);
    worker.ready().await;
    let trace = Trace::start(&site).await;
    let orders = site.client("orders-svc").await;
    // Held back in a queue: nobody has bound a queue for this requester's results.
    let unheard = site.client("billing-svc").await;
    unheard.request("app-role", None).await;

    let mut lives = Vec::new();
    for role in ["app-role", "custom"] {
        lives.push(live(&site, &orders, role).await);
    }
    let failing = orders.request("failing", None).await;
    orders.answer(&failing).await;
    eventually("both leases are closed", SOON, async || {
        let closed = site.count("SELECT count(*) FROM keycard.leases WHERE state = 'closed'");
        (closed.await == 2).then_some(())
    })
    .await;
    worker.terminate();
    assert!(worker.exit(SOON).await.success());

    let messages = trace.lines(&site).await;
    let delayed = messages.iter().filter(|line| line.contains("lease.expire"));
    assert!(delayed.count() > 0, "no expiry event was traced");
    let heard = orders.heard();
    let heard: Vec<String> = heard.iter().map(|heard| heard.event.to_string()).collect();
    let (postgres_log, worker_log) = (postgres.server.log(), worker.log());
    assert!(postgres_log.contains("CREATE ROLE"));
    let places = [
        ("the server's log", postgres_log),
        ("the worker's log", worker_log),
        ("the messages", messages.join("\n")),
        ("the ledger", ledger(&site).await),
        ("the events", heard.join("\n")),
    ];
    for life in &lives {
        for (place, text) in &places {
            assert!(text.contains(&life.lease), "not searched: {place}");
            assert!(!text.contains(&life.password), "a password is in {place}");
            let decoded = life.password.as_bytes();
            let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, decoded);
            assert!(!text.contains(&encoded), "a password is in {place}");
            let encoded = bytes_as_postgres_writes_them(decoded);
            assert!(!text.contains(&encoded), "a password is in {place}");
            // Postgres's log is where a verifier cannot but be.
            if *place != "the server's log" {
                assert!(!text.contains(&life.verifier), "a verifier is in {place}");
                assert!(!text.contains("SCRAM-SHA-256$"), "a verifier is in {place}");
            }
        }
    }
}
