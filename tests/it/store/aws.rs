//! AWS Secrets Manager, as moto and the strict stand-in know it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_secretsmanager::error::ProvideErrorMetadata as _;
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use keycard::clock::{monotonic_now, uuid_v7};
use keycard::fault::Disposition;
use keycard::store::aws::{self, AwsSecretsManager, RegionUnknown, read_secret};
use keycard::store::{SecretStore as _, StoreError};
use secrecy::ExposeSecret as _;

use super::{Probe, conformance, locator, put};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::secrets_manager::{FakeSecretsManager, Fault, Operation};
use crate::support::servers::shared_moto;

/// What a real environment would give, for a server at `url`.
pub fn environment(url: &str) -> SdkConfig {
    environment_in("eu-central-1", url)
}

/// The same in another region: tests that have much tried again, or must have it tried again, share
/// the SDK's quota of retries with nobody there.
pub fn environment_in(region: &'static str, url: &str) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(region))
        .endpoint_url(url)
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "test", "test", None, None, "test",
        )))
        .build()
}

pub fn store(fake: &FakeSecretsManager) -> AwsSecretsManager {
    AwsSecretsManager::new(&environment(&fake.url()), None).unwrap()
}

struct Reader {
    client: Client,
}

impl Reader {
    fn new(environment: &SdkConfig) -> Self {
        Self {
            client: Client::new(environment),
        }
    }
}

#[async_trait]
impl Probe for Reader {
    async fn read(&self, locator: &str) -> Option<String> {
        let read = self.client.get_secret_value().secret_id(locator);
        match read.send().await {
            Ok(secret) => secret.secret_string,
            Err(error) => {
                // Gone, or being deleted in the background.
                let code = error.code().unwrap();
                assert!(
                    ["ResourceNotFoundException", "InvalidRequestException"].contains(&code),
                    "{error:?}"
                );
                None
            }
        }
    }

    async fn tags(&self, locator: &str) -> Option<BTreeMap<String, String>> {
        let described = self.client.describe_secret().secret_id(locator);
        let tags = described.send().await.unwrap().tags.unwrap_or_default();
        let pairs = tags
            .into_iter()
            .map(|tag| (tag.key.unwrap(), tag.value.unwrap()));
        Some(pairs.collect())
    }
}

#[tokio::test]
async fn the_strict_stand_in_conforms() {
    let fake = FakeSecretsManager::start();
    let reader = Reader::new(&environment(&fake.url()));
    conformance(Box::new(store(&fake)), &reader).await;
}

#[tokio::test]
async fn it_conforms_in_small_pages_though_it_is_throttled() {
    let fake = FakeSecretsManager::start();
    fake.set_page(2);
    fake.fail_next_of(Operation::ListSecrets, 2, Fault::Throttle);
    fake.fail_next_of(Operation::DescribeSecret, 2, Fault::Throttle);
    let reader = Reader::new(&environment(&fake.url()));
    conformance(Box::new(store(&fake)), &reader).await;
    assert!(fake.count(Operation::ListSecrets) > 13);
}

#[tokio::test]
async fn what_may_not_be_looked_at_is_not_absent() {
    let fake = FakeSecretsManager::start();
    let store = store(&fake);
    let denied = Fault::Refuse("AccessDeniedException");
    fake.fail_next_of(Operation::ListSecrets, 1, denied);
    let listed = store.list("keycard").try_collect::<Vec<_>>().await;
    let error = listed.unwrap_err();
    assert!(
        error
            .problem
            .contains("secretsmanager:ListSecrets: AccessDenied")
    );
    assert_eq!(error.disposition(), Disposition::Retry);
    fake.fail_next_of(Operation::DescribeSecret, 1, denied);
    let error = store.describe(&locator("app")).await.unwrap_err();
    assert!(
        error
            .problem
            .contains("secretsmanager:DescribeSecret: AccessDenied")
    );
}

#[tokio::test]
async fn moto_conforms() {
    let environment = environment_in("eu-west-1", &shared_moto().url);
    let store = AwsSecretsManager::new(&environment, None).unwrap();
    conformance(Box::new(store), &Reader::new(&environment)).await;
}

#[test]
fn without_a_region_there_is_no_store() {
    let environment = SdkConfig::builder().build();
    assert_eq!(
        AwsSecretsManager::new(&environment, None).unwrap_err(),
        RegionUnknown
    );
}

#[tokio::test]
async fn the_configured_region_goes_before_the_environment() {
    let environment = aws::environment(Some("eu-west-3")).await;
    assert_eq!(environment.region(), Some(&Region::new("eu-west-3")));
    AwsSecretsManager::new(&environment, None).unwrap();
}

#[tokio::test]
async fn events_get_the_arn_the_region_and_the_version() {
    let fake = FakeSecretsManager::start();
    let (locator, attempt) = (locator("app"), uuid_v7());
    let stored = put(&store(&fake), &locator, attempt, "value")
        .await
        .unwrap();
    assert_eq!(stored.store.name(), "aws-secrets-manager");
    let arn = format!("arn:aws:secretsmanager:eu-central-1:123456789012:secret:{locator}-");
    assert!(stored.locator.starts_with(&arn), "{stored:?}");
    assert_eq!(stored.region.as_deref(), Some("eu-central-1"));
    assert_eq!(stored.version, attempt.to_string());
}

#[tokio::test]
async fn values_that_aws_does_not_take_never_reach_it() {
    let fake = FakeSecretsManager::start();
    for value in ["", &"canary".repeat(10_923)] {
        let refused = put(&store(&fake), &locator("app"), uuid_v7(), value).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.disposition(), Disposition::Reject);
        assert!(!refused.to_string().contains("canary"));
    }
    assert_eq!(fake.count(Operation::CreateSecret), 0);
}

/// As the worker does: what took too long is tried again.
async fn until_done<T>(mut effect: impl AsyncFnMut() -> Result<T, StoreError>) {
    eventually("it is done", SOON, async || match effect().await {
        Ok(_) => Some(()),
        Err(error) => {
            assert_eq!(error.disposition(), Disposition::Retry, "{error}");
            None
        }
    })
    .await;
}

/// Whoever asks for more than a second's worth at once waits for it, though nobody refuses. A busy
/// machine takes longer still, for some longer than an attempt may take.
#[tokio::test]
async fn bursts_are_spread_over_time() {
    const LEAST: Duration = Duration::from_secs(1);
    let fake = FakeSecretsManager::start();
    fake.lift_quotas();
    let environment = environment_in("eu-west-3", &fake.url());
    let store = AwsSecretsManager::new(&environment, None).unwrap();
    let leases: Vec<String> = (0..60).map(|_| locator("burst")).collect();
    // Others: what is being deleted is not created again.
    let ended: Vec<String> = (0..60).map(|_| locator("burst")).collect();
    let begun = monotonic_now();
    let puts = async {
        let puts = leases.iter().map(|locator| {
            let (store, attempt) = (&store, uuid_v7());
            until_done(async move || put(store, locator, attempt, "value").await)
        });
        join_all(puts).await;
        assert!(begun.elapsed() >= LEAST, "{:?}", begun.elapsed());
    };
    let deletions = async {
        let deletions = ended.iter().map(|locator| {
            let store = &store;
            until_done(async move || store.delete(locator).await)
        });
        join_all(deletions).await;
        assert!(begun.elapsed() >= LEAST, "{:?}", begun.elapsed());
    };
    tokio::join!(puts, deletions);
    assert!(fake.calls().iter().all(|call| call.outcome == "ok"));
}

#[tokio::test]
async fn configuration_passwords_are_read_by_name_and_by_arn() {
    let fake = FakeSecretsManager::start();
    let environment = environment(&fake.url());
    let store = store(&fake);
    let rds = r#"{"engine":"postgres","username":"admin","password":"from json"}"#;
    put(&store, "admin", uuid_v7(), rds).await.unwrap();
    let plain = put(&store, "plain", uuid_v7(), "as it is").await.unwrap();
    let read = read_secret(&environment, "admin").await.unwrap();
    assert_eq!(read.expose_secret(), "from json");
    let read = read_secret(&environment, &plain.locator).await.unwrap();
    assert_eq!(read.expose_secret(), "as it is");
    let missing = read_secret(&environment, "nothing").await.unwrap_err();
    assert_eq!(missing.disposition(), Disposition::Retry);
    assert!(
        missing
            .to_string()
            .starts_with("the secret store could not read nothing: secretsmanager:GetSecretValue: ResourceNotFoundException: "),
        "{missing}"
    );
}
