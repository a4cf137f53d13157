//! Servers that come back as they were before, promoted standbys, and stores that have lost secrets.

use std::fs;
use std::path::Path;

use super::{Lease, adopt, keep, postgres_with_tools, until_compared};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::servers::{Postgres, own_postgres};
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

/// Seconds that a lease lives which ends after the server was replaced, and not before.
const SOON_OVER: i64 = 15;

async fn site_on(postgres: &'static Postgres) -> Site {
    Site::new(Wishes {
        postgres,
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_revoked_after_the_recovered_point_is_revoked_again() {
    let original = postgres_with_tools();
    let mut site = site_on(original).await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let revoked = Lease::new(&orders).await;
    let kept = [Lease::new(&orders).await, Lease::new(&orders).await];
    let delivering = Lease::new(&orders).await;
    let backup = original.backup();
    // At the recovered point one lease is still being delivered. All at once, so that the sweep does
    // not see it.
    let (_, uuid) = delivering.id.rsplit_once('.').unwrap();
    let undelivered = format!(
        "BEGIN;
         UPDATE keycard.requests SET answer = NULL, answered_at = NULL, published_at = NULL
             WHERE lease = '{uuid}';
         UPDATE keycard.leases SET state = 'issuing', wake_at = clock_timestamp() + '10 s',
             held_until = clock_timestamp() + '10 s' WHERE id = '{uuid}';
         COMMIT;
         SELECT pg_create_restore_point('before');
         UPDATE keycard.leases SET state = 'active', held_until = NULL WHERE id = '{uuid}'"
    );
    site.superuser(&undelivered).await;
    revoked.revoke(&orders).await;
    assert!(!revoked.has_secret() && !revoked.can_log_in(&site).await);
    let lost = Lease::with_ttl(&orders, Some(SOON_OVER)).await;
    // In good order, so that no command comes again.
    worker.terminate();
    assert!(worker.exit(SOON).await.success());
    drop(orders);
    original.server.stop();

    let port = format!(":{}/", original.port);
    site.postgres = keep(backup.recover_to("before"));
    site.rewrite(&port, &format!(":{}/", site.postgres.port));
    assert!(revoked.can_log_in(&site).await, "it is not back");
    let orders = site.client("orders-svc").await;
    let _worker = site.worker().await;
    let told = orders.notice("lease.revoked.v1", &revoked.id, SOON).await;
    assert_eq!(told.data()["cause"], "missing");
    assert!(!revoked.can_log_in(&site).await);
    until_compared(&site).await;
    for lease in &kept {
        assert!(lease.can_log_in(&site).await && lease.has_secret());
    }
    // Its answer names another secret, with another password.
    let again = format!(
        "SELECT answer FROM keycard.requests WHERE lease = '{uuid}' AND published_at IS NOT NULL"
    );
    let again: String = eventually("it is delivered again", 2 * SOON, async || {
        let row = site.sql().await.query_opt(&again, &[]).await.unwrap();
        row.map(|row| row.get(0))
    })
    .await;
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    let secret = Site::secret(&again["data"]);
    let password = secret["password"].as_str().unwrap();
    assert_ne!(password, delivering.password);
    site.login(&delivering.username, password).await.unwrap();
    assert!(!delivering.has_secret());
    // The ledger does not know of a lease that came later, nor of its login.
    if let QueueKind::Amqp(_) = site.queue {
        let told = orders.notice("lease.revoked.v1", &lost.id, 2 * SOON).await;
        assert_eq!(told.data()["cause"], "missing");
        assert!(!lost.has_secret());
    } else {
        // Its expiry event was lost as well, and no ledger proves whose the secret is.
        let found = site.keycard(&["reconcile", "--apply", "--output", "json"]);
        let found: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
        let found = found.as_array().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["kind"], "secret_unproven");
        assert_eq!(found[0]["lease_id"], lost.id.as_str());
        assert!(lost.has_secret());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_ends_what_the_primary_issued() {
    let primary = postgres_with_tools();
    let mut site = site_on(primary).await;
    let standby = keep(primary.backup().follow());
    site.rewrite(
        &format!("{}:{}/", primary.host, primary.port),
        &format!(
            "{}:{},{}:{}/",
            primary.host, primary.port, standby.host, standby.port
        ),
    );
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let kept = Lease::new(&orders).await;
    let short = Lease::with_ttl(&orders, Some(SOON_OVER)).await;
    let copied = format!(
        "SELECT count(*) FROM keycard.leases WHERE state = 'active'
         AND username IN ('{}', '{}')",
        kept.username, short.username
    );
    drop(orders);
    site.postgres = standby;
    eventually("the standby has followed", SOON, async || {
        let client = site.sql().await;
        let row = client.query_one(&copied, &[]).await.ok()?;
        (row.get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    primary.server.kill();
    let promoted = "SELECT pg_promote(true, 60)";
    let client = site.sql_in("postgres").await;
    assert!(
        client
            .query_one(promoted, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    );

    let orders = site.client("orders-svc").await;
    let gone = "SELECT count(*) FROM keycard.leases WHERE state = 'closed'";
    eventually("what is due ends", 2 * SOON, async || {
        (site.count(gone).await == 1).then_some(())
    })
    .await;
    assert!(!short.has_secret() && !short.can_log_in(&site).await);
    assert!(kept.has_secret() && kept.can_log_in(&site).await);
    let new = Lease::new(&orders).await;
    assert!(new.can_log_in(&site).await);
    until_compared(&site).await;
    kept.revoke(&orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_has_lost_its_secrets_ends_nothing_until_an_operator_says_so() {
    let postgres = own_postgres(&[]);
    let site = site_on(postgres).await;
    let worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mut leases = Vec::new();
    for _ in 0..8 {
        leases.push(Lease::new(&orders).await);
    }
    drop(orders);
    // A store that cannot be looked at has lost nothing.
    let away = site.path().join("away");
    fs::rename(&site.secrets, &away).unwrap();
    postgres.server.stop();
    postgres.server.start_again();
    eventually("the store is missed", SOON, async || {
        let missed = r#"what="looking for the secrets of app""#;
        worker.log().contains(missed).then_some(())
    })
    .await;
    assert_eq!(site.logins().await, 8);

    // It is back, and has lost nearly all.
    let kept = leases.pop().unwrap();
    for lease in &leases {
        let lost = Path::new(&lease.secret)
            .strip_prefix(&site.secrets)
            .unwrap();
        fs::remove_file(away.join(lost)).unwrap();
    }
    fs::rename(&away, &site.secrets).unwrap();
    let stopped = "too many secrets are gone";
    eventually("it is told at every sweep", 2 * SOON, async || {
        (worker.log().matches(stopped).count() > 1).then_some(())
    })
    .await;
    let orders = site.client("orders-svc").await;
    let new = Lease::new(&orders).await;
    for lease in leases.iter().chain([&kept, &new]) {
        assert!(lease.can_log_in(&site).await);
    }
    let explained = adopt(&site, &[]);
    assert!(explained.status.success(), "{}", explained.stderr);
    let told = "Secrets of the 9 delivered leases: 2 in the store, 7 gone";
    assert!(explained.stdout.contains(told), "{}", explained.stdout);
    assert_eq!(site.logins().await, 9);

    let adopted = adopt(&site, &["--yes"]);
    assert!(adopted.status.success(), "{}", adopted.stderr);
    for lease in &leases {
        let told = orders.notice("lease.revoked.v1", &lease.id, SOON).await;
        assert_eq!(told.data()["cause"], "missing");
        assert!(!lease.can_log_in(&site).await);
    }
    for lease in [&kept, &new] {
        assert!(lease.can_log_in(&site).await && lease.has_secret());
    }
    until_compared(&site).await;
    let nothing = adopt(&site, &["--yes"]);
    assert!(
        nothing.stdout.contains("nothing to adopt"),
        "{}",
        nothing.stdout
    );
}
