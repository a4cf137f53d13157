//! Messages that are no commands: kept for people to look at, answered where that can be, and never
//! in the way of those behind them.

use serde_json::{Value, json};

use crate::support::client::{Client, SOON, fresh_id};
use crate::support::queues::Queues;
use crate::support::services::QueueKind;
use crate::support::site::Site;

const BODY_BYTES_MAX: usize = 64 * 1024;

/// What is published where, the beginning of the reason, and whether the sender can be answered.
struct Poison {
    lane: &'static str,
    body: Vec<u8>,
    reason: &'static str,
    /// The id that the answer names.
    answered: Option<String>,
}

impl Poison {
    fn unnamed(lane: &'static str, body: impl Into<Vec<u8>>, reason: &'static str) -> Self {
        Self {
            lane,
            body: body.into(),
            reason,
            answered: None,
        }
    }

    fn named(lane: &'static str, command: &Value, reason: &'static str) -> Self {
        Self {
            answered: Some(command["id"].as_str().unwrap().to_owned()),
            ..Self::unnamed(lane, command.to_string(), reason)
        }
    }
}

/// Every one is parked with its reason, none brings a login or a row, and afterwards the consumers
/// still serve.
async fn assert_parked(poisons: impl AsyncFnOnce(&Client) -> Vec<Poison>) {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let queues = Queues::of(&site).await;
    let mut heard = 0;
    for poison in poisons(&orders).await {
        orders.publish(poison.lane, &poison.body).await;
        let letter = queues.dead_letter().await;
        let said = String::from_utf8_lossy(&poison.body[..poison.body.len().min(300)]);
        assert!(
            letter.reason.starts_with(poison.reason),
            "{said}: {}",
            letter.reason
        );
        assert_eq!(letter.body, poison.body, "{said}");
        assert_eq!(letter.requester.as_deref(), Some("orders-svc"));
        if let Some(id) = &poison.answered {
            let answer = orders.answer(id).await;
            assert!(poison.reason.starts_with(answer.denial()), "{said}");
            let message = answer.data()["message"].as_str().unwrap();
            assert!(letter.reason.ends_with(message), "{said}");
            assert_eq!(answer.data()["retryable"], false);
            heard += 1;
        }
    }
    assert_eq!(site.rows().await, (0, 0));
    assert_eq!(site.logins().await, 0);

    let issued = orders.issued("app-role", None).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    orders.answer(&orders.renew(lease_id, None).await).await;
    assert_eq!(orders.told().len(), heard + 2, "{:?}", orders.story());
    site.assert_live(1).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_object_is_parked_without_an_answer() {
    assert_parked(async |orders| {
        let request = orders.asking(&fresh_id(), "app-role").to_string();
        let twice = request.replacen('{', "{\"id\":\"x\",", 1);
        let cut = &request[..request.len() - 1];
        let nested = "[".repeat(60_000);
        [
            &b"keycard, please"[..],
            b"",
            b"\xff\xfe\x00",
            cut.as_bytes(),
            twice.as_bytes(),
            nested.as_bytes(),
            b"[]",
            b"null",
        ]
        .into_iter()
        .flat_map(|body| {
            ["requests", "leases"]
                .map(|lane| Poison::unnamed(lane, body, "invalid_event: the body is "))
        })
        .collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_here_is_parked_and_answered() {
    assert_parked(async |orders| {
        let lease = json!({ "lease_id": format!("app.{}", fresh_id()) });
        let role = json!({ "role": "app-role" });
        let of_type = |kind: &str, data: &Value| orders.event(&fresh_id(), kind, data.clone());
        [
            ("requests", "credential.request.v2", &role),
            ("requests", "credential.request", &role),
            ("requests", "credential.steal.v1", &role),
            ("requests", "credential.issued.v1", &role),
            ("requests", "lease.expire.v1", &lease),
            ("requests", "lease.renew.v1", &lease),
            ("requests", "lease.revoke.v1", &lease),
            ("leases", "credential.request.v1", &role),
            ("leases", "lease.renew.v2", &lease),
            ("leases", "lease.expire.v1", &lease),
        ]
        .map(|(lane, kind, data)| {
            Poison::named(lane, &of_type(kind, data), "unsupported_type: `type` ")
        })
        .into()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_its_schema_is_parked_and_answered() {
    assert_parked(async |orders| {
        let request = |change: fn(&mut Value)| {
            let mut request = orders.asking(&fresh_id(), "app-role");
            change(&mut request);
            request
        };
        let mut poisons: Vec<Poison> = [
            request(|it| it["data"] = json!({})),
            request(|it| it["data"] = json!("app-role")),
            request(|it| it["data"]["role"] = json!("../app-role")),
            request(|it| it["data"]["role"] = json!(7)),
            request(|it| it["data"]["ttl_seconds"] = json!("60")),
            request(|it| it["data"]["ttl_seconds"] = json!(1.5)),
            request(|it| it["data"]["requester"] = json!("billing-svc")),
            request(|it| it["specversion"] = json!("0.3")),
            request(|it| it["time"] = json!("yesterday")),
            request(|it| it["time"] = Value::Null),
            request(|it| it["expirytime"] = json!(60)),
            request(|it| it["priority"] = json!("high")),
            request(|it| it["datacontenttype"] = json!("text/xml")),
        ]
        .iter()
        .map(|command| Poison::named("requests", command, "invalid_event: `"))
        .collect();
        let lease = |data: Value| orders.event(&fresh_id(), "lease.renew.v1", data);
        poisons.extend(
            [
                lease(json!({})),
                lease(json!({ "lease_id": "app" })),
                lease(json!({ "lease_id": "../x.01890a5d-ac96-774b-bcce-b302099a8057" })),
            ]
            .iter()
            .map(|command| Poison::named("leases", command, "invalid_event: `")),
        );
        for change in [
            (|it| it["id"] = Value::Null) as fn(&mut Value),
            |it| it["id"] = json!(""),
            |it| it["id"] = json!("x".repeat(257)),
            |it| it["id"] = json!("a\u{0}b"),
            |it| it["source"] = Value::Null,
        ] {
            let unnamed = request(change).to_string();
            poisons.push(Poison::unnamed("requests", unnamed, "invalid_event: `"));
        }
        poisons
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_too_much_is_parked_unread_and_64_kib_are_taken() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let queues = Queues::of(&site).await;
    let padded = |id: &str, length: usize| {
        let mut body = orders.asking(id, "app-role").to_string().into_bytes();
        body.resize(length, b' ');
        body
    };
    let id = fresh_id();
    let too_long: &[usize] = match site.queue {
        QueueKind::Amqp(_) => &[BODY_BYTES_MAX + 1, 4 << 20],
        // Refused to its sender.
        QueueKind::Postgres => &[],
    };
    for &length in too_long {
        let body = padded(&id, length);
        orders.publish("requests", &body).await;
        let letter = queues.dead_letter().await;
        let reason = format!("invalid_event: the body has {length} bytes; send at most 65536");
        assert_eq!(letter.reason, reason);
    }
    let body = padded(&id, BODY_BYTES_MAX);
    orders.publish("requests", &body).await;
    orders.answer(&id).await.lease_id();
    assert_eq!(orders.told().len(), 1);
    site.assert_live(1).await;
    site.assert_no_dead_letters().await;
}

/// What comes back from the queue as keycard's own may be damaged, or of another keycard.
#[tokio::test(flavor = "multi_thread")]
async fn expiry_events_that_cannot_be_read_are_parked_and_leases_still_end() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let queues = Queues::of(&site).await;
    let expire = |database: &str, generation: Value| {
        let data = json!({
            "lease_id": format!("{database}.{}", fresh_id()), "generation": generation,
            "due_at": "2026-01-01T00:00:00Z", "requester": "orders-svc", "role": "app-role",
            "username": "kc_x", "locators": [],
        });
        orders
            .event(&fresh_id(), "lease.expire.v1", data)
            .to_string()
    };
    let request = orders.asking(&fresh_id(), "app-role").to_string();
    for (event, reason) in [
        ("{".to_owned(), "invalid_event: the body is "),
        (request, "unsupported_type: `type` "),
        (expire("app", json!("second")), "invalid_event: `data."),
        (
            expire("gone", json!(1)),
            "lease_unknown: the configuration has no database \"gone\"",
        ),
    ] {
        queues.wake(&event).await;
        let letter = queues.dead_letter().await;
        assert!(letter.reason.starts_with(reason), "{}", letter.reason);
        assert_eq!(letter.body, event.as_bytes());
        assert_eq!(letter.requester, None);
    }
    assert_eq!(site.rows().await, (0, 0));
    // Long enough to be told before its end.
    let ttl = 15;
    let issued = orders.issued("app-role", Some(ttl)).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    let within = SOON + ttl.unsigned_abs();
    orders.notice("lease.revoked.v1", lease_id, within).await;
    assert_eq!(orders.told().len(), 2, "{:?}", orders.story());
    site.assert_no_dead_letters().await;
}

mod amqp {
    use lapin::BasicProperties;

    use super::Queues;
    use crate::support::broker::{Administrator, publish_to};
    use crate::support::client::fresh_id;
    use crate::support::services::WORKER;
    use crate::support::site::Site;

    /// Whoever has its password could make requests without being anybody's requester.
    #[tokio::test(flavor = "multi_thread")]
    async fn commands_of_keycards_own_user_are_parked() {
        let site = Site::on_rabbitmq().await;
        let _worker = site.worker().await;
        let orders = site.client("orders-svc").await;
        let queues = Queues::of(&site).await;
        let administrator = Administrator::of(&site).await;
        for exchange in ["keycard.requests", "keycard.leases"] {
            let request = orders.asking(&fresh_id(), "app-role").to_string();
            let properties = BasicProperties::default().with_user_id(WORKER.into());
            let body = request.as_bytes();
            publish_to(&administrator.channel, exchange, "", body, properties).await;
            let letter = queues.dead_letter().await;
            let reason = "unauthenticated: keycard's own user sends no commands";
            assert_eq!(letter.reason, reason);
        }
        assert_eq!(site.rows().await, (0, 0));
        assert!(orders.heard().is_empty(), "{:?}", orders.story());
    }
}
