//! A password is in the worker's memory and in the store, nowhere else.

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;

use crate::support::client::{Client, SOON};
use crate::support::eventually;
use crate::support::servers::{Postgres, postgres_version};
use crate::support::site::{Site, Wishes};

/// Everything that is published in a vhost or delivered from its queues from now on, with headers,
/// collected in a queue of this name.
async fn trace(site: &Site, queue: &'static str) -> lapin::Channel {
    site.rabbitmq.ctl(&["trace_on", "--vhost", &site.vhost]);
    let uri = format!(
        "amqp://{}:{}@{}:{}/{}",
        site.rabbitmq.user,
        site.rabbitmq.password,
        site.rabbitmq.host,
        site.rabbitmq.port,
        site.vhost
    );
    let connection = Connection::connect(&uri, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (declare, arguments) = (QueueDeclareOptions::default(), FieldTable::default());
    channel
        .queue_declare(queue.into(), declare, arguments.clone())
        .await
        .unwrap();
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(
            queue.into(),
            "amq.rabbitmq.trace".into(),
            "#".into(),
            bind,
            arguments,
        )
        .await
        .unwrap();
    channel
}

/// Each traced message as one line: where it passed, its properties, its body.
async fn traced(site: &Site, channel: &lapin::Channel, queue: &str) -> Vec<String> {
    // Last of all, so that its arrival says that nothing is missing.
    let end = site.client("mallory").await;
    end.publish(
        "keycard.requests",
        b"the end of the trace",
        end.properties(),
    )
    .await;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut messages = channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .unwrap();
    let mut lines = Vec::new();
    loop {
        let message = messages.next().await.unwrap().unwrap();
        let body = String::from_utf8_lossy(&message.data).into_owned();
        if body == "the end of the trace" {
            return lines;
        }
        let headers = message.properties.headers().clone().unwrap_or_default();
        lines.push(format!(
            "{} {} {body}",
            message.routing_key,
            text(&AMQPValue::FieldTable(headers))
        ));
    }
}

/// All texts in a header.
fn text(value: &AMQPValue) -> String {
    if let AMQPValue::FieldTable(table) = value {
        let pairs = table.inner().iter();
        let pairs: Vec<String> = pairs
            .map(|(key, value)| format!("{key}={}", text(value)))
            .collect();
        pairs.join(" ")
    } else if let AMQPValue::FieldArray(array) = value {
        array.as_slice().iter().map(text).collect()
    } else if let AMQPValue::LongString(string) = value {
        string.to_string()
    } else {
        format!("{value:?}")
    }
}

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
    let postgres = Box::leak(Box::new(Postgres::start(
        postgres_version(),
        &settings,
        None,
    )));
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
    let channel = trace(&site, "trace").await;
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

    let messages = traced(&site, &channel, "trace").await;
    let delayed = messages
        .iter()
        .filter(|line| line.contains("keycard.delay.") && line.contains("lease.expire"));
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
            // Postgres's log is where a verifier cannot but be.
            if *place != "the server's log" {
                assert!(!text.contains(&life.verifier), "a verifier is in {place}");
                assert!(!text.contains("SCRAM-SHA-256$"), "a verifier is in {place}");
            }
        }
    }
}
