//! Signals to `keycard run` and `keycard connect`, and what becomes of the lease.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::run::pid;
use super::{Person, causes, is_sent, live_leases, signal};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_command() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let script = "for s in HUP INT QUIT USR1 USR2 WINCH; do trap \"echo got $s\" $s; done; \
                  trap 'echo got TERM; exit 3' TERM; echo pid $$; while :; do sleep 0.05; done";
    let mut running = orders.start("signals", &["run", "app-role", "--", "bash", "-c", script]);
    pid(&running).await;
    for name in ["HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "TERM"] {
        running.signal(name);
        running.says(&format!("got {name}")).await;
    }
    assert_eq!(running.exit().await.code(), Some(3));
    assert_eq!(causes(&site).await, ["requested"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_that_is_ignored_stays_so() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc").through(&["nohup"]);
    let script = "trap 'exit 7' USR1; echo pid $$; while :; do sleep 0.05; done";
    let mut running = orders.start("nohup", &["run", "app-role", "--", "sh", "-c", script]);
    pid(&running).await;
    running.signal_group("HUP");
    running.signal("USR1");
    assert_eq!(running.exit().await.code(), Some(7));
}

/// Ctrl-C reaches the whole job: passed on as well, the command would get it twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_a_terminal_reach_the_command_once() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    // It does nothing but wait, so that two signals shortly one after the other stay two.
    let script = "trap 'echo got INT' INT; trap 'echo got TERM; exit 4' TERM; echo pid $PPID; \
                  while :; do :; done";
    std::fs::write(site.path().join("child"), script).unwrap();
    // util-linux's `script` gives it a pseudo-terminal, and types what it reads.
    let keycard = orders.command(&["run", "app-role", "--", "bash", "child"]);
    // `exec`: the shell between would take the keys' signals for its own end.
    let words: Vec<&str> = [OsStr::new("exec"), keycard.get_program()]
        .into_iter()
        .chain(keycard.get_args())
        .map(|word| word.to_str().unwrap())
        .collect();
    let log = site.path().join("typescript");
    let mut terminal = Command::new("script")
        .args(["-qefc", &words.join(" ")])
        .arg(&log)
        .env_clear()
        .envs(
            keycard
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(site.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let shown = || std::fs::read_to_string(&log).unwrap_or_default();
    let until_it_shows = async |words: &str| {
        eventually(
            &format!("the terminal until_it_shows {words}"),
            SOON,
            async || shown().contains(words).then(&shown),
        )
        .await
    };
    let keycard = eventually("the child says who started it", SOON, async || {
        let said = shown();
        let (line, _) = said.split_once("pid ")?.1.split_once('\n')?;
        line.trim().parse().ok()
    })
    .await;
    let mut keys = terminal.stdin.take().unwrap();
    keys.write_all(b"\x03").unwrap();
    until_it_shows("got INT").await;
    signal(keycard, "TERM");
    until_it_shows("got TERM").await;
    let status = eventually("script ends", SOON, async || terminal.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(4), "{}", shown());
    assert_eq!(shown().matches("got INT").count(), 1, "{}", shown());
    assert_eq!(causes(&site).await, ["requested"]);
}

/// A service manager's SIGTERM, and Ctrl-C where there is no terminal, reach keycard and its command
/// at once, in any order.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_the_whole_group_leaves_no_lease() {
    const ROUNDS: usize = 20;
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    for round in 0..ROUNDS {
        let (name, code) = [("INT", 130), ("TERM", 143)][round % 2];
        let script = "echo pid $$; exec sleep 600";
        let arguments = ["run", "app-role", "--", "sh", "-c", script];
        let mut running = orders.start(&format!("group{round}"), &arguments);
        pid(&running).await;
        running.signal_group(name);
        assert_eq!(running.exit().await.code(), Some(code));
        let said = running.stderr();
        assert!(!said.contains("may not be revoked"), "{round}: {said}");
        let live = "SELECT count(*) FROM keycard.leases WHERE state IN ('issuing', 'active')";
        assert_eq!(site.count(live).await, 0, "{round} {name}: {said}");
    }
    live_leases(&site, 0).await;
    assert_eq!(causes(&site).await, ["requested"; ROUNDS]);
}

const SLEEPING: &str = "SELECT pg_sleep(600)";

/// The first Ctrl-C while a lease is given back says so, and it is given back all the same.
async fn is_revoked_though_interrupted(arguments: &[&str]) {
    let site = Site::usual().await;
    let worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let mut running = orders.start("interrupted", arguments);
    let sleeping = format!(
        "FROM pg_stat_activity WHERE query = '{SLEEPING}' AND datname = current_database()"
    );
    eventually("its query runs", SOON, async || {
        let count = format!("SELECT count(*) {sleeping}");
        (site.count(&count).await == 1).then_some(())
    })
    .await;
    // Its command ends while nobody answers.
    worker.signal("STOP");
    let end = format!("SELECT count(pg_terminate_backend(pid)) {sleeping}");
    assert_eq!(site.count(&end).await, 1);
    eventually("the revocation is queued", SOON, async || {
        is_sent(&site, "leases").await.then_some(())
    })
    .await;
    running.signal("INT");
    running.says("interrupt once more to leave it").await;
    worker.signal("CONT");
    assert_eq!(running.exit().await.code(), Some(2));
    let said = running.stderr();
    assert!(!said.contains("revoked"), "{said}");
    live_leases(&site, 0).await;
    assert_eq!(causes(&site).await, ["requested"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_revocation_after_run_is_carried_on() {
    is_revoked_though_interrupted(&["run", "app-role", "--", "psql", "-c", SLEEPING]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_revocation_after_connect_is_carried_on() {
    is_revoked_though_interrupted(&["connect", "app-role", "--", "-c", SLEEPING]).await;
}
