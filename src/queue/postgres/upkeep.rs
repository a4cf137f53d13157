//! What is done once a minute: rights follow the configuration, and what is old goes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::escape::escape_identifier;
use tokio::time::sleep;
use tokio_postgres::{Client, Transaction};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{from_ledger, outage, timed};
use crate::lease::Requester;
use crate::ledger::Ledger;
use crate::queue::QueueError;

const INTERVAL: Duration = Duration::from_mins(1);

/// How long nobody must have named a role before what it was granted is taken back. Workers of
/// another configuration name theirs every [`INTERVAL`].
const FORGOTTEN: Duration = Duration::from_mins(10);

const GRANT: &str = "grant its functions";

/// Results are removed so many at a time, so that no transaction takes long.
const REMOVED_MAX: i64 = 1_000;

/// Dead letters kept; the oldest go first.
const DEAD_LETTERS_MAX: i64 = 10_000;

/// Bytes of dead letters kept.
const DEAD_LETTERS_BYTES_MAX: i64 = 256 << 20;

/// What requesters and operators may call.
const FOR_SERVICES: [&str; 3] = [
    "send(text, bytea, text)",
    "send(text, text, text)",
    "results(bigint)",
];

/// What operators may call besides.
const FOR_OPERATORS: [&str; 3] = [
    "dead_letters(integer)",
    "requeue_dead_letter(bigint)",
    "discard_dead_letter(bigint)",
];

pub(super) struct Upkeep {
    ledger: Arc<Ledger>,
    services: BTreeSet<String>,
    operators: BTreeSet<String>,
    /// Configured names that are no roles, as last told.
    missing: BTreeSet<String>,
}

impl Upkeep {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        let rules = ledger.rules();
        let name = |requester: &Requester| requester.as_str().to_owned();
        let operators: BTreeSet<_> = rules.operators.iter().map(name).collect();
        let requesters = rules.roles.values().flat_map(|role| &role.requesters);
        let services = requesters.map(name).chain(operators.clone()).collect();
        Self {
            ledger,
            services,
            operators,
            missing: BTreeSet::new(),
        }
    }

    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let mut outage = outage("upkeep");
        // Cancel-safe: a sleep holds nothing.
        while stopping
            .run_until_cancelled(sleep(INTERVAL))
            .await
            .is_some()
        {
            // Cancel-safe: what is not committed is done a minute later, by whichever worker.
            match stopping.run_until_cancelled(Box::pin(self.once())).await {
                Some(Ok(())) => outage.over(),
                Some(Err(error)) => outage.failed(&error),
                None => return,
            }
        }
    }

    pub(super) async fn once(&mut self) -> Result<(), QueueError> {
        let ledger = Arc::clone(&self.ledger);
        let mut client = ledger
            .connection()
            .await
            .map_err(|error| from_ledger(&error))?;
        self.grant(&mut client).await?;
        remove_results(&client).await?;
        remove_dead_letters(&client).await
    }

    /// Grants what the configuration says, and takes back what no worker's has said for a while.
    async fn grant(&mut self, client: &mut Client) -> Result<(), QueueError> {
        let transaction = timed(GRANT, client.transaction()).await?;
        // Two workers would meet on the functions' rows. Nobody else can take this lock.
        timed(
            GRANT,
            transaction.execute("SELECT FROM keycard.ledger FOR NO KEY UPDATE", &[]),
        )
        .await?;
        let [services, operators] = self.callers(&transaction).await?;
        let mut statements = String::new();
        for (functions, callers, own) in [
            (FOR_SERVICES, &services, &self.services),
            (FOR_OPERATORS, &operators, &self.operators),
        ] {
            for function in functions {
                let granted = grantees(&transaction, function).await?;
                for name in granted.difference(callers) {
                    info!(
                        postgres.role = name,
                        function, "takes EXECUTE from a role that is not configured"
                    );
                    // Writing to a String cannot fail.
                    let _ = write!(
                        statements,
                        "REVOKE ALL ON FUNCTION keycard.{function} FROM {};",
                        grantee(name)
                    );
                    if !services.contains(name) {
                        let _ = write!(
                            statements,
                            "REVOKE USAGE ON SCHEMA keycard FROM {};",
                            grantee(name)
                        );
                    }
                }
                for name in (own & callers).difference(&granted) {
                    let _ = write!(
                        statements,
                        "GRANT USAGE ON SCHEMA keycard TO {0};
                         GRANT EXECUTE ON FUNCTION keycard.{function} TO {0};",
                        grantee(name)
                    );
                }
            }
        }
        timed(GRANT, transaction.batch_execute(&statements)).await?;
        timed(GRANT, transaction.commit()).await?;
        let missing: BTreeSet<_> = self.services.difference(&services).cloned().collect();
        for name in missing.difference(&self.missing) {
            warn!(
                postgres.role = name,
                "a requester or operator of the configuration is no role in the queue's database, \
                 and cannot ask for anything; create it, and within a minute it may"
            );
        }
        self.missing = missing;
        Ok(())
    }

    /// Says whom this configuration names; then the services, operators among them, and the
    /// operators that any worker's has lately named and that are roles other than keycard's own.
    async fn callers(
        &self,
        transaction: &Transaction<'_>,
    ) -> Result<[BTreeSet<String>; 2], QueueError> {
        let [services, operators] = [&self.services, &self.operators]
            .map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        let naming = "INSERT INTO keycard.callers (name, is_operator, named_at)
             SELECT unnest($1::text[]), false, clock_timestamp()
             UNION ALL
             SELECT unnest($2::text[]), true, clock_timestamp()
             ON CONFLICT (name, is_operator) DO UPDATE SET named_at = excluded.named_at";
        timed(GRANT, transaction.execute(naming, &[&services, &operators])).await?;
        let forgetting = "DELETE FROM keycard.callers
             WHERE named_at < clock_timestamp() - make_interval(secs => $1)";
        let forgotten = FORGOTTEN.as_secs_f64();
        timed(GRANT, transaction.execute(forgetting, &[&forgotten])).await?;
        let reading = "SELECT name, is_operator FROM keycard.callers
             JOIN pg_roles ON rolname::text = name WHERE rolname <> current_user";
        let rows = timed(GRANT, transaction.query(reading, &[])).await?;
        Ok([false, true].map(|is_operator| {
            let named = rows
                .iter()
                .filter(|row| row.get::<_, bool>(1) == is_operator);
            named.map(|row| row.get(0)).collect()
        }))
    }
}

/// Who may call a function besides its owner; everybody is the empty name, which no role has.
async fn grantees(
    client: &Transaction<'_>,
    function: &str,
) -> Result<BTreeSet<String>, QueueError> {
    let function = format!("keycard.{function}");
    let rows = timed(
        GRANT,
        client.query(
            "SELECT coalesce(r.rolname::text, '')
         FROM pg_proc p
         CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) acl
         LEFT JOIN pg_roles r ON r.oid = acl.grantee
         WHERE p.oid = to_regprocedure($1) AND acl.grantee <> p.proowner",
            &[&function],
        ),
    )
    .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn grantee(name: &str) -> String {
    if name.is_empty() {
        "PUBLIC".to_owned()
    } else {
        escape_identifier(name)
    }
}

/// The oldest come first by their position as well.
async fn remove_results(client: &Client) -> Result<(), QueueError> {
    loop {
        let removed = timed(
            "remove old results",
            client.execute(
                "DELETE FROM keycard.results r
             USING (SELECT position FROM keycard.results ORDER BY position LIMIT $1) oldest
             WHERE r.position = oldest.position
               AND r.published_at < clock_timestamp() - interval '1 day'",
                &[&REMOVED_MAX],
            ),
        )
        .await?;
        if removed < REMOVED_MAX.unsigned_abs() {
            return Ok(());
        }
    }
}

async fn remove_dead_letters(client: &Client) -> Result<(), QueueError> {
    timed(
        "remove old dead letters",
        client.execute(
            "DELETE FROM keycard.dead_letters WHERE id IN (
             SELECT id FROM (
                 SELECT id, row_number() OVER newest AS letters,
                        sum(octet_length(body)) OVER newest AS bytes
                 FROM keycard.dead_letters WINDOW newest AS (ORDER BY id DESC)
             ) counted
             WHERE letters > $1 OR bytes > $2
         )",
            &[&DEAD_LETTERS_MAX, &DEAD_LETTERS_BYTES_MAX],
        ),
    )
    .await
    .map(drop)
}
