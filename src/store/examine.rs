//! Looking at a store as `keycard doctor` does: a secret is written, looked at and deleted.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use jiff::SignedDuration;
use secrecy::SecretString;
use uuid::Uuid;

use super::credential::INSTALLATION_TAG;
use super::{SecretStore, StoreError};
use crate::check::{Check, DOCTOR};
use crate::clock;

/// After this long no doctor is still at work on its secret.
const LEFT: SignedDuration = SignedDuration::from_mins(10);

/// Writes a secret that is no lease's below `prefix`, looks at it and deletes it; then deletes what
/// doctors that were killed in between have left there.
pub async fn examine(store: &dyn SecretStore, prefix: &str, installation: &str) -> Check {
    const NAME: &str = "store";
    const REMEDY: &str = "mend [store], or what keycard may do there";
    let attempt = clock::uuid_v7();
    let own = format!("{prefix}/{DOCTOR}/check");
    let locator = format!("{own}/{attempt}");
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
        (Ok(stored), Ok(Some(_)), Ok(())) => match clear(store, &own, installation).await {
            Ok(()) => {
                let kind = stored.store.name();
                let seen = format!("a secret was written, looked at and deleted in {kind}");
                Check::ok(NAME, seen)
            }
            // Leases are issued and ended all the same.
            Err(error) => Check::warning(NAME, error.to_string(), REMEDY),
        },
    }
}

async fn clear(store: &dyn SecretStore, own: &str, installation: &str) -> Result<(), StoreError> {
    let listed: Vec<_> = store.list(own).try_collect().await?;
    for secret in listed {
        let is_ours = secret
            .tags
            .get(INSTALLATION_TAG)
            .is_some_and(|name| name == installation);
        if is_ours && is_left(&secret.locator) {
            store.delete(&secret.locator).await?;
        }
    }
    Ok(())
}

/// The name says when it was written, by the clock of a host that is near enough to this one's.
fn is_left(locator: &str) -> bool {
    let (_, name) = locator.rsplit_once('/').unwrap_or(("", locator));
    let written = name
        .parse()
        .ok()
        .and_then(|name: Uuid| name.get_timestamp());
    let now = clock::host_now().as_second();
    written.is_some_and(|at| {
        let (seconds, _) = at.to_unix();
        i64::try_from(seconds).is_ok_and(|at| now - at > LEFT.as_secs())
    })
}
