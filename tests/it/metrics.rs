//! What Prometheus reads from a worker.

mod queries;
mod readiness;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::Worker;
use crate::support::site::Site;

const VARIABLE: &str = "KEYCARD_WORKER__METRICS_ADDRESS";

/// A worker that serves metrics, and where it says that it does.
async fn worker_with_metrics(site: &Site) -> (Worker, SocketAddr) {
    let worker = site.worker_unready(&[(VARIABLE, "127.0.0.1:0")]);
    worker.ready().await;
    let address = address_of(&worker).await;
    (worker, address)
}

/// Where a worker says that it serves metrics, be it ready or not.
async fn address_of(worker: &Worker) -> SocketAddr {
    eventually("metrics are served", SOON, async || {
        let log = worker.log();
        let (_, rest) = log.split_once("metrics are served at /metrics address=")?;
        rest.split_once('\n')?.0.trim().parse().ok()
    })
    .await
}

/// What an HTTP client is answered. Who takes seconds to ask is sent away unheard, and asks again.
async fn answer(address: SocketAddr, request: &str) -> String {
    eventually("an answer", SOON, async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        (!answer.is_empty()).then_some(answer)
    })
    .await
}

/// What an HTTP client reads at the address.
async fn scraped(address: SocketAddr) -> String {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let answer = answer(address, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("\r\ncontent-type: text/plain; version=0.0.4;"),
        "{head}"
    );
    body.to_owned()
}

/// The samples, by name and labels.
async fn samples(address: SocketAddr) -> BTreeMap<String, f64> {
    let text = scraped(address).await;
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

async fn until(address: SocketAddr, name: &str, holds: impl Fn(f64) -> bool) -> f64 {
    eventually(&format!("{name} is as expected"), SOON, async || {
        let value = samples(address).await.get(name).copied();
        value.filter(|value| holds(*value))
    })
    .await
}

fn is(expected: f64) -> impl Fn(f64) -> bool {
    move |value| (value - expected).abs() < f64::EPSILON
}

const LIVE: &str = r#"keycard_leases_live{database="app"}"#;
const OVERDUE: &str = r#"keycard_leases_overdue{database="app"}"#;
const OLDEST: &str = r#"keycard_lease_overdue_oldest_seconds{database="app"}"#;
const STUCK: &str = r#"keycard_leases_stuck{database="app"}"#;
const FROZEN: &str = r#"keycard_frozen{database="app"}"#;
const UP: &str = r#"keycard_ledger_up{database="app"}"#;
const ISSUED: &str = r#"keycard_requests_total{role="app-role",outcome="issued"}"#;
const RENEWED: &str = r#"keycard_requests_total{role="app-role",outcome="renewed"}"#;
const NOT_ALLOWED: &str = r#"keycard_requests_total{role="-",outcome="role_not_allowed"}"#;
const EXPIRED: &str = r#"keycard_revocations_total{role="app-role",cause="expired"}"#;
const INVALID: &str = r#"keycard_dead_letters_total{reason="invalid_event"}"#;
const WAITING: &str = "keycard_dead_letters_waiting";
const LATE: &str = "keycard_revocation_lateness_seconds_count";

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_tells_of_a_lease_from_its_issue_to_its_late_end() {
    let site = Site::with_mallory().await;
    let (mut worker, address) = worker_with_metrics(&site).await;
    for (name, expected) in [
        (UP, 1.0),
        (LIVE, 0.0),
        (OVERDUE, 0.0),
        (OLDEST, 0.0),
        (STUCK, 0.0),
        (WAITING, 0.0),
    ] {
        until(address, name, is(expected)).await;
    }
    let before = samples(address).await;
    assert!(
        is(0.0)(before[ISSUED]) && !before.contains_key(LATE),
        "{before:?}"
    );

    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    orders.issued("app-role", None).await;
    let mallory = site.client("mallory").await;
    let denied = mallory.request("no-such-role", None).await;
    assert_eq!(mallory.answer(&denied).await.denial(), "role_not_allowed");
    orders.publish("requests", b"{").await;
    until(address, INVALID, is(1.0)).await;
    until(address, LIVE, is(2.0)).await;
    let during = samples(address).await;
    assert!(is(2.0)(during[ISSUED]), "{during:?}");
    assert!(is(1.0)(during[NOT_ALLOWED]), "{during:?}");
    for stage in ["ledger_step", "put_secret", "arm_expiry", "publish"] {
        until_taken(address, stage, 2.0).await;
        let text = scraped(address).await;
        assert!(
            !text.contains("no-such-role") && !text.contains(r#""mallory""#),
            "{text}"
        );
        assert!(
            text.contains(&format!(r#"seconds_bucket{{stage="{stage}",le="20"}}"#)),
            "{text}"
        );
    }

    // A login that owns something cannot be dropped on time.
    let username = issued["username"].as_str().unwrap();
    let sql = site.sql().await;
    sql.batch_execute(&format!(
        "CREATE TABLE public.mine (); ALTER TABLE public.mine OWNER TO {username:?}"
    ))
    .await
    .unwrap();
    let lease_id = issued["lease_id"].as_str().unwrap();
    let renewal = orders.renew(lease_id, Some(5)).await;
    assert_eq!(orders.answer(&renewal).await.kind(), "lease.renewed.v1");
    assert!(is(1.0)(samples(address).await[RENEWED]));
    // Counts are the ledger's: another process begins with them.
    worker.kill();
    let (worker, address) = worker_with_metrics(&site).await;
    let first = eventually("leases are counted", SOON, async || {
        samples(address).await.get(LIVE).copied()
    });
    assert!(first.await >= 1.0);
    until(address, OVERDUE, is(1.0)).await;
    put_off(&sql).await;
    until(address, OLDEST, |seconds| seconds > 0.0).await;
    until(address, LIVE, is(1.0)).await;
    until(address, WAITING, is(1.0)).await;
    assert!(is(0.0)(samples(address).await[STUCK]));
    sql.batch_execute("UPDATE keycard.leases SET failures = 6 WHERE state = 'revoking'")
        .await
        .unwrap();
    until(address, STUCK, is(1.0)).await;

    sql.batch_execute(
        "DROP TABLE public.mine;
         UPDATE keycard.leases SET failures = 0, retry_at = now() WHERE state = 'revoking'",
    )
    .await
    .unwrap();
    orders.revoke(lease_id).await;
    until(address, EXPIRED, is(1.0)).await;
    until(address, OVERDUE, is(0.0)).await;
    let after = samples(address).await;
    assert!(is(1.0)(after[LATE]), "{after:?}");
    assert!(after["keycard_revocation_lateness_seconds_sum"] > 0.0);
    until(address, STUCK, is(0.0)).await;
    until(address, OLDEST, is(0.0)).await;
    for stage in [
        "drop_login",
        "terminate_sessions",
        "clear_objects",
        "delete_secrets",
    ] {
        until_taken(address, stage, 1.0).await;
    }
    drop(worker);
}

/// Waits until a stage was gone through as often.
async fn until_taken(address: SocketAddr, stage: &str, times: f64) {
    let name = format!(r#"keycard_stage_duration_seconds_count{{stage="{stage}"}}"#);
    until(address, &name, |count| count >= times).await;
}

/// Has a revocation that fails wait for an hour: else it is stuck by itself, sooner or later.
async fn put_off(sql: &tokio_postgres::Client) {
    let put_off = "UPDATE keycard.leases SET failures = 0, retry_at = now() + interval '1 hour'
                   WHERE state = 'revoking' AND held_until IS NULL";
    eventually("no attempt is made any more", 2 * SOON, async || {
        (sql.execute(put_off, &[]).await.unwrap() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_away_has_no_counts() {
    let site = Site::usual().await;
    let (_worker, address) = worker_with_metrics(&site).await;
    until(address, UP, is(1.0)).await;
    let sql = site.sql().await;
    let admin = &site.admin;
    sql.batch_execute(&format!("ALTER ROLE {admin} NOLOGIN"))
        .await
        .unwrap();
    eventually("the ledger cannot be asked", SOON, async || {
        sql.batch_execute(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{admin}'"
        ))
        .await
        .unwrap();
        let samples = samples(address).await;
        (is(0.0)(samples[UP]) && samples[LIVE].is_nan()).then_some(())
    })
    .await;
    sql.batch_execute(&format!("ALTER ROLE {admin} LOGIN"))
        .await
        .unwrap();
    until(address, UP, is(1.0)).await;
    until(address, LIVE, is(0.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_revocations_show() {
    let site = Site::usual().await;
    let (_worker, address) = worker_with_metrics(&site).await;
    until(address, FROZEN, is(0.0)).await;
    for (command, shown) in [("freeze", 1.0), ("thaw", 0.0)] {
        let output = site.keycard(&[command]);
        assert!(output.status.success(), "{}", output.stderr);
        until(address, FROZEN, is(shown)).await;
    }
}

/// The sockets of a process in this state, as the kernel writes it.
fn sockets(pid: u32, state: &str, is_it: impl Fn(&str) -> bool) -> usize {
    let mut inodes = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if columns[3] == state && is_it(columns[1]) {
                inodes.insert(format!("socket:[{}]", columns[9]));
            }
        }
    }
    fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| inodes.contains(target.to_string_lossy().as_ref()))
        .count()
}

fn listening(pid: u32) -> usize {
    sockets(pid, "0A", |_| true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_listens_only_where_it_is_told_to() {
    let site = Site::usual().await;
    let usual = site.worker().await;
    assert_eq!(listening(usual.id()), 0);
    let (told, address) = worker_with_metrics(&site).await;
    // The kernel's list is not of one moment.
    eventually("it listens there", SOON, async || {
        (listening(told.id()) == 1).then_some(())
    })
    .await;

    let mut second = site.worker_unready(&[(VARIABLE, &address.to_string())]);
    assert_eq!(second.exit(SOON).await.code(), Some(1));
    let said = second.log();
    for words in [
        "metrics cannot be served at 127.0.0.1:",
        "already in use",
        "worker.metrics_address",
    ] {
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_gets_metrics_and_nothing_of_the_workers() {
    /// Many more than are heard at a time: were they waited for, it would take most of a minute.
    const IDLE: usize = 160;
    let site = Site::usual().await;
    let (mut worker, address) = worker_with_metrics(&site).await;
    until(address, UP, is(1.0)).await;
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9_000));
    for (request, status) in [
        ("GET /metrics?x=1 HTTP/1.1\r\n\r\n", "200 OK"),
        ("GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("GET /health HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("GET /metrics/ HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("GET /livez HTTP/1.1\r\n\r\n", "200 OK"),
        ("POST /readyz HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        ("HEAD /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        ("metrics, please\r\n\r\n", "400 Bad Request"),
    ] {
        let answer = answer(address, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{request}: {answer}"
        );
        let is_scrape = request.starts_with("GET /metrics?");
        assert_eq!(answer.contains("keycard_ledger_up"), is_scrape);
    }
    // What it does not read may break the connection before its answer arrives.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(long.as_bytes()).await.unwrap();
    let mut refusal = Vec::new();
    let _ = stream.read_to_end(&mut refusal).await;
    assert!(!String::from_utf8_lossy(&refusal).contains("keycard_"));

    let port = format!(":{:04X}", address.port());
    let held = || sockets(worker.id(), "01", |local| local.ends_with(&port));
    // A machine that is slow enough has sent them away before they are counted.
    let mut idle = eventually(
        "the newest are heard, and no others",
        2 * SOON,
        async || {
            let mut idle = Vec::new();
            for _ in 0..IDLE {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /met").await.unwrap();
                idle.push(stream);
            }
            let living = answer(address, "GET /livez HTTP/1.1\r\n\r\n");
            let living = timeout(Duration::from_secs(SOON), living).await;
            assert!(living.expect("nobody waits for them").ends_with("alive\n"));
            (1..=16).contains(&held()).then_some(idle)
        },
    )
    .await;
    // All are sent away, though none of them goes.
    let mut last = Vec::new();
    let sent_away = idle[IDLE - 1].read_to_end(&mut last);
    let sent_away = timeout(Duration::from_secs(SOON), sent_away).await;
    // In whatever way.
    let _ = sent_away.expect("it is sent away");
    scraped(address).await;
    worker.terminate();
    assert_eq!(worker.exit(SOON).await.code(), Some(0));
    drop(idle);
}
