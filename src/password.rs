//! Passwords of keycard's own users, as the adapters read them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use secrecy::SecretString;

/// Reads a password. Called for every connection, so that a changed one needs no restart. The error
/// says why it cannot be had, and holds nothing secret.
pub type ReadPassword =
    Arc<dyn Fn() -> BoxFuture<'static, Result<SecretString, String>> + Send + Sync>;
