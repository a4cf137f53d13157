//! The secret store port: where credentials wait for their requesters.
//!
//! The worker writes, deletes and looks at what is there, without reading any value: that is a
//! client's affair, with the client's own rights.
//! Every adapter passes the conformance suite in tests/it/store.rs.

pub mod aws;
pub mod credential;
pub mod directory;
mod examine;
mod pace;

pub use examine::examine;

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use secrecy::SecretString;
use uuid::Uuid;

use crate::fault::Disposition;

/// A place that keeps secrets. Every operation is idempotent.
#[async_trait]
pub trait SecretStore: Send + Sync {
    /// Stores `value` at `locator`, a `/`-separated path of `[A-Za-z0-9_=.-]` segments that is used
    /// for this one attempt only. The same attempt with the same value may be put again and gives
    /// the same version.
    ///
    /// # Errors
    /// [`Disposition::Retry`] when the outcome is unknown or the store is unavailable;
    /// [`Disposition::Reject`] when the store refuses this secret.
    async fn put(
        &self,
        locator: &str,
        attempt: Uuid,
        value: &SecretString,
        tags: &BTreeMap<String, String>,
    ) -> Result<Stored, StoreError>;

    /// Deletes the secret at `locator`; a missing one is no error.
    ///
    /// # Errors
    /// As for [`SecretStore::put`].
    async fn delete(&self, locator: &str) -> Result<(), StoreError>;

    /// What is known of the secret at `locator` without reading it, as it is right now; `None` when
    /// there is none, or none that can be read any more.
    ///
    /// # Errors
    /// When the store cannot tell: that is no absence. As for [`SecretStore::put`].
    async fn describe(&self, locator: &str) -> Result<Option<Described>, StoreError>;

    /// Every secret whose locator begins with `prefix` and a slash, in no order. A store may be some
    /// minutes behind: [`SecretStore::describe`] says what is true of one. Ends with the first error.
    ///
    /// # Errors
    /// When the store cannot tell what there is, or not all of it. As for [`SecretStore::put`].
    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed, StoreError>>;
}

/// The kinds of store. Each has an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// [`directory`].
    Directory,
    /// [`aws`].
    AwsSecretsManager,
}

impl StoreKind {
    /// Every kind; the first is the default.
    pub const ALL: [Self; 2] = [Self::Directory, Self::AwsSecretsManager];

    /// Its name, in the configuration and in `issued` events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::AwsSecretsManager => "aws-secrets-manager",
        }
    }

    /// The kind of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// When it was last written, if the store says so.
    pub changed_at: Option<Timestamp>,
    /// As they were put.
    pub tags: BTreeMap<String, String>,
}

/// A secret that a listing tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// As it was put.
    pub locator: String,
    /// As they were put.
    pub tags: BTreeMap<String, String>,
}

/// Where a secret was stored, as the `issued` event says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The kind of store.
    pub store: StoreKind,
    /// What a client reads it by: the full ARN, or the path.
    pub locator: String,
    /// The store's region, if it has such.
    pub region: Option<String>,
    /// The version that was written.
    pub version: String,
}

/// A failed operation. Its text never holds a secret.
#[derive(Debug, thiserror::Error)]
#[error("the secret store could not {operation} {locator}: {problem}")]
pub struct StoreError {
    /// `put`, `delete`, `describe`, `list` or `read`.
    pub operation: &'static str,
    /// Which secret.
    pub locator: String,
    /// What the store said, in one line.
    pub problem: String,
    /// In what way it failed.
    pub kind: FailureKind,
}

impl StoreError {
    /// What to do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self.kind {
            FailureKind::Throttled
            | FailureKind::Denied
            | FailureKind::Full
            | FailureKind::Unavailable => Disposition::Retry,
            FailureKind::Refused => Disposition::Reject,
        }
    }
}

/// In what way a store failed. All but the last may pass, or be mended by an operator: a requester
/// that is told "denied" for those would be told something that is not true for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// It was asked too often.
    Throttled,
    /// keycard may not do that there, or nobody knows who it is.
    Denied,
    /// It takes no more secrets.
    Full,
    /// Anything else that keeps it from answering.
    Unavailable,
    /// It does not take this very secret.
    Refused,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Throttled,
        Self::Denied,
        Self::Full,
        Self::Unavailable,
        Self::Refused,
    ];

    /// Its name in the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
        }
    }
}
