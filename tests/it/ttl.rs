//! Times to live, and that everybody who can know a login's end knows the same one.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::client::fresh_id;
use crate::support::site::{Site, Wishes};

async fn site() -> Site {
    Site::new(Wishes {
        role: r#"default_ttl = "30m"
max_ttl = "2h"
min_ttl = "1m""#
            .to_owned(),
        ..Wishes::default()
    })
    .await
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// Seconds from one time in an event to another.
fn seconds(from: &Value, to: &Value) -> i64 {
    time(to).duration_since(time(from)).as_secs()
}

/// VALID UNTIL and ledger name this second.
async fn assert_ends(site: &Site, username: &Value, end: &Value) {
    let row = site
        .sql()
        .await
        .query_one(
            "SELECT rolvaliduntil, expires_at, current_setting('timezone')
             FROM pg_roles JOIN keycard.leases ON username = rolname WHERE rolname = $1",
            &[&username.as_str().unwrap()],
        )
        .await
        .unwrap();
    let (valid_until, expires_at): (Timestamp, Timestamp) = (row.get(0), row.get(1));
    assert_eq!(row.get::<_, &str>(2), "America/St_Johns");
    assert_eq!(valid_until, time(end));
    assert_eq!(expires_at, time(end));
    assert_eq!(valid_until.subsec_nanosecond(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ttl_the_default_applies_and_every_end_is_the_same_second() {
    let site = site().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;

    let issued = orders.issued("app-role", None).await;

    assert_eq!(seconds(&issued["issued_at"], &issued["expires_at"]), 1800);
    assert_eq!(
        seconds(&issued["issued_at"], &issued["max_expires_at"]),
        7200
    );
    assert_eq!(issued["ttl_clamped"], false);
    assert_ends(&site, &issued["username"], &issued["expires_at"]).await;
    assert_eq!(Site::secret(&issued)["expires_at"], issued["expires_at"]);
    let age = keycard::clock::host_now().duration_since(time(&issued["issued_at"]));
    assert!(age < SignedDuration::from_secs(60), "{age}");
    let shown = site.keycard(&[
        "lease",
        "show",
        issued["lease_id"].as_str().unwrap(),
        "--output=json",
    ]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["expires_at"], issued["expires_at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_above_the_maximum_is_clamped_and_says_so() {
    let site = site().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    for ttl in [7201, 9_007_199_254_740_991] {
        let issued = orders.issued("app-role", Some(ttl)).await;
        assert_eq!(issued["ttl_clamped"], true, "{ttl}");
        assert_eq!(seconds(&issued["issued_at"], &issued["expires_at"]), 7200);
        assert_eq!(issued["max_expires_at"], issued["expires_at"]);
        assert_ends(&site, &issued["username"], &issued["expires_at"]).await;
    }
    let exact = orders.issued("app-role", Some(7200)).await;
    assert_eq!(exact["ttl_clamped"], false);
    assert_eq!(exact["max_expires_at"], exact["expires_at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_that_is_zero_negative_or_too_short_is_denied() {
    let site = site().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    for ttl in [0, -1, 59, -9_007_199_254_740_991] {
        let id = orders.request("app-role", Some(ttl)).await;
        let answer = orders.answer(&id).await;
        assert_eq!(answer.kind(), "request.denied.v1");
        assert_eq!(answer.data()["code"], "ttl_invalid");
        assert_eq!(answer.data()["retryable"], false);
        let message = answer.data()["message"].as_str().unwrap();
        assert!(
            message.contains(&ttl.to_string()) && message.contains("60"),
            "{message}"
        );
    }
    assert_eq!(site.count("SELECT count(*) FROM keycard.leases").await, 0);
    assert!(
        site.secret_files()
            .iter()
            .all(|file| file.ends_with(".lock"))
    );
    orders.issued("app-role", Some(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_counts_from_now_may_shorten_and_ends_at_the_maximum() {
    let site = site().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", Some(3600)).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    let mut end = issued["expires_at"].clone();

    for (generation, ttl, clamped) in [
        (2, Some(120), false),
        (3, None, false),
        (4, Some(7201), true),
    ] {
        let renewal = orders.renew(lease_id, ttl).await;
        let renewed = orders.answer(&renewal).await;
        assert_eq!(renewed.kind(), "lease.renewed.v1", "{}", renewed.event);
        let data = renewed.data();
        assert_eq!(data["previous_expires_at"], end);
        assert_eq!(data["generation"], generation);
        assert_eq!(data["max_expires_at"], issued["max_expires_at"]);
        assert_eq!(data["ttl_clamped"], clamped);
        end = data["expires_at"].clone();
        let from_issue = seconds(&issued["issued_at"], &end);
        let (least, most) = match ttl {
            Some(120) => (120, 180),
            None => (1800, 1860),
            Some(_) => (7200, 7200),
        };
        assert!((least..=most).contains(&from_issue), "{from_issue}");
        assert_ends(&site, &issued["username"], &end).await;
    }
    assert_eq!(end, issued["max_expires_at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_arrives_twice_extends_once() {
    let site = site().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", Some(60)).await;
    let id = fresh_id();
    let data = json!({ "lease_id": issued["lease_id"], "ttl_seconds": 600 });
    let event = orders.event(&id, "lease.renew.v1", data).to_string();
    for _ in 0..2 {
        orders.publish("leases", event.as_bytes()).await;
    }
    let answers = orders.answers(&id, 2).await;
    assert_eq!(answers[0].bytes, answers[1].bytes);
    assert_eq!(answers[0].data()["generation"], 2);
    assert_ends(&site, &issued["username"], &answers[0].data()["expires_at"]).await;
    assert_eq!(
        site.count("SELECT generation::bigint FROM keycard.leases")
            .await,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_renewal_leaves_the_end_as_it_was() {
    let site = site().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let billing = site.client("billing-svc").await;
    let issued = orders.issued("app-role", Some(600)).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    let nobodys = format!("app.{}", fresh_id());
    let elsewhere = lease_id.replacen("app.", "nowhere.", 1);
    for (client, lease_id, ttl, code) in [
        (&orders, lease_id, 0, "ttl_invalid"),
        (&orders, lease_id, -600, "ttl_invalid"),
        (&orders, lease_id, 59, "ttl_invalid"),
        (&billing, lease_id, 900, "lease_unknown"),
        (&orders, nobodys.as_str(), 900, "lease_unknown"),
        (&orders, elsewhere.as_str(), 900, "lease_unknown"),
    ] {
        let id = client.renew(lease_id, Some(ttl)).await;
        let answer = client.answer(&id).await;
        assert_eq!(answer.data()["code"], code, "{}", answer.event);
    }
    assert_ends(&site, &issued["username"], &issued["expires_at"]).await;
    assert_eq!(
        site.count("SELECT generation::bigint FROM keycard.leases")
            .await,
        1
    );
}
