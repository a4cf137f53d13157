//! Copies of a guarded database, and databases that share a cluster.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use super::{Lease, adopt, audited, explain_and_adopt, lead_to};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::servers::Postgres;
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

/// Another installation with the same store.
pub async fn neighbour(site: &Site, postgres: &'static Postgres) -> Site {
    let neighbour = Site::new(Wishes {
        postgres,
        queue: site.queue,
        sweep_interval: "1s",
        ..Wishes::default()
    })
    .await;
    neighbour.configure(&format!(
        "[store]\nkind = \"directory\"\npath = {:?}\n",
        site.secrets
    ));
    neighbour
}

/// Everything that would be found to be due, were it this ledger's.
pub const ALL_DUE: &str = "UPDATE keycard.leases SET wake_at = clock_timestamp(),
    expires_at = clock_timestamp() WHERE state = 'active'";

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_with_template_touches_nothing_of_the_originals() {
    let site = Site::usual().await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let (kept, revoked) = (Lease::new(&orders).await, Lease::new(&orders).await);
    revoked.revoke(&orders).await;
    worker.terminate();
    assert!(worker.exit(SOON).await.success());
    drop(orders);
    let copied = format!("{}_copy", site.dbname);
    eventually("nobody is connected to the original", SOON, async || {
        let server = site.sql_in("postgres").await;
        let copy = format!("CREATE DATABASE {copied} TEMPLATE {}", site.dbname);
        server.batch_execute(&copy).await.ok()
    })
    .await;

    let mut copy = neighbour(&site, site.postgres).await;
    lead_to(&mut copy, &copied, &site);
    copy.superuser(ALL_DUE).await;
    // A secret of a closed lease would go with the next reconciliation.
    fs::write(&revoked.secret, "precious").unwrap();
    let said = copy.worker_unready(&[]).refusal().await;
    assert!(
        said.contains(&format!("installation {:?}", site.name)),
        "{said}"
    );

    let reconciled = copy.keycard(&["reconcile", "--apply"]);
    assert_eq!(reconciled.status.code(), Some(1), "{}", reconciled.stdout);
    let said = reconciled.stderr;
    assert!(said.contains("keycard adopt --database app"), "{said}");

    // What must not be is refused, with --yes as without.
    let in_place = adopt(&copy, &["--moved", "--yes"]);
    assert_eq!(in_place.status.code(), Some(1));
    assert!(
        in_place
            .stderr
            .contains("write that name as `installation`")
    );
    let own_name = format!("installation = \"{}\"", copy.name);
    let original_name = format!("installation = \"{}\"", site.name);
    copy.rewrite(&own_name, &original_name);
    for (how, why) in [
        (&["--yes"][..], "this database's key"),
        (&["--moved", "--yes"], "which is still there"),
    ] {
        let refused = adopt(&copy, how);
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stdout);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    copy.rewrite(&original_name, &own_name);

    let explained = explain_and_adopt(&copy, &[]).await;
    for told in [
        &format!("installation {:?}", site.name),
        &format!("installation {:?}", copy.name),
        &format!("that is database {:?}, which is still there", site.dbname),
        "not ended: 1. Their logins: 1 here, 0 here under another OID, 0 not here",
        "Secrets of the 1 delivered leases: 1 in the store, 0 gone",
    ] {
        assert!(explained.contains(told), "{told}: {explained}");
    }
    assert_eq!(audited(&copy, None).await, ["adopted"]);
    assert_eq!(
        audited(&copy, Some(&kept)).await,
        ["created", "issued", "forgotten"]
    );

    // The copy is a ledger like any other, and touches none of it.
    let _worker = copy.worker().await;
    let theirs = copy.client("orders-svc").await;
    let own = Lease::new(&theirs).await;
    own.shorten(&theirs).await;
    theirs.notice("lease.revoked.v1", &own.id, SOON).await;
    let reconciled = copy.keycard(&["reconcile", "--apply", "--output", "json"]);
    assert!(
        !reconciled.stdout.contains("dropped"),
        "{}",
        reconciled.stdout
    );
    assert!(
        !reconciled.stdout.contains("deleted"),
        "{}",
        reconciled.stdout
    );
    assert!(kept.has_secret() && revoked.has_secret() && !own.has_secret());
    assert!(kept.can_log_in(&site).await);
    let _original = site.worker().await;
    let orders = site.client("orders-svc").await;
    kept.revoke(&orders).await;
    assert!(!kept.has_secret());
}

/// One installation with a ledger in each of two databases, and another installation beside it.
#[tokio::test(flavor = "multi_thread")]
async fn ledgers_of_one_cluster_leave_each_others_leases_alone() {
    let site = Site::usual().await;
    let without_other = fs::read_to_string(&site.config).unwrap();
    site.second_database("min_ttl = \"1s\"").await;
    let beside = neighbour(&site, site.postgres).await;

    let _worker = site.worker().await;
    let _their_worker = beside.worker().await;
    let orders = site.client("orders-svc").await;
    let theirs = beside.client("orders-svc").await;
    let here = Lease::new(&orders).await;
    let there = orders.issued("other-role", None).await;
    let foreign = Lease::new(&theirs).await;
    let ended = there["lease_id"].as_str().unwrap();
    assert!(ended.starts_with("other."), "{ended}");
    let renewal = orders.renew(ended, Some(2)).await;
    assert_eq!(orders.answer(&renewal).await.kind(), "lease.renewed.v1");
    orders.notice("lease.revoked.v1", ended, SOON).await;
    for site in [&site, &beside] {
        site.keycard(&["reconcile", "--apply"]);
    }
    assert!(here.can_log_in(&site).await && here.has_secret());
    assert!(foreign.can_log_in(&beside).await && foreign.has_secret());

    // Nor does a configuration touch what another one of the same installation has, be it that a
    // database is away or that it does not know it.
    let there = orders.issued("other-role", None).await;
    let login = there["username"].as_str().unwrap();
    let everything = fs::read_to_string(&site.config).unwrap();
    let reconciled = || {
        let output = site.keycard(&["reconcile", "--apply", "--output", "json"]);
        let found: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let about = found.as_array().unwrap().iter().filter(|finding| {
            finding["login"] == json!(login) || finding["lease_id"] == there["lease_id"]
        });
        let became: BTreeSet<String> = about
            .map(|finding| format!("{}: {}", finding["kind"], finding["action"]))
            .collect();
        (output.status.code(), became, output.stderr)
    };
    site.rewrite(
        &format!("/{}_b\"\nusername", site.dbname),
        "/away\"\nusername",
    );
    let (code, became, said) = reconciled();
    assert_eq!((code, became), (Some(1), BTreeSet::new()), "{said}");
    assert!(
        said.contains("create that database, or name another"),
        "{said}"
    );
    fs::write(&site.config, without_other).unwrap();
    let (code, became, said) = reconciled();
    let reported = [
        r#""login_unproven": "reported""#.to_owned(),
        r#""secret_unproven": "reported""#.to_owned(),
    ];
    assert_eq!(
        (code, became),
        (Some(4), BTreeSet::from(reported)),
        "{said}"
    );
    fs::write(&site.config, everything).unwrap();
    let password = Site::secret(&there)["password"].clone();
    let password = password.as_str().unwrap();
    site.login(login, password).await.unwrap();

    here.revoke(&orders).await;
    assert!(foreign.can_log_in(&beside).await && foreign.has_secret());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_ledger_turns_out_to_be_anothers_deletes_nothing() {
    let queue = QueueKind::default();
    // From a queue in that database no expiry event comes any more: the sweep finds out.
    let sweep_interval = match queue {
        QueueKind::Amqp(_) => "10m",
        QueueKind::Postgres => "1s",
    };
    let site = Site::new(Wishes {
        queue,
        sweep_interval,
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    // Not over before the ledger is another's.
    let lease = Lease::with_ttl(&orders, Some(20)).await;
    // The ledger has lost the lease as well: its expiry event would delete the secret.
    site.superuser(&format!(
        "UPDATE keycard.ledger SET system_identifier = 1;
             DELETE FROM keycard.requests; DELETE FROM keycard.leases;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'",
        site.admin
    ))
    .await;
    let status = worker.exit(2 * SOON).await;
    assert_eq!(status.code(), Some(1));
    assert!(worker.log().contains("another cluster"), "{}", worker.log());
    assert!(lease.has_secret());
}
