//! What differs between ledgers, logins and secrets. Only looks.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::report::{Finding, Kind, Report};
use crate::lease::LeaseId;
use crate::ledger::{Ledger, LedgerError, Odd, Rules, View};
use crate::store::credential::INSTALLATION_TAG;
use crate::store::{Listed, SecretStore, StoreError};

/// Secrets that are asked about together.
const SECRETS_TOGETHER: usize = 100;

/// Secrets that are looked at side by side.
const LOOKS_AT_ONCE: usize = 8;

/// Most secrets of one comparison that differ. What is left is found the next time.
const SECRETS_MAX: usize = 10_000;

/// A look at every database, each at most once.
pub struct Views {
    /// Those to be compared.
    ours: Vec<View>,
    /// Those that another keycard reconciles.
    theirs: Vec<View>,
    failed: Vec<(String, String)>,
}

impl Views {
    /// Looks at these ledgers' databases; if `claiming`, keeps others from reconciling them for as
    /// long as this lives.
    pub async fn open(ledgers: impl Iterator<Item = &Ledger>, claiming: bool) -> Self {
        let mut views = Self {
            ours: vec![],
            theirs: vec![],
            failed: vec![],
        };
        for ledger in ledgers {
            let opened = async {
                let view = ledger.view().await?;
                let ours = !claiming || view.claim().await?;
                Ok::<_, LedgerError>((view, ours))
            };
            match opened.await {
                Ok((view, true)) => views.ours.push(view),
                Ok((view, false)) => views.theirs.push(view),
                Err(error) => views
                    .failed
                    .push((ledger.database().to_owned(), error.to_string())),
            }
        }
        views
    }

    /// Compares, logins first. What cannot be compared keeps nothing else from it.
    pub async fn compare(&self, rules: &Rules, store: &dyn SecretStore) -> Report {
        let mut report = Report {
            findings: vec![],
            failed: self.failed.clone(),
            busy: self
                .theirs
                .iter()
                .map(|view| view.database().to_owned())
                .collect(),
        };
        for view in &self.ours {
            if let Err(error) = self.compare_logins(view, &mut report.findings).await {
                report
                    .failed
                    .push((view.database().to_owned(), error.to_string()));
            }
        }
        if let Err(error) = self
            .compare_secrets(rules, store, &mut report.findings)
            .await
        {
            report.failed.push((Report::SECRETS.to_owned(), error));
        }
        report.findings.sort_by(|a, b| {
            (&a.database, a.kind, &a.subject).cmp(&(&b.database, b.kind, &b.subject))
        });
        report
    }

    async fn compare_logins(
        &self,
        view: &View,
        findings: &mut Vec<Finding>,
    ) -> Result<(), LedgerError> {
        let finding = |kind: Kind, odd: Odd, detail: String| {
            let lease = odd.lease.map(|uuid| LeaseId {
                database: view.database().to_owned(),
                uuid,
            });
            Finding::new(kind, view.database(), lease, odd.login, detail)
        };
        for odd in view.without_login().await? {
            findings.push(match odd.renamed.clone() {
                None => finding(Kind::LoginMissing, odd, "the login is gone".to_owned()),
                Some(name) => finding(
                    Kind::LoginRenamed,
                    odd,
                    format!("the login was renamed to {name:?}; rename it back"),
                ),
            });
        }
        for odd in view.left_over().await? {
            findings.push(finding(
                Kind::LoginLeft,
                odd,
                "the lease is over".to_owned(),
            ));
        }
        // A login of a database that cannot be asked would look like nobody's.
        if !self.failed.is_empty() {
            return Ok(());
        }
        let mut unproven = view.unproven().await?;
        // Databases of one cluster see each other's logins.
        for other in self.ours.iter().chain(&self.theirs) {
            if unproven.is_empty() || other.database() == view.database() {
                continue;
            }
            let asked: Vec<(&str, u32)> = unproven
                .iter()
                .map(|(odd, oid)| (odd.login.as_str(), *oid))
                .collect();
            let made = other.has_made(&asked).await?;
            unproven.retain(|(odd, _)| !made.contains(&odd.login));
        }
        for (odd, _) in unproven {
            let detail = match odd.lease {
                None => "the ledger has no such login",
                Some(_) => "the ledger's login of this name had another OID",
            };
            findings.push(finding(Kind::LoginUnproven, odd, detail.to_owned()));
        }
        Ok(())
    }

    async fn compare_secrets(
        &self,
        rules: &Rules,
        store: &dyn SecretStore,
        findings: &mut Vec<Finding>,
    ) -> Result<(), String> {
        let logins = findings.len();
        let mut listing = store.list(&rules.prefix).try_chunks(SECRETS_TOGETHER);
        while let Some(listed) = listing.next().await {
            let listed = listed.map_err(|error| error.1.to_string())?;
            let odd = self
                .odd_secrets(rules, listed)
                .await
                .map_err(|error| error.to_string())?;
            // A listing may be minutes behind.
            let there: Vec<Option<Finding>> = stream::iter(odd)
                .map(|finding| still_there(rules, store, finding))
                .buffered(LOOKS_AT_ONCE)
                .try_collect()
                .await
                .map_err(|error: StoreError| error.to_string())?;
            findings.extend(there.into_iter().flatten());
            if findings.len() - logins >= SECRETS_MAX {
                tracing::warn!("more secrets differ; they are looked at the next time");
                break;
            }
        }
        Ok(())
    }

    /// The secrets among these that do not fit the ledgers, as far as a listing can be trusted.
    async fn odd_secrets(
        &self,
        rules: &Rules,
        listed: Vec<Listed>,
    ) -> Result<Vec<Finding>, LedgerError> {
        let mut by_database: BTreeMap<String, Vec<(LeaseId, Listed)>> = BTreeMap::new();
        for secret in listed {
            let tag = secret.tags.get(INSTALLATION_TAG);
            let is_foreign = tag.is_some_and(|name| *name != rules.installation);
            if let (Some(id), false) = (lease_of(&secret.locator), is_foreign) {
                let secrets = by_database.entry(id.database.clone()).or_default();
                secrets.push((id, secret));
            }
        }
        let mut odd = Vec::new();
        for (database, secrets) in by_database {
            let view = self.ours.iter().find(|view| view.database() == database);
            let known = match view {
                Some(view) => {
                    let ids: Vec<_> = secrets.iter().map(|(id, _)| id.uuid).collect();
                    view.known(&ids).await?
                }
                // Somebody else's to compare, or out of reach.
                None if rules.databases.contains_key(&database) => continue,
                None => BTreeMap::new(),
            };
            for (id, secret) in secrets {
                let known = known.get(&id.uuid);
                let is_recorded = known.map(|known| known.locators.contains(&secret.locator));
                let (kind, detail) = match (known, is_recorded) {
                    (Some(known), Some(true)) if known.closed => {
                        (Kind::SecretLeft, "the lease is closed")
                    }
                    (Some(_), Some(true)) => continue,
                    (Some(_), _) => (
                        Kind::SecretUnproven,
                        "the lease's own secrets are elsewhere",
                    ),
                    (None, _) if view.is_some() => {
                        (Kind::SecretUnproven, "the ledger does not know the lease")
                    }
                    (None, _) => (
                        Kind::SecretUnproven,
                        "the configuration has no such database",
                    ),
                };
                let detail = detail.to_owned();
                odd.push(Finding::new(
                    kind,
                    &database,
                    Some(id),
                    secret.locator,
                    detail,
                ));
            }
        }
        Ok(odd)
    }
}

/// The finding if its secret is there right now and is none of another installation; one that no
/// ledger proves must be tagged with this one.
async fn still_there(
    rules: &Rules,
    store: &dyn SecretStore,
    finding: Finding,
) -> Result<Option<Finding>, StoreError> {
    let Some(described) = store.describe(&finding.subject).await? else {
        return Ok(None);
    };
    let is_ours = match described.tags.get(INSTALLATION_TAG) {
        Some(name) => *name == rules.installation,
        None => finding.kind == Kind::SecretLeft,
    };
    Ok(is_ours.then(|| match described.changed_at {
        Some(at) => Finding {
            detail: format!("{}; the secret is of {at:.0}", finding.detail),
            ..finding
        },
        None => finding,
    }))
}

/// The lease that a locator names: it ends in the lease's id, and `.<n>` for an attempt after the
/// first.
fn lease_of(locator: &str) -> Option<LeaseId> {
    let (_, last) = locator.rsplit_once('/')?;
    last.parse().ok().or_else(|| {
        let (id, attempt) = last.rsplit_once('.')?;
        attempt.parse::<u32>().ok()?;
        id.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locator_names_its_lease() {
        let id = "app-db.01890a5d-ac96-774b-bcce-b302099a8057";
        for locator in [format!("p/q/r/{id}"), format!("p/q/r/{id}.2")] {
            assert_eq!(lease_of(&locator).unwrap().to_string(), id);
        }
        for other in [
            id,
            "p/q/r/by-hand",
            &format!("p/{id}.x"),
            &format!("{id}/p"),
        ] {
            assert_eq!(lease_of(other), None, "{other}");
        }
    }
}
