//! Who has a message, and for how long.

use std::time::Duration;

use keycard::queue::postgres::{PostgresQueue, Settings};
use keycard::queue::{Lane, Queue as _};
use tokio::time::timeout;

use super::{OPERATOR, Place, SERVICES, send};
use crate::queue::conformance::{Backend as _, DEADLINE, PATIENCE, ack, assert_silent, next};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_acknowledged_is_a_dead_letter_after_twenty_deliveries() {
    let place = Place::new().await;
    let worker = place.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    send(&place.service("orders").await, "poison")
        .await
        .unwrap();
    for before in 0..20 {
        let delivery = next(&mut requests).await;
        assert_eq!(delivery.delivery_count, before);
        drop(delivery);
    }
    let letters = eventually("a dead letter", PATIENCE, async || {
        let letters = place.dead_letters().await;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    assert_silent(&mut requests).await;
    let reason = "handed out 20 times and never acknowledged".to_owned();
    assert_eq!(letters, [(b"poison".to_vec(), reason)]);
    let kept =
        "SELECT count(*) FROM keycard.dead_letters WHERE sender = 'orders' AND lane = 'requests'";
    assert_eq!(place.count(kept).await, 1);
    assert_eq!(
        place.count("SELECT count(*) FROM keycard.messages").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_holds_is_nobody_elses_until_it_ends() {
    let place = Place::new().await;
    let first = place.queue().await;
    let mut of_first = first.consume(Lane::Requests);
    send(&place.service("orders").await, "mine").await.unwrap();
    let held = next(&mut of_first).await;
    let second = place.queue().await;
    let mut of_second = second.consume(Lane::Requests);
    assert_silent(&mut of_second).await;
    // As after a crash of its worker: nobody consumes any more, and nothing of that session is left.
    drop(of_first);
    let superuser = place.superuser().await;
    superuser
        .execute("UPDATE keycard.messages SET holder = '1.5f'", &[])
        .await
        .unwrap();
    let again = next(&mut of_second).await;
    assert_eq!(again.body, b"mine");
    assert!(again.delivery_count >= 1);
    assert!(!held.receipt.ack().await, "it is somebody else's now");
    ack(again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_back_at_shutdown_does_not_count() {
    let place = Place::new().await;
    let worker = place.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let orders = place.service("orders").await;
    for body in ["1", "2", "3"] {
        send(&orders, body).await.unwrap();
    }
    let first = next(&mut requests).await;
    let closing = async {
        worker.shut_down().await;
    };
    let handing_back = async {
        while let Some(delivery) = requests.recv().await {
            drop(delivery);
        }
        drop(first);
    };
    timeout(DEADLINE, async { tokio::join!(closing, handing_back) })
        .await
        .unwrap();
    let other = place.queue().await;
    let mut requests = other.consume(Lane::Requests);
    for body in ["1", "2", "3"] {
        let delivery = next(&mut requests).await;
        assert_eq!(delivery.body, body.as_bytes());
        assert_eq!(delivery.delivery_count, 0);
        ack(delivery).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_holds_no_more_than_its_prefetch() {
    let place = Place::new().await;
    let settings = Settings {
        ledger: place.ledger("test", &SERVICES, &[OPERATOR]),
        prefetch: 2,
        patience: None,
    };
    let worker = PostgresQueue::connect(settings).await.unwrap();
    let mut requests = worker.consume(Lane::Requests);
    let orders = place.service("orders").await;
    for body in ["1", "2", "3"] {
        send(&orders, body).await.unwrap();
    }
    let (first, second) = (next(&mut requests).await, next(&mut requests).await);
    assert_silent(&mut requests).await;
    ack(first).await;
    let third = next(&mut requests).await;
    assert_eq!(third.body, b"3");
    ack(second).await;
    ack(third).await;
}

/// Waiting messages cost a claim nothing: it reads an index from its beginning to the first that is
/// not due.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_reads_nothing_of_what_is_not_due() {
    let place = Place::new().await;
    let worker = place.queue().await;
    let superuser = place.superuser().await;
    superuser
        .batch_execute(
            "INSERT INTO keycard.messages (stream, lane, body, due_at)
             SELECT 'expiry', 'expiry', '', clock_timestamp() + interval '1 day'
             FROM generate_series(1, 20000);
             ANALYZE keycard.messages",
        )
        .await
        .unwrap();
    let mut expiry = worker.consume(Lane::Expiry);
    worker.arm(b"due", Duration::ZERO).await.unwrap();
    let delivery = next(&mut expiry).await;
    assert_eq!(delivery.body, b"due");
    ack(delivery).await;
    worker.shut_down().await;
    // Counted when the sessions ended.
    eventually("the sessions' statistics", PATIENCE, async || {
        let claims = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes
                      WHERE indexrelname = 'messages_free'";
        (place.count(claims).await > 0).then_some(())
    })
    .await;
    let read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'messages_free'";
    let read = place.count(read).await;
    assert!(read < 1_000, "{read} entries read");
}
