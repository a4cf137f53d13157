//! Requesters whose names look like each other's keys, patterns and paths.

use std::path::Path;

use futures_util::future::join_all;

use crate::support::client::SOON;
use crate::support::site::{Site, Wishes};

/// A name, and how keys, locators and paths have it.
const NEIGHBOURS: [(&str, &str); 4] = [
    ("a", "a"),
    ("a.b", "a=2Eb"),
    ("a/b", "a=2Fb"),
    ("../x", "=2E=2E=2Fx"),
];

#[tokio::test(flavor = "multi_thread")]
async fn requesters_with_names_like_patterns_and_paths_get_only_their_own() {
    let site = Site::new(Wishes {
        requesters: NEIGHBOURS.map(|(name, _)| name).to_vec(),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let clients = join_all(NEIGHBOURS.map(|(name, _)| site.client(name))).await;
    let issued = join_all(clients.iter().map(|client| client.issued("app-role", None))).await;

    let root = site.secrets.canonicalize().unwrap();
    for (issued, (name, encoded)) in issued.iter().zip(NEIGHBOURS) {
        assert_eq!(issued["requester"], name);
        let path = Path::new(issued["secret"]["locator"].as_str().unwrap());
        let own = root.join("keycard").join(encoded).join("app-role");
        assert_eq!(path.parent().unwrap(), own);
        assert_eq!(path.canonicalize().unwrap(), path);
    }
    assert!(
        site.secrets_told()
            .iter()
            .all(|file| file.starts_with(&site.secrets))
    );
    site.assert_live(4).await;
    site.assert_credentials_work(&issued).await;

    for (client, own) in clients.iter().zip(&issued) {
        for others in issued.iter().filter(|others| *others != own) {
            let lease_id = others["lease_id"].as_str().unwrap();
            let revocation = client.revoke(lease_id).await;
            assert_eq!(client.answer(&revocation).await.denial(), "lease_unknown");
            let renewal = client.renew(lease_id, None).await;
            assert_eq!(client.answer(&renewal).await.denial(), "lease_unknown");
        }
    }
    site.assert_live(4).await;
    for (client, own) in clients.iter().zip(&issued) {
        let lease_id = own["lease_id"].as_str().unwrap();
        let revocation = client.revoke(lease_id).await;
        assert_eq!(
            client.answer(&revocation).await.data()["cause"],
            "requested"
        );
        client.notice("lease.revoked.v1", lease_id, SOON).await;
    }
    // Each has done what the documentation says (at a broker: bound `<requester>.#`), and has heard its own and nothing
    // else: its lease, six denials, the answer to its revocation and the notice of it.
    for (client, (name, encoded)) in clients.iter().zip(NEIGHBOURS) {
        let heard = client.heard();
        assert_eq!(heard.len(), 9, "{name}: {:?}", client.story());
        for heard in heard {
            let key = format!("{encoded}.{}", heard.event["type"].as_str().unwrap());
            assert!(
                heard
                    .routing_key
                    .as_ref()
                    .is_none_or(|routed| *routed == key)
            );
            let requester = &heard.data()["requester"];
            assert!(requester.is_null() || requester == name, "{}", heard.event);
        }
    }
    site.assert_live(0).await;
    site.assert_no_dead_letters().await;
}
