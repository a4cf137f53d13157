//! What a broker lets a client write beside a message's body.

use std::collections::BTreeSet;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::json;
use tokio::task::block_in_place;

use super::assert_plain;
use crate::support::client::{Client, SOON, fresh_id};
use crate::support::raw;
use crate::support::site::Site;

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Headers of every type, and those that brokers and keycard itself write.
fn headers() -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in [
        ("'; DROP SCHEMA keycard CASCADE; --", text("\u{1b}[2J\u{0}")),
        ("x-death", text("not an array")),
        ("x-delivery-count", AMQPValue::LongLongInt(i64::MAX)),
        ("x-keycard-lane", AMQPValue::Boolean(true)),
        ("x-keycard-requester", text("orders-svc")),
        ("x-keycard-nobody", text("\u{202e}")),
        ("x-keycard-deferrals", AMQPValue::LongLongInt(-1)),
        ("x-keycard-remaining-ms", AMQPValue::Double(f64::MIN)),
        ("x-keycard-reason", AMQPValue::Void),
        ("timestamp_in_ms", AMQPValue::Timestamp(u64::MAX)),
        ("float", AMQPValue::Float(f32::MIN_POSITIVE)),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
    ] {
        table.insert(name.into(), value);
    }
    let mut array = FieldArray::default();
    for _ in 0..50 {
        let mut outer = FieldArray::default();
        outer.push(AMQPValue::FieldArray(array));
        array = outer;
    }
    table.insert("nested".into(), AMQPValue::FieldArray(array));
    table
}

fn hostile_properties(of: &Client) -> Vec<BasicProperties> {
    let long = "'".repeat(255);
    let mut all = vec![
        of.properties().with_headers(headers()),
        of.properties().with_priority(255),
        of.properties().with_delivery_mode(1),
        of.properties().with_timestamp(u64::MAX),
    ];
    for hostile in [
        "",
        "\u{0}",
        "call\u{0}",
        "\u{1b}]0;mine\u{7}\r\nX: y",
        "\u{202e}",
        "'; DROP SCHEMA keycard CASCADE; --",
        long.as_str(),
        "amq.rabbitmq.reply-to.g1h2\u{0}\u{1b}",
    ] {
        let properties = of.properties();
        all.extend([
            properties.clone().with_correlation_id(hostile.into()),
            properties.clone().with_reply_to(hostile.into()),
            properties.clone().with_content_type(hostile.into()),
            properties.clone().with_content_encoding(hostile.into()),
            properties.clone().with_message_id(hostile.into()),
            properties.clone().with_type(hostile.into()),
            properties.with_app_id(hostile.into()),
        ]);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_properties_change_nothing_but_their_own_answers() {
    let site = Site::on_rabbitmq().await;
    let worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mallory = site.client("mallory").await;
    let issued = orders.issued("app-role", None).await;
    let mut ids = Vec::new();
    for properties in hostile_properties(&mallory) {
        let data = json!({ "lease_id": issued["lease_id"] });
        for (exchange, event) in [
            ("keycard.requests", mallory.asking(&fresh_id(), "app-role")),
            (
                "keycard.leases",
                mallory.event(&fresh_id(), "lease.renew.v1", data),
            ),
        ] {
            ids.push(event["id"].as_str().unwrap().to_owned());
            mallory
                .publish_to(exchange, event.to_string().as_bytes(), properties.clone())
                .await;
        }
    }
    for id in &ids {
        let denied = mallory.answer(id).await;
        assert!(["role_not_allowed", "lease_unknown"].contains(&denied.denial()));
    }
    let other = orders.issued("app-role", None).await;
    // An answer that the broker does not confirm in time comes twice.
    let heard = mallory.heard();
    let answered: BTreeSet<&str> = heard.iter().map(|heard| heard.answers().unwrap()).collect();
    assert_eq!(answered, ids.iter().map(String::as_str).collect());
    assert_eq!(orders.told().len(), 2, "{:?}", orders.story());
    site.assert_live(2).await;
    site.assert_credentials_work([&issued, &other]).await;
    site.assert_no_dead_letters().await;
    assert_plain(&worker.log());
}

/// lapin reads headers by recursion: on a thread of the usual size, 1,200 levels end a release build.
#[tokio::test(flavor = "multi_thread")]
async fn headers_nested_as_deep_as_a_frame_holds_end_no_worker() {
    let site = Site::on_rabbitmq().await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mallory = site.client("mallory").await;
    let request = mallory.asking(&fresh_id(), "app-role");
    let body = request.to_string();
    block_in_place(|| {
        let (broker, name) = (site.rabbitmq(), "mallory");
        raw::publish_nested(broker, &site.vhost, name, name, body.as_bytes());
    });
    let denied = mallory.answer(request["id"].as_str().unwrap()).await;
    assert_eq!(denied.denial(), "role_not_allowed");
    orders.issued("app-role", None).await;
    worker.terminate();
    assert!(worker.exit(SOON).await.success());
    site.assert_no_dead_letters().await;
}
