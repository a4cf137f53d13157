//! The whole life of a lease, as services and operators see it.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata as _;
use serde_json::Value;

use crate::store::aws::environment;
use crate::support::client::{Heard, SOON};
use crate::support::eventually;
use crate::support::secrets_manager::FakeSecretsManager;
use crate::support::servers::shared_moto;
use crate::support::site::{Site, StoreKind, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_and_ends_with_files() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    whole_life(&site, async |issued| Site::secret(issued)).await;
    assert!(
        site.secret_files()
            .iter()
            .all(|file| file.ends_with(".lock"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_and_ends_with_the_strict_secrets_manager() {
    let fake = FakeSecretsManager::start();
    life_with_secrets_manager(&fake.url()).await;
    assert!(fake.secrets().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_and_ends_with_moto() {
    life_with_secrets_manager(&shared_moto().url).await;
}

/// The client reads the secret with the SDK by what the event says, and at the end it is gone.
async fn life_with_secrets_manager(url: &str) {
    let site = Site::new(Wishes {
        store: StoreKind::Aws(url.to_owned()),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let client = Client::new(&environment(url));
    let told = std::sync::Mutex::new(String::new());
    whole_life(&site, async |issued| {
        let pointer = &issued["secret"];
        assert_eq!(pointer["store"], "aws-secrets-manager");
        assert_eq!(pointer["region"], "eu-central-1");
        let arn = pointer["locator"].as_str().unwrap();
        assert!(
            arn.starts_with("arn:aws:secretsmanager:eu-central-1:"),
            "{arn}"
        );
        arn.clone_into(&mut told.lock().unwrap());
        let read = client.get_secret_value().secret_id(arn).send();
        let secret = read.await.unwrap();
        assert_eq!(pointer["version"], secret.version_id.unwrap());
        serde_json::from_str(&secret.secret_string.unwrap()).unwrap()
    })
    .await;
    let arn = told.into_inner().unwrap();
    let gone = client.get_secret_value().secret_id(arn).send().await;
    let error = gone.unwrap_err();
    let code = error.code().unwrap();
    assert!(
        ["ResourceNotFoundException", "InvalidRequestException"].contains(&code),
        "{error:?}"
    );
}

/// Request, log in, renew, outlive the first expiry, expire with a session open; then nothing is left.
async fn whole_life(site: &Site, secret_of: impl AsyncFn(&Value) -> Value) {
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", Some(12)).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    let username = issued["username"].as_str().unwrap();
    let secret = secret_of(&issued).await;
    assert_eq!(secret["username"], username);
    let password = secret["password"].as_str().unwrap();

    let session = site.login(username, password).await.unwrap();
    let who = session.query_one("SELECT current_user::text, count(*) FROM orders", &[]);
    let who = who.await.unwrap();
    assert_eq!((who.get::<_, &str>(0), who.get::<_, i64>(1)), (username, 1));
    drop(session);

    let renewal = orders.renew(lease_id, Some(22)).await;
    let renewed = orders.answer(&renewal).await;
    assert_eq!(renewed.kind(), "lease.renewed.v1");
    assert_eq!(renewed.data()["previous_expires_at"], issued["expires_at"]);
    assert_eq!(renewed.data()["generation"], 2);

    let first_expiry: jiff::Timestamp = issued["expires_at"].as_str().unwrap().parse().unwrap();
    eventually("the first expiry passes", SOON, async || {
        (keycard::clock::host_now() > first_expiry).then_some(())
    })
    .await;
    let session = site.login(username, password).await.unwrap();

    let revoked = orders.notice("lease.revoked.v1", lease_id, SOON).await;
    assert_eq!(revoked.data()["cause"], "expired");
    assert_eq!(revoked.data()["sessions_terminated"], 1);
    assert!(session.simple_query("SELECT 1").await.is_err());
    assert!(site.login(username, password).await.is_err());
    let roles = site
        .sql()
        .await
        .query("SELECT FROM pg_roles WHERE rolname = $1", &[&username])
        .await
        .unwrap();
    assert!(roles.is_empty());
    eventually("the lease is closed", SOON, async || {
        (site
            .count("SELECT count(*) FROM keycard.leases WHERE state = 'closed'")
            .await
            == 1)
            .then_some(())
    })
    .await;
    let told = orders.told();
    let kinds: Vec<&str> = told.iter().map(Heard::kind).collect();
    assert_eq!(
        kinds,
        [
            "credential.issued.v1",
            "lease.renewed.v1",
            "lease.revoked.v1"
        ]
    );
}
