//! Who may do what: the user that the queue has validated decides, and nothing that a sender writes.

mod amqp;
mod neighbours;

use serde_json::json;

use crate::support::client::{SOON, fresh_id};
use crate::support::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn a_role_for_others_is_denied_like_one_that_does_not_exist() {
    let site = Site::with_mallory().await;
    let _worker = site.worker().await;
    let mallory = site.client("mallory").await;
    let mut denials = Vec::new();
    for role in ["app-role", "no-such-role"] {
        let request = mallory.asking(&fresh_id(), role);
        let denied = mallory.say_again("requests", &request).await;
        assert_eq!(denied[0].denial(), "role_not_allowed");
        denials.push(denied[0].denied_as());

        // Neither its age nor its wishes nor another content for its id tell them apart.
        for (id, field, value) in [
            (fresh_id(), "time", json!("2026-01-01T00:00:00Z")),
            (
                fresh_id(),
                "data",
                json!({ "role": role, "ttl_seconds": -1 }),
            ),
            (
                request["id"].as_str().unwrap().to_owned(),
                "data",
                json!({ "role": role, "ttl_seconds": 60 }),
            ),
        ] {
            let mut request = request.clone();
            request["id"] = json!(id);
            request[field] = value;
            let denied = mallory.say_again("requests", &request).await;
            denials.push(denied.last().unwrap().denied_as());
        }
    }
    let (existing, missing) = denials.split_at(4);
    assert_eq!(existing, missing);
    assert_eq!(site.rows().await, (0, 0));
    site.assert_live(0).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_lease_is_denied_like_an_unknown_one_and_its_owner_hears_nothing() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let billing = site.client("billing-svc").await;
    let issued = orders.issued("app-role", None).await;
    let own = issued["lease_id"].as_str().unwrap();
    let ended = orders.issued("app-role", None).await;
    let ended = ended["lease_id"].as_str().unwrap();
    orders.answer(&orders.revoke(ended).await).await;
    orders.notice("lease.revoked.v1", ended, SOON).await;
    let heard = orders.told().len();

    let unknown = format!("app.{}", fresh_id());
    let elsewhere = format!("other-db.{}", fresh_id());
    let mut denials = Vec::new();
    for lease_id in [&unknown, own, ended, &elsewhere] {
        for kind in ["lease.renew.v1", "lease.revoke.v1"] {
            let data = json!({ "lease_id": lease_id });
            let command = billing.event(&fresh_id(), kind, data);
            let denied = billing.say_again("leases", &command).await;
            assert_eq!(denied[0].denial(), "lease_unknown");
            assert_eq!(denied[0].event["subject"], json!(null));
            denials.push(denied[0].denied_as());
        }
        // A lifetime that no role allows tells nothing either.
        let command = billing.renew(lease_id, Some(-1)).await;
        denials.push(billing.answer(&command).await.denied_as());
    }
    assert!(
        denials.iter().all(|denied| *denied == denials[0]),
        "{denials:?}"
    );

    // One more answer, so that whatever else was published for the owner has come by now.
    let renewal = orders.renew(own, None).await;
    assert_eq!(orders.answer(&renewal).await.data()["generation"], 2);
    assert_eq!(orders.told().len(), heard + 1, "{:?}", orders.story());
    site.assert_live(1).await;
    site.assert_credentials_work([&issued]).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_renews_and_revokes_any_lease_and_its_owner_hears_of_it() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let operator = site.client("platform-ops").await;
    let issued = orders.issued("app-role", Some(600)).await;
    let lease_id = issued["lease_id"].as_str().unwrap();

    // What the operator got wrong is the operator's own affair.
    let wrong = operator.renew(lease_id, Some(-1)).await;
    assert_eq!(operator.answer(&wrong).await.denial(), "ttl_invalid");
    let renewal = operator.renew(lease_id, Some(1200)).await;
    let renewed = operator.answer(&renewal).await;
    assert_eq!(renewed.data()["generation"], 2);
    let told = orders.answer(&renewal).await;
    assert_eq!(told.kind(), "lease.renewed.v1");
    assert_eq!(told.bytes, renewed.bytes);
    assert!(orders.answers_to(&wrong).is_empty());

    let revocation = operator.revoke(lease_id).await;
    let revoked = operator.answer(&revocation).await;
    assert_eq!(revoked.data()["cause"], "operator");
    let told = orders.notice("lease.revoked.v1", lease_id, SOON).await;
    assert_eq!(told.data(), revoked.data());
    assert_eq!(operator.told().len(), 3, "{:?}", operator.story());
    assert_eq!(orders.told().len(), 3, "{:?}", orders.story());

    // An operator is no requester of every role.
    let request = operator.request("app-role", None).await;
    assert_eq!(operator.answer(&request).await.denial(), "role_not_allowed");
    site.assert_live(0).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_source_and_id_do_not_collide() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let billing = site.client("billing-svc").await;
    let request = orders.asking(&fresh_id(), "app-role");
    let id = request["id"].as_str().unwrap();
    // The other comes first, and with the very bytes.
    let others = billing.say_again("requests", &request).await[0].clone();
    let own = orders.say_again("requests", &request).await[0].clone();
    assert_ne!(own.lease_id(), others.lease_id());
    assert_ne!(own.event["id"], others.event["id"]);
    assert_eq!(own.data()["requester"], "orders-svc");
    assert_eq!(others.data()["requester"], "billing-svc");
    assert_eq!(
        (orders.answers_to(id).len(), billing.answers_to(id).len()),
        (1, 1)
    );
    site.assert_live(2).await;
    site.assert_credentials_work([own.data(), others.data()])
        .await;
    site.assert_no_dead_letters().await;
}
