//! The audit: one append-only row for each decision on a credential, and one line in the log.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::{GenericClient, Row};

use super::change::Change;
use super::requests::{Asked, Kind};
use super::rules::Rules;
use super::step::{Step, Subject};
use super::{Ledger, LedgerError};
use crate::lease::{Action, Audited, Cause, DenialCode, Lease, LeaseId, Whose, audited};
use crate::metrics;

/// Rows removed at a time, so that no statement takes long.
const BATCH: i64 = 100;

/// The columns that [`from_row`] reads.
pub(super) const COLUMNS: &str =
    "at, action, lease_id, role, requester, username, generation, expires_at, cause, code, reason,
    asked_by, request_source, request_id";

/// One row of the audit; nothing in it is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditRow {
    /// When it was decided, on the ledger's clock.
    pub at: Timestamp,
    /// What was decided, as [`Action::as_str`] writes it.
    pub action: String,
    /// The lease; what a denied command named need not exist.
    pub lease_id: Option<String>,
    /// The lease's role, or the one that was asked for.
    pub role: Option<String>,
    /// Whose the lease is.
    pub requester: Option<String>,
    /// The lease's login.
    pub username: Option<String>,
    /// The lease's generation from now on.
    pub generation: Option<i32>,
    /// The lease's end from now on.
    pub expires_at: Option<Timestamp>,
    /// Why the lease ends.
    pub cause: Option<String>,
    /// Why a command was denied.
    pub code: Option<String>,
    /// Why, for people: in the words of who asked for a revocation, if there are any.
    pub reason: String,
    /// Who sent the command that this was decided on.
    pub asked_by: Option<String>,
    /// That command's source.
    pub request_source: Option<String>,
    /// That command's id.
    pub request_id: Option<String>,
}

/// What rows must fit to be found.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// About this lease.
    pub lease_id: Option<String>,
    /// About somebody's leases and commands.
    pub requester: Option<String>,
    /// About this role.
    pub role: Option<String>,
    /// About this login.
    pub username: Option<String>,
    /// Not older than this.
    pub since: Option<Duration>,
}

/// A denial that is no decision on any lease.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// The command.
    pub asked: &'a Asked,
    /// What it is about.
    pub about: About,
    /// Why it is denied.
    pub code: DenialCode,
    /// Why, for people.
    pub message: &'static str,
}

/// What a command is about, as it says itself.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The role asked for.
    pub role: Option<String>,
    /// The lease named.
    pub lease_id: Option<LeaseId>,
}

impl About {
    /// A role is asked for.
    #[must_use]
    pub fn role(name: &str) -> Self {
        Self {
            role: Some(name.to_owned()),
            lease_id: None,
        }
    }

    /// A lease is named.
    #[must_use]
    pub fn lease(id: &LeaseId) -> Self {
        Self {
            role: None,
            lease_id: Some(id.clone()),
        }
    }

    pub(super) fn of(step: &Step<'_>, database: &str) -> Self {
        let role = step.event.request().map(|new| new.role.clone());
        let lease_id = match step.subject {
            Subject::Known(uuid) => Some(LeaseId {
                database: database.to_owned(),
                uuid,
            }),
            Subject::New(_) => None,
        };
        Self { role, lease_id }
    }
}

impl Ledger {
    /// Keeps a denial that no ledger had to decide on. It has no transaction but its own.
    ///
    /// # Errors
    /// When the database cannot be told: then nobody may be told either.
    pub async fn refuse(&self, refusal: &Refusal<'_>) -> Result<(), LedgerError> {
        let client = self.connection().await?;
        let failed = |error| self.sql("keep a denial", &error);
        let now = client.query_one("SELECT clock_timestamp()", &[]).await;
        let row = refused(refusal, now.map_err(failed)?.get(0));
        write(&*client, &row).await.map_err(failed)?;
        tell(&self.rules, &row);
        Ok(())
    }

    /// The newest rows that fit, newest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        rows_max: i64,
    ) -> Result<Vec<AuditRow>, LedgerError> {
        let client = self.connection().await?;
        let since = filter.since.map(|since| since.as_secs_f64());
        let rows = client
            .query(
                &format!(
                    "SELECT {COLUMNS} FROM keycard.audit
                     WHERE ($1::text IS NULL OR lease_id = $1)
                       AND ($2::text IS NULL OR requester = $2 OR asked_by = $2)
                       AND ($3::text IS NULL OR role = $3)
                       AND ($4::text IS NULL OR username = $4)
                       AND ($5::float8 IS NULL
                            OR at >= clock_timestamp() - make_interval(secs => $5))
                     ORDER BY id DESC LIMIT $6"
                ),
                &[
                    &filter.lease_id,
                    &filter.requester,
                    &filter.role,
                    &filter.username,
                    &since,
                    &rows_max,
                ],
            )
            .await
            .map_err(|error| self.sql("read the audit", &error))?;
        Ok(rows.iter().map(from_row).collect())
    }

    /// Removes rows that are older than they are kept. Returns how many; there may be more.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn forget_old_audit(&self) -> Result<u64, LedgerError> {
        let mut client = self.connection().await?;
        let forget = async {
            let transaction = client.transaction().await?;
            let keep_seconds = self.rules.keep_audit.as_secs_f64();
            // The table refuses every deletion but of what is older than its transaction says.
            transaction
                .execute(
                    "SELECT set_config('keycard.keep_audit_seconds', $1::float8::text, true)",
                    &[&keep_seconds],
                )
                .await?;
            let forgotten = transaction
                .execute(
                    "DELETE FROM keycard.audit WHERE id IN (
                         SELECT id FROM keycard.audit
                         WHERE at < clock_timestamp() - make_interval(secs => $1)
                         ORDER BY at LIMIT $2
                         FOR UPDATE SKIP LOCKED)",
                    &[&keep_seconds, &BATCH],
                )
                .await?;
            transaction.commit().await?;
            Ok(forgotten)
        };
        forget
            .await
            .map_err(|error: tokio_postgres::Error| self.sql("forget old audit rows", &error))
    }
}

/// The rows of a decision, in its order.
pub(super) fn decided(
    before: Option<&Lease>,
    change: &Change,
    asked: Option<&Asked>,
    about: &About,
    at: Timestamp,
) -> Vec<AuditRow> {
    let lease = change.stored.as_ref().map(|stored| &stored.lease);
    let named = about.lease_id.as_ref().map(ToString::to_string);
    audited(before, &change.decision)
        .into_iter()
        .map(|Audited { action, reason }| {
            // Whoever ends a lease that is still being issued has not asked for it.
            let is_others = matches!(
                action,
                Action::Denied {
                    whose: Whose::Issue | Whose::Revokers,
                    ..
                }
            );
            let asked = asked.filter(|asked| asked.kind == Kind::Request || !is_others);
            let own_words = asked.filter(|_| action.cause().is_some());
            AuditRow {
                at,
                action: action.as_str().to_owned(),
                lease_id: lease
                    .map(|lease| lease.id.to_string())
                    .or_else(|| named.clone()),
                role: lease
                    .map(|lease| lease.role.clone())
                    .or_else(|| about.role.clone()),
                requester: lease.map(|lease| lease.requester.to_string()),
                username: lease.map(|lease| lease.username.clone()),
                generation: lease.map(|lease| i32::try_from(lease.generation).unwrap_or(i32::MAX)),
                expires_at: lease.map(|lease| lease.expires_at),
                cause: action.cause().map(|cause| cause.as_str().to_owned()),
                code: action.code().map(|code| code.as_str().to_owned()),
                reason: own_words
                    .and_then(|asked| asked.reason.clone())
                    .unwrap_or_else(|| reason.into_owned()),
                ..of_command(asked)
            }
        })
        .collect()
}

/// The row of a denial that is no decision on any lease.
pub(super) fn refused(refusal: &Refusal<'_>, at: Timestamp) -> AuditRow {
    let whose = Whose::Asker;
    let code = refusal.code;
    AuditRow {
        at,
        action: Action::Denied { whose, code }.as_str().to_owned(),
        lease_id: refusal.about.lease_id.as_ref().map(ToString::to_string),
        role: refusal.about.role.clone(),
        code: Some(code.as_str().to_owned()),
        reason: refusal.message.to_owned(),
        ..of_command(Some(refusal.asked))
    }
}

fn of_command(asked: Option<&Asked>) -> AuditRow {
    AuditRow {
        asked_by: asked.map(|asked| asked.requester.to_string()),
        request_source: asked.map(|asked| asked.source.clone()),
        request_id: asked.map(|asked| asked.id.clone()),
        ..AuditRow::default()
    }
}

/// Writes a row, in the transaction of what it tells of.
pub(super) async fn write(
    client: &impl GenericClient,
    row: &AuditRow,
) -> Result<(), tokio_postgres::Error> {
    client
        .execute(
            "INSERT INTO keycard.audit (at, action, lease_id, role, requester, username, generation,
                 expires_at, cause, code, reason, asked_by, request_source, request_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            &[
                &row.at,
                &row.action,
                &row.lease_id,
                &row.role,
                &row.requester,
                &row.username,
                &row.generation,
                &row.expires_at,
                &row.cause,
                &row.code,
                &row.reason,
                &row.asked_by,
                &row.request_source,
                &row.request_id,
            ],
        )
        .await?;
    Ok(())
}

/// Reads [`COLUMNS`].
pub(super) fn from_row(row: &Row) -> AuditRow {
    AuditRow {
        at: row.get(0),
        action: row.get(1),
        lease_id: row.get(2),
        role: row.get(3),
        requester: row.get(4),
        username: row.get(5),
        generation: row.get(6),
        expires_at: row.get(7),
        cause: row.get(8),
        code: row.get(9),
        reason: row.get(10),
        asked_by: row.get(11),
        request_source: row.get(12),
        request_id: row.get(13),
    }
}

/// Logs and counts what is committed.
pub(super) fn tell(rules: &Rules, row: &AuditRow) {
    tracing::event!(
        target: "audit",
        tracing::Level::INFO,
        lease.id = row.lease_id,
        lease.role = row.role,
        lease.requester = row.requester,
        lease.username = row.username,
        lease.generation = row.generation,
        lease.expires_at = row.expires_at.map(|at| at.to_string()),
        request.by = row.asked_by,
        request.source = row.request_source,
        request.id = row.request_id,
        cause = row.cause,
        code = row.code,
        reason = row.reason,
        "{}",
        row.action
    );
    // A label that senders choose would grow without bounds.
    let role = row.role.as_deref();
    let role = role.filter(|role| rules.roles.contains_key(*role));
    match row.action.as_str() {
        "issued" | "renewed" => metrics::answered(role, &row.action),
        "denied" => metrics::answered(role, row.code.as_deref().unwrap_or_default()),
        "revoked" => {
            let cause = row.cause.as_deref().unwrap_or_default();
            metrics::revoked(role, cause);
            if let Some(due) = row.expires_at.filter(|_| cause == Cause::Expired.as_str()) {
                metrics::revoked_late(row.at.duration_since(due));
            }
        }
        _ => {}
    }
}
