//! What only a broker can have wrong.

use std::fs;

use lapin::options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

use super::{Said, doctor, well};
use crate::support::broker::confirming_channel;
use crate::support::services::WORKER;
use crate::support::site::Site;

const ALL: &str = "^keycard\\.";
const WRITE: &str = "^(keycard\\.|amq\\.default$)";

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_told_with_the_command_that_gives_it() {
    let site = Site::on_rabbitmq().await;
    let early = Said::by(&site);
    assert_eq!(early.code, Some(0));
    early.says(
        "queue.topology",
        "warning",
        "no exchange or queue is there yet",
    );
    early.says("queue.permissions", "ok", "declare, publish and read");

    let _worker = site.worker().await;
    let broker = site.rabbitmq();
    // The last one may do everything but publish results.
    let all_but_events = "^(keycard\\.(requests|leases|unrouted|expiry)|amq\\.default$)";
    for (configure, write, read) in [
        ("^$", WRITE, ALL),
        (ALL, ALL, ALL),
        (ALL, WRITE, "^$"),
        (ALL, all_but_events, ALL),
    ] {
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
    let url = format!("amqp://{WORKER}@127.1:{}/{}", broker.port, site.vhost);
    let open = Said::of(doctor(&site).env("KEYCARD_QUEUE__URL", url));
    open.says("queue.connection", "warning", "write amqps://");

    let mut wrong = doctor(&site);
    let said = Said::of(wrong.env("BROKER_PASSWORD", "canary-wrong"));
    assert_eq!(said.code, Some(1));
    said.says("queue.connection", "failure", "rabbitmqctl change_password");
    let all = format!("{:?} {}", said.checks, said.stderr);
    assert!(!all.contains("canary"), "{all}");
    // The worker consumes again some time after it may.
    assert_eq!(well(&site).await.code, Some(0));
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
    let said = || Said::of(doctor(&site).env("BROKER_PASSWORD", &user));
    said().says(
        "queue.impersonator",
        "failure",
        "may publish as any other user",
    );
    // As keycard's own user it is not told twice.
    said().says("queue.impersonators", "ok", "no other user");
    broker.ctl(&["set_user_tags", &user]);
    said().says("queue.impersonator", "ok", "nobody else");

    let other = format!("other-{}", site.name);
    broker.add_user(&other, &other);
    broker.ctl(&["set_user_tags", &other, "impersonator", "monitoring"]);
    // Who may not use the vhost speaks for nobody in it.
    said().says("queue.impersonators", "ok", "no other user");
    broker.set_permissions(&site.vhost, &other, "^$", "^keycard\\.requests$", "^$");
    let found = said();
    assert_eq!(found.code, Some(1));
    let remedy = format!("rabbitmqctl set_user_tags '{other}' monitoring");
    found.says("queue.impersonators", "failure", &remedy);
    broker.ctl(&["set_user_tags", &other, "monitoring"]);
    said().says("queue.impersonators", "ok", "no other user");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_not_looked_at_is_told() {
    let site = Site::on_rabbitmq().await;
    let said = Said::of(&mut site.command(&["doctor", "--output", "json"]));
    assert_eq!(said.code, Some(0));
    said.says("queue.impersonators", "warning", "set management.url");

    let broker = site.rabbitmq();
    let address = format!("{}:{}", broker.host, broker.http_port);
    for (url, password, words) in [
        (
            format!("http://admin@{address}"),
            "canary-wrong",
            "management.password",
        ),
        (
            format!("http://orders-svc@{address}"),
            "orders-svc",
            "name an administrator of its own",
        ),
        (
            format!("https://admin@{address}"),
            "canary",
            "corrupt message",
        ),
        (
            format!("http://admin@{address}/mq"),
            "canary",
            "no answer of RabbitMQ",
        ),
        (
            "http://admin@127.0.0.1:1".to_owned(),
            "canary",
            "rabbitmq-plugins enable",
        ),
        (
            "http://admin@192.0.2.1:15672".to_owned(), // RFC 5737: nobody's
            "canary",
            "write https:// in management.url",
        ),
    ] {
        let mut doctor = doctor(&site);
        doctor.env("KEYCARD_MANAGEMENT__URL", url);
        let said = Said::of(doctor.env("KEYCARD_MANAGEMENT__PASSWORD", password));
        assert_eq!(said.code, Some(0), "{words}");
        said.says("queue.impersonators", "warning", words);
        let all = format!("{:?} {}", said.checks, said.stderr);
        assert!(!all.contains("canary"), "{all}");
    }
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
    Said::by(&site).says("queue.topology", "warning", &format!("missing: {rung}"));
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
