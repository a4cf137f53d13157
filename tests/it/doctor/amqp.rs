//! What only a broker can have wrong.

use std::fs;

use lapin::options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

use super::Said;
use crate::support::broker::confirming_channel;
use crate::support::process::Output;
use crate::support::services::WORKER;
use crate::support::site::Site;

const ALL: &str = "^keycard\\.";
const WRITE: &str = "^(keycard\\.|amq\\.default$)";

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_told_with_the_command_that_gives_it() {
    let site = Site::on_rabbitmq().await;
    let early = Said::by(&site);
    assert_eq!(early.code, Some(0));
    early.says("queue.topology", "warning", "keycard.requests");
    early.says("queue.permissions", "ok", "declare, publish and read");

    let _worker = site.worker().await;
    let broker = site.rabbitmq();
    for (configure, write, read) in [("^$", WRITE, ALL), (ALL, ALL, ALL), (ALL, WRITE, "^$")] {
        broker.set_permissions(&site.vhost, WORKER, configure, write, read);
        let said = Said::by(&site);
        assert_eq!(said.code, Some(1));
        said.says(
            "queue.permissions",
            "failure",
            "rabbitmqctl set_permissions",
        );
        said.says("roles.app-role", "ok", "dropped");
    }
    broker.set_permissions(&site.vhost, WORKER, ALL, WRITE, ALL);

    let mut wrong = site.command(&["doctor", "--output", "json"]);
    let said = Said::of(Output::of(wrong.env("BROKER_PASSWORD", "canary-wrong")));
    assert_eq!(said.code, Some(1));
    said.says("queue.connection", "failure", "rabbitmqctl change_password");
    let all = format!("{:?} {}", said.checks, said.stderr);
    assert!(!all.contains("canary"), "{all}");
    let said = Said::by(&site);
    assert_eq!(
        (said.code, said.ill()),
        (Some(0), vec![]),
        "{:#?}",
        said.checks
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_speak_for_anybody_is_told() {
    let site = Site::on_rabbitmq().await;
    let broker = site.rabbitmq();
    let user = format!("imp-{}", site.name);
    broker.add_user(&user, &user);
    broker.set_permissions(&site.vhost, &user, ALL, WRITE, ALL);
    broker.ctl(&["set_user_tags", &user, "impersonator"]);
    let text = fs::read_to_string(&site.config).unwrap();
    fs::write(&site.config, text.replace(WORKER, &user)).unwrap();
    let said = || {
        let mut doctor = site.command(&["doctor", "--output", "json"]);
        Said::of(Output::of(doctor.env("BROKER_PASSWORD", &user)))
    };
    said().says("queue.impersonator", "failure", "rabbitmqctl set_user_tags");
    broker.ctl(&["set_user_tags", &user]);
    said().says("queue.impersonator", "ok", "nobody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_what_differs_is_told() {
    let site = Site::on_rabbitmq().await;
    let mut worker = site.worker().await;
    worker.kill();
    let connection = Connection::connect(&site.uri(WORKER), ConnectionProperties::default())
        .await
        .unwrap();
    let channel = confirming_channel(&connection).await;
    for queue in ["keycard.dead-letters", "keycard.unrouted"] {
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let published = channel.basic_publish("".into(), queue.into(), options, b"x", properties);
        published.await.unwrap().await.unwrap();
    }
    let said = Said::by(&site);
    assert_eq!(said.code, Some(0));
    said.says("queue.dead_letters", "warning", "1 messages");
    said.says("queue.unrouted", "warning", "1 results");

    let rung = "keycard.delay.5s";
    let options = QueueDeleteOptions::default();
    channel.queue_delete(rung.into(), options).await.unwrap();
    Said::by(&site).says("queue.topology", "warning", rung);
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(rung.into(), options, FieldTable::default());
    declared.await.unwrap();
    let said = Said::by(&site);
    assert_eq!(said.code, Some(1));
    said.says("queue.topology", "failure", "exists and differs");
}
