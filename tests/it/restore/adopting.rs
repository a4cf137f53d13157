//! `keycard adopt` in the hands of somebody in a hurry, and while revocations are frozen.

use std::collections::BTreeMap;
use std::fs;

use super::{Lease, adopt, until_left_alone};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::secrets_manager::{FakeSecretsManager, Fault, Operation};
use crate::support::site::{Site, StoreKind, Wishes};

/// As after a start of the server that nobody has seen yet.
const RESTARTED: &str = "UPDATE keycard.ledger SET server_started_at = NULL";

fn says(site: &Site, arguments: &[&str], code: i32, told: &[&str]) {
    let output = adopt(site, arguments);
    let said = output.stdout + &output.stderr;
    assert_eq!(output.status.code(), Some(code), "{said}");
    for told in told {
        assert!(said.contains(told), "{told}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_adopts_is_told_what_is_wrong_and_what_to_do() {
    let fake = FakeSecretsManager::start();
    let site = Site::new(Wishes {
        store: StoreKind::Aws(fake.url()),
        ..Wishes::default()
    })
    .await;
    let wrong = site.keycard(&["adopt", "--database", "ap"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(wrong.stderr.contains("write one of [databases]"));
    let no_ledger = ["has no ledger", "`keycard worker` makes it"];
    says(&site, &["--yes"], 1, &no_ledger);
    let compared = site.keycard(&["reconcile"]);
    assert_eq!(compared.status.code(), Some(1));
    assert_eq!(compared.stdout, "", "it must not say that all agree");
    for told in no_ledger {
        assert!(compared.stderr.contains(told), "{}", compared.stderr);
    }

    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    worker.kill();
    until_left_alone(&site).await;
    let nothing = "there is nothing to adopt";
    says(&site, &["--moved"], 0, &["1 in the store, 0 gone", nothing]);
    says(&site, &["--yes"], 0, &[nothing]);

    // A store may be late with what was put just now; and one that does not tell has lost nothing.
    let absent = Fault::Refuse("ResourceNotFoundException");
    fake.fail_next_of(Operation::DescribeSecret, 1, absent);
    says(&site, &["--yes"], 0, &["1 in the store, 0 gone", nothing]);
    let denied = Fault::Refuse("AccessDeniedException");
    fake.fail_next_of(Operation::DescribeSecret, 1, denied);
    let why = "secretsmanager:DescribeSecret: AccessDeniedException";
    says(
        &site,
        &["--yes"],
        1,
        &[why, "cannot be told", "mend that and try again"],
    );

    // Names may hold dots: leases of "app.eu" are not those of "app".
    site.superuser(
        "UPDATE keycard.leases SET locators[1] = replace(locators[1], '/app.', '/app.eu.');
         UPDATE keycard.ledger SET system_identifier = system_identifier + 1",
    )
    .await;
    says(&site, &["--moved", "--yes"], 1, &["name it \"app.eu\""]);
    site.superuser(
        "UPDATE keycard.leases SET locators[1] = replace(locators[1], '/app.eu.', '/app.');
         UPDATE keycard.ledger SET system_identifier = system_identifier - 1",
    )
    .await;

    // An adoption touches no secrets, so it can do without the store.
    site.superuser("UPDATE keycard.ledger SET installation = 'the-original'")
        .await;
    fake.fail_next_of(Operation::DescribeSecret, 1, denied);
    let explained = ["installation \"the-original\"", why, "Nothing was changed"];
    says(&site, &[], 0, &explained);
    fake.fail_next_of(Operation::DescribeSecret, 1, denied);
    says(&site, &["--yes"], 0, &["Done. Start the workers again"]);
    says(&site, &["--yes"], 0, &[nothing]);
    assert_eq!(fake.secrets().len(), 1);
    let login = format!(
        "SELECT count(*) FROM pg_roles WHERE rolname = '{}'",
        issued["username"].as_str().unwrap()
    );
    assert_eq!(site.count(&login).await, 1);

    site.rewrite(&format!(":{}/", site.postgres.port), ":1/");
    says(
        &site,
        &["--yes"],
        1,
        &["no connection to database app", "start Postgres there"],
    );
}

/// A store named in place of the one that has the secrets of a few leases looks like one in which
/// all of them were revoked.
#[tokio::test(flavor = "multi_thread")]
async fn another_store_ends_not_even_a_few_leases() {
    let site = Site::new(Wishes {
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let old = [
        Lease::new(&orders).await,
        Lease::new(&orders).await,
        Lease::new(&orders).await,
    ];
    worker.kill();
    until_left_alone(&site).await;
    site.configure(&format!(
        "[store]\nkind = \"directory\"\npath = {:?}\n",
        site.path().join("another")
    ));
    site.superuser(RESTARTED).await;
    let worker = site.worker().await;
    let still = async |worker: &crate::support::process::Worker| {
        let told = || worker.log().matches("too many secrets are gone").count();
        let before = told();
        // Each look takes seconds.
        eventually("it is told again, twice", 2 * SOON, async || {
            (told() > before + 1).then_some(())
        })
        .await;
    };
    still(&worker).await;
    // Neither that others come nor that some of them end makes it more believable.
    let new = Lease::new(&orders).await;
    old[0].revoke(&orders).await;
    still(&worker).await;
    for lease in [&old[1], &old[2], &new] {
        assert!(lease.can_log_in(&site).await);
    }

    let adopted = adopt(&site, &["--yes"]);
    assert!(adopted.status.success(), "{}", adopted.stderr);
    for lease in &old[1..] {
        let told = orders.notice("lease.revoked.v1", &lease.id, SOON).await;
        assert_eq!(told.data()["cause"], "missing");
    }
    assert!(new.can_log_in(&site).await);
    let compared = "SELECT count(*) FROM keycard.ledger
                    WHERE server_started_at IS NOT NULL AND secrets_lost_at IS NULL";
    eventually("all agree", SOON, async || {
        (site.count(compared).await == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_waits_while_revocations_are_frozen() {
    let site = Site::new(Wishes {
        sweep_interval: "1s",
        reconcile_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let kept = Lease::new(&orders).await;
    let (bereft, missing) = (Lease::new(&orders).await, Lease::new(&orders).await);
    let closed = Lease::new(&orders).await;
    worker.kill();
    until_left_alone(&site).await;
    fs::remove_file(&bereft.secret).unwrap();
    site.superuser(&format!(
        "DROP ROLE {};
             UPDATE keycard.leases SET state = 'closed', cause = 'requested', wake_at = NULL,
                 revoked_at = clock_timestamp() WHERE username = '{}';
             {RESTARTED}",
        missing.username, closed.username
    ))
    .await;
    assert!(site.keycard(&["freeze"]).status.success());

    let reconciled = site.keycard(&["reconcile", "--apply", "--output", "json"]);
    let said = reconciled.stderr;
    assert_eq!(reconciled.status.code(), Some(4), "{said}");
    assert!(said.contains("app: revocations are frozen"), "{said}");
    let found: serde_json::Value = serde_json::from_str(&reconciled.stdout).unwrap();
    let became: BTreeMap<&str, &str> = found
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["action"] != "reported")
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap();
            (text("kind"), text("action"))
        })
        .collect();
    let held = [
        ("login_missing", "unfinished"),
        ("login_left", "unfinished"),
        ("secret_left", "unfinished"),
    ];
    assert_eq!(became, BTreeMap::from(held));
    says(
        &site,
        &["--yes"],
        1,
        &["1 gone", "so nothing was revoked; run `keycard thaw` first"],
    );

    let worker = site.worker().await;
    eventually("reconciliation and the look came by", SOON, async || {
        let log = worker.log();
        let told = log.contains("revocations are frozen: nothing is revoked")
            && log.matches("reconciliation found what differs").count() > 3;
        told.then_some(())
    })
    .await;
    assert_eq!(site.logins().await, 3);
    assert!(missing.has_secret() && closed.has_secret());
    assert!(bereft.can_log_in(&site).await && closed.can_log_in(&site).await);
    let open = "SELECT count(*) FROM keycard.leases WHERE state = 'active'";
    assert_eq!(site.count(open).await, 3);

    assert!(site.keycard(&["thaw"]).status.success());
    for lease in [&bereft, &missing, &closed] {
        orders.notice("lease.revoked.v1", &lease.id, SOON).await;
        assert!(!lease.can_log_in(&site).await);
    }
    eventually("secrets are gone", SOON, async || {
        (!missing.has_secret() && !closed.has_secret()).then_some(())
    })
    .await;
    assert!(kept.can_log_in(&site).await && kept.has_secret());
}
