//! Logins that would rather stay, or leave something behind that goes on with their rights.

use super::objects::{Elsewhere, MAY_CREATE, role};
use super::*;
use crate::support::servers::own_postgres;

/// What runs with its owner's rights, for everybody, and reads what only the group may.
const OPEN_DOORS: &str = "
    CREATE FUNCTION public.door() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
        AS 'BEGIN RETURN (SELECT count(*) FROM public.orders); END';
    CREATE VIEW public.window AS SELECT * FROM public.orders;
    CREATE TABLE public.letterbox (id int);
    CREATE RULE post AS ON INSERT TO public.letterbox
        DO ALSO INSERT INTO public.orders VALUES (NEW.id);
    GRANT SELECT ON public.window TO PUBLIC;
    GRANT INSERT ON public.letterbox TO PUBLIC";

/// A stranger, who may connect and nothing else.
async fn stranger(guest: &Guest) -> Session {
    let name = format!("stranger_{}", guest.site.name);
    guest
        .superuser(&format!("CREATE ROLE {name} LOGIN PASSWORD 'stranger'"))
        .await;
    guest.site.login(&name, "stranger").await.unwrap()
}

/// The lease is over though its login stays: nobody has its rights any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_leaves_open_for_others_is_shut_though_the_login_stays() {
    for keys in ["", "reassign_owned_to = \"keeper_GROUP\""] {
        let guest = Guest::of(role(keys), MAY_CREATE).await;
        if !keys.is_empty() {
            let keeper = format!("DROP ROLE keeper_{}", guest.site.group);
            guest.superuser(&keeper).await;
        }
        guest.session.batch_execute(OPEN_DOORS).await.unwrap();
        let stranger = stranger(&guest).await;
        let mut tries = vec!["SELECT public.door()", "SELECT * FROM public.window"];
        if keys.is_empty() {
            // With a keeper the login keeps its groups for now.
            tries.push("INSERT INTO public.letterbox VALUES (7)");
        }
        for attempt in &tries {
            stranger.batch_execute(attempt).await.unwrap();
        }
        // As a worker leaves it that dies while it clears up.
        let admin = &guest.site.admin;
        guest
            .superuser(&format!(
                "SET ROLE {admin}; GRANT {} TO {admin}; RESET ROLE",
                guest.username
            ))
            .await;
        guest.orders.revoke(&guest.lease_id).await;
        let words = if keys.is_empty() {
            "the login owns"
        } else {
            "does not exist"
        };
        guest.failure(words).await;
        for attempt in &tries {
            let error = stranger.batch_execute(attempt).await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "42501", "{keys} {attempt}");
        }
        let admin = format!(
            "SELECT pg_has_role('{}', 'USERNAME', 'USAGE')",
            guest.site.admin
        );
        assert!(
            !guest.reads::<bool>(&admin).await,
            "the admin keeps no rights"
        );
    }
}

/// Whoever changes the login in an open transaction keeps it from being disabled, not from being
/// counted, nor anybody else from anything.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_change_of_a_login_is_a_failure_that_is_seen() {
    let guest = Guest::new().await;
    let hostile = guest.site.sql().await;
    let change = format!("BEGIN; ALTER ROLE {} CONNECTION LIMIT 5", guest.username);
    hostile.batch_execute(&change).await.unwrap();
    let id = guest.orders.revoke(&guest.lease_id).await;
    let shown = guest
        .until_shown("a failure", |shown| shown["failures"].as_u64() >= Some(1))
        .await;
    assert_eq!(shown["state"], "revoking");
    guest.orders.issued("app-role", None).await;
    hostile.batch_execute("ROLLBACK").await.unwrap();
    guest.ends(&id).await;
    guest.assert_shut_out().await;
}

/// Its own transaction, prepared, would do the same without any session.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_change_of_itself_keeps_no_login() {
    let settings = [("max_prepared_transactions", "5")];
    let postgres = own_postgres(&settings);
    let guest = Guest::of(
        Wishes {
            postgres,
            ..role("")
        },
        MAY_CREATE,
    )
    .await;
    guest
        .session
        .batch_execute("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'mine'; PREPARE TRANSACTION 'mine'")
        .await
        .unwrap();
    guest.revoked().await;
    guest.assert_gone().await;
}

/// What keycard's user cannot reach is reported, the rest is cleared away; then that as well.
#[tokio::test(flavor = "multi_thread")]
async fn databases_that_cannot_be_reached_are_reported_and_tried_again() {
    let guest = Guest::of(role("drop_owned = true"), MAY_CREATE).await;
    let mut others = Vec::new();
    for suffix in [" with \"quotes' in it", "_closed", "_private"] {
        let other = Elsewhere::of(&guest, suffix).await;
        other
            .session
            .batch_execute("CREATE TABLE there (id int); SELECT lo_create(4711)")
            .await
            .unwrap();
        others.push(other.dbname);
    }
    let (quoted, closed, private) = (&others[0], &others[1], &others[2]);
    guest
        .superuser(&format!(
            "REVOKE CONNECT ON DATABASE \"{private}\" FROM PUBLIC;
             ALTER DATABASE \"{closed}\" ALLOW_CONNECTIONS false"
        ))
        .await;
    let id = guest.orders.revoke(&guest.lease_id).await;
    let failure = guest.failure(&format!("in database {closed:?}: ")).await;
    for dbname in [closed, private] {
        assert!(
            failure.contains(&format!("in database {dbname:?}: ")),
            "{failure}"
        );
    }
    assert!(!failure.contains("quotes"), "{failure}");
    let there = guest.site.sql_in(quoted).await;
    let left = "SELECT count(*) FROM pg_largeobject_metadata";
    let left = there.query_one(left, &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
    guest
        .superuser(&format!(
            "GRANT CONNECT ON DATABASE \"{private}\" TO {};
             ALTER DATABASE \"{closed}\" ALLOW_CONNECTIONS true",
            guest.site.admin
        ))
        .await;
    guest.ends(&id).await;
    guest.assert_gone().await;
}

/// Each database is cleared for good; whoever comes next goes on with the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_two_databases_has_lost_nothing() {
    let mut guest = Guest::of(role("drop_owned = true"), MAY_CREATE).await;
    let other = Elsewhere::of(&guest, "_too").await;
    for session in [&guest.session, &other.session] {
        let table = "CREATE TABLE public.mine (id int)";
        session.batch_execute(table).await.unwrap();
    }
    // Somebody reads the second table, and has for long.
    let hostile = guest.site.sql_in(&other.dbname).await;
    let read = "BEGIN; LOCK TABLE public.mine IN ACCESS SHARE MODE";
    hostile.batch_execute(read).await.unwrap();
    let id = guest.orders.revoke(&guest.lease_id).await;
    let failure = guest.failure("55P03").await;
    assert!(
        failure.contains(&format!("{:?}", other.dbname)),
        "{failure}"
    );
    let first = "SELECT to_regclass('public.mine') IS NULL";
    assert!(guest.reads::<bool>(first).await);
    guest.worker.kill();
    hostile.batch_execute("ROLLBACK").await.unwrap();
    let _worker = guest.site.worker().await;
    guest.ends(&id).await;
    guest.assert_gone().await;
}

/// As much as a DBA may let logins make beyond tables, and what names them alone.
#[tokio::test(flavor = "multi_thread")]
async fn servers_publications_mappings_and_policies_go_with_their_login() {
    let guest = Guest::of(
        role("drop_owned = true"),
        &format!(
            "{MAY_CREATE};\nCREATE FOREIGN DATA WRAPPER plain;\n\
             GRANT USAGE ON FOREIGN DATA WRAPPER plain TO GROUP;\n\
             ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY"
        ),
    )
    .await;
    guest
        .session
        .batch_execute(
            "CREATE TABLE public.mine (id int);
             CREATE PUBLICATION news FOR TABLE public.mine;
             CREATE SERVER away FOREIGN DATA WRAPPER plain;
             CREATE USER MAPPING FOR CURRENT_USER SERVER away;
             CREATE FOREIGN TABLE public.remote (id int) SERVER away;
             CREATE TEXT SEARCH CONFIGURATION public.words (COPY = pg_catalog.simple);
             CREATE OPERATOR public.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
             CREATE COLLATION public.plain (provider = libc, locale = 'C')",
        )
        .await
        .unwrap();
    guest
        .superuser("CREATE POLICY his ON public.orders TO USERNAME USING (true)")
        .await;
    guest.revoked().await;
    guest.assert_gone().await;
}

/// Advisory locks are anybody's to take: keycard's keep neither the sweep nor reconciliation.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_keycards_advisory_locks_is_ended() {
    let mut guest = Guest::of(
        Wishes {
            sweep_interval: "1s",
            ..Wishes::default()
        },
        "SELECT 1",
    )
    .await;
    guest.worker.kill();
    let squatters = ["keycard", "reconcil"];
    for lock in squatters {
        let key = lock
            .bytes()
            .fold(0_i64, |key, byte| key << 8 | i64::from(byte));
        let take = format!("SELECT pg_advisory_lock({key})");
        guest.session.batch_execute(&take).await.unwrap();
    }
    // It waits a second for the session to end; on a busy machine the next one gets the lock.
    eventually("reconciliation gets its lock", SOON, async || {
        let reconciled = guest.site.keycard(&["reconcile", "--apply"]);
        (!reconciled.stderr.contains("another keycard")).then_some(())
    })
    .await;
    // Its session ended, and with it the other lock.
    assert!(guest.session.simple_query("SELECT 1").await.is_err());
    let session = guest
        .site
        .login(&guest.username, &guest.password)
        .await
        .unwrap();
    let key = 0x006b_6579_6361_7264_i64;
    let take = format!("SELECT pg_advisory_lock({key})");
    session.batch_execute(&take).await.unwrap();
    // Nothing but the sweep knows that it is due.
    guest
        .superuser("UPDATE keycard.leases SET wake_at = now() - interval '1 minute', expires_at = date_trunc('second', now())")
        .await;
    let worker = guest.site.worker().await;
    guest
        .until_shown("the lease is closed", |shown| shown["state"] == "closed")
        .await;
    assert!(worker.log().contains("an advisory lock that is keycard's"));
    guest.assert_gone().await;
}
