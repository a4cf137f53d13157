//! What AWS Secrets Manager's failures mean for the worker.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_sdk_secretsmanager::config::SharedCredentialsProvider;
use keycard::clock::{monotonic_now, uuid_v7};
use keycard::fault::Disposition;
use keycard::store::aws::AwsSecretsManager;
use keycard::store::credential::Credential;
use keycard::store::{SecretStore, StoreError};
use keycard::telemetry;
use secrecy::SecretString;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use super::aws::{environment, environment_in, store};
use super::{locator, no_tags, put};
use crate::support::secrets_manager::{FakeSecretsManager, Fault, Operation};

const CANARY: &str = "canary-0123456789-password";

/// Puts and deletes while every call goes wrong; both errors.
async fn failures(fault: Fault, fake: &FakeSecretsManager) -> [StoreError; 2] {
    let environment = environment_in("eu-west-2", &fake.url());
    let store = AwsSecretsManager::new(&environment, None).unwrap();
    fake.fail_next_of(Operation::CreateSecret, 4, fault);
    fake.fail_next_of(Operation::DeleteSecret, 4, fault);
    let (locator, attempt) = (locator("app"), uuid_v7());
    let (put, deleted) = tokio::join!(
        put(&store, &locator, attempt, CANARY),
        store.delete(&locator)
    );
    [put.unwrap_err(), deleted.unwrap_err()]
}

#[tokio::test]
async fn what_may_pass_is_retried() {
    let [first, second, third, fourth] = [(); 4].map(|()| FakeSecretsManager::start());
    let (server, proxy, throttled, lost) = tokio::join!(
        failures(Fault::Status500, &first),
        failures(Fault::Status503, &second),
        failures(Fault::Throttle, &third),
        failures(Fault::LostReply, &fourth),
    );
    for error in [server, proxy, throttled, lost].iter().flatten() {
        assert_eq!(error.disposition(), Disposition::Retry, "{error}");
        assert!(!error.to_string().contains(CANARY));
    }
    for fake in [first, second, third, fourth] {
        assert_eq!(fake.count(Operation::CreateSecret), 4);
        assert_eq!(fake.count(Operation::DeleteSecret), 4);
    }
}

#[tokio::test]
async fn refusals_are_told_apart_by_their_code_and_tried_once() {
    for (code, disposition) in [
        ("AccessDeniedException", Disposition::Retry),
        ("ExpiredTokenException", Disposition::Retry),
        ("InvalidRequestException", Disposition::Retry),
        ("EncryptionFailure", Disposition::Retry),
        ("LimitExceededException", Disposition::Retry),
        ("ResourceExistsException", Disposition::Reject),
        ("InvalidParameterException", Disposition::Reject),
        ("ValidationException", Disposition::Reject),
    ] {
        let fake = FakeSecretsManager::start();
        fake.fail_next(1, Fault::Refuse(code));
        let refused = put(&store(&fake), &locator("app"), uuid_v7(), CANARY).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.disposition(), disposition, "{refused}");
        let told = format!("secretsmanager:CreateSecret: {code}: ");
        assert!(refused.problem.starts_with(&told), "{refused}");
        assert!(refused.problem.contains("(request "), "{refused}");
        assert!(!format!("{refused} {refused:?}").contains(CANARY));
        assert_eq!(fake.count(Operation::CreateSecret), 1);
    }
}

#[tokio::test]
async fn a_missing_secret_counts_as_deleted() {
    let fake = FakeSecretsManager::start();
    fake.fail_next(1, Fault::Refuse("ResourceNotFoundException"));
    store(&fake).delete(&locator("app")).await.unwrap();
    assert_eq!(fake.count(Operation::DeleteSecret), 1);
}

#[tokio::test]
async fn what_passes_at_once_is_bridged() {
    let fake = FakeSecretsManager::start();
    fake.fail_next(1, Fault::Status503);
    fake.fail_next(1, Fault::Throttle);
    put(&store(&fake), &locator("app"), uuid_v7(), "value")
        .await
        .unwrap();
    // More only where an attempt took too long.
    assert!(fake.count(Operation::CreateSecret) >= 3);
}

#[tokio::test]
async fn a_lost_reply_does_not_make_a_second_secret() {
    let fake = FakeSecretsManager::start();
    let store = store(&fake);
    let (locator, attempt) = (locator("app"), uuid_v7());
    // First the SDK tries again, then, when it has given up, the worker.
    fake.fail_next(1, Fault::LostReply);
    let first = put(&store, &locator, attempt, "value").await.unwrap();
    fake.fail_next(4, Fault::LostReply);
    put(&store, &locator, attempt, "value").await.unwrap_err();
    let again = put(&store, &locator, attempt, "value").await.unwrap();
    assert_eq!(first, again);
    let secrets = fake.secrets();
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[&locator].version, first.version);
}

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_and_tried_again() {
    const HANGS: Duration = Duration::from_mins(10);
    let fake = FakeSecretsManager::start();
    fake.fail_next(1, Fault::Slow(HANGS));
    let start = monotonic_now();
    put(&store(&fake), &locator("app"), uuid_v7(), "value")
        .await
        .unwrap();
    // Not before it is given up, and not when it would have come to an end.
    let took = start.elapsed();
    assert!((Duration::from_secs(5)..HANGS).contains(&took), "{took:?}");
    // More only where another took too long as well.
    assert!(fake.count(Operation::CreateSecret) >= 2);
}

#[tokio::test]
async fn a_name_being_deleted_can_be_used_later() {
    let fake = FakeSecretsManager::start();
    let store = store(&fake);
    let locator = locator("app");
    put(&store, &locator, uuid_v7(), "value").await.unwrap();
    store.delete(&locator).await.unwrap();
    let refused = put(&store, &locator, uuid_v7(), "value").await.unwrap_err();
    assert_eq!(refused.disposition(), Disposition::Retry, "{refused}");
    assert!(refused.problem.contains("scheduled for deletion"));
    fake.set_deletion_takes(Duration::ZERO);
    put(&store, &locator, uuid_v7(), "value").await.unwrap();
}

#[tokio::test]
async fn without_server_or_credentials_it_is_retried() {
    let fake = FakeSecretsManager::start();
    let unreachable = store(&fake);
    let without_credentials = environment(&fake.url())
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(
            ProfileFileCredentialsProvider::builder()
                .profile_name("keycard-has-no-such-profile")
                .build(),
        ))
        .build();
    let without_credentials = AwsSecretsManager::new(&without_credentials, None).unwrap();
    let locator = locator("app");
    let error = put(&without_credentials, &locator, uuid_v7(), CANARY)
        .await
        .unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry, "{error}");
    assert_eq!(fake.count(Operation::CreateSecret), 0);
    drop(fake);
    let error = unreachable.delete(&locator).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry, "{error}");
    assert!(error.problem.contains("refused"), "{error}");
}

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Everything that is logged at these levels while secrets are put, refused and deleted.
async fn logged(targets: Targets) -> String {
    let log = Log::default();
    let lines = tracing_subscriber::fmt::layer().with_writer(log.clone());
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(targets));
    let guard = tracing::subscriber::set_default(subscriber);
    let fake = FakeSecretsManager::start();
    let aws = store(&fake);
    let credential = Credential {
        host: "db".to_owned(),
        port: 5432,
        username: "u".to_owned(),
        password: SecretString::from(CANARY),
        dbname: "app".to_owned(),
        ssl: true,
        lease_id: "app.x".to_owned(),
        expires_at: "2026-01-02T03:04:05Z".parse().unwrap(),
    };
    let value = credential.to_secret();
    let (locator, attempt) = (locator("app"), uuid_v7());
    for fault in [
        Fault::Refuse("ValidationException"),
        Fault::Refuse("AccessDeniedException"),
        Fault::LostReply,
        Fault::Status500,
    ] {
        fake.fail_next(1, fault);
        let put = aws.put(&locator, attempt, &value, &no_tags()).await;
        tracing::info!(?put, ?aws, ?credential, ?value, "put");
    }
    aws.delete(&locator).await.unwrap();
    drop(guard);
    let log = log.0.lock().unwrap().clone();
    String::from_utf8(log).unwrap()
}

#[tokio::test]
async fn no_log_holds_the_password() {
    let log = logged(telemetry::targets(LevelFilter::TRACE)).await;
    assert!(
        log.contains("ValidationException") && log.contains("[redacted]"),
        "{log}"
    );
    assert!(!log.contains(CANARY), "{log}");
    // The trap that makes telemetry clamp these targets.
    assert!(
        logged(Targets::new().with_default(LevelFilter::TRACE))
            .await
            .contains(CANARY)
    );
}
