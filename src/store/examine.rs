//! Looking at a store as `keycard doctor` does: a secret is written, looked at and deleted.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::credential::INSTALLATION_TAG;
use super::{SecretStore, StoreError};
use crate::check::Check;
use crate::clock;

/// Writes a secret that is no lease's below `prefix`, looks at it and deletes it.
pub async fn examine(store: &dyn SecretStore, prefix: &str, installation: &str) -> Check {
    const NAME: &str = "store";
    const REMEDY: &str = "mend [store], or what keycard may do there";
    let attempt = clock::uuid_v7();
    let locator = format!("{prefix}/keycard-doctor/check/{attempt}");
    let tags = BTreeMap::from([
        ("managed-by".to_owned(), "keycard".to_owned()),
        (INSTALLATION_TAG.to_owned(), installation.to_owned()),
    ]);
    let value = SecretString::from("written by keycard doctor; it is no secret");
    let put = store.put(&locator, attempt, &value, &tags).await;
    let looked = match &put {
        Ok(_) => store.describe(&locator).await,
        Err(_) => Ok(None),
    };
    // Also after a put that failed, as that leaves open whether it happened.
    let deleted = store.delete(&locator).await;
    let failure = |error: &StoreError| Check::failure(NAME, error.to_string(), REMEDY);
    match (put, looked, deleted) {
        (Err(error), _, _) | (Ok(_), Err(error), Ok(())) => failure(&error),
        (Ok(_), _, Err(error)) => Check::failure(
            NAME,
            error.to_string(),
            format!("{REMEDY}; then delete {locator}"),
        ),
        (Ok(_), Ok(None), Ok(())) => Check::failure(
            NAME,
            format!("what was written at {locator} was not there"),
            REMEDY,
        ),
        (Ok(stored), Ok(Some(_)), Ok(())) => {
            let seen = format!(
                "a secret was written, looked at and deleted in {}",
                stored.store.name()
            );
            Check::ok(NAME, seen)
        }
    }
}
