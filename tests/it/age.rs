//! Commands that come too late or from the future, and requests beyond the limit.

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::client::{Client, fresh_id};
use crate::support::site::{Site, Wishes};

/// So many minutes ago; negative for the future.
fn ago(minutes: i64) -> Timestamp {
    keycard::clock::host_now() - SignedDuration::from_mins(minutes)
}

/// A request of that time, honoured until then.
fn dated(client: &Client, time: Timestamp, expirytime: Option<Timestamp>) -> Value {
    let mut request = client.asking(&fresh_id(), "app-role");
    request["time"] = json!(time);
    if let Some(end) = expirytime {
        request["expirytime"] = json!(end);
    }
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_counts_for_as_long_as_it_says_or_for_a_quarter_of_an_hour() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let six_hours = ago(6 * 60);
    for (time, expirytime, outcome) in [
        // First: it has a minute to arrive.
        (ago(14), None, "issued"),
        (six_hours, None, "too_old"),
        (ago(16), None, "too_old"),
        (ago(0), Some(ago(1)), "too_old"),
        (six_hours, Some(ago(1)), "too_old"),
        // Older than anything that the ledger remembers.
        (ago(31 * 24 * 60), Some(ago(-60)), "too_old"),
        (ago(-10), None, "invalid_event"),
        (ago(-10), Some(ago(-60)), "invalid_event"),
        (ago(-4), None, "issued"),
        (six_hours, Some(ago(-60)), "issued"),
    ] {
        let request = dated(&orders, time, expirytime);
        let answer = orders.say_again("requests", &request).await[0].clone();
        if outcome == "issued" {
            answer.lease_id();
        } else {
            assert_eq!(answer.denial(), outcome, "{request}");
        }
    }
    site.assert_live(3).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_renewal_is_denied_and_an_old_revocation_is_carried_out() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    let about = |kind: &str| {
        let mut command =
            orders.event(&fresh_id(), kind, json!({ "lease_id": issued["lease_id"] }));
        command["time"] = json!(ago(6 * 60));
        command
    };
    let renewal = orders.say_again("leases", &about("lease.renew.v1")).await;
    assert_eq!(renewal[0].denial(), "too_old");
    site.assert_live(1).await;
    let revocation = orders.say_again("leases", &about("lease.revoke.v1")).await;
    assert_eq!(revocation[0].kind(), "lease.revoked.v1");
    site.assert_live(0).await;
    site.assert_no_dead_letters().await;
}

async fn three_each() -> Site {
    Site::new(Wishes {
        role: "max_leases = 3\n".to_owned(),
        ..Wishes::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requester_at_its_limit_may_go_on_after_revoking_a_lease() {
    let site = three_each().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mut issued = Vec::new();
    for _ in 0..3 {
        issued.push(orders.issued("app-role", None).await);
    }
    let request = orders.asking(&fresh_id(), "app-role");
    let denied = orders.say_again("requests", &request).await;
    assert_eq!(denied[0].denial(), "lease_limit");
    assert_eq!(denied[0].data()["retryable"], true);
    // The limit is each requester's own.
    let billing = site.client("billing-svc").await;
    billing.issued("app-role", None).await;

    let first = issued[0]["lease_id"].as_str().unwrap();
    orders.answer(&orders.revoke(first).await).await;
    // The answer to an id stands; a new id is a new request.
    let again = orders.say_again("requests", &request).await;
    assert_eq!(again[1].bytes, again[0].bytes);
    orders.issued("app-role", None).await;
    let over = orders.request("app-role", None).await;
    assert_eq!(orders.answer(&over).await.denial(), "lease_limit");
    site.assert_live(4).await;
    site.assert_no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_requests_at_once_do_not_exceed_the_limit_of_three() {
    let site = three_each().await;
    let _workers = tokio::join!(site.worker(), site.worker());
    let orders = site.client("orders-svc").await;
    let ids = join_all((0..20).map(|_| orders.request("app-role", None))).await;
    let mut issued = Vec::new();
    for id in &ids {
        let answer = orders.answer(id).await;
        if answer.kind() == "credential.issued.v1" {
            issued.push(answer.data().clone());
        } else {
            assert_eq!(answer.denial(), "lease_limit");
        }
    }
    assert_eq!(issued.len(), 3);
    site.assert_live(3).await;
    site.assert_credentials_work(&issued).await;
    site.assert_no_dead_letters().await;
}
