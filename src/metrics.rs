//! Metrics: what they are called, what they mean, and where Prometheus reads them.
//!
//! Nothing is kept or served before [`serve`]. No label holds what a sender chooses freely.

mod listener;
mod readiness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use tokio::net::TcpListener;
use tokio::time::sleep;

pub use readiness::{Need, Readiness};

const REQUESTS: &str = "keycard_requests_total";
const DEFERRED: &str = "keycard_requests_deferred_total";
const REVOCATIONS: &str = "keycard_revocations_total";
const LATENESS: &str = "keycard_revocation_lateness_seconds";
const STAGES: &str = "keycard_stage_duration_seconds";
const DEAD_LETTERS: &str = "keycard_dead_letters_total";
const DEAD_LETTERS_WAITING: &str = "keycard_dead_letters_waiting";
const LIVE: &str = "keycard_leases_live";
const OVERDUE: &str = "keycard_leases_overdue";
const OVERDUE_OLDEST: &str = "keycard_lease_overdue_oldest_seconds";
const STUCK: &str = "keycard_leases_stuck";
const FROZEN: &str = "keycard_frozen";
const ORPHANS: &str = "keycard_orphans";
const LEDGER_UP: &str = "keycard_ledger_up";
const QUEUE_UP: &str = "keycard_queue_up";
const STORE_UP: &str = "keycard_store_up";
const STORE_ERRORS: &str = "keycard_store_errors_total";

/// The role of what concerns no role of the configuration; no name of a role begins so.
const NO_ROLE: &str = "-";

/// Upper bounds, in seconds.
const LATENESS_BUCKETS: [f64; 12] = [
    0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0,
];

/// Upper bounds, in seconds; an effect gives up after 20.
const STAGE_BUCKETS: [f64; 12] = [
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 20.0,
];

/// How often what was observed is put into buckets when nobody reads.
const UPKEEP: Duration = Duration::from_secs(5);

/// The metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "metrics cannot be served at {address}: {problem}; give worker.metrics_address another address or port, or take it out"
)]
pub struct MetricsError {
    address: SocketAddr,
    problem: String,
}

/// Serves everything that is counted from now on at `/metrics`, at `/livez` that the process
/// answers and at `/readyz` whether it reaches what it needs, to whoever can reach the address. Once
/// in a process.
///
/// # Errors
/// When nobody can listen there.
pub async fn serve(address: SocketAddr, readiness: Arc<Readiness>) -> Result<(), MetricsError> {
    let refused = |problem: String| MetricsError { address, problem };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| refused(error.to_string()))?;
    let bound = listener
        .local_addr()
        .map_err(|error| refused(error.to_string()))?;
    let install = || {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(LATENESS.to_owned()), &LATENESS_BUCKETS)?
            .set_buckets_for_metric(Matcher::Full(STAGES.to_owned()), &STAGE_BUCKETS)?
            .install_recorder()
    };
    let handle = install().map_err(|error: BuildError| refused(error.to_string()))?;
    describe();
    let observed = handle.clone();
    tokio::spawn(async move {
        loop {
            sleep(UPKEEP).await;
            observed.run_upkeep();
        }
    });
    tokio::spawn(listener::listen(listener, handle, readiness));
    tracing::info!(address = %bound, "metrics are served at /metrics");
    Ok(())
}

fn describe() {
    describe_counter!(
        REQUESTS,
        "What requests and renewals came to, and denied revocations: issued, renewed or the denial's code."
    );
    describe_counter!(
        DEFERRED,
        "How often requests could not be answered for now and were put off."
    );
    describe_counter!(
        REVOCATIONS,
        "Logins that were dropped, by why their lease ended."
    );
    describe_histogram!(
        LATENESS,
        "How long after their lease's end logins were dropped that nobody revoked before."
    );
    describe_histogram!(
        STAGES,
        "How long each stage of a decision took, whether it succeeded or not."
    );
    describe_counter!(
        DEAD_LETTERS,
        "Messages that this worker put among the dead letters, by the code of the reason."
    );
    describe_gauge!(
        DEAD_LETTERS_WAITING,
        "Dead letters that are kept, whoever put them there; unknown while the queue is away."
    );
    describe_gauge!(LIVE, "Leases whose login exists and whose time is not up.");
    describe_gauge!(
        OVERDUE,
        "Leases whose login exists though their time is up."
    );
    describe_gauge!(
        OVERDUE_OLDEST,
        "How long the first of the overdue leases has been so; 0 when none is."
    );
    describe_gauge!(
        STUCK,
        "Leases whose revocation has failed six times or more."
    );
    describe_gauge!(
        FROZEN,
        "1 while revocations are frozen by `keycard freeze`, else 0."
    );
    describe_gauge!(
        ORPHANS,
        "What the last reconciliation found to differ and could not put right, by kind."
    );
    describe_gauge!(
        LEDGER_UP,
        "1 when the ledger could be asked for the counts of leases, 0 when they are unknown."
    );
    describe_gauge!(
        QUEUE_UP,
        "1 when the queue could be asked for its dead letters and every lane is consumed, else 0."
    );
    describe_gauge!(
        STORE_UP,
        "1 when the secret store could be asked about a secret, else 0."
    );
    describe_counter!(
        STORE_ERRORS,
        "What the secret store was asked and did not do, after it was tried again: throttled, denied, full, unavailable or refused."
    );
}

/// A stage of what follows from a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The transaction of a decision.
    LedgerStep,
    /// The same where it drops a login.
    DropLogin,
    /// Storing a secret.
    PutSecret,
    /// Deleting a lease's secrets.
    DeleteSecrets,
    /// Scheduling an expiry event.
    ArmExpiry,
    /// Publishing results.
    Publish,
    /// Ending a login's sessions.
    TerminateSessions,
    /// Clearing away what a login owns or was granted.
    ClearObjects,
}

impl Stage {
    /// Its name, in metrics and in traces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LedgerStep => "ledger_step",
            Self::DropLogin => "drop_login",
            Self::PutSecret => "put_secret",
            Self::DeleteSecrets => "delete_secrets",
            Self::ArmExpiry => "arm_expiry",
            Self::Publish => "publish",
            Self::TerminateSessions => "terminate_sessions",
            Self::ClearObjects => "clear_objects",
        }
    }
}

/// The leases of one ledger at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leases {
    /// Those whose login exists and whose time is not up.
    pub live: i64,
    /// Those whose login exists though their time is up.
    pub overdue: i64,
    /// How long that has been so for the first of them; 0 when there is none.
    pub overdue_seconds_max: f64,
    /// Those whose revocation is stuck.
    pub stuck: i64,
    /// Whether none is revoked, as an operator said.
    pub frozen: bool,
}

/// Requests for this role may come to these outcomes. What is counted begins at 0: were it first
/// seen at 1, nobody could tell that it has grown.
pub fn begin_role(role: &str, outcomes: impl IntoIterator<Item = &'static str>) {
    for outcome in outcomes {
        counter!(REQUESTS, "role" => role.to_owned(), "outcome" => outcome).increment(0);
    }
    counter!(DEFERRED, "role" => role.to_owned()).increment(0);
}

/// The secret store may fail in these ways, and has not yet.
pub fn begin_store(kinds: impl IntoIterator<Item = &'static str>) {
    for kind in kinds {
        counter!(STORE_ERRORS, "kind" => kind).increment(0);
    }
}

/// A command was answered.
pub fn answered(role: Option<&str>, outcome: &str) {
    let role = role.unwrap_or(NO_ROLE).to_owned();
    counter!(REQUESTS, "role" => role, "outcome" => outcome.to_owned()).increment(1);
}

/// A request could not be answered for now.
pub fn deferred(role: &str) {
    counter!(DEFERRED, "role" => role.to_owned()).increment(1);
}

/// A login was dropped.
pub fn revoked(role: Option<&str>, cause: &str) {
    let role = role.unwrap_or(NO_ROLE).to_owned();
    counter!(REVOCATIONS, "role" => role, "cause" => cause.to_owned()).increment(1);
}

/// A login was dropped so long after its lease's end.
pub fn revoked_late(lateness: SignedDuration) {
    histogram!(LATENESS).record(lateness.as_secs_f64());
}

/// A stage has taken so long.
pub fn took(stage: Stage, duration: Duration) {
    histogram!(STAGES, "stage" => stage.as_str()).record(duration);
}

/// A message became a dead letter.
pub fn parked(code: &'static str) {
    counter!(DEAD_LETTERS, "reason" => code).increment(1);
}

/// So many dead letters are kept; `None` when the queue could not be asked.
pub fn dead_letters(waiting: Option<u32>) {
    gauge!(DEAD_LETTERS_WAITING).set(waiting.map_or(f64::NAN, f64::from));
}

/// The secret store failed in this way.
pub fn store_failed(kind: &'static str) {
    counter!(STORE_ERRORS, "kind" => kind).increment(1);
}

/// The last look at something reached it, or not.
fn looked_at(need: &Need, reached: bool) {
    let gauge = match need {
        Need::Queue => gauge!(QUEUE_UP),
        Need::Store => gauge!(STORE_UP),
        Need::Database(name) => gauge!(LEDGER_UP, "database" => name.clone()),
    };
    gauge.set(f64::from(u8::from(reached)));
}

/// So many things of this kind still differ after a reconciliation; `None` when the database's were
/// not compared.
pub fn orphans(database: &str, kind: &'static str, left: Option<u32>) {
    let left = left.map_or(f64::NAN, f64::from);
    gauge!(ORPHANS, "database" => database.to_owned(), "kind" => kind).set(left);
}

/// The leases of a ledger were counted; `None` when it could not be asked.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 leases")]
pub fn counted(database: &str, leases: Option<Leases>) {
    // What nobody knows is not what it was.
    let number = |of: fn(Leases) -> f64| leases.map_or(f64::NAN, of);
    for (name, value) in [
        (LIVE, number(|leases| leases.live as f64)),
        (OVERDUE, number(|leases| leases.overdue as f64)),
        (OVERDUE_OLDEST, number(|leases| leases.overdue_seconds_max)),
        (STUCK, number(|leases| leases.stuck as f64)),
        (FROZEN, number(|leases| f64::from(u8::from(leases.frozen)))),
    ] {
        gauge!(name, "database" => database.to_owned()).set(value);
    }
}
