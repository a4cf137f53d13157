//! `keycard request`.

use std::process::Command;

use serde_json::Value;

use super::{Person, causes, is_sent, live_leases};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::secrets_manager::{FakeSecretsManager, Fault, Operation};
use crate::support::servers::shared_moto;
use crate::support::site::{Site, StoreKind, Wishes};

/// Logs in with what a command printed: `{}` in the script is the connection string or nothing.
fn psql(script: &str, variables: &[(&str, &str)]) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_logs_in() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    let who = "psql -Atc 'SELECT current_user'";

    let env = orders.right(&["request", "app-role", "--format", "env"]);
    assert!(
        env.lines().all(|line| line.starts_with("export PG")),
        "{env}"
    );
    let user = psql(&format!("{env}\n{who}"), &[]);
    assert!(env.contains(&format!("export PGUSER='{user}'")), "{env}");

    let dsn = orders.right(&["request", "app-role", "--format", "dsn"]);
    let user = psql(&format!("{who} \"$DSN\""), &[("DSN", dsn.trim())]);
    assert!(dsn.starts_with(&format!("postgresql://{user}:")), "{dsn}");

    let json = orders.right(&["request", "app-role", "--format=json"]);
    let secret: Value = serde_json::from_str(&json).unwrap();
    let (username, password) = (&secret["username"], &secret["password"]);
    site.login(username.as_str().unwrap(), password.as_str().unwrap())
        .await
        .unwrap();

    let line = orders.right(&["request", "app-role", "--format=pgpass"]);
    let file = site.path().join("pgpass");
    let fields: Vec<&str> = line.split(':').collect();
    std::fs::write(&file, &line).unwrap();
    let user = psql(
        &format!("chmod 600 \"$PGPASSFILE\"; {who}"),
        &[
            ("PGPASSFILE", file.to_str().unwrap()),
            ("PGHOST", fields[0]),
            ("PGPORT", fields[1]),
            ("PGDATABASE", fields[2]),
            ("PGUSER", fields[3]),
        ],
    );
    assert_eq!(user, fields[3]);
}

/// The person's own AWS credentials read the secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_aws_is_read_with_the_callers_credentials() {
    let site = Site::new(Wishes {
        store: StoreKind::Aws(shared_moto().url.clone()),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc")
        .set("AWS_ENDPOINT_URL_SECRETS_MANAGER", &shared_moto().url)
        .set("AWS_ACCESS_KEY_ID", "orders")
        .set("AWS_SECRET_ACCESS_KEY", "orders")
        .set("AWS_EC2_METADATA_DISABLED", "true");
    let dsn = orders.right(&["request", "app-role", "--format", "dsn"]);
    let user = psql(
        "psql -Atc 'SELECT current_user' \"$DSN\"",
        &[("DSN", dsn.trim())],
    );
    assert!(dsn.starts_with(&format!("postgresql://{user}:")), "{dsn}");
}

/// A credential that its requester cannot read is no use to anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_cannot_be_read_is_given_back() {
    let aws = FakeSecretsManager::start();
    let site = Site::new(Wishes {
        store: StoreKind::Aws(aws.url()),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc")
        .set("AWS_ENDPOINT_URL_SECRETS_MANAGER", &aws.url())
        .set("AWS_ACCESS_KEY_ID", "orders")
        .set("AWS_SECRET_ACCESS_KEY", "orders")
        .set("AWS_EC2_METADATA_DISABLED", "true");
    // However often it is asked.
    aws.fail_next_of(
        Operation::GetSecretValue,
        100,
        Fault::Refuse("AccessDeniedException"),
    );
    let output = orders.keycard(&["request", "app-role", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    for words in [
        "AccessDeniedException",
        "allow secretsmanager:GetSecretValue on the secrets of this requester",
        "the credential was revoked again",
    ] {
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
    assert_eq!(output.stdout, "");
    live_leases(&site, 0).await;
    assert_eq!(causes(&site).await, ["requested"]);
}

/// Ctrl-C gives back what still comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_request_is_given_back() {
    let site = Site::usual().await;
    let worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");

    // The worker stands still, so that the answer comes after the interruption.
    worker.signal("STOP");
    let mut waiting = orders.start("answered", &["request", "app-role"]);
    let queued = async || is_sent(&site, "requests").await.then_some(());
    eventually("the request is queued", SOON, queued).await;
    waiting.signal("INT");
    waiting.says("interrupted; waiting for the answer").await;
    worker.signal("CONT");
    let status = waiting.exit().await;
    assert_eq!(status.code(), Some(130), "{}", waiting.stderr());
    assert!(
        waiting.stderr().contains("was revoked"),
        "{}",
        waiting.stderr()
    );
    assert_eq!(waiting.stdout(), "");
    live_leases(&site, 0).await;
    assert_eq!(causes(&site).await, ["requested"]);
}

/// Of what may come later, whoever asked is told, interrupted or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_answers_tells_what_may_come_of_it() {
    let site = Site::usual().await;
    site.worker().await.kill();
    let orders = Person::new(&site, "orders-svc");
    let queued = async || is_sent(&site, "requests").await.then_some(());
    let mut waiting = orders.start("unanswered", &["run", "app-role", "--", "true"]);
    eventually("the request is queued", SOON, queued).await;
    waiting.signal("TERM");
    waiting.says("interrupted; waiting for the answer").await;
    waiting.signal("TERM");
    let status = waiting.exit().await;
    assert_eq!(status.code(), Some(143), "{}", waiting.stderr());
    let said = waiting.stderr();
    assert!(said.contains("ends by itself with its TTL"), "{said}");

    let output = orders.keycard(&["request", "app-role"]);
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    for words in [
        "came within 30 s; is a worker running?",
        "a credential issued for this request within the next 2 minutes ends by itself",
    ] {
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
}
