//! Who may do what: Postgres says who somebody is, the configuration what they may.

use keycard::fault::Disposition;
use keycard::lease::Requester;
use keycard::queue::{DeadLetters as _, Lane, Queue as _, Requesting as _, Sender};
use keycard::wire::BODY_BYTES_MAX;

use super::{OPERATOR, Place, refused, send};
use crate::queue::conformance::{ack, next, result_for};

const DENIED: &str = "42501";

#[tokio::test(flavor = "multi_thread")]
async fn services_reach_nothing_but_their_functions() {
    let place = Place::new().await;
    let _worker = place.queue().await;
    let orders = place.service("orders").await;
    send(&orders, "{}").await.unwrap();
    for statement in [
        "SELECT FROM keycard.messages",
        "SELECT FROM keycard.results",
        "SELECT FROM keycard.dead_letters",
        "SELECT FROM keycard.sessions",
        "SELECT FROM keycard.leases",
        "SELECT FROM keycard.callers",
        "INSERT INTO keycard.callers VALUES ('orders', true, now())",
        "SELECT last_value FROM keycard.results_position",
        "SELECT FROM keycard.publishing FOR UPDATE",
        "INSERT INTO keycard.messages (stream, lane, sender, body) VALUES ('requests', 'requests', 'billing', '')",
        "INSERT INTO keycard.results (position, requester, event) VALUES (1, 'billing', '')",
        "UPDATE keycard.messages SET sender = 'billing'",
        "DELETE FROM keycard.messages",
        "TRUNCATE keycard.messages",
        "SELECT setval('keycard.results_position', 99)",
        "SELECT keycard.caller()",
        "SELECT FROM keycard.dead_letters()",
        "SELECT keycard.requeue_dead_letter(1)",
        "SELECT keycard.discard_dead_letter(1)",
        "CREATE FUNCTION keycard.planted() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ] {
        let (code, text) = refused(orders.batch_execute(statement).await);
        assert_eq!(code, DENIED, "{statement}: {text}");
    }
    let error = place.client("orders").list(1).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Reject);
    assert!(error.problem.contains("`operators`"), "{error}");
    assert_eq!(place.client(OPERATOR).list(1).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_or_reads_for_another_role() {
    let place = Place::new().await;
    let (alice, boss) = (
        format!("alice_{}", place.dbname),
        format!("boss_{}", place.dbname),
    );
    for role in [&alice, &boss] {
        place.add_role(role).await;
    }
    let superuser = place.superuser().await;
    superuser
        .batch_execute(&format!("GRANT {boss} TO {alice}"))
        .await
        .unwrap();
    let worker = place.queue_for(&[&alice, &boss], &[]).await.unwrap();
    let mut requests = worker.consume(Lane::Requests);
    let client = place.service(&alice).await;
    client
        .batch_execute(&format!("SET ROLE {boss}"))
        .await
        .unwrap();
    send(&client, "{}").await.unwrap();
    let delivery = next(&mut requests).await;
    let sender = Requester::new(&*alice).unwrap();
    assert_eq!(delivery.sender, Sender::Requester(sender));
    ack(delivery).await;
    worker
        .publish(&result_for(&boss, "the boss's"))
        .await
        .unwrap();
    let own = client
        .query("SELECT FROM keycard.results(0)", &[])
        .await
        .unwrap();
    assert!(own.is_empty());
    let boss = place.service(&boss).await;
    assert_eq!(
        boss.query("SELECT FROM keycard.results(0)", &[])
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_keycard_issued_asks_for_no_other() {
    let place = Place::new().await;
    let (requester, leased) = (
        format!("app_{}", place.dbname),
        format!("kc_{}", place.dbname),
    );
    for role in [&requester, &leased] {
        place.add_role(role).await;
    }
    let _worker = place.queue_for(&[&requester], &[]).await.unwrap();
    let superuser = place.superuser().await;
    // A member of what the configuration lets in.
    superuser
        .batch_execute(&format!("GRANT {requester} TO {leased}"))
        .await
        .unwrap();
    let client = place.service(&leased).await;
    send(&client, "{}").await.expect("a member may");
    superuser
        .execute(
            "INSERT INTO keycard.leases (id, role, requester, username, login_oid, state,
                 generation, attempt, issued_at, expires_at, max_expires_at, ttl_clamped, locators,
                 sessions_terminated, failures)
             VALUES (gen_random_uuid(), 'app-role', 'x', $1, 1, 'active', 1, 1, now(), now(), now(),
                 false, '{}', 0, 0)",
            &[&leased],
        )
        .await
        .unwrap();
    let (code, text) = refused(send(&client, "{}").await);
    assert_eq!(code, DENIED);
    assert!(text.contains("a login that keycard has issued"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_follow_the_configuration() {
    let place = Place::new().await;
    let (alice, late) = (
        format!("alice_{}", place.dbname),
        format!("late_{}", place.dbname),
    );
    place.add_role(&alice).await;
    let first = place.queue_for(&[&alice, &late], &[&alice]).await.unwrap();
    let client = place.service(&alice).await;
    send(&client, "{}").await.unwrap();
    let list = async || {
        client
            .batch_execute("SELECT FROM keycard.dead_letters()")
            .await
    };
    list().await.unwrap();
    // From now on it names nobody.
    first.shut_down().await;

    let superuser = place.superuser().await;
    let to_all = "GRANT USAGE ON SCHEMA keycard TO PUBLIC;
                  GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA keycard TO PUBLIC";
    superuser.batch_execute(to_all).await.unwrap();
    place.add_role(&late).await;
    let ten_minutes_pass = async || {
        let aging = "UPDATE keycard.callers SET named_at = named_at - interval '10 minutes'";
        superuser.batch_execute(aging).await.unwrap();
    };
    ten_minutes_pass().await;
    // alice is an operator no more, and late is there by now.
    let second = place.queue_for(&[&alice, &late], &[]).await.unwrap();
    send(&client, "{}").await.unwrap();
    assert_eq!(refused(list().await).0, DENIED);
    send(&place.service(&late).await, "{}").await.unwrap();
    let (code, _) = refused(send(&place.service("orders").await, "{}").await);
    assert_eq!(code, DENIED, "what everybody was given is taken back");
    second.shut_down().await;

    ten_minutes_pass().await;
    let _third = place.queue_for(&[&late], &[]).await.unwrap();
    let (code, _) = refused(send(&client, "{}").await);
    assert_eq!(code, DENIED);
    let error = place
        .client(&alice)
        .ask(Lane::Requests, b"{}")
        .await
        .unwrap_err();
    assert_eq!(error.disposition, Disposition::Reject);
    assert!(error.problem.contains("`requesters`"), "{error}");
}

/// As while a new configuration is rolled out.
#[tokio::test(flavor = "multi_thread")]
async fn workers_of_different_configurations_leave_each_others_services_alone() {
    let place = Place::new().await;
    let _old = place.queue_for(&["orders"], &[OPERATOR]).await.unwrap();
    let _new = place.queue_for(&["billing"], &[]).await.unwrap();
    for service in ["orders", "billing"] {
        send(&place.service(service).await, "{}").await.unwrap();
    }
    assert_eq!(place.client(OPERATOR).list(1).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused_in_so_many_words() {
    let place = Place::new().await;
    let _worker = place.queue().await;
    let orders = place.service("orders").await;
    for (statement, code, word) in [
        (
            "SELECT keycard.send('expiry', '{}')",
            "22023",
            "'requests' or 'leases'",
        ),
        ("SELECT keycard.send(NULL, '{}')", "22023", "no such lane"),
        (
            "SELECT keycard.send('requests', NULL::text)",
            "22004",
            "null",
        ),
        (
            "SELECT keycard.send('requests', repeat('x', 65537))",
            "54000",
            "more than 64 KiB",
        ),
        (
            "SELECT keycard.send('leases', '{}', repeat('x', 256))",
            "54000",
            "255 bytes",
        ),
    ] {
        let refusal = refused(orders.batch_execute(statement).await);
        assert_eq!(refusal.0, code, "{statement}");
        assert!(refusal.1.contains(word), "{statement}: {}", refusal.1);
    }
    // What would be taken is answered: no size is accepted and then not read.
    let too_big = vec![b'x'; BODY_BYTES_MAX + 1];
    let error = place
        .client("orders")
        .ask(Lane::Requests, &too_big)
        .await
        .unwrap_err();
    assert_eq!(error.disposition, Disposition::Reject);
    assert!(error.problem.contains("more than 64 KiB"), "{error}");
    assert_eq!(
        place.count("SELECT count(*) FROM keycard.messages").await,
        0
    );
    let biggest = "x".repeat(BODY_BYTES_MAX);
    send(&orders, &biggest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_more_than_ten_thousand_commands_waiting() {
    let place = Place::new().await;
    let worker = place.queue().await;
    let superuser = place.superuser().await;
    // Deferred ones wait, too; keycard's own are nobody's.
    superuser
        .batch_execute(
            "INSERT INTO keycard.messages (stream, lane, sender, body, due_at)
             SELECT 'expiry', 'leases', 'orders', '', now() + interval '1 day'
             FROM generate_series(1, 9999);
             INSERT INTO keycard.messages (stream, lane, sender, body, due_at)
             SELECT 'expiry', 'expiry', NULL, '', now() + interval '1 day'
             FROM generate_series(1, 100)",
        )
        .await
        .unwrap();
    let orders = place.service("orders").await;
    send(&orders, "the last").await.unwrap();
    let (code, text) = refused(send(&orders, "one more").await);
    assert_eq!(code, "53400");
    assert!(text.contains("send more when"), "{text}");
    let asking = place.client("orders");
    let error = asking.ask(Lane::Requests, b"{}").await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry);
    assert!(error.problem.contains("is a worker running?"), "{error}");
    send(&place.service("billing").await, "{}").await.unwrap();

    // It is the sender's again as soon as one is done.
    let mut requests = worker.consume(Lane::Requests);
    ack(next(&mut requests).await).await;
    send(&orders, "again").await.unwrap();
}
