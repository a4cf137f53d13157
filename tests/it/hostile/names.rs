//! Requesters whose own names are meant to hurt: they get what every requester gets.

use futures_util::future::join_all;
use serde_json::json;

use super::{assert_plain, schema};
use crate::support::client::SOON;
use crate::support::site::{Site, Wishes};

const NAMES: [&str; 6] = [
    "'; DROP SCHEMA keycard CASCADE; --",
    "\"; DROP ROLE \"orders-svc\"; --",
    "$$ {{name}} \\ {{password}}",
    "orders-svc.#",
    "\u{202e}svc-sredro",
    "%2E%2e %s\u{1f600}",
];

#[tokio::test(flavor = "multi_thread")]
async fn requesters_with_hostile_names_get_their_own_and_hurt_nobody() {
    // Every character that TOML knows an escape for, JSON writes the same.
    let role = format!(
        "\n[roles.hostile]\ndatabase = \"app\"\ngroups = [\"GROUP\"]\nrequesters = {}\n",
        json!(NAMES)
    );
    let site = Site::new(Wishes {
        sections: role,
        ..Wishes::default()
    })
    .await;
    site.add_services(&NAMES).await;
    let worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let clients = join_all(NAMES.map(|name| site.client(name))).await;
    let before = schema(&site).await;
    let issued = join_all(clients.iter().map(|client| client.issued("hostile", None))).await;
    for (issued, name) in issued.iter().zip(NAMES) {
        assert_eq!(issued["requester"], name);
        let username = issued["username"].as_str().unwrap();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(
            username.len() <= 63 && username.bytes().all(plain),
            "{username}"
        );
    }
    site.assert_live(6).await;
    site.assert_credentials_work(&issued).await;
    for (client, own) in clients.iter().zip(&issued) {
        let lease_id = own["lease_id"].as_str().unwrap();
        assert_eq!(
            orders
                .answer(&orders.renew(lease_id, None).await)
                .await
                .denial(),
            "lease_unknown"
        );
        assert_eq!(
            client.answer(&client.revoke(lease_id).await).await.data()["cause"],
            "requested"
        );
        client.notice("lease.revoked.v1", lease_id, SOON).await;
    }
    // Each its lease, the answer to its revocation and the notice of it.
    for client in &clients {
        assert_eq!(client.told().len(), 3, "{:?}", client.story());
    }
    site.assert_live(0).await;
    site.assert_no_dead_letters().await;
    assert_eq!(schema(&site).await, before);
    assert_plain(&worker.log());
    for arguments in [&["lease", "list", "--all"][..], &["audit"]] {
        let shown = site.keycard(arguments);
        assert!(shown.status.success(), "{}", shown.stderr);
        assert_plain(&shown.stdout);
    }
}
