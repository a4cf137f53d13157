//! `keycard dead-letters`, as an operator uses it who has nothing but a broker user of their own.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::support::broker::{Administrator, publish_to};
use crate::support::client::{Client, SOON, fresh_id};
use crate::support::eventually;
use crate::support::process::Output;
use crate::support::services::QueueKind;
use crate::support::site::Site;

/// A site whose command line is the operator's: platform-ops may handle dead letters, and nothing
/// else.
async fn site() -> Site {
    let site = Site::usual().await;
    if let QueueKind::Amqp(rabbitmq) = site.queue {
        let read = "^keycard\\.dead-letters$";
        block_in_place(|| {
            rabbitmq.set_permissions(&site.vhost, "platform-ops", "^$", "^$", read);
        });
    }
    site.configure(&format!(
        "[client]\nurl = \"{}\"\npassword = {{ env = \"OPS_PASSWORD\" }}\n",
        site.client_url("platform-ops")
    ));
    site
}

fn keycard(site: &Site, arguments: &[&str]) -> Output {
    Output::of(
        site.command(&[&["dead-letters"], arguments].concat())
            // Not the worker's.
            .env_remove("BROKER_PASSWORD")
            .env("OPS_PASSWORD", "platform-ops"),
    )
}

fn right(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", output.stderr);
    assert_eq!(output.stderr, "");
    output.stdout
}

fn listed(site: &Site) -> Vec<Value> {
    let listed = right(keycard(site, &["list", "--output", "json"]));
    serde_json::from_str(&listed).unwrap()
}

/// Waits for as many letters.
async fn letters(site: &Site, count: usize) -> Vec<Value> {
    eventually("the dead letters", SOON, async || {
        let listed = listed(site);
        (listed.len() == count).then_some(listed)
    })
    .await
}

/// Publishes what no worker of this version takes; the event.
async fn publish_wrong(client: &Client) -> String {
    let data = json!({ "role": "app-role" });
    let event = client.event(&fresh_id(), "credential.request.v2", data);
    let event = event.to_string();
    client.publish("requests", event.as_bytes()).await;
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_requeued_and_dropped() {
    let site = site().await;
    let _worker = site.worker().await;
    assert_eq!(
        right(keycard(&site, &["list"])),
        "LETTER  SINCE  LANE  SENDER  REASON\n"
    );
    assert_eq!(right(keycard(&site, &["list", "--output=json"])), "[]\n");

    let orders = site.client("orders-svc").await;
    let billing = site.client("billing-svc").await;
    let event = publish_wrong(&orders).await;
    letters(&site, 1).await;
    let (body, escape) = ("\u{1b}]0;mine\u{7}", "\\u{1b}]0;mine\\u{7}");
    billing.publish("leases", body.as_bytes()).await;
    let both = letters(&site, 2).await;

    let id = both[0]["id"].as_str().unwrap();
    assert_eq!(both[0]["requester"], "orders-svc");
    assert_eq!(both[0]["lane"], "requests");
    assert_eq!(both[0]["event"], event);
    let reason = both[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("unsupported_type: "), "{reason}");
    let since: jiff::Timestamp = both[0]["since"].as_str().unwrap().parse().unwrap();
    assert_eq!(both[1]["requester"], "billing-svc");
    assert_eq!(both[1]["event"], body);

    let table = right(keycard(&site, &["list"]));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let words: Vec<&str> = lines[1].split_whitespace().take(5).collect();
    let since = since.to_string();
    assert_eq!(
        words,
        [id, &since, "requests", "orders-svc", "unsupported_type:"]
    );
    let shown = right(keycard(&site, &["show", id]));
    assert!(shown.contains(&event), "{shown}");
    let other = both[1]["id"].as_str().unwrap();
    let shown = right(keycard(&site, &["show", other]));
    assert!(shown.contains(escape) && !shown.contains('\u{1b}'));
    let shown = right(keycard(&site, &["show", id, "--output", "json"]));
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), both[0]);
    let one = keycard(&site, &["list", "--limit", "1"]);
    assert_eq!(one.stdout.lines().count(), 2, "{}", one.stdout);
    assert!(one.stderr.contains("there may be more"), "{}", one.stderr);

    // It fails again, as its sender's own: they are told once more, and it is a new letter.
    assert_eq!(
        right(keycard(&site, &["requeue", id])),
        format!("{id} requeued\n")
    );
    let again = letters(&site, 2).await.pop().unwrap();
    assert_ne!(again["id"], both[0]["id"]);
    assert_eq!(again["requester"], "orders-svc");
    assert_eq!(again["event"], event);
    eventually("told twice", SOON, async || {
        (orders.heard().len() >= 2).then_some(())
    })
    .await;

    let dropped = keycard(&site, &["drop", other, id]);
    assert_eq!(dropped.stdout, format!("{other} dropped\n"));
    assert_eq!(dropped.status.code(), Some(1));
    let missing = format!("there is no dead letter {id}; `keycard dead-letters list`");
    assert!(dropped.stderr.contains(&missing), "{}", dropped.stderr);
    for arguments in [["show", id], ["requeue", id]] {
        let output = keycard(&site, &arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stderr.contains(&missing), "{}", output.stderr);
    }
    assert_eq!(listed(&site), [again]);
    assert!(billing.heard().is_empty(), "{:?}", billing.story());
}

/// Parks a request of orders-svc's.
async fn park(site: &Site, request: &str) {
    let QueueKind::Amqp(_) = site.queue else {
        site.sql()
            .await
            .execute(
                "INSERT INTO keycard.dead_letters (lane, sender, body, reason)
                 VALUES ('requests', 'orders-svc', $1, 'a bug')",
                &[&request.as_bytes()],
            )
            .await
            .unwrap();
        return;
    };
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("x-keycard-requester", "orders-svc"),
        ("x-keycard-lane", "requests"),
        ("x-keycard-reason", "a bug"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default()
        .with_user_id("kc-worker".into())
        .with_headers(headers);
    let administrator = Administrator::of(site).await;
    let queue = "keycard.dead-letters";
    let body = request.as_bytes();
    publish_to(&administrator.channel, "", queue, body, properties).await;
}

/// Letters of a time when keycard could not do what it now can.
#[tokio::test(flavor = "multi_thread")]
async fn a_requeued_request_is_served_as_its_senders_own() {
    let site = site().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let billing = site.client("billing-svc").await;
    let ids = [fresh_id(), fresh_id(), fresh_id()];
    for id in &ids {
        let request = orders.asking(id, "app-role").to_string();
        park(&site, &request).await;
    }
    let said = right(keycard(&site, &["requeue", "--all"]));
    assert_eq!(said.lines().count(), 3, "{said}");
    for id in &ids {
        let issued = orders.answer(id).await;
        issued.lease_id();
        assert_eq!(issued.data()["requester"], "orders-svc");
        let secret = Site::secret(issued.data());
        let username = secret["username"].as_str().unwrap();
        let password = secret["password"].as_str().unwrap();
        site.login(username, password).await.unwrap();
    }
    assert!(billing.heard().is_empty(), "{:?}", billing.story());
    assert!(listed(&site).is_empty());
    site.assert_live(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_mistakes_are_told_with_what_to_do() {
    let site = site().await;
    let _worker = site.worker().await;
    for (arguments, words) in [
        (&["requeue"][..], "<ID>"),
        (&["requeue", "--all", "x"], "cannot be used with"),
        (&["drop"], "<ID>"),
        (&["show"], "<ID>"),
        (&["list", "--limit", "0"], "not in 1.."),
        (&[], "Example:"),
    ] {
        let output = keycard(&site, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
}

/// The first that a service's user does wrong here.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_operator_is_told_what_to_do() {
    let site = site().await;
    let _worker = site.worker().await;
    let wrong = site
        .command(&["dead-letters", "list"])
        .env("OPS_PASSWORD", "wrong-canary")
        .output()
        .unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    assert!(
        said.contains("password") && said.contains("platform-ops"),
        "{said}"
    );
    assert!(!said.contains("wrong-canary"), "{said}");
    let refused = site
        .command(&["dead-letters", "list"])
        .env("KEYCARD_CLIENT__URL", site.client_url("orders-svc"))
        .env("OPS_PASSWORD", "orders-svc")
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("Remedy: "), "{said}");
}
