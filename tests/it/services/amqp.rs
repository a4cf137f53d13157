//! The services that stand on `RabbitMQ` and Secrets Manager, one in each language.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use aws_sdk_secretsmanager::Client;
use keycard::queue::Lane;
use serde_json::Value;

use super::{examples, root, with_python};
use crate::store::aws::environment;
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::Worker as Process;
use crate::support::queues::Queues;
use crate::support::servers::{shared_moto, shared_rabbitmq};
use crate::support::services::QueueKind;
use crate::support::site::{Site, StoreKind, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn the_service_in_python_always_has_a_login_of_its_own() {
    whole_life(python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_in_nodejs_always_has_a_login_of_its_own() {
    whole_life(nodejs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_say_why_they_are_denied() {
    for service in [python, nodejs] {
        let site = site("").await;
        let _worker = site.worker().await;
        let mut process = start(&site, service(&site), "not-a-role");
        assert_eq!(process.exit(SOON).await.code(), Some(1));
        let log = process.log();
        assert!(log.contains("denied: role_not_allowed: "), "{log}");
    }
}

/// Asks until it is answered; follows a renewal that it did not ask for; renews; changes to another
/// login when the first can be renewed no more; and gives back what it has.
async fn whole_life(service: fn(&Site) -> Command) {
    let site = site("default_ttl = \"30s\"\nmax_ttl = \"30s\"").await;
    // Leaves what the service connects to, and nobody who answers it.
    site.worker().await.kill();
    let other_instance = site.client("orders-svc").await;
    let mut process = start(&site, service(&site), "app-role");
    let queues = Queues::of(&site).await;
    eventually("the service asks again", SOON, async || {
        (queues.ready(Lane::Requests).await > 1).then_some(())
    })
    .await;
    let _worker = site.worker().await;
    let first = has_login(&process, 0).await;
    let (lease, password) = credential(&site, &first).await;

    // Ends before half of its life has passed, so only who follows it can renew it in time.
    other_instance.renew(&lease, Some(14)).await;
    says(&process, &format!("{first} generation 2")).await;
    says(&process, &format!("{first} generation 3")).await;

    let second = has_login(&process, 1).await;
    assert_ne!(first, second);
    let (next_lease, next_password) = credential(&site, &second).await;
    let given_back = other_instance
        .notice("lease.revoked.v1", &lease, SOON)
        .await;
    assert_eq!(given_back.data()["cause"], "requested");
    let done = site.count("SELECT count(*) FROM orders").await;
    eventually("the service goes on with its work", SOON, async || {
        let now = site.count("SELECT count(*) FROM orders").await;
        (now > done).then_some(())
    })
    .await;

    process.terminate();
    assert_eq!(
        process.exit(SOON).await.code(),
        Some(0),
        "{}",
        process.log()
    );
    let given_back = other_instance
        .notice("lease.revoked.v1", &next_lease, SOON)
        .await;
    assert_eq!(given_back.data()["cause"], "requested");
    let leases = "SELECT count(*) FROM keycard.leases";
    assert_eq!(
        site.count(leases).await,
        2,
        "a request was carried out twice"
    );
    assert_eq!(site.logins().await, 0);
    let log = process.log();
    assert!(
        !log.contains(&password) && !log.contains(&next_password),
        "{log}"
    );
}

async fn site(role: &str) -> Site {
    Site::new(Wishes {
        queue: QueueKind::Amqp(shared_rabbitmq()),
        store: StoreKind::Aws(shared_moto().url.clone()),
        role: role.to_owned(),
        ..Wishes::default()
    })
    .await
}

/// Narrower than what a site permits: queues only under the service's own name.
fn permit_what_readme_says(site: &Site) {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, line) = readme
        .split_once("rabbitmqctl set_permissions -p keycard orders-svc ")
        .unwrap();
    let quoted: Vec<&str> = line.lines().next().unwrap().split('\'').collect();
    let vhost = &site.vhost;
    site.rabbitmq()
        .set_permissions(vhost, "orders-svc", quoted[1], quoted[3], quoted[5]);
}

fn python(_site: &Site) -> Command {
    with_python("service.py")
}

/// Node.js looks for packages beside the script, so this is a copy of it.
fn nodejs(site: &Site) -> Command {
    for file in ["service.js", "package.json"] {
        fs::copy(examples().join("nodejs").join(file), site.path().join(file)).unwrap();
    }
    let packages = root().join("target/services/nodejs/node_modules");
    symlink(packages, site.path().join("node_modules")).unwrap();
    let mut command = Command::new("node");
    command.arg(site.path().join("service.js"));
    command
}

/// The region is not among its settings: the event says it.
fn start(site: &Site, mut service: Command, role: &str) -> Process {
    permit_what_readme_says(site);
    service
        .env("BROKER_URL", site.uri("orders-svc"))
        .env("ROLE", role)
        .env("AWS_ENDPOINT_URL_SECRETS_MANAGER", &shared_moto().url)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env_remove("AWS_PROFILE");
    Process::start(&mut service, site.path().join("service.log"))
}

async fn says(process: &Process, line: &str) {
    eventually(&format!("the service says: {line}"), SOON, async || {
        let said = process.log().lines().any(|said| said == line);
        said.then_some(())
    })
    .await;
}

/// The login that the service got after `earlier` others.
async fn has_login(process: &Process, earlier: usize) -> String {
    eventually("the service has a login", SOON, async || {
        let log = process.log();
        let mut logins = log
            .lines()
            .filter_map(|line| line.strip_suffix(" generation 1"));
        logins.nth(earlier).map(str::to_owned)
    })
    .await
}

/// The id of a login's lease, and its password.
async fn credential(site: &Site, username: &str) -> (String, String) {
    let query = "SELECT id::text, locators[1] FROM keycard.leases WHERE username = $1";
    let row = site
        .sql()
        .await
        .query_one(query, &[&username])
        .await
        .unwrap();
    let store = Client::new(&environment(&shared_moto().url));
    let read = store.get_secret_value().secret_id(row.get::<_, String>(1));
    let text = read.send().await.unwrap().secret_string.unwrap();
    let secret: Value = serde_json::from_str(&text).unwrap();
    let password = secret["password"].as_str().unwrap();
    (
        format!("app.{}", row.get::<_, String>(0)),
        password.to_owned(),
    )
}
