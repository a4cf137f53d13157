//! The services in events/examples, with the real worker.

mod amqp;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_service_needs_nothing_but_postgres() {
    let site = Site::new(Wishes {
        queue: QueueKind::Postgres,
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let ask_for = |role: &str| {
        let postgres = site.postgres;
        let queue = format!(
            "postgresql://orders-svc:orders-svc@{}:{}/{}",
            postgres.host, postgres.port, site.dbname
        );
        let mut service = with_python("embedded.py");
        let service = service.env("QUEUE_URL", queue).env("ROLE", role);
        service.output().unwrap()
    };

    let served = ask_for("app-role");
    assert!(served.status.success(), "{served:?}");
    let lease = "SELECT username || ' 1\n' FROM keycard.leases";
    let expected = site.sql().await.query_one(lease, &[]).await.unwrap();
    let said = String::from_utf8(served.stdout).unwrap();
    assert_eq!(said, expected.get::<_, String>(0));
    eventually("the lease is given back", SOON, async || {
        let closed = "SELECT count(*) FROM keycard.leases
                      WHERE state = 'closed' AND cause = 'requested'";
        (site.count(closed).await == 1).then_some(())
    })
    .await;

    let denied = ask_for("not-a-role");
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    let said = String::from_utf8(denied.stderr).unwrap();
    assert!(said.contains("denied: role_not_allowed: "), "{said}");
}

#[test]
fn the_services_are_short_and_their_packages_pinned() {
    for (service, too_many) in [
        ("python/service.py", 60),
        ("nodejs/service.js", 60),
        ("python/embedded.py", 30),
    ] {
        let lines = read(service).lines().count();
        assert!(lines < too_many, "{service}: {lines} lines");
    }
    let python = read("python/requirements.txt");
    let packages: Vec<&str> = python
        .split('\n')
        .filter(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric()))
        .collect();
    for name in ["boto3==", "pika==", "psycopg=="] {
        assert!(packages.iter().any(|line| line.starts_with(name)), "{name}");
    }
    for line in packages {
        assert!(line.contains("==") && line.ends_with(" \\"), "{line}");
    }
    let wanted: Value = serde_json::from_str(&read("nodejs/package.json")).unwrap();
    for (name, version) in wanted["dependencies"].as_object().unwrap() {
        let version = version.as_str().unwrap();
        assert!(
            version.starts_with(|first: char| first.is_ascii_digit()),
            "{name} {version}"
        );
    }
    let locked: Value = serde_json::from_str(&read("nodejs/package-lock.json")).unwrap();
    for (path, package) in locked["packages"].as_object().unwrap() {
        let own = path.is_empty();
        assert!(own || package["integrity"].is_string(), "{path}");
        assert!(package["resolved"].is_null(), "{path} names a registry");
    }
}

/// One of the services in Python, with the packages that are pinned for it.
pub fn with_python(service: &str) -> Command {
    let mut command = Command::new(root().join("target/services/python/bin/python"));
    command.arg(examples().join("python").join(service));
    command
}

fn read(example: &str) -> String {
    fs::read_to_string(examples().join(example)).unwrap()
}

fn examples() -> PathBuf {
    root().join("events/examples")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
