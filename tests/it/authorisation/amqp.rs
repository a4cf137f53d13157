//! What only a broker has: messages without a user, direct replies, bindings, headers. In Postgres
//! there is no message without its `session_user`, and results are read by a function of one's own.

mod forgery;

use lapin::BasicProperties;
use serde_json::json;

use crate::support::broker::{DirectReply, bind, own_queue};
use crate::support::client::fresh_id;
use crate::support::queues::Queues;
use crate::support::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_validated_user_nothing_happens_and_a_direct_reply_says_so() {
    let site = Site::on_rabbitmq().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let queues = Queues::of(&site).await;
    let issued = orders.issued("app-role", None).await;
    let request = orders.asking(&fresh_id(), "app-role");
    let lease = json!({ "lease_id": issued["lease_id"] });
    let revocation = orders.event(&fresh_id(), "lease.revoke.v1", lease);
    let anonymous = BasicProperties::default().with_correlation_id("call 1".into());

    let mut caller = DirectReply::of(&site, "orders-svc").await;
    for (exchange, command) in [
        ("keycard.requests", &request),
        ("keycard.leases", &revocation),
    ] {
        let body = command.to_string();
        orders
            .publish_to(exchange, body.as_bytes(), BasicProperties::default())
            .await;
        let letter = queues.dead_letter().await;
        assert_eq!(letter.reason, "unauthenticated: the message has no user_id");
        assert_eq!((&letter.requester, letter.body), (&None, body.into_bytes()));

        let before = caller.published;
        let told = caller.call(exchange, command, anonymous.clone()).await;
        assert_eq!(told.denial(), "unauthenticated");
        assert_eq!(told.correlation_id.as_deref(), Some("call 1"));
        assert_eq!(told.data()["request"]["id"], command["id"]);
        for _ in before..caller.published {
            queues.dead_letter().await;
        }
    }
    assert_eq!(orders.told().len(), 1, "nothing but the lease");
    assert_eq!(site.rows().await, (1, 1));
    site.assert_live(1).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_reply_brings_the_same_answer_with_the_callers_correlation_id() {
    let site = Site::on_rabbitmq().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mut caller = DirectReply::of(&site, "orders-svc").await;
    let call = orders.properties().with_correlation_id("call 7".into());
    let request = orders.asking(&fresh_id(), "app-role");
    let id = request["id"].as_str().unwrap();
    // A repetition is replied to as well.
    for count in [1, 2] {
        let reply = caller
            .call("keycard.requests", &request, call.clone())
            .await;
        assert_eq!(reply.correlation_id.as_deref(), Some("call 7"));
        let published = &orders.answers(id, count).await[count - 1];
        assert_eq!(published.bytes, reply.bytes);
        assert_eq!(published.correlation_id, reply.correlation_id);
    }
    let issued = orders.answers_to(id)[0].data().clone();
    let lease = json!({ "lease_id": issued["lease_id"] });
    let renewal = orders.event(&fresh_id(), "lease.renew.v1", lease.clone());
    let reply = caller.call("keycard.leases", &renewal, call.clone()).await;
    assert_eq!(reply.data()["generation"], 2);
    let nonsense = orders.event(&fresh_id(), "lease.renew.v9", lease.clone());
    let before = caller.published;
    let reply = caller.call("keycard.leases", &nonsense, call.clone()).await;
    assert_eq!(reply.denial(), "unsupported_type");
    let queues = Queues::of(&site).await;
    for _ in before..caller.published {
        queues.dead_letter().await;
    }
    let revocation = orders.event(&fresh_id(), "lease.revoke.v1", lease);
    let reply = caller.call("keycard.leases", &revocation, call).await;
    assert_eq!(reply.data()["cause"], "requested");
    site.assert_live(0).await;
    site.assert_no_dead_letters().await;
}

/// With the topic permission that README.md asks for.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_bind_to_the_results_of_others() {
    let site = Site::on_rabbitmq().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    for key in ["#", "*.#", "billing-svc.#", "orders-svc", "orders-svcx.#"] {
        let channel = orders.connection().create_channel().await.unwrap();
        let queue = own_queue(&channel).await;
        let bound = bind(&channel, &queue, key).await;
        let refusal = bound.unwrap_err().to_string();
        assert!(refusal.contains("ACCESS_REFUSED"), "{key}: {refusal}");
    }
    orders.issued("app-role", None).await;
}
