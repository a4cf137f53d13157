//! `keycard freeze` and `keycard thaw`.

use super::*;

fn told(site: &Site, arguments: &[&str]) -> String {
    let output = site.keycard(arguments);
    assert!(output.status.success(), "{}", output.stderr);
    output.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_revocations_wait_and_everybody_is_told() {
    let guest = Guest::of(
        Wishes {
            sweep_interval: "1s",
            ..Wishes::default()
        },
        "SELECT 1",
    )
    .await;
    let site = &guest.site;
    let reason = "restoring a backup";
    let frozen = site.keycard(&["freeze", "--reason", reason]);
    assert!(frozen.status.success(), "{}", frozen.stderr);
    assert!(
        frozen.stdout.contains("app: revocations are frozen"),
        "{}",
        frozen.stdout
    );

    // Issuing and renewing go on; nothing ends but by its VALID UNTIL.
    let asked = guest.orders.revoke(&guest.lease_id).await;
    // Long enough to be delivered: while revocations are frozen, one that is not is never answered.
    let due = guest.orders.issued("app-role", Some(15)).await;
    let renewal = guest.orders.renew(&guest.lease_id, Some(600)).await;
    let renewed = guest.orders.answer(&renewal).await;
    assert_eq!(renewed.kind(), "lease.renewed.v1", "{}", renewed.event);
    let username = due["username"].as_str().unwrap();
    let password = Site::secret(&due)["password"].as_str().unwrap().to_owned();
    eventually("Postgres refuses the login", TRIED_AGAIN, async || {
        site.login(username, &password).await.err().map(|_| ())
    })
    .await;
    let says_so = "the worker says so while a lease waits";
    eventually(says_so, TRIED_AGAIN, async || {
        let log = guest.worker.log();
        let warned = log.lines().any(|line| {
            line.contains("WARN")
                && line.contains("revocations are frozen")
                && line.contains("waiting=1")
        });
        warned.then_some(())
    })
    .await;
    assert_eq!(site.logins().await, 2);
    Site::secret(&due);
    guest.session.simple_query("SELECT 1").await.unwrap();
    assert!(guest.orders.answers_to(&asked).is_empty());
    for arguments in [vec!["lease", "list"], vec!["lease", "show", username]] {
        let note = told(site, &arguments);
        assert!(note.contains("app: revocations are frozen since"), "{note}");
        assert!(note.contains(reason), "{note}");
    }

    let audited = told(site, &["thaw"]);
    assert!(audited.contains("audit: thawed"), "{audited}");
    let id = due["lease_id"].as_str().unwrap();
    let notice = guest
        .orders
        .notice("lease.revoked.v1", id, TRIED_AGAIN)
        .await;
    assert_eq!(notice.data()["cause"], "expired");
    guest.ends(&asked).await;
    guest.assert_gone().await;
    assert_eq!(told(site, &["lease", "list"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn freezing_twice_keeps_the_time_and_takes_a_new_reason() {
    let site = Site::usual().await;
    let mut worker = site.worker().await;
    site.is_prepared().await;
    worker.kill();
    let frozen = async || {
        let row = "SELECT frozen_at, coalesce(frozen_reason, '') FROM keycard.ledger";
        let row = site.sql().await.query_one(row, &[]).await.unwrap();
        let at: Option<jiff::Timestamp> = row.get(0);
        (at, row.get::<_, String>(1))
    };
    told(&site, &["freeze", "--reason", "one"]);
    let first = frozen().await;
    assert_eq!(first.1, "one");
    told(&site, &["freeze"]);
    assert_eq!(frozen().await, first);
    told(&site, &["freeze", "--reason", "two"]);
    assert_eq!(frozen().await, (first.0, "two".to_owned()));
    told(&site, &["thaw"]);
    told(&site, &["thaw"]);
    assert_eq!(frozen().await, (None, String::new()));
    // What changed nothing is no decision.
    let audited = "SELECT count(*) FROM keycard.audit WHERE action IN ('frozen', 'thawed')";
    assert_eq!(site.count(audited).await, 3);
}

/// What the ledger proves is found all the same, and waits.
#[tokio::test(flavor = "multi_thread")]
async fn reconciliation_and_a_new_worker_say_that_revocations_are_frozen_and_end_nothing() {
    let mut guest = Guest::new().await;
    guest.worker.kill();
    let site = &guest.site;
    told(site, &["freeze", "--reason", "a drill"]);
    guest
        .superuser("ALTER ROLE USERNAME RENAME TO \"was USERNAME\"; DROP ROLE \"was USERNAME\"")
        .await;
    let lines = |arguments: &[&str]| {
        let output = site.keycard(arguments);
        assert_eq!(output.status.code(), Some(4), "{}", output.stderr);
        assert!(
            output.stderr.contains("app: revocations are frozen since"),
            "{}",
            output.stderr
        );
        let found: Value = serde_json::from_str(&output.stdout).unwrap();
        let ours = |one: &&Value| one["lease_id"] == guest.lease_id.as_str();
        let found = found.as_array().unwrap().iter().find(ours).unwrap().clone();
        found["action"].as_str().unwrap().to_owned()
    };
    assert_eq!(lines(&["reconcile", "--output", "json"]), "would_close");
    assert_eq!(
        lines(&["reconcile", "--apply", "--output", "json"]),
        "unfinished"
    );
    assert_eq!(guest.shown()["state"], "active");
    let worker = site.worker().await;
    eventually("the worker says so at its start", SOON, async || {
        let log = worker.log();
        log.contains("revocations are frozen: nothing is revoked")
            .then_some(())
    })
    .await;
    told(site, &["thaw"]);
    site.keycard(&["reconcile", "--apply"]);
    guest
        .until_shown("the lease is closed", |shown| shown["state"] == "closed")
        .await;

    let audit = site.keycard(&["audit", "--output", "json"]).stdout;
    let rows: Vec<Value> = serde_json::from_str(&audit).unwrap();
    let told: Vec<_> = rows
        .iter()
        .filter(|row| ["frozen", "thawed"].contains(&row["decision"].as_str().unwrap()))
        .collect();
    assert_eq!(told.len(), 2, "{audit}");
    assert_eq!(told[0]["decision"], "frozen");
    assert_eq!(told[0]["reason"], "a drill");
    assert_eq!(told[0]["asked_by"], site.admin.as_str());
    assert_eq!(told[1]["decision"], "thawed");
}

#[tokio::test(flavor = "multi_thread")]
async fn freezing_one_of_two_databases_is_a_failure_that_says_which() {
    let site = Site::usual().await;
    site.worker().await.kill();
    // Nobody listens at that port.
    site.configure_database(
        "[databases.away]\n\
         connection_url = \"postgresql://{{username}}:{{password}}@127.0.0.1:1/x\"\n\
         username = \"admin\"\npassword = { env = \"DB_ADMIN_PASSWORD\" }\n",
    );
    for command in ["freeze", "thaw"] {
        let output = site.keycard(&[command]);
        assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
        assert!(
            output.stdout.contains("app: revocations "),
            "{}",
            output.stdout
        );
        assert!(
            output.stderr.contains("away: not done: "),
            "{}",
            output.stderr
        );
        assert!(output.stderr.contains("do it again"), "{}", output.stderr);
        let frozen = "SELECT count(frozen_at) FROM keycard.ledger";
        assert_eq!(site.count(frozen).await, i64::from(command == "freeze"));
    }
}
