//! Rows are kept with what they tell of, for as long as they should be, and not changed meanwhile.

use super::{column, denied};
use crate::support::client::{SOON, fresh_id};
use crate::support::eventually;
use crate::support::site::{Site, Wishes};

/// Does this when a worker commits a new lease.
async fn at_commit(site: &Site, what: &str) {
    site.is_prepared().await;
    site.superuser(&format!(
        "CREATE FUNCTION public.at_commit() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN {what}; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON keycard.leases
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.at_commit()"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_commit_and_log_leaves_the_row() {
    const LOCK: &str = "4711";
    let site = Site::usual().await;
    // The commit waits for as long as this test takes to kill the worker.
    let url = site.url_with("lock_timeout", 60);
    let mut worker = site.worker_unready(&[("KEYCARD_DATABASES__APP__CONNECTION_URL", &url)]);
    worker.ready().await;
    let orders = site.client("orders-svc").await;
    at_commit(&site, &format!("PERFORM pg_advisory_xact_lock({LOCK})")).await;
    let held = site.sql().await;
    held.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})"))
        .await
        .unwrap();
    orders.request("app-role", None).await;
    eventually("the worker commits", SOON, async || {
        let waiting = site.count(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 4711
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        );
        (waiting.await == 1).then_some(())
    })
    .await;
    worker.kill();
    assert_eq!(site.count("SELECT count(*) FROM keycard.audit").await, 0);
    drop(held);
    eventually("the commit is done", SOON, async || {
        let rows = site.count("SELECT count(*) FROM keycard.audit WHERE action = 'created'");
        (rows.await == 1).then_some(())
    })
    .await;
    assert_eq!(site.logins().await, 1);
    assert!(!worker.log().contains(" audit: "), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_rolled_back_leaves_no_row() {
    let site = Site::usual().await;
    let worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    at_commit(
        &site,
        "RAISE EXCEPTION 'not now' USING ERRCODE = 'serialization_failure'",
    )
    .await;
    let id = orders.request("app-role", None).await;
    eventually("a step fails", SOON, async || {
        worker
            .log()
            .contains("could not carry out a step")
            .then_some(())
    })
    .await;
    assert!(!worker.log().contains(" audit: "), "{}", worker.log());
    assert_eq!(site.count("SELECT count(*) FROM keycard.audit").await, 0);
    site.superuser("DROP FUNCTION public.at_commit CASCADE")
        .await;
    let answer = orders.answer_within(&id, SOON).await;
    let rows = site.audit(&["--lease", answer.lease_id()]);
    assert_eq!(column(&rows, "decision"), ["created", "issued"]);
    assert_eq!(site.audit(&[]), rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_of_a_denial_before_it_is_kept() {
    let site = Site::with_mallory().await;
    let worker = site.worker().await;
    let mallory = site.client("mallory").await;
    site.is_prepared().await;
    let admin = &site.admin;
    for statement in [
        format!("ALTER ROLE {admin} NOLOGIN"),
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{admin}'"),
    ] {
        site.superuser(&statement).await;
    }
    let id = mallory.request("no-such-role", None).await;
    eventually("the denial waits", SOON, async || {
        worker
            .log()
            .contains("no connection to database app")
            .then_some(())
    })
    .await;
    assert!(mallory.heard().is_empty());
    site.superuser(&format!("ALTER ROLE {admin} LOGIN")).await;
    let answer = mallory.answer_within(&id, SOON).await;
    assert_eq!(answer.denial(), "role_not_allowed");
    let rows = site.audit(&[]);
    assert_eq!(column(&rows, "code"), ["role_not_allowed"]);
    assert_eq!(rows[0]["request"]["id"], id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_and_leases_go_and_no_others() {
    let site = Site::new(Wishes {
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let request = orders.asking(&fresh_id(), "app-role");
    orders.say("requests", &request).await;
    let answer = orders.answer(request["id"].as_str().unwrap()).await;
    let old = answer.lease_id().to_owned();
    let mut leases = vec![old.clone()];
    for _ in 0..3 {
        let issued = orders.issued("app-role", None).await;
        leases.push(issued["lease_id"].as_str().unwrap().to_owned());
    }
    for lease_id in &leases[..3] {
        orders.revoke(lease_id).await;
        site.audit_until("closed", lease_id).await;
    }
    let uuid = |index: usize| leases[index].strip_prefix("app.").unwrap().to_owned();

    // Nobody rewrites it, not even its owner.
    let admin = site.login(&site.admin, "admin").await.unwrap();
    for attempt in [
        "UPDATE keycard.audit SET requester = 'somebody else'",
        "UPDATE keycard.audit SET at = at WHERE false",
        "DELETE FROM keycard.audit",
        "TRUNCATE keycard.audit",
        "SET keycard.keep_audit_seconds = 86400; DELETE FROM keycard.audit",
    ] {
        let refused = admin.batch_execute(attempt).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501", "{attempt}");
    }

    // Somebody holds the first that goes: the others do not wait for it.
    let holder = site.sql().await;
    holder
        .batch_execute(&format!(
            "BEGIN;
             SELECT FROM keycard.audit WHERE lease_id = '{old}' AND action = 'created' FOR KEY SHARE"
        ))
        .await
        .unwrap();
    // One ended long ago; one as long ago, but an expiry event may still wake it; one later; one
    // has not ended.
    site.superuser(&format!(
        "UPDATE keycard.leases SET revoked_at = revoked_at - interval '91 days',
             max_expires_at = max_expires_at - interval '92 days',
             recheck_at = NULL, wake_at = NULL WHERE id = '{}';
         UPDATE keycard.leases SET revoked_at = revoked_at - interval '91 days',
             recheck_at = NULL, wake_at = NULL WHERE id = '{}';
         UPDATE keycard.leases SET revoked_at = revoked_at - interval '89 days',
             max_expires_at = max_expires_at - interval '92 days',
             recheck_at = NULL, wake_at = NULL WHERE id = '{}';
         UPDATE keycard.leases SET max_expires_at = max_expires_at - interval '92 days'
             WHERE id = '{}';
         SET session_replication_role = replica;
         UPDATE keycard.audit SET at = at - interval '91 days' WHERE lease_id = '{old}';
         UPDATE keycard.audit SET at = at - interval '89 days' WHERE lease_id <> '{old}';
         INSERT INTO keycard.audit (at, action, reason)
             SELECT clock_timestamp() - interval '91 days', 'denied', 'more than a batch'
             FROM generate_series(1, 250);
         INSERT INTO keycard.requests (requester, source, id, kind, digest, recorded_at, published_at)
             SELECT 'orders-svc', '/then', days, 'request', '', now() - make_interval(days => days), now()
             FROM (VALUES (29), (31)) AS recorded (days)",
        uuid(0),
        uuid(1),
        uuid(2),
        uuid(3),
    ))
    .await;
    let others = format!("SELECT count(*) FROM keycard.audit WHERE lease_id <> '{old}'");
    assert_eq!(site.count(&others).await, 10);
    let left = format!(
        "SELECT (SELECT count(*) FROM keycard.audit) + (SELECT count(*) FROM keycard.leases)
              + 1000 * (SELECT count(*) FROM keycard.leases WHERE id = '{}')",
        uuid(0)
    );
    eventually("what is old is gone", SOON, async || {
        (site.count(&left).await == 1 + 10 + 3).then_some(())
    })
    .await;
    drop(holder);
    eventually("the last is gone", SOON, async || {
        (site.count(&left).await == 10 + 3).then_some(())
    })
    .await;
    eventually("answers are kept for 30 days", SOON, async || {
        let kept = "SELECT sum(id::integer) FROM keycard.requests WHERE source = '/then'";
        (site.count(kept).await == 29).then_some(())
    })
    .await;
    // Its request is still known, and never makes a second login.
    assert_eq!(denied(&orders, "requests", &request).await, "lease_ended");
    assert_eq!(site.logins().await, 1);
}
