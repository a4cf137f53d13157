//! `RabbitMQ`'s definitions.

use std::fs;
use std::process::Command;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::broker::{bind, confirming_channel, publish_to, take_all};
use crate::support::client::{SOON, command_of, fresh_id};
use crate::support::services::WORKER;
use crate::support::site::Site;

#[ignore = "Terraform is no part of what `make setup` installs"]
#[tokio::test(flavor = "multi_thread")]
async fn with_its_definitions_a_service_can_ask_and_read_its_own_and_nothing_else() {
    let site = Site::on_rabbitmq().await;
    let definitions = rendered(&site);
    site.rabbitmq().import_definitions(&definitions);
    let _worker = site.worker().await;
    let uri = site.uri("orders-svc");
    let orders = Connection::connect(&uri, ConnectionProperties::default())
        .await
        .unwrap();

    let channel = confirming_channel(&orders).await;
    declare(&channel, "orders-svc.results").await.unwrap();
    bind(&channel, "orders-svc.results", "orders-svc.#")
        .await
        .unwrap();
    let mut results = take_all(&channel, "orders-svc.results").await;
    let request = command_of(
        "orders-svc",
        &fresh_id(),
        "credential.request.v1",
        &json!({ "role": "app-role" }),
    );
    let properties = BasicProperties::default().with_user_id("orders-svc".into());
    let body = request.to_string();
    publish_to(
        &channel,
        "keycard.requests",
        "",
        body.as_bytes(),
        properties,
    )
    .await;
    let result = timeout(std::time::Duration::from_secs(SOON), results.next());
    let result = result.await.expect("a result").unwrap().unwrap();
    let issued: Value = serde_json::from_slice(&result.data).unwrap();
    assert_eq!(issued["type"], "keycard.credential.issued.v1", "{issued}");

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
        let channel = orders.create_channel().await.unwrap();
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(
            queue.as_str().into(),
            "".into(),
            options,
            FieldTable::default(),
        );
        refused(&queue, consuming.await);
        let channel = orders.create_channel().await.unwrap();
        let getting = channel.basic_get(queue.as_str().into(), BasicGetOptions::default());
        refused(&queue, getting.await);
    }
    for exchange in ["keycard.events", "keycard.unrouted", "amq.topic", ""] {
        let channel = confirming_channel(&orders).await;
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
    site.assert_no_dead_letters().await;
}

/// What modules/manifests makes of this site's requesters.
fn rendered(site: &Site) -> Value {
    let password = json!({ "secret": "somewhere" });
    let module = json!({
        "source": concat!(env!("CARGO_MANIFEST_DIR"), "/infra/modules/manifests"),
        "namespace": "keycard",
        "image": format!("keycard@sha256:{:064}", 0),
        "installation": site.name,
        "operators": ["platform-ops"],
        "databases": { "app": {
            "host": "database", "dbname": "app", "password": password, "allowed_roles": ["*"],
        } },
        "roles": { "app-role": {
            "database": "app", "groups": ["app"], "requesters": ["orders-svc", "billing-svc"],
        } },
        "broker": {
            "host": "broker", "vhost": site.vhost, "username": WORKER, "password": password,
        },
        "store": { "region": "eu-west-1" },
    });
    let main = json!({
        "module": { "manifests": module },
        "output": { "definitions": {
            "value": "${module.manifests.rabbitmq_definitions}",
            "sensitive": true,
        } },
    });
    let directory = site.path().join("infra");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("main.tf.json"), main.to_string()).unwrap();
    let terraform = |arguments: &[&str]| {
        let run = Command::new("terraform")
            .args(arguments)
            .current_dir(&directory)
            .env("CHECKPOINT_DISABLE", "1")
            .output()
            .expect("terraform is installed");
        assert!(run.status.success(), "terraform {arguments:?}: {run:?}");
        run.stdout
    };
    terraform(&["init", "-input=false"]);
    terraform(&["apply", "-auto-approve", "-input=false"]);
    serde_json::from_slice(&terraform(&["output", "-raw", "definitions"])).unwrap()
}

async fn declare(channel: &Channel, queue: &str) -> lapin::Result<lapin::Queue> {
    let options = QueueDeclareOptions::default();
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
}

/// An operation on something that is not the service's own.
#[track_caller]
fn refused<T: std::fmt::Debug>(what: &str, outcome: lapin::Result<T>) {
    let refusal = outcome.unwrap_err().to_string();
    assert!(refusal.contains("ACCESS_REFUSED"), "{what}: {refusal}");
}
