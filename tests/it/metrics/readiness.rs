//! What Kubernetes reads from a worker: whether it lives, and whether it reaches what it needs.

use std::fs;
use std::net::SocketAddr;

use super::{UP, address_of, answer, is, samples, until, worker_with_metrics};
use crate::support::eventually;
use crate::support::services::QueueKind;
use crate::support::site::Site;

/// Longer than it takes until each was looked at again.
const LOOKED_AT_SECONDS: u64 = 120;

/// The status and the lines that a path answers with.
async fn lines(address: SocketAddr, path: &str) -> (bool, Vec<String>) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let answer = answer(address, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let is_ok = head.starts_with("HTTP/1.1 200 ");
    assert!(
        is_ok || head.starts_with("HTTP/1.1 503 "),
        "{path}: {answer}"
    );
    (is_ok, body.lines().map(str::to_owned).collect())
}

async fn becomes_ready(address: SocketAddr) {
    eventually("the worker is ready", LOOKED_AT_SECONDS, async || {
        (lines(address, "/readyz").await == (true, vec!["ready".to_owned()])).then_some(())
    })
    .await;
}

/// Waits until the worker says that it does not reach these, and nothing of anything else.
async fn misses(address: SocketAddr, needs: &[&str], how: &str) {
    let expected = format!("{needs:?} {how}");
    eventually(&expected, LOOKED_AT_SECONDS, async || {
        let (is_ready, lines) = lines(address, "/readyz").await;
        let each = lines.len() == needs.len()
            && std::iter::zip(&lines, needs)
                .all(|(line, need)| line.starts_with(&format!("{need} {how}")));
        (!is_ready && each).then_some(())
    })
    .await;
    assert_eq!(
        lines(address, "/livez").await,
        (true, vec!["alive".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_does_not_reach_is_named_until_it_does() {
    let site = Site::usual().await;
    let (_worker, address) = worker_with_metrics(&site).await;
    becomes_ready(address).await;
    until(address, "keycard_store_up", is(1.0)).await;
    until(address, "keycard_queue_up", is(1.0)).await;

    let aside = site.path().join("aside");
    fs::rename(&site.secrets, &aside).unwrap();
    misses(address, &["the secret store"], "was last reached").await;
    until(address, "keycard_store_up", is(0.0)).await;
    fs::rename(&aside, &site.secrets).unwrap();
    becomes_ready(address).await;

    let sql = site.sql().await;
    let admin = &site.admin;
    sql.batch_execute(&format!("ALTER ROLE {admin} NOLOGIN"))
        .await
        .unwrap();
    // One that was let in just before may not be seen at once.
    eventually(
        "the ledger cannot be asked",
        LOOKED_AT_SECONDS,
        async || {
            sql.batch_execute(&format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{admin}'"
            ))
            .await
            .unwrap();
            is(0.0)(samples(address).await[UP]).then_some(())
        },
    )
    .await;
    let needs: &[&str] = match site.queue {
        QueueKind::Amqp(_) => &["database app"],
        QueueKind::Postgres => &["the queue", "database app"],
    };
    misses(address, needs, "was last reached").await;
    sql.batch_execute(&format!("ALTER ROLE {admin} LOGIN"))
        .await
        .unwrap();
    becomes_ready(address).await;
}

mod amqp {
    use super::{address_of, becomes_ready, is, lines, misses, until, worker_with_metrics};
    use crate::metrics::{VARIABLE, samples};
    use crate::support::client::SOON;
    use crate::support::eventually;
    use crate::support::gate::Gate;
    use crate::support::services::WORKER;
    use crate::support::site::Site;

    /// The broker answers all the while.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_that_is_handed_nothing_of_a_lane_is_not_ready() {
        let site = Site::on_rabbitmq().await;
        let (_worker, address) = worker_with_metrics(&site).await;
        becomes_ready(address).await;
        let broker = site.rabbitmq();
        let allow = |configure: &str| {
            let (write, read) = ("^(keycard\\.|amq\\.default$)", "^keycard\\.");
            broker.set_permissions(&site.vhost, WORKER, configure, write, read);
        };
        allow("^$");
        // Its consumer may not make it again.
        broker.delete_queue(&site.vhost, "keycard.leases");
        misses(address, &["the queue"], "was last reached").await;
        allow("^keycard\\.");
        becomes_ready(address).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_that_waits_for_its_broker_lives_and_is_not_ready() {
        let site = Site::on_rabbitmq().await;
        let rabbitmq = site.rabbitmq();
        let mut gate = Gate::closed(&rabbitmq.host, rabbitmq.port);
        let url = format!("amqp://kc-worker@127.0.0.1:{}/{}", gate.port, site.vhost);
        let worker =
            site.worker_unready(&[("KEYCARD_QUEUE__URL", &url), (VARIABLE, "127.0.0.1:0")]);
        let address = address_of(&worker).await;
        eventually("the queue is named", SOON, async || {
            let (is_ready, lines) = lines(address, "/readyz").await;
            let named = "the queue has not been reached yet".to_owned();
            (!is_ready && lines.contains(&named)).then_some(())
        })
        .await;
        assert!(lines(address, "/livez").await.0);
        // Prometheus is told at once: no worker is there yet that would look.
        assert!(is(0.0)(samples(address).await["keycard_queue_up"]));
        gate.open();
        becomes_ready(address).await;
        until(address, "keycard_queue_up", is(1.0)).await;

        gate.shut();
        misses(address, &["the queue"], "was last reached").await;
        until(address, "keycard_queue_up", is(0.0)).await;
    }
}
