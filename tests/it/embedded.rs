//! keycard with one Postgres and nothing else, from ten lines of configuration, as somebody meets it
//! who has never used it. These tests choose the queue themselves.

mod newcomer;

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::readme::block;
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::Output;
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

async fn embedded() -> Site {
    Site::new(Wishes {
        queue: QueueKind::Postgres,
        ..Wishes::default()
    })
    .await
}

/// README's few lines without the client's, in place of what the site has; hosts and names are the
/// test's.
fn configure(site: &Site) {
    let place = format!(
        "{}@{}:{}/{}",
        site.admin, site.postgres.host, site.postgres.port, site.dbname
    );
    let text = block("try")
        .replace("keycard@127.0.0.1:5432/mydb", &place)
        .replace("app_readwrite", &site.group);
    let (worker, _) = text.split_once("[client]").unwrap();
    assert_eq!(worker.lines().count(), 9);
    assert!(worker.contains(&place) && worker.contains(&site.group));
    std::fs::write(&site.config, worker).unwrap();
}

/// Lets the command line be a service.
fn configure_client(site: &Site, user: &str) {
    let (host, port, dbname) = (&site.postgres.host, site.postgres.port, &site.dbname);
    let encoded = percent_encoding::utf8_percent_encode(user, percent_encoding::NON_ALPHANUMERIC);
    let password = site.path().join("client-password");
    std::fs::write(&password, user).unwrap();
    site.configure(&format!(
        "[client]\nurl = \"postgresql://{encoded}@{host}:{port}/{dbname}\"\n\
         password = {{ file = {password:?} }}\n"
    ));
}

fn request(site: &Site) -> Output {
    site.keycard(&["request", "app-role", "--output", "json"])
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_lines_and_one_postgres_are_enough() {
    let site = embedded().await;
    configure(&site);
    configure_client(&site, "orders-svc");
    let _worker = site.worker().await;
    let answer = request(&site);
    assert!(answer.status.success(), "{}", answer.stderr);
    let event: Value = serde_json::from_str(&answer.stdout).unwrap();
    let issued = &event["data"];
    assert_eq!(issued["requester"], "orders-svc");
    let locator = issued["secret"]["locator"].as_str().unwrap();
    let beside = site.path().canonicalize().unwrap().join("keycard-secrets");
    assert!(locator.starts_with(beside.to_str().unwrap()), "{locator}");
    site.assert_credentials_work([issued]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_says_how_the_roles_of_services_are_made() {
    let site = embedded().await;
    let script = site.keycard(&["setup-sql", "--database", "app"]).stdout;
    for name in ["orders-svc", "billing-svc", "platform-ops"] {
        let line = format!("--    CREATE ROLE \"{name}\" LOGIN;\n");
        assert!(script.contains(&line), "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_let_in_once_it_is_configured_and_a_role() {
    let site = embedded().await;
    configure(&site);
    configure_client(&site, "mallory");
    {
        let _worker = site.worker().await;
        let answer = request(&site);
        assert_eq!(answer.status.code(), Some(1));
        assert!(
            answer.stderr.contains("Postgres refuses role 'mallory'")
                && answer.stderr.contains("name it in `requesters`"),
            "{}",
            answer.stderr
        );
    }
    let text = std::fs::read_to_string(&site.config).unwrap();
    let ghost = format!("ghost-{}", site.name);
    let more = format!("[\"orders-svc\", \"mallory\", {ghost:?}]");
    std::fs::write(&site.config, text.replace("[\"orders-svc\"]", &more)).unwrap();
    let worker = site.worker().await;
    let answer = request(&site);
    assert!(answer.status.success(), "{}", answer.stderr);
    let log = worker.log();
    assert!(
        log.contains(&ghost) && log.contains("is no role in the queue's database"),
        "{log}"
    );
}

/// What the worker says of it, while it keeps trying.
async fn worker_says(site: &Site, variables: &[(&str, &str)], words: &[&str]) {
    let worker = site.worker_unready(variables);
    eventually(&format!("the log says {words:?}"), SOON, async || {
        let log = worker.log();
        words.iter().all(|word| log.contains(word)).then_some(())
    })
    .await;
    assert!(!worker.log().contains("canary"));
    assert!(!worker.log().contains("keycard serves"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_postgres_is_told_with_what_to_do() {
    let site = embedded().await;
    configure(&site);
    let out_of_reach = "the queue's database is out of reach; keycard keeps trying";
    let (host, port) = (&site.postgres.host, site.postgres.port);
    let url =
        |port: u16, dbname: &str| format!("postgresql://{}@{host}:{port}/{dbname}", site.admin);
    for (variable, value, words) in [
        (
            "DB_ADMIN_PASSWORD",
            "canary".to_owned(),
            "28P01); mend the user's name or password, here or in Postgres",
        ),
        (
            "KEYCARD_DATABASES__APP__CONNECTION_URL",
            url(port, "nowhere"),
            "3D000); create that database, or name another",
        ),
        (
            "KEYCARD_DATABASES__APP__CONNECTION_URL",
            url(1, &site.dbname),
            "start Postgres there, or mend host and port",
        ),
    ] {
        worker_says(&site, &[(variable, &value)], &[out_of_reach, words]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_script_is_told_which() {
    let site = embedded().await;
    configure(&site);
    site.sql()
        .await
        .batch_execute("DROP SCHEMA keycard")
        .await
        .unwrap();
    let worker = site.keycard(&["worker"]);
    assert_eq!(worker.status.code(), Some(1));
    assert!(
        worker.stderr.contains("keycard setup-sql --database app"),
        "{}",
        worker.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_is_named_with_what_to_do() {
    let site = embedded().await;
    configure(&site);
    // Root may write into any directory, but not into a file; nor into one that others may change.
    for is_file in [true, false] {
        if is_file {
            std::fs::write(&site.secrets, "").unwrap();
        } else {
            std::fs::remove_file(&site.secrets).unwrap();
            std::fs::create_dir(&site.secrets).unwrap();
            let everybody = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(&site.secrets, everybody).unwrap();
        }
        let worker = site.keycard(&["worker"]);
        assert_eq!(worker.status.code(), Some(1));
        let line = worker.stderr.lines().last().unwrap();
        assert!(
            line.starts_with("keycard: the secret store cannot use "),
            "{line}"
        );
        assert!(line.contains(site.secrets.to_str().unwrap()), "{line}");
        assert!(
            line.ends_with("or name another directory in store.path"),
            "{line}"
        );
    }
}
