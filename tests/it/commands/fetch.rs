//! `keycard fetch`.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::geteuid;
use serde_json::Value;

use super::{Person, causes};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

fn read(path: &Path) -> Option<Value> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(serde_json::from_str(&text).expect("a file is whole or not there"))
}

async fn works(site: &Site, secret: &Value) -> bool {
    let (username, password) = (&secret["username"], &secret["password"]);
    let session = site.login(username.as_str().unwrap(), password.as_str().unwrap());
    session.await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_kept_fresh_and_its_last_reader_is_not_cut_off() {
    let site = Site::new(Wishes {
        role: "default_ttl = \"20s\"\nmax_ttl = \"40s\"".to_owned(),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let file = site.path().join("credential.json");
    let mut keeper = orders.start(
        "keeper",
        &[
            "fetch",
            "app-role",
            "--out",
            "credential.json",
            "--exec",
            "echo changed",
        ],
    );
    // Each credential logs in when it has just been read.
    let mut seen = BTreeSet::new();
    eventually("two credentials", 120, async || {
        let secret = read(&file)?;
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        if seen.insert(secret["username"].to_string()) {
            assert!(works(&site, &secret).await, "{}", keeper.stderr());
        }
        (seen.len() == 2).then_some(())
    })
    .await;
    eventually("--exec ran each time", SOON, async || {
        (keeper.stdout() == "changed\nchanged\n").then_some(())
    })
    .await;
    let overlap = "SELECT count(*) FROM keycard.leases a JOIN keycard.leases b ON a.id < b.id
                   WHERE a.generation > 1 AND a.expires_at >= b.issued_at + interval '1 s'";
    assert_eq!(
        site.count(overlap).await,
        1,
        "the first lease was renewed, and outlives the second one's beginning"
    );

    keeper.signal("TERM");
    assert_eq!(keeper.exit().await.code(), Some(0));
    let told = "stopped; the credential in credential.json ends by itself at";
    assert!(keeper.stderr().contains(told), "{}", keeper.stderr());
    assert!(file.exists(), "readers outlive whoever keeps the file");
    // Nobody needs them any longer.
    let leases = "SELECT 'app.' || id FROM keycard.leases";
    for row in site.sql().await.query(leases, &[]).await.unwrap() {
        // The first may have ended meanwhile.
        orders.keycard(&["lease", "renew", row.get(0), "--ttl", "1s"]);
    }
    eventually("both leases are over", SOON, async || {
        (causes(&site).await.len() == 2).then_some(())
    })
    .await;
    let causes = causes(&site).await;
    assert_eq!(causes, ["expired"; 2], "neither was revoked");
    let names = std::fs::read_dir(site.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(
        names.filter(|name| name.starts_with(".keycard-")).count(),
        0
    );
}

/// A directory that takes files and cannot be opened: what is put there cannot be made to last.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_read_is_refused_before_anything_is_asked_for() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let orders = if geteuid().is_root() {
        // Modes mean nothing to root, but for this.
        orders.through(&["setpriv", "--bounding-set=-dac_override,-dac_read_search"])
    } else {
        orders
    };
    let directory = site.path().join("blind");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, Permissions::from_mode(0o300)).unwrap();
    let output = orders.keycard(&["fetch", "app-role", "--out", "blind/file"]);
    std::fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", output.stderr);
    let said = output.stderr;
    assert!(said.contains("blind cannot be written"), "{said}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    assert_eq!(site.count("SELECT count(*) FROM keycard.leases").await, 0);
}

/// A directory that goes away costs no credential after the other.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_issued_for_a_file_that_cannot_be_written_any_more() {
    let site = Site::new(Wishes {
        // Another one is due after 10 s; until then nobody writes into the directory.
        role: "default_ttl = \"20s\"\nmax_ttl = \"20s\"".to_owned(),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let directory = site.path().join("run");
    std::fs::create_dir(&directory).unwrap();
    let mut keeper = orders.start("keeper", &["fetch", "app-role", "--out", "run/file"]);
    keeper.says("holds a new credential").await;
    std::fs::remove_dir_all(&directory).unwrap();
    keeper.says("run cannot be written").await;
    let issued = "SELECT count(*) FROM keycard.leases";
    let before = site.count(issued).await;
    keeper.says("trying again in 2 s").await;
    assert_eq!(site.count(issued).await, before, "{}", keeper.stderr());
    std::fs::create_dir(&directory).unwrap();
    eventually("the file is there again", SOON, async || {
        read(&directory.join("file"))
    })
    .await;
    keeper.signal("TERM");
    assert_eq!(keeper.exit().await.code(), Some(0));
}

/// It is there before its broker, and goes on when that comes.
#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_broker_that_is_away() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let (host, port) = match site.queue {
        QueueKind::Amqp(rabbitmq) => (&rabbitmq.host, rabbitmq.port),
        QueueKind::Postgres => (&site.postgres.host, site.postgres.port),
    };
    let mut gate = Gate::closed(host, port);
    let url = site.client_url("orders-svc");
    let url = url.replace(&format!(":{port}/"), &format!(":{}/", gate.port));
    let orders = Person::new(&site, "orders-svc").set("KEYCARD_CLIENT__URL", &url);
    let keeper = orders.start(
        "keeper",
        &["fetch", "app-role", "--out", "file", "--format=dsn"],
    );
    keeper.says("no new credential: ").await;
    keeper.says("trying again in 2 s").await;
    gate.open();
    let file = site.path().join("file");
    eventually("the file is there", 90, async || {
        file.exists().then_some(())
    })
    .await;
    let url = std::fs::read_to_string(&file).unwrap();
    assert!(url.starts_with("postgresql://kc_app_role_"));
}
