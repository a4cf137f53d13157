//! `keycard run` and `keycard connect`.

use super::{Person, Running, causes, is_sent, live_leases, signal};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::site::{Site, Wishes};

/// The process of a script that has said `pid N`.
pub async fn pid(running: &Running) -> u32 {
    eventually("the child says its pid", SOON, async || {
        let said = running.stdout();
        let line = said.lines().find_map(|line| line.strip_prefix("pid "))?;
        line.parse().ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_a_credential_for_as_long_as_it_runs() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc")
        // Whatever would mislead libpq.
        .set("PGHOSTADDR", "192.0.2.1")
        .set("PGSERVICE", "other")
        .set("PGUSER", "other");
    let user = orders.right(&[
        "run",
        "app-role",
        "--",
        "psql",
        "-Atc",
        "SELECT current_user",
    ]);
    assert!(user.starts_with("kc_app_role_"), "{user}");
    let shown = site.keycard(&["lease", "show", user.trim(), "--output=json"]);
    assert!(
        shown.stdout.contains(r#""cause": "requested""#),
        "{}",
        shown.stdout
    );
    assert_eq!(site.logins().await, 0);

    let answer = orders.right(&["connect", "app-role", "--", "-Atc", "SELECT 40 + 2"]);
    assert_eq!(answer, "42\n");
    live_leases(&site, 0).await;
    assert_eq!(causes(&site).await, ["requested", "requested"]);
    assert!(
        site.secret_files()
            .iter()
            .all(|file| file.ends_with(".lock"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_exits_as_its_command_does_and_gives_the_lease_back() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    std::fs::write(site.path().join("text"), "no program").unwrap();
    for (command, code, words) in [
        (&["sh", "-c", "exit 7"][..], 7, ""),
        (&["sh", "-c", "kill -KILL $$"], 137, ""),
        (&["no-such-program"], 127, "no-such-program cannot be run"),
        (&["./text"], 126, "check that it is a program you may run"),
    ] {
        let output = orders.keycard(&[&["run", "app-role", "--"], command].concat());
        assert_eq!(output.status.code(), Some(code), "{}", output.stderr);
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
    live_leases(&site, 0).await;
    assert_eq!(causes(&site).await, ["requested"; 4]);

    let without = orders.set("PATH", "/nowhere");
    let output = without.keycard(&["connect", "app-role"]);
    assert_eq!(output.status.code(), Some(127), "{}", output.stderr);
    assert!(
        output.stderr.contains("psql is not installed"),
        "{}",
        output.stderr
    );
    assert_eq!(causes(&site).await.len(), 4, "nothing was asked for");
}

/// They live longer than the command's own, and it has no use for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_none_of_keycards_own_passwords() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let names = [
        "MY_PASSWORD",
        "KEYCARD_CLIENT__PASSWORD",
        "KEYCARD_DB_PASSWORD",
        "PGPASSWORD",
    ];
    let mut orders = Person::new(&site, "orders-svc").set("KEPT", "kept");
    for name in names {
        orders = orders.set(name, "orders-svc");
    }
    let more = "[databases.app]\npassword = { env = \"KEYCARD_DB_PASSWORD\" }\n\
                [queue]\npassword = { env = \"PGPASSWORD\" }\n";
    let client = std::fs::read_to_string(&orders.config).unwrap();
    std::fs::write(&orders.config, client + more).unwrap();
    let has_none = |environment: &str| {
        assert!(environment.contains("KEPT=kept"), "{environment}");
        for name in names {
            let own = format!("{name}=orders-svc");
            assert!(!environment.lines().any(|line| line == own), "{name}");
        }
    };
    let environment = orders.right(&["run", "app-role", "--", "env"]);
    has_none(&environment);
    let password = environment
        .lines()
        .find(|line| line.starts_with("PGPASSWORD="));
    assert!(
        password.is_some_and(|line| line.len() > 20),
        "the credential's is there"
    );
    has_none(&orders.right(&["connect", "app-role", "--", "-c", "\\! env"]));

    let fetch = [
        "fetch",
        "app-role",
        "--out",
        "file",
        "--exec",
        "env; echo done",
    ];
    let mut keeper = orders.start("keeper", &fetch);
    keeper.says("done").await;
    has_none(&keeper.stdout());
    keeper.signal("TERM");
    assert_eq!(keeper.exit().await.code(), Some(0));
}

/// What would end at its first TTL outlives it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_while_its_command_runs() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let mut running = orders.start(
        "renewed",
        &[
            "run", "app-role", "--ttl", "20s", "--", "sh", "-c",
            "trap 'psql -Atc \"SELECT 40 + 2\"; exit' USR1; echo pid $$; while :; do sleep 0.1; done",
        ],
    );
    let child = pid(&running).await;
    eventually("its first end is past", SOON, async || {
        let past = "SELECT count(*) FROM keycard.leases
                    WHERE clock_timestamp() > issued_at + interval '20 s'";
        (site.count(past).await == 1).then_some(())
    })
    .await;
    let renewed = "SELECT count(*) FROM keycard.leases WHERE state = 'active' AND generation > 1";
    assert_eq!(site.count(renewed).await, 1, "{}", running.stderr());
    signal(child, "USR1");
    assert_eq!(running.exit().await.code(), Some(0));
    assert!(running.stdout().ends_with("42\n"), "{}", running.stdout());
    assert_eq!(running.stderr(), "");
    assert_eq!(causes(&site).await, ["requested"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_is_told_before_it_comes() {
    let site = Site::new(Wishes {
        // Renewed after 9 s, told after 16: each with seven seconds to spare or more.
        role: "default_ttl = \"18s\"\nmax_ttl = \"23s\"".to_owned(),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let mut running = orders.start("told", &["run", "app-role", "--", "sleep", "600"]);
    running
        .says("and cannot be renewed: it has reached its role's max_ttl")
        .await;
    running
        .says("the lease has ended; the command goes on")
        .await;
    // The command goes by its own clock. A lease that is being ended is given back a while later.
    eventually("the lease is over", SOON, async || {
        let closed = "SELECT count(*) FROM keycard.leases WHERE state = 'closed'";
        (site.count(closed).await == 1).then_some(())
    })
    .await;
    running.signal("TERM");
    assert_eq!(running.exit().await.code(), Some(143));
    let said = running.stderr();
    let (before, _) = said.split_once("the lease has ended").unwrap();
    assert!(
        before.contains("the lease ends at 20") && !said.contains("could not be revoked"),
        "{said}"
    );
    assert_eq!(causes(&site).await, ["expired"]);
}

/// Nobody is left to give the lease back: it ends with its TTL.
#[tokio::test(flavor = "multi_thread")]
async fn killed_it_leaves_nothing_beyond_its_ttl() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let mut running = orders.start(
        "killed",
        &[
            "run",
            "app-role",
            "--ttl",
            // Nothing renews it, and its command has to have started by then.
            "20s",
            "--",
            "sh",
            "-c",
            "echo pid $$; exec sleep 600",
        ],
    );
    let child = pid(&running).await;
    running.signal("KILL");
    running.exit().await;
    live_leases(&site, 0).await;
    signal(child, "KILL");
    eventually("the lease is closed", SOON, async || {
        (causes(&site).await == ["expired"]).then_some(())
    })
    .await;
    assert_eq!(site.logins().await, 0);
}

/// Somebody ends the lease under the command.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_ended_early_is_told() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let ops = Person::new(&site, "platform-ops");
    let mut running = orders.start(
        "early",
        &[
            "run",
            "app-role",
            "--ttl",
            "20s",
            "--",
            "sh",
            "-c",
            "echo pid $$; exec sleep 600",
        ],
    );
    pid(&running).await;
    let id = "SELECT 'app.' || id FROM keycard.leases";
    let id: String = site.sql().await.query_one(id, &[]).await.unwrap().get(0);
    ops.right(&["lease", "revoke", &id]);
    running.says("it was ended before").await;
    running.signal("INT");
    assert_eq!(running.exit().await.code(), Some(130));
    assert_eq!(causes(&site).await, ["operator"]);
}

/// Without a worker nobody answers; the command's exit code counts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_nobody_answers_is_told_with_the_leases_end() {
    let site = Site::usual().await;
    let mut worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let script = "trap 'exit 7' USR1; echo pid $$; while :; do sleep 0.05; done";
    let mut running = orders.start("alone", &["run", "app-role", "--", "sh", "-c", script]);
    pid(&running).await;
    worker.kill();
    running.signal("USR1");
    eventually("the revocation is queued", SOON, async || {
        is_sent(&site, "leases").await.then_some(())
    })
    .await;
    running.signal("INT");
    running.says("interrupt once more to leave it").await;
    running.signal("INT");
    assert_eq!(running.exit().await.code(), Some(7));
    let said = running.stderr();
    assert!(
        said.contains("may not be revoked, and ends by itself at 20"),
        "{said}"
    );
}
