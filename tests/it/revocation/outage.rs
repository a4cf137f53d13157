//! A database that was away while leases fell due.

use tokio::task::spawn_blocking;

use super::*;
use crate::support::servers::{own_postgres, shared_rabbitmq};
use crate::support::services::QueueKind;

const LEASES: usize = 300;

/// Nothing was lost but time: all of them end, and requests made at the same moment do not wait for
/// that.
#[tokio::test(flavor = "multi_thread")]
async fn leases_that_fell_due_during_an_outage_end_after_it_beside_new_requests() {
    let postgres = own_postgres(&[]);
    let site = Site::new(Wishes {
        postgres,
        // What is asked for during the outage needs a queue that is there.
        queue: QueueKind::Amqp(shared_rabbitmq()),
        sweep_interval: "5s",
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mut asked = Vec::new();
    for _ in 0..LEASES {
        asked.push(orders.request("app-role", Some(600)).await);
    }
    for id in &asked {
        let answer = orders.answer_within(id, 120).await;
        assert_eq!(answer.kind(), "credential.issued.v1", "{}", answer.event);
    }
    // They are due when the server is back, however long it took to issue them.
    site.sql()
        .await
        .batch_execute(
            "UPDATE keycard.leases SET expires_at = date_trunc('second', clock_timestamp()),
                 wake_at = clock_timestamp()",
        )
        .await
        .unwrap();
    spawn_blocking(|| postgres.server.kill()).await.unwrap();
    let late = orders.request("app-role", Some(600)).await;
    spawn_blocking(|| postgres.server.start_again())
        .await
        .unwrap();
    let early = orders.request("app-role", Some(600)).await;
    for id in [&early, &late] {
        let answer = orders.answer_within(id, TRIED_AGAIN).await;
        assert_eq!(answer.kind(), "credential.issued.v1", "{}", answer.event);
    }
    eventually("every due lease is closed", TRIED_AGAIN, async || {
        let open = "SELECT count(*) FROM keycard.leases WHERE state <> 'closed'";
        (site.count(open).await == 2).then_some(())
    })
    .await;
    let failed = "SELECT count(*) FROM keycard.leases WHERE failures > 0 AND state = 'revoking'";
    assert_eq!(site.count(failed).await, 0);
    assert_eq!(site.logins().await, 2);
}
