//! The configuration names `RabbitMQ`.

use std::process::Stdio;

use serde_json::Value;

use super::block;
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::servers::{shared_moto, shared_rabbitmq};
use crate::support::services::QueueKind;
use crate::support::site::{Site, StoreKind, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_in_readme_carries_a_whole_life() {
    let rabbitmq = shared_rabbitmq();
    let site = Site::new(Wishes {
        queue: QueueKind::Amqp(rabbitmq),
        store: StoreKind::Aws(shared_moto().url.clone()),
        ..Wishes::default()
    })
    .await;
    // Hosts, ports and passwords are the test's; everything else is README's.
    std::fs::write(&site.config, block("prod")).unwrap();
    let database = format!(
        "postgresql://{{{{username}}}}:{{{{password}}}}@{}:{}/{}",
        site.postgres.host, site.postgres.port, site.dbname
    );
    let broker = format!(
        "amqp://keycard@{}:{}/{}",
        rabbitmq.host, rabbitmq.port, site.vhost
    );
    let variables = [
        (
            "KEYCARD_DATABASES__MY_POSTGRES_DB__CONNECTION_URL",
            database.as_str(),
        ),
        ("KEYCARD_QUEUE__URL", broker.as_str()),
        ("DB_ADMIN_PASSWORD", "vaultadmin"),
        ("BROKER_PASSWORD", "keycard"),
    ];
    rabbitmq.add_user("keycard", "keycard");
    rabbitmq.set_permissions(&site.vhost, "keycard", ".*", ".*", ".*");
    let script = site
        .command(&["setup-sql", "--database", "my-postgres-db"])
        .envs(variables)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let script = String::from_utf8(script.stdout).unwrap();
    let superuser = site.sql().await;
    // The site's own admin has made a schema for itself.
    superuser
        .batch_execute("DROP SCHEMA keycard")
        .await
        .unwrap();
    superuser.batch_execute(&script).await.unwrap();
    superuser
        .batch_execute("ALTER ROLE vaultadmin PASSWORD 'vaultadmin'")
        .await
        .unwrap();

    let worker = site.worker_unready(&variables);
    worker.ready().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", Some(20)).await;
    let secret = read(&issued).await;
    let (username, password) = (
        secret["username"].as_str().unwrap(),
        secret["password"].as_str().unwrap(),
    );
    assert_eq!(issued["username"], username);
    let name = issued["secret"]["locator"].as_str().unwrap();
    assert!(
        name.contains(":secret:keycard/orders-svc/app-role/my-postgres-db."),
        "{name}"
    );
    let session = site.login(username, password).await.unwrap();

    let lease_id = issued["lease_id"].as_str().unwrap();
    let renewal = orders.renew(lease_id, Some(11)).await;
    assert_eq!(orders.answer(&renewal).await.kind(), "lease.renewed.v1");
    let revoked = orders.notice("lease.revoked.v1", lease_id, SOON).await;
    assert_eq!(revoked.data()["cause"], "expired");
    assert_eq!(revoked.data()["sessions_terminated"], 1);
    assert!(session.simple_query("SELECT 1").await.is_err());
    assert!(site.login(username, password).await.is_err());
    eventually("the lease is closed", SOON, async || {
        let closed = site.count("SELECT count(*) FROM keycard.leases WHERE state = 'closed'");
        (closed.await == 1).then_some(())
    })
    .await;
    assert_eq!(site.logins().await, 0);
}

/// The secret as a client of Secrets Manager reads it.
async fn read(issued: &Value) -> Value {
    let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .region("eu-central-1")
        .endpoint_url(shared_moto().url.as_str())
        .credentials_provider(aws_sdk_secretsmanager::config::Credentials::new(
            "test", "test", None, None, "test",
        ))
        .load()
        .await;
    let output = aws_sdk_secretsmanager::Client::new(&config)
        .get_secret_value()
        .secret_id(issued["secret"]["locator"].as_str().unwrap())
        .send()
        .await
        .unwrap();
    serde_json::from_str(output.secret_string().unwrap()).unwrap()
}
