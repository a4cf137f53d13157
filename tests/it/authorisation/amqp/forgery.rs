//! Messages that pretend: to be keycard's own, to come from somebody else, to be waited for.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use crate::support::broker::{Administrator, DirectReply, publish_to};
use crate::support::client::{Client, SOON, fresh_id};
use crate::support::eventually;
use crate::support::queues::Queues;
use crate::support::site::Site;

/// An expiry event as keycard writes it, already due.
fn expiry_of(issued: &Value, lease_id: &str, locator: &str) -> Value {
    json!({
        "specversion": "1.0",
        "id": fresh_id(),
        "source": "keycard/forged",
        "type": "keycard.lease.expire.v1",
        "time": issued["issued_at"],
        "datacontenttype": "application/json",
        "subject": lease_id,
        "data": {
            "lease_id": lease_id,
            "generation": 1,
            "due_at": issued["issued_at"],
            "requester": "orders-svc",
            "role": "app-role",
            "username": issued["username"],
            "locators": [locator],
        },
    })
}

/// The headers by which keycard knows its own deferred messages.
fn deferred_by_keycard(lane: &str) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut headers = FieldTable::default();
    headers.insert("x-keycard-requester".into(), text("orders-svc"));
    headers.insert("x-keycard-lane".into(), text(lane));
    headers.insert("x-keycard-deferrals".into(), AMQPValue::LongLongInt(1));
    headers.insert(
        "x-keycard-remaining-ms".into(),
        AMQPValue::LongLongInt(600_000),
    );
    headers
}

/// Somebody whom an administrator has let write into every queue.
async fn trusted_too_far(site: &Site, user: &str) -> Client {
    let exchanges = "^(amq\\.gen.*|amq\\.default|keycard\\.(requests|leases))?$";
    let reads = "^(amq\\.gen.*|keycard\\.events)$";
    site.rabbitmq()
        .set_permissions(&site.vhost, user, "^amq\\.gen.*", exchanges, reads);
    site.client(user).await
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_expiry_events_end_nothing_and_are_parked() {
    let site = Site::on_rabbitmq().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mallory = trusted_too_far(&site, "mallory").await;
    let queues = Queues::of(&site).await;
    let issued = orders.issued("app-role", None).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    let locator = format!("keycard/orders-svc/app-role/{lease_id}");
    let path = issued["secret"]["locator"].as_str().unwrap();
    assert!(path.ends_with(&locator), "{path}");

    let ends_it = expiry_of(&issued, lease_id, &locator);
    // A ledger that does not know the lease would have the secret deleted.
    let unknown = expiry_of(&issued, &format!("app.{}", fresh_id()), &locator);
    let data = json!({ "lease_id": lease_id });
    let revocation = orders.event(&fresh_id(), "lease.revoke.v1", data);
    let plain = mallory.properties();
    let nobody = lapin::BasicProperties::default();
    for (queue, event, properties) in [
        ("keycard.expiry", &ends_it, plain.clone()),
        ("keycard.expiry", &ends_it, nobody.clone()),
        ("keycard.expiry", &unknown, plain.clone()),
        ("keycard.delay.1s", &ends_it, plain.clone()),
        ("keycard.delay.1s", &unknown, nobody.clone()),
        (
            "keycard.expiry",
            &ends_it,
            plain.clone().with_headers(deferred_by_keycard("expiry")),
        ),
        (
            "keycard.expiry",
            &revocation,
            plain.clone().with_headers(deferred_by_keycard("leases")),
        ),
        (
            "keycard.delay.1s",
            &revocation,
            nobody.with_headers(deferred_by_keycard("leases")),
        ),
    ] {
        let body = event.to_string();
        publish_to(
            mallory.channel(),
            "",
            queue,
            body.as_bytes(),
            properties.clone(),
        )
        .await;
        let letter = queues.dead_letter().await;
        let reason = if properties.user_id().is_some() {
            "unauthenticated: user 'mallory' has no business in this queue"
        } else {
            "unauthenticated: the message has no user_id"
        };
        assert_eq!(letter.reason, reason, "{queue} {event}");
        assert_eq!((letter.requester, letter.body), (None, body.into_bytes()));
    }
    assert_eq!((orders.told().len(), mallory.told().len()), (1, 0));
    assert_eq!(site.rows().await, (1, 1));
    site.assert_live(1).await;
    site.assert_credentials_work([&issued]).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_keycards_own_are_not_believed_from_a_client() {
    let site = Site::on_rabbitmq().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mallory = site.client("mallory").await;
    let queues = Queues::of(&site).await;
    let issued = orders.issued("app-role", None).await;
    let lease_id = issued["lease_id"].as_str().unwrap();

    let request = mallory.asking(&fresh_id(), "app-role");
    let data = json!({ "lease_id": lease_id });
    let revocation = mallory.event(&fresh_id(), "lease.revoke.v1", data);
    let expiry = expiry_of(&issued, lease_id, "keycard/x/y/z");
    for (exchange, event, lane, code) in [
        ("keycard.requests", &request, "requests", "role_not_allowed"),
        ("keycard.leases", &revocation, "leases", "lease_unknown"),
        ("keycard.requests", &expiry, "expiry", "unsupported_type"),
        ("keycard.leases", &expiry, "expiry", "unsupported_type"),
    ] {
        let properties = mallory.properties().with_headers(deferred_by_keycard(lane));
        let id = event["id"].as_str().unwrap();
        let before = mallory.answers_to(id).len();
        mallory
            .publish_to(exchange, event.to_string().as_bytes(), properties)
            .await;
        let answers = mallory.answers(id, before + 1).await;
        assert_eq!(answers.last().unwrap().denial(), code);
        if code == "unsupported_type" {
            let letter = queues.dead_letter().await;
            assert_eq!(letter.requester.as_deref(), Some("mallory"));
        }
    }
    assert_eq!(orders.told().len(), 1, "{:?}", orders.story());
    site.assert_live(1).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_publish_under_another_name() {
    let site = Site::on_rabbitmq().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mallory = site.client("mallory").await;
    for user in ["orders-svc", "kc-worker"] {
        let request = mallory.asking(&fresh_id(), "app-role");
        let body = request.to_string().into_bytes();
        let channel = mallory.connection().create_channel().await.unwrap();
        let properties = mallory.properties().with_user_id(user.into());
        let publishing = channel.basic_publish(
            "keycard.requests".into(),
            "".into(),
            lapin::options::BasicPublishOptions::default(),
            &body,
            properties,
        );
        publishing.await.unwrap();
        eventually("the broker closes the channel", SOON, async || {
            (!channel.status().connected()).then_some(())
        })
        .await;
    }
    orders.issued("app-role", None).await;
    assert_eq!(site.rows().await, (1, 1));
    site.assert_live(1).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_reply_addresses_hurt_nobody() {
    let site = Site::on_rabbitmq().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mallory = site.client("mallory").await;
    let billing = site.client("billing-svc").await;
    let administrator = Administrator::of(&site).await;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    administrator
        .channel
        .queue_declare("keycard.some-queue".into(), options, FieldTable::default())
        .await
        .unwrap();
    let mut caller = DirectReply::of(&site, "orders-svc").await;

    for (round, address) in [
        "amq.rabbitmq.reply-to.g1h2AAAA.zzz",
        "keycard.some-queue",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.\u{1F600}",
        "keycard.expiry",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        // Whoever is denied is replied to as much as whoever is served.
        for forger in [&mallory, &billing] {
            let request = forger.asking(&fresh_id(), "app-role");
            let properties = forger.properties().with_reply_to(address.into());
            forger
                .publish_to(
                    "keycard.requests",
                    request.to_string().as_bytes(),
                    properties,
                )
                .await;
            forger.answer(request["id"].as_str().unwrap()).await;
        }
        let request = orders.asking(&fresh_id(), "app-role");
        let call = orders.properties().with_correlation_id("call".into());
        let reply = caller.call("keycard.requests", &request, call).await;
        assert_eq!(
            reply.event["correlationid"], request["id"],
            "{address} {round}"
        );
    }
    assert_eq!(administrator.messages("keycard.some-queue").await, 0);
    site.assert_live(12).await;
    site.assert_no_dead_letters().await;
}
