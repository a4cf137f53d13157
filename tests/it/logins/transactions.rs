//! Creation statements that would end keycard's transaction: Postgres refuses them, so that no
//! login can be parted from its lease.

use serde_json::json;

use super::{CREATE, assert_nothing_left, denied, site_with, unusable};

#[tokio::test(flavor = "multi_thread")]
async fn statements_cannot_commit_or_roll_back() {
    let then = |last: &str| json!(format!("{CREATE}; {last};"));
    let roles = [
        ("ends-commit", then("COMMIT")),
        ("ends-rollback", then("ROLLBACK")),
        ("ends-chain", then("COMMIT AND CHAIN")),
        ("ends-early", json!(format!("COMMIT; {CREATE}"))),
        ("ends-undone", json!(format!("ROLLBACK; {CREATE}; "))),
        ("ends-anew", json!(format!("ROLLBACK; BEGIN; {CREATE}"))),
        ("ends-savepoint", then("ROLLBACK TO SAVEPOINT decision")),
        ("ends-each", json!([CREATE, "COMMIT"])),
        ("ends-each-undone", json!(["ROLLBACK", CREATE])),
        ("ends-prepared", then("PREPARE TRANSACTION 'left'")),
        ("ends-block", then("DO $$ BEGIN COMMIT; END $$")),
        ("ends-concurrently", then("CREATE DATABASE left_over")),
    ];
    let site = site_with(&roles).await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    for (role, _) in &roles {
        let message = unusable(&denied(&orders, role).await);
        assert!(message.contains("COMMIT, ROLLBACK"), "{role}: {message}");
    }
    assert_nothing_left(&site, "kc_ends_").await;
    orders.issued("app-role", None).await;
}
