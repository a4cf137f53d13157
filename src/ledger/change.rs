//! What a decision makes of a login and its lease, within the step's transaction.

use jiff::Timestamp;
use secrecy::SecretString;
use tokio_postgres::Transaction;

use super::Ledger;
use super::rows::{self, RowError, StoredLease};
use crate::lease::{Decision, Effect, Event, LoginChange, decide};
use crate::login::{self, Applied, Login, Upkeep};

/// A decision and what it made of the lease.
pub(super) struct Change {
    pub(super) decision: Decision,
    pub(super) stored: Option<StoredLease>,
    pub(super) password: Option<SecretString>,
}

impl Ledger {
    /// Decides, and if Postgres refuses what was decided, decides on that instead.
    pub(super) async fn decide_and_apply(
        &self,
        transaction: &mut Transaction<'_>,
        stored: Option<&StoredLease>,
        mut event: Event,
        now: Timestamp,
        frozen: bool,
    ) -> Result<Change, RowError> {
        loop {
            let policy = match (stored, &event) {
                (Some(stored), _) => {
                    let lease = &stored.lease;
                    self.rules.policy(&lease.role, &lease.requester, frozen)
                }
                (None, Event::Request(new)) => self.rules.policy(&new.role, &new.asking.by, frozen),
                (None, _) => self.rules.no_role(frozen),
            };
            let decision = decide(stored.map(|stored| &stored.lease), &event, now, &policy);
            let mut savepoint = transaction.savepoint("decision").await?;
            match self.apply(&mut savepoint, stored, decision, &event).await? {
                Ok(change) => {
                    savepoint.commit().await?;
                    return Ok(change);
                }
                Err((reason, terminated)) => {
                    tracing::warn!(
                        database = self.database,
                        lease.id = stored.map(|stored| stored.lease.id.to_string()),
                        reason,
                        "Postgres refused a change of a login"
                    );
                    savepoint.rollback().await?;
                    event = Event::Refused {
                        event: Box::new(event),
                        terminated,
                        reason: reason.into(),
                    };
                }
            }
        }
    }

    /// Changes the login and writes the lease. What Postgres refuses is told, for the caller to
    /// decide on.
    async fn apply(
        &self,
        savepoint: &mut Transaction<'_>,
        stored: Option<&StoredLease>,
        decision: Decision,
        event: &Event,
    ) -> Result<Result<Change, (String, u32)>, RowError> {
        let mut change = Change {
            stored: stored.cloned(),
            password: None,
            decision,
        };
        let Some(next) = &mut change.decision.next else {
            return Ok(Ok(change));
        };
        let mut login_oid = stored.map(|stored| stored.login_oid);
        let role = self.rules.roles.get(&next.role);
        let upkeep = match stored {
            Some(stored) => stored.upkeep.clone(),
            None => role.map_or_else(Upkeep::default, |role| role.template.upkeep.clone()),
        };
        if let Some(login_change) = change.decision.login {
            let mut verifier = None;
            if matches!(
                login_change,
                LoginChange::Create | LoginChange::ResetPassword
            ) {
                let iterations = role.map_or(login::SCRAM_ITERATIONS, |role| {
                    role.template.scram_iterations
                });
                let password = login::generate_password();
                verifier = Some(login::scram_verifier(&password, iterations));
                change.password = Some(password);
            }
            let login = Login {
                username: &next.username,
                oid: login_oid,
                expires_at: next.expires_at,
                verifier: verifier.as_deref(),
                template: role.map(|role| &role.template),
                upkeep: &upkeep,
            };
            let applied = if login_change == LoginChange::Disable {
                self.disable(savepoint, &login).await?
            } else {
                login::apply(savepoint, login_change, &login).await?
            };
            match applied {
                Applied::Done { oid, terminated } => {
                    // The OID of a dropped login still finds its sessions.
                    login_oid = oid.or(login_oid);
                    next.sessions_terminated = next.sessions_terminated.saturating_add(terminated);
                }
                Applied::Refused { reason, terminated } => return Ok(Err((reason, terminated))),
            }
        }
        let mut after = StoredLease {
            lease: next.clone(),
            login_oid: login_oid
                .ok_or_else(|| RowError::Content("a lease has no login".to_owned()))?,
            upkeep,
            locators: stored.map_or_else(Vec::new, |stored| stored.locators.clone()),
            last_failure: match event {
                Event::Failed { reason, .. }
                | Event::Refused { reason, .. }
                | Event::SessionsGone {
                    left: Some(reason), ..
                } => Some(reason.to_string()),
                Event::Request(_)
                | Event::Renew { .. }
                | Event::Revoke(_)
                | Event::Wake { .. }
                | Event::Delivered { .. }
                | Event::SessionsGone { left: None, .. }
                | Event::Differs(_)
                | Event::Cleared { .. } => stored.and_then(|stored| stored.last_failure.clone()),
            },
        };
        if change.decision.effects.contains(&Effect::PutSecret) {
            after.locators.push(self.rules.locator(&after.lease));
        }
        rows::write(savepoint, &after).await?;
        change.stored = Some(after);
        Ok(Ok(change))
    }

    /// Disables a login as well as Postgres lets us: the lease must be marked all the same.
    async fn disable(
        &self,
        savepoint: &mut Transaction<'_>,
        login: &Login<'_>,
    ) -> Result<Applied, tokio_postgres::Error> {
        let attempt = savepoint.savepoint("disable").await?;
        match login::apply(&attempt, LoginChange::Disable, login).await? {
            Applied::Refused { reason, terminated } => {
                attempt.rollback().await?;
                tracing::error!(
                    database = self.database,
                    lease.username = login.username,
                    reason,
                    "a login that must end cannot be disabled; it is tried again"
                );
                Ok(Applied::Done {
                    oid: None,
                    terminated,
                })
            }
            done @ Applied::Done { .. } => {
                attempt.commit().await?;
                Ok(done)
            }
        }
    }
}
