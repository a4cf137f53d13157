//! `RabbitMQ`'s definitions.

mod tokens;

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::broker::{bind, confirming_channel, publish_to, take_all};
use crate::support::client::{SOON, command_of, fresh_id};
use crate::support::process::{Output, Worker};
use crate::support::queues::Queues;
use crate::support::site::Site;

/// The users that they make have their names as passwords.
const DEFINITIONS: &str = include_str!("definitions.json");

#[tokio::test(flavor = "multi_thread")]
async fn with_its_definitions_a_service_can_ask_and_read_its_own_and_nothing_else() {
    let (site, _worker) = site_with_definitions().await;
    let orders = connect(&site, "orders-svc").await;
    asks_and_reads(&orders).await;
    may_do_nothing_else(&orders).await;
    let requested = as_user("orders-svc", &site, &["request", "app-role"]);
    assert!(requested.status.success(), "{}", requested.stderr);
    site.assert_no_dead_letters().await;
    binds_commands_to_its_results(&site, &orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_definitions_keda_counts_messages_and_operators_read_dead_letters() {
    let (site, _worker) = site_with_definitions().await;

    // What KEDA's scaler asks, for each queue of the ScaledObject.
    for queue in ["keycard.requests", "keycard.leases", "keycard.expiry"] {
        let path = ["queues", site.vhost.as_str(), queue];
        assert_eq!(site.rabbitmq().status_for("keycard-keda", &path), 200);
        assert_eq!(site.rabbitmq().status_for("orders-svc", &path), 401);
    }
    let keda = connect(&site, "keycard-keda").await;
    for queue in ["keycard.requests", "keycard.expiry", "keycard.dead-letters"] {
        refused(queue, consume(&keda, queue).await);
        refused(queue, get(&keda, queue).await);
    }

    let operator = connect(&site, "platform-ops").await;
    get(&operator, "keycard.dead-letters").await.unwrap();
    let list = ["dead-letters", "list"];
    let listed = as_user("platform-ops", &site, &list);
    assert!(listed.status.success(), "{}", listed.stderr);
    assert!(!as_user("orders-svc", &site, &list).status.success());
    for queue in ["keycard.requests", "keycard.expiry"] {
        refused(queue, get(&operator, queue).await);
    }
    let channel = operator.create_channel().await.unwrap();
    declare(&channel, "platform-ops.results").await.unwrap();
    refused("#", bind(&channel, "platform-ops.results", "#").await);
}

/// A site whose users and permissions are those of the definitions, with a worker that serves as
/// `keycard`.
async fn site_with_definitions() -> (Site, Worker) {
    let site = Site::on_rabbitmq().await;
    let mut definitions: Value = serde_json::from_str(DEFINITIONS).unwrap();
    definitions["vhosts"] = json!([{ "name": site.vhost }]);
    for list in ["permissions", "topic_permissions"] {
        for permission in definitions[list].as_array_mut().unwrap() {
            permission["vhost"] = json!(site.vhost);
        }
    }
    site.configure(&format!(
        "[client]\nurl = {:?}\npassword = {{ env = \"MY_PASSWORD\" }}\n",
        site.client_url("orders-svc")
    ));
    let rabbitmq = site.rabbitmq();
    rabbitmq.import_definitions(&definitions);
    let broker = format!(
        "amqp://keycard@{}:{}/{}",
        rabbitmq.host, rabbitmq.port, site.vhost
    );
    let as_keycard = [
        ("KEYCARD_QUEUE__URL", broker.as_str()),
        ("BROKER_PASSWORD", "keycard"),
    ];
    let worker = site.worker_unready(&as_keycard);
    worker.ready().await;
    (site, worker)
}

/// What orders-svc is to be allowed.
async fn asks_and_reads(orders: &Connection) {
    let channel = confirming_channel(orders).await;
    declare(&channel, "orders-svc.results").await.unwrap();
    bind(&channel, "orders-svc.results", "orders-svc.#")
        .await
        .unwrap();
    let mut results = take_all(&channel, "orders-svc.results").await;
    let (id, role) = (fresh_id(), json!({ "role": "app-role" }));
    let request = command_of("orders-svc", &id, "credential.request.v1", &role).to_string();
    let properties = BasicProperties::default().with_user_id("orders-svc".into());
    publish_to(
        &channel,
        "keycard.requests",
        "",
        request.as_bytes(),
        properties,
    )
    .await;
    let result = timeout(Duration::from_secs(SOON), results.next()).await;
    let result = result.expect("a result").unwrap().unwrap();
    let issued: Value = serde_json::from_slice(&result.data).unwrap();
    assert_eq!(issued["type"], "keycard.credential.issued.v1", "{issued}");
    assert_eq!(issued["correlationid"], id.as_str(), "{issued}");
    channel.close(200, "heard".into()).await.unwrap();
}

/// What orders-svc is not to be allowed.
async fn may_do_nothing_else(orders: &Connection) {
    for queue in [
        "billing-svc.results",
        "results",
        "orders-svcx.results",
        "keycard.mine",
    ] {
        let channel = orders.create_channel().await.unwrap();
        refused(queue, declare(&channel, queue).await);
    }
    for key in ["#", "*.#", "billing-svc.#", "orders-svcx.#"] {
        let channel = orders.create_channel().await.unwrap();
        refused(key, bind(&channel, "orders-svc.results", key).await);
    }
    for queue in ["requests", "leases", "expiry", "dead-letters", "unrouted"] {
        let queue = format!("keycard.{queue}");
        refused(&queue, consume(orders, &queue).await);
        refused(&queue, get(orders, &queue).await);
    }
    for exchange in ["keycard.events", "keycard.unrouted", "amq.topic", ""] {
        let channel = confirming_channel(orders).await;
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let publishing = channel
            .basic_publish(
                exchange.into(),
                "keycard.expiry".into(),
                options,
                b"{}",
                properties,
            )
            .await
            .unwrap();
        refused(exchange, publishing.await);
    }
    for exchange in ["keycard.expiry", "keycard.events", "keycard.unrouted", ""] {
        let channel = orders.create_channel().await.unwrap();
        let arguments = argument("x-dead-letter-exchange", exchange);
        let options = QueueDeclareOptions::default();
        let declaring = channel.queue_declare("orders-svc.dead".into(), options, arguments);
        refused(exchange, declaring.await);
    }
    for alternate in ["keycard.expiry", "keycard.events", "keycard.unrouted"] {
        let channel = orders.create_channel().await.unwrap();
        let declaring = channel.exchange_declare(
            "orders-svc.exchange".into(),
            ExchangeKind::Fanout,
            ExchangeDeclareOptions::default(),
            argument("alternate-exchange", alternate),
        );
        refused(alternate, declaring.await);
    }
    for queue in ["keycard.requests", "keycard.leases", "keycard.expiry"] {
        let channel = orders.create_channel().await.unwrap();
        let none = FieldTable::default();
        let unbinding = channel.queue_unbind(queue.into(), queue.into(), "".into(), none);
        refused(queue, unbinding.await);
        let channel = orders.create_channel().await.unwrap();
        let purging = channel.queue_purge(queue.into(), QueuePurgeOptions::default());
        refused(queue, purging.await);
        let channel = orders.create_channel().await.unwrap();
        let deleting = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        refused(queue, deleting.await);
    }
}

/// `RabbitMQ` cannot allow to publish to an exchange and forbid to bind a queue of the same name. What
/// comes of it: each result is a dead letter as well.
async fn binds_commands_to_its_results(site: &Site, orders: &Connection) {
    let channel = orders.create_channel().await.unwrap();
    bind(&channel, "keycard.requests", "orders-svc.#")
        .await
        .unwrap();
    let requested = as_user("orders-svc", site, &["request", "app-role"]);
    assert!(requested.status.success(), "{}", requested.stderr);
    let letter = Queues::of(site).await.dead_letter().await;
    assert_eq!(
        letter.reason,
        "unauthenticated: keycard's own user sends no commands"
    );
    site.assert_no_dead_letters().await;

    // Who has bound may unbind.
    let (exchange, key) = ("keycard.events".into(), "orders-svc.#".into());
    let none = FieldTable::default();
    let unbinding = channel.queue_unbind("keycard.requests".into(), exchange, key, none);
    unbinding.await.unwrap();
}

/// The command line as a user of the broker has it.
fn as_user(user: &str, site: &Site, arguments: &[&str]) -> Output {
    let mut command = site.command(arguments);
    command.env("KEYCARD_CLIENT__URL", site.client_url(user));
    Output::of(command.env("MY_PASSWORD", user))
}

async fn connect(site: &Site, user: &str) -> Connection {
    Connection::connect(&site.uri(user), ConnectionProperties::default())
        .await
        .unwrap()
}

fn argument(name: &str, value: &str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    arguments
}

async fn declare(channel: &Channel, queue: &str) -> lapin::Result<lapin::Queue> {
    let options = QueueDeclareOptions::default();
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
}

async fn consume(connection: &Connection, queue: &str) -> lapin::Result<()> {
    let channel = connection.create_channel().await.unwrap();
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    consuming.await.map(drop)
}

async fn get(connection: &Connection, queue: &str) -> lapin::Result<()> {
    let channel = connection.create_channel().await.unwrap();
    let getting = channel.basic_get(queue.into(), BasicGetOptions::default());
    getting.await.map(drop)
}

/// An operation on something that is not the user's own.
#[track_caller]
fn refused<T: std::fmt::Debug>(what: &str, outcome: lapin::Result<T>) {
    let refusal = outcome.unwrap_err().to_string();
    assert!(refusal.contains("ACCESS_REFUSED"), "{what}: {refusal}");
}
