//! Secrets in Secrets Manager, whose listings are late and may be forbidden.

use std::collections::BTreeMap;

use keycard::clock::uuid_v7;
use keycard::store::SecretStore as _;
use secrecy::SecretString;

use super::{close_by_hand, expected, own_postgres, reconcile};
use crate::store::aws::store;
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::secrets_manager::{FakeSecretsManager, Fault, Operation};
use crate::support::site::{Site, StoreKind, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_believed_when_they_are_looked_at_and_not_when_they_are_listed() {
    let fake = FakeSecretsManager::start();
    fake.set_page(2);
    let site = Site::new(Wishes {
        store: StoreKind::Aws(fake.url()),
        postgres: own_postgres(&[]),
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        let issued = orders.issued("app-role", None).await;
        let text = |key: &str| issued[key].as_str().unwrap().to_owned();
        leases.push((text("lease_id"), text("username")));
    }
    let [
        (kept, _),
        (revoked, _),
        (left, left_login),
        (unknown, unknown_login),
        missing,
    ] = &leases[..]
    else {
        unreachable!()
    };
    let locator = |id: &str| format!("keycard/orders-svc/app-role/{id}");
    // Another installation's, under the same prefix and with the same name of its database.
    let foreign = locator(&format!("app.{}", uuid_v7()));
    let tags = BTreeMap::from([("keycard-installation".to_owned(), "another".to_owned())]);
    let value = SecretString::from("precious");
    let put = store(&fake).put(&foreign, uuid_v7(), &value, &tags).await;
    put.unwrap();

    fake.let_listings_lag();
    let id = orders.revoke(revoked).await;
    orders.answer(&id).await;
    eventually("the secret is deleted", SOON, async || {
        (!fake.secrets().contains_key(&locator(revoked))).then_some(())
    })
    .await;
    worker.kill();
    assert_eq!(reconcile(&site, &[]), (Some(0), vec![]));

    close_by_hand(&site, left).await;
    let (_, uuid) = unknown.rsplit_once('.').unwrap();
    site.superuser(&format!(
        "DROP ROLE {left_login}; DROP ROLE {unknown_login}; DROP ROLE {};
             DELETE FROM keycard.leases WHERE id = '{uuid}'",
        missing.1
    ))
    .await;

    // Logins are compared though secrets cannot be; and nothing follows from that for secrets.
    fake.fail_next_of(
        Operation::ListSecrets,
        1,
        Fault::Refuse("AccessDeniedException"),
    );
    let denied = site.keycard(&["reconcile"]);
    assert_eq!(denied.status.code(), Some(1));
    assert!(denied.stdout.contains(&missing.1), "{}", denied.stdout);
    assert!(denied.stderr.contains("secretsmanager:ListSecrets"));
    fake.fail_next_of(
        Operation::DescribeSecret,
        1,
        Fault::Refuse("AccessDeniedException"),
    );
    let denied = site.keycard(&["reconcile", "--apply"]);
    assert_eq!(denied.status.code(), Some(1));
    assert!(denied.stderr.contains("secretsmanager:DescribeSecret"));
    assert!(denied.stdout.contains("closed"), "{}", denied.stdout);
    assert!(fake.secrets().contains_key(&locator(left)));

    let found = expected(vec![
        ("secret_left", "deleted", &locator(left)),
        ("secret_unproven", "reported", &locator(unknown)),
    ]);
    assert_eq!(reconcile(&site, &["--apply"]), (Some(4), found));
    let secrets = fake.secrets();
    let mut names: Vec<&str> = secrets.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut expected = [locator(kept), locator(unknown), foreign];
    expected.sort_unstable();
    assert_eq!(names, expected);
}
