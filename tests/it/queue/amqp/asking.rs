//! What somebody reads who asks for a credential and has made a mistake.

use keycard::queue::amqp::{Client, Settings};
use keycard::queue::{Lane, Queue, Requesting};
use lapin::uri::AMQPScheme;
use tokio::task::block_in_place;
use tokio::time::timeout;

use super::{PASSWORD, Vhost};
use crate::queue::conformance::DEADLINE;

async fn refusal(settings: Settings) -> String {
    let client = Client::new(&settings).unwrap();
    let asking = client.ask(Lane::Requests, b"{}");
    let error = timeout(2 * DEADLINE, asking).await.unwrap().unwrap_err();
    let text = error.to_string();
    assert!(!text.contains(PASSWORD) && !text.contains('\n'), "{text}");
    assert!(!text.contains("outdated"), "{text}");
    text
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_or_vhost_that_the_broker_does_not_take_is_named() {
    let vhost = Vhost::new().await;
    let mut wrong = vhost.settings_of("orders");
    wrong.password = std::sync::Arc::new(|| Box::pin(async { Ok("outdated".into()) }));
    let text = refusal(wrong).await;
    assert_says(
        &text,
        &[
            "the name or the password of its user 'orders'",
            "client.password",
        ],
    );

    let mut wrong = vhost.settings_of("orders");
    wrong.uri.vhost.push_str("-not-there");
    let text = refusal(wrong).await;
    assert_says(&text, &["not found", "rabbitmqctl add_vhost"]);

    // Of all remedies not the one that would make a client keycard itself.
    block_in_place(|| {
        let other = vhost.broker;
        other.set_permissions(&vhost.name, "orders", "^$", "^$", "^$");
    });
    for text in [text, refusal(vhost.settings_of("orders")).await] {
        assert!(!text.contains("amq\\.default"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_missing_or_forbidden_is_named() {
    let vhost = Vhost::new().await;
    let text = refusal(vhost.settings_of("orders")).await;
    let parts = [
        "no exchange 'keycard.requests'",
        "keycard worker",
        &vhost.name,
    ];
    assert_says(&text, &parts);

    let worker = vhost.queue().await;
    worker.shut_down().await;
    block_in_place(|| {
        let other = vhost.broker;
        other.set_permissions(&vhost.name, "orders", "^$", "^$", "^$");
    });
    let text = refusal(vhost.settings_of("orders")).await;
    let remedy = format!(
        "rabbitmqctl set_permissions -p '{}' 'orders' '^orders\\.' \
         '^(orders\\..*|keycard\\.(requests|leases))$' '^(orders\\..*|keycard\\.events)$'",
        vhost.name
    );
    assert_says(&text, &["keycard.requests", "refused", &remedy]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_or_speaks_otherwise_is_named_with_its_address() {
    let vhost = Vhost::new().await;
    let mut away = vhost.settings_of("orders");
    away.uri.authority.port = 1;
    let text = refusal(away).await;
    let address = "127.0.0.1:1 without TLS (amqp://)";
    assert_says(
        &text,
        &[
            address,
            "Connection refused",
            "mend host and port in client.url",
        ],
    );

    super::tls::use_one_crypto_provider();
    let mut plain = vhost.settings_of("orders");
    plain.uri.scheme = AMQPScheme::AMQPS;
    let text = refusal(plain).await;
    assert_says(
        &text,
        &["with TLS (amqps://)", "mend host and port in client.url"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_there_is_asked_after() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    worker.shut_down().await;
    let text = refusal(vhost.settings_of("orders")).await;
    assert_says(&text, &["none came within 30 s", "is a worker running?"]);
}
