//! `keycard lease`.

use serde_json::Value;

use super::{Person, causes};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::Output;
use crate::support::site::{Site, Wishes};

fn listed(output: &Output) -> Vec<String> {
    assert_eq!(output.stderr, "");
    let leases: Value = serde_json::from_str(&output.stdout).unwrap();
    let ids = leases.as_array().unwrap().iter();
    ids.map(|lease| lease["lease_id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_renewed_and_revoked_by_their_requester_and_by_operators() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let billing = Person::new(&site, "billing-svc");
    let ops = Person::new(&site, "platform-ops");
    let issued = orders.issued(&["app-role", "--ttl", "10m"]);
    let id = issued["lease_id"].as_str().unwrap();

    let renewed = orders.right(&["lease", "renew", id, "--ttl", "2h", "--output", "json"]);
    let renewed: Value = serde_json::from_str(&renewed).unwrap();
    assert_eq!(renewed["data"]["previous_expires_at"], issued["expires_at"]);
    assert_eq!(renewed["data"]["generation"], 2);
    let table = ops.right(&["lease", "renew", id]);
    assert!(
        table.starts_with("FIELD") && table.contains("generation           3"),
        "{table}"
    );

    for command in ["renew", "revoke"] {
        let foreign = billing.keycard(&["lease", command, id]);
        assert_eq!(foreign.status.code(), Some(3));
        let said = foreign.stderr;
        assert!(said.contains("denied (lease_unknown)"), "{said}");
    }
    let revoked = ops.right(&[
        "lease",
        "revoke",
        id,
        "--reason",
        "laptop lost",
        "--output=json",
    ]);
    let revoked: Value = serde_json::from_str(&revoked).unwrap();
    assert_eq!(revoked["data"]["cause"], "operator");
    assert_eq!(causes(&site).await, ["operator"]);
    let again = orders.keycard(&["lease", "renew", id]);
    assert_eq!(again.status.code(), Some(3), "{}", again.stderr);
    assert!(
        again.stderr.contains("denied (lease_ended)"),
        "{}",
        again.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_found_by_any_of_their_names() {
    let site = Site::new(Wishes {
        sections: "[roles.other]\ndatabase = \"app\"\ngroups = [\"GROUP\"]\n\
                   requesters = [\"orders-svc\"]\n"
            .to_owned(),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let billing = site.client("billing-svc").await;
    for client in [&orders, &billing] {
        let asking = client.asking("same-id", "app-role");
        client.say("requests", &asking).await;
    }
    let first = orders.answer("same-id").await.lease_id().to_owned();
    let second = billing.answer("same-id").await.lease_id().to_owned();
    let third = orders.request("other", None).await;
    let other = orders.answer(&third).await;
    let username = other.data()["username"].as_str().unwrap();
    let other = other.lease_id();

    for name in [other, username, &third] {
        let shown = site.keycard(&["lease", "show", name, "--output", "json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        assert_eq!(shown["lease_id"], other, "{name}");
    }
    let ambiguous = site.keycard(&["lease", "show", "same-id"]);
    assert_eq!(ambiguous.status.code(), Some(1));
    for words in [
        "several leases go by same-id; name one by its id",
        &format!("{first} of orders-svc"),
        &format!("{second} of billing-svc"),
    ] {
        assert!(ambiguous.stderr.contains(words), "{}", ambiguous.stderr);
    }
    let unknown = site.keycard(&["lease", "show", "kc_nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        unknown.stderr.contains("there is no lease kc_nobody"),
        "{}",
        unknown.stderr
    );

    let id = billing.revoke(&second).await;
    billing.answer(&id).await;
    let list = |filters: &[&str]| {
        let arguments = [&["lease", "list", "--output=json"], filters].concat();
        listed(&site.keycard(&arguments))
    };
    assert_eq!(list(&["--role", "other"]), [other]);
    assert_eq!(
        list(&["--requester", "orders-svc", "--role", "app-role"]),
        [first.as_str()]
    );
    assert_eq!(
        list(&["--requester", "billing-svc", "--state", "active"]),
        [""; 0]
    );
    assert_eq!(
        list(&["--requester", "billing-svc", "--all"]),
        [second.as_str()]
    );
    // It is answered before it is closed.
    eventually("the lease is closed", SOON, async || {
        (list(&["--state", "closed"]) == [second.as_str()]).then_some(())
    })
    .await;
    assert_eq!(list(&["--state", "stuck", "--all"]), [""; 0]);
    // Six failures take longer than a test should.
    let stuck = "UPDATE keycard.leases SET state = 'revoking', cause = 'expired', failures = 6,
                 retry_at = now() + interval '1 hour', wake_at = NULL WHERE state <> 'closed'
                 AND role = 'app-role'";
    site.sql().await.batch_execute(stuck).await.unwrap();
    assert_eq!(list(&["--state", "stuck"]), [first.as_str()]);
    assert_eq!(list(&["--state", "revoking"]), [first.as_str()]);
}
