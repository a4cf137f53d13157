//! What is Fatal: it says what is wrong and what to do.

use keycard::fault::Disposition;
use keycard::queue::Queue;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::task::block_in_place;

use super::{OWN_USER, Vhost, connect};

async fn fatal(vhost: &Vhost, settings: keycard::queue::amqp::Settings) -> String {
    let Err(error) = connect(settings).await else {
        panic!("connected");
    };
    let text = error.to_string();
    assert_eq!(error.disposition, Disposition::Fatal, "{text}");
    assert!(!text.contains("p@ss") && !text.contains("p%40ss"), "{text}");
    assert!(!text.contains("outdated"), "{text}");
    assert!(text.contains("Remedy"), "{text}");
    assert!(text.contains(&vhost.name), "{text}");
    text
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_differing_queue_is_named() {
    let vhost = Vhost::new().await;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(4_000));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let admin = vhost.admin().await.channel();
    admin
        .queue_declare("keycard.delay.5s".into(), options, arguments)
        .await
        .unwrap();
    let text = fatal(&vhost, vhost.settings()).await;
    let difference = [
        "queue keycard.delay.5s exists and differs",
        "inequivalent arg",
    ];
    assert_says(&text, &difference);
    assert_says(&text, &["rabbitmqctl delete_queue"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_differing_exchange_is_named() {
    let vhost = Vhost::new().await;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let admin = vhost.admin().await.channel();
    admin
        .exchange_declare(
            "keycard.leases".into(),
            ExchangeKind::Topic,
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let text = fatal(&vhost, vhost.settings()).await;
    let difference = ["exchange keycard.leases exists and differs", "'topic'"];
    assert_says(&text, &difference);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_installation_is_refused_and_the_same_one_is_not() {
    let vhost = Vhost::new().await;
    let first = vhost.queue().await;
    let mut other = vhost.settings();
    other.installation = "another".to_owned();
    let text = fatal(&vhost, other).await;
    assert_says(
        &text,
        &[
            "another installation than 'another'",
            "keycard.installation.test",
        ],
    );
    let _same = vhost.queue().await;
    first.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_vhost_is_named() {
    let vhost = Vhost::new().await;
    let mut settings = vhost.settings();
    settings.uri.vhost.push_str("-not-there");
    let text = fatal(&vhost, settings).await;
    assert_says(&text, &["not found", "rabbitmqctl add_vhost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_permissions_are_named() {
    let vhost = Vhost::new().await;
    let (own, write) = ("^keycard\\.", "^(keycard\\.|amq\\.default$)");
    for (permissions, missing) in [
        (("^$", write, own), "keycard."),
        ((own, "^keycard\\.", own), "amq.default"),
        ((own, write, "^$"), "keycard."),
    ] {
        let (configure, write, read) = permissions;
        block_in_place(|| {
            vhost
                .broker
                .set_permissions(&vhost.name, OWN_USER, configure, write, read);
        });
        let text = fatal(&vhost, vhost.settings()).await;
        assert_says(&text, &["ACCESS_REFUSED", missing, OWN_USER]);
        let remedy = format!(
            "rabbitmqctl set_permissions -p '{}' '{OWN_USER}' '^keycard\\.' \
             '^(keycard\\.|amq\\.default$)' '^keycard\\.'",
            vhost.name
        );
        assert_says(&text, &[&remedy]);
    }
}
