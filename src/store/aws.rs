//! AWS Secrets Manager: one secret per lease.
//!
//! What AWS allows is in its "Secrets Manager quotas" page; the numbers below come from there.

mod look;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config;
use aws_sdk_secretsmanager::config::StalledStreamProtectionConfig;
use aws_sdk_secretsmanager::config::interceptors::InterceptorContext;
use aws_sdk_secretsmanager::config::retry::{ClassifyRetry, RetryAction, RetryConfig};
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::RequestId;
use aws_sdk_secretsmanager::operation::create_secret::CreateSecretError;
use aws_sdk_secretsmanager::types::Tag;
use futures_util::stream::BoxStream;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use uuid::Uuid;

use super::pace::Pace;
use super::{Described, FailureKind, Listed, SecretStore, StoreError, StoreKind, Stored};
use crate::fault::told_with_causes;
use crate::metrics;

/// `CreateSecret` and `DeleteSecret` each have a quota of 50 a second per account and region. The
/// rest is for retries and for whoever else uses the account; several workers share by being throttled.
const WRITES_PER_SECOND: u32 = 45;
const WRITES_AT_ONCE: u32 = 5;

/// Longest value of a secret, in bytes.
const VALUE_BYTES_MAX: usize = 65_536;

/// The SDK's own tries at one operation, the first included.
const ATTEMPTS_MAX: u32 = 4;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest text that is passed on from AWS, in characters.
const PROBLEM_CHARS_MAX: usize = 500;

/// Secrets as AWS Secrets Manager keeps them.
#[derive(Debug)]
pub struct AwsSecretsManager {
    client: Client,
    region: String,
    kms_key_id: Option<String>,
    creating: Pace,
    deleting: Pace,
    describing: Pace,
    listing: Pace,
}

/// Neither the configuration nor the environment names a region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no AWS region is known; set the store's `region`, or AWS_REGION in the environment")]
pub struct RegionUnknown;

/// AWS's standard environment: credentials (Pod Identity, IRSA, variables, profiles, instance),
/// endpoint (`AWS_ENDPOINT_URL_SECRETS_MANAGER`) and, unless given, region.
pub async fn environment(region: Option<&str>) -> SdkConfig {
    let mut loader = aws_config::defaults(behavior_version());
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    loader.load().await
}

/// Pinned, so that a new release of the SDK changes no default unseen.
fn behavior_version() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

impl AwsSecretsManager {
    /// A store in the account, region and endpoint of `environment`. Secrets are encrypted with the
    /// KMS key `kms_key_id`, or else with the account's `aws/secretsmanager` key.
    ///
    /// # Errors
    /// When no region is known.
    pub fn new(environment: &SdkConfig, kms_key_id: Option<String>) -> Result<Self, RegionUnknown> {
        let region = environment.region().ok_or(RegionUnknown)?.to_string();
        Ok(Self {
            client: client(environment, None),
            region,
            kms_key_id,
            creating: Pace::new(WRITES_PER_SECOND, WRITES_AT_ONCE),
            deleting: Pace::new(WRITES_PER_SECOND, WRITES_AT_ONCE),
            describing: Pace::new(look::DESCRIPTIONS_PER_SECOND, 1),
            listing: Pace::new(look::LISTINGS_PER_SECOND, 1),
        })
    }
}

#[async_trait]
impl SecretStore for AwsSecretsManager {
    /// The attempt is the `ClientRequestToken`, which becomes the version: AWS takes the same token
    /// with the same value for the same request, whose reply may have been lost.
    async fn put(
        &self,
        locator: &str,
        attempt: Uuid,
        value: &SecretString,
        tags: &BTreeMap<String, String>,
    ) -> Result<Stored, StoreError> {
        // Refused here, as AWS's refusal of a value may quote it.
        let length = value.expose_secret().len();
        if !(1..=VALUE_BYTES_MAX).contains(&length) {
            return Err(StoreError {
                operation: "put",
                locator: locator.to_owned(),
                problem: format!("a value of {length} bytes; AWS keeps 1 to {VALUE_BYTES_MAX}"),
                kind: FailureKind::Refused,
            });
        }
        self.creating.turn().await;
        let created = self
            .client
            .create_secret()
            .name(locator)
            .client_request_token(attempt.to_string())
            .secret_string(value.expose_secret())
            .set_kms_key_id(self.kms_key_id.clone())
            .set_tags(Some(
                tags.iter()
                    .map(|(key, value)| Tag::builder().key(key).value(value).build())
                    .collect(),
            ))
            .send()
            .await
            .map_err(|error| failure("put", "CreateSecret", locator, &error, Some(value)))?;
        Ok(Stored {
            store: StoreKind::AwsSecretsManager,
            locator: created.arn.unwrap_or_else(|| locator.to_owned()),
            region: Some(self.region.clone()),
            version: created.version_id.unwrap_or_else(|| attempt.to_string()),
        })
    }

    /// Without a recovery window: a credential's login is gone already. AWS does it in the
    /// background; until then the name cannot be used again.
    async fn delete(&self, locator: &str) -> Result<(), StoreError> {
        self.deleting.turn().await;
        let deleted = self
            .client
            .delete_secret()
            .secret_id(locator)
            .force_delete_without_recovery(true)
            .send()
            .await;
        match deleted {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(()),
            Err(error) => Err(failure("delete", "DeleteSecret", locator, &error, None)),
        }
    }

    async fn describe(&self, locator: &str) -> Result<Option<Described>, StoreError> {
        self.look_at(locator).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed, StoreError>> {
        self.look_below(format!("{prefix}/"))
    }
}

/// Reads a password that the configuration names by its secret, an ARN (whose region then counts)
/// or a name: the string `password` of a JSON object, as RDS writes it, or else the whole value.
///
/// # Errors
/// As for [`read_value`].
pub async fn read_secret(
    environment: &SdkConfig,
    secret_id: &str,
) -> Result<SecretString, StoreError> {
    read_value(environment, secret_id).await.map(password_of)
}

/// Reads a secret's value, as a client does, by its ARN (whose region then counts) or its name.
///
/// # Errors
/// [`FailureKind::Refused`] when it is no text, else why it cannot be read now.
pub async fn read_value(
    environment: &SdkConfig,
    secret_id: &str,
) -> Result<SecretString, StoreError> {
    let answer = client(environment, region_of(secret_id))
        .get_secret_value()
        .secret_id(secret_id)
        .send()
        .await
        .map_err(|error| failure("read", "GetSecretValue", secret_id, &error, None))?;
    let value = answer.secret_string.ok_or_else(|| StoreError {
        operation: "read",
        locator: secret_id.to_owned(),
        problem: "it holds binary data; keycard reads texts".to_owned(),
        kind: FailureKind::Refused,
    })?;
    Ok(SecretString::from(value))
}

/// The region in an ARN of a secret.
fn region_of(secret_id: &str) -> Option<Region> {
    let region = secret_id.strip_prefix("arn:")?.split(':').nth(2)?;
    (!region.is_empty()).then(|| Region::new(region.to_owned()))
}

/// The `password` of a JSON object, or else the whole value.
fn password_of(value: SecretString) -> SecretString {
    #[derive(Deserialize)]
    struct WithPassword {
        password: String,
    }

    let text = value.expose_secret();
    // The parser would take an array for the struct's fields, too.
    if text.trim_start().starts_with('{')
        && let Ok(object) = serde_json::from_str::<WithPassword>(text)
    {
        return SecretString::from(object.password);
    }
    value
}

/// A client with keycard's limits. The worker retries for as long as it takes; the SDK only bridges
/// what passes at once.
fn client(environment: &SdkConfig, region: Option<Region>) -> Client {
    let mut config = config::Builder::from(environment)
        .behavior_version(behavior_version())
        .timeout_config(
            TimeoutConfig::builder()
                .operation_timeout(OPERATION_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .build(),
        )
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
        // It watches long downloads; these answers are short and the timeouts cover them.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .retry_classifier(QuotaIsNotThrottling);
    if let Some(region) = region {
        config = config.region(region);
    }
    Client::from_conf(config.build())
}

/// The SDK counts `LimitExceededException` as throttling and would try again within seconds. Here it
/// means that the region holds as many secrets as it may (500,000): only deleting helps, which takes
/// minutes, so one call is enough and the worker's back-off decides when the next one is due.
#[derive(Debug)]
struct QuotaIsNotThrottling;

impl ClassifyRetry for QuotaIsNotThrottling {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let quota_reached = context
            .output_or_error()
            .and_then(Result::err)
            .and_then(|error| error.as_operation_error())
            .and_then(|error| error.downcast_ref::<CreateSecretError>())
            .is_some_and(CreateSecretError::is_limit_exceeded_exception);
        if quota_reached {
            RetryAction::RetryForbidden
        } else {
            RetryAction::NoActionIndicated
        }
    }

    fn name(&self) -> &'static str {
        "quota is not throttling"
    }
}

/// What an error's code means. Only what AWS says about this very request is final: a name whose
/// deletion is not finished (`InvalidRequestException`) is free again within minutes.
fn kind_of(code: Option<&str>) -> FailureKind {
    match code {
        Some(
            "ThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException",
        ) => FailureKind::Throttled,
        Some(
            "AccessDeniedException"
            | "AccessDenied"
            | "ExpiredTokenException"
            | "ExpiredToken"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "UnrecognizedClientException"
            // The KMS key is disabled, or not for keycard.
            | "EncryptionFailure"
            | "DecryptionFailure",
        ) => FailureKind::Denied,
        Some("LimitExceededException") => FailureKind::Full,
        Some(
            // The name is taken by another token or another value.
            "ResourceExistsException"
            | "InvalidParameterException"
            | "ValidationException"
            | "SerializationException",
        ) => FailureKind::Refused,
        _ => FailureKind::Unavailable,
    }
}

/// An error of the SDK as one of the port. `action` is the IAM action that was called, so that a
/// denial says which permission is missing.
fn failure<E>(
    operation: &'static str,
    action: &str,
    locator: &str,
    error: &SdkError<E>,
    value: Option<&SecretString>,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let mut problem = match error.as_service_error() {
        Some(answer) => format!(
            "secretsmanager:{action}: {}: {} (request {})",
            answer.code().unwrap_or("an answer without a code"),
            answer.message().unwrap_or("no message"),
            error.request_id().unwrap_or("unknown"),
        ),
        None => format!("secretsmanager:{action}: {}", told_with_causes(error)),
    };
    if let Some(value) = value {
        problem = without(problem, value);
    }
    let kind = kind_of(error.as_service_error().and_then(E::code));
    metrics::store_failed(kind.as_str());
    StoreError {
        operation,
        locator: locator.to_owned(),
        problem: one_line(&problem),
        kind,
    }
}

/// AWS quotes parameters in some refusals: whatever in `text` could be a password of `value`
/// (16 or more of the letters that keycard makes them of) is left out.
fn without(text: String, value: &SecretString) -> String {
    value
        .expose_secret()
        .split(|letter: char| !(letter.is_ascii_alphanumeric() || "_-".contains(letter)))
        .filter(|word| word.len() >= 16)
        .fold(text, |text, word| text.replace(word, "[redacted]"))
}

/// The text with every run of white space and control characters as one space, cut to a length
/// that fits a log line.
fn one_line(text: &str) -> String {
    let mut line = text
        .split(|letter: char| letter.is_whitespace() || letter.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if let Some((end, _)) = line.char_indices().nth(PROBLEM_CHARS_MAX) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_read_from_both_shapes() {
        let rds = r#" {"username":"admin","password":"p\"w","port":5432}"#;
        for (value, password) in [
            (rds, "p\"w"),
            ("plain", "plain"),
            (r#"{"user":"x"}"#, r#"{"user":"x"}"#),
            (r#"{"password":7}"#, r#"{"password":7}"#),
            (r#"["x"]"#, r#"["x"]"#),
            ("{not json", "{not json"),
        ] {
            assert_eq!(password_of(value.into()).expose_secret(), password);
        }
    }

    #[test]
    fn an_arn_names_its_region() {
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:admin-AbCdEf";
        assert_eq!(region_of(arn), Some(Region::new("eu-west-1")));
        assert_eq!(region_of("admin/password"), None);
        assert_eq!(region_of("arn:aws:secretsmanager"), None);
    }

    #[test]
    fn a_problem_is_one_line_of_bounded_length() {
        assert_eq!(one_line("a\r\n\tb  c\u{1b}[31m"), "a b c [31m");
        assert_eq!(one_line(&"ä".repeat(600)).chars().count(), 501);
    }
}
