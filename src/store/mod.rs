//! The secret store port: where credentials wait for their requesters.
//!
//! The worker only writes and deletes; reading is a client's affair, with the client's own rights.
//! Every adapter passes the conformance suite in tests/it/store.rs.

pub mod aws;
pub mod credential;
pub mod directory;
mod pace;

use std::collections::BTreeMap;

use async_trait::async_trait;
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
}

/// Where a secret was stored, as the `issued` event says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The kind of store, as in the configuration.
    pub store: &'static str,
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
    /// `put`, `delete` or `read`.
    pub operation: &'static str,
    /// Which secret.
    pub locator: String,
    /// What the store said, in one line.
    pub problem: String,
    /// What to do about it.
    pub disposition: Disposition,
}
