//! Ending a login's sessions, which its OID finds, also when it is dropped already.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::{Client, GenericClient};

use crate::clock;

/// Ends every session of the login and waits until none is left. Returns how many there were, or
/// `None` when some are left after `patience`.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn terminate_sessions(
    client: &Client,
    oid: u32,
    patience: Duration,
) -> Result<Option<u32>, tokio_postgres::Error> {
    let sessions = end_sessions(client, oid, patience).await?;
    Ok(sessions.left.is_empty().then(|| sessions.seen()))
}

/// Sessions of a login, by their process ids.
#[derive(Default)]
pub(super) struct Sessions {
    /// Those that were told to end.
    seen: BTreeSet<i32>,
    /// Those among them that have not ended.
    left: BTreeSet<i32>,
}

impl Sessions {
    /// How many were told to end.
    pub(super) fn seen(&self) -> u32 {
        count(self.seen.len())
    }

    /// How many have ended.
    pub(super) fn ended(&self) -> u32 {
        count(self.seen.difference(&self.left).count())
    }
}

fn count(sessions: usize) -> u32 {
    u32::try_from(sessions).unwrap_or(u32::MAX)
}

/// Tells every session of the login to end, and waits for that as long as `patience` lasts.
pub(super) async fn end_sessions(
    client: &impl GenericClient,
    oid: u32,
    patience: Duration,
) -> Result<Sessions, tokio_postgres::Error> {
    const POLL: Duration = Duration::from_millis(20);
    let deadline = clock::monotonic_now() + patience;
    let mut seen = BTreeSet::new();
    loop {
        let rows = client
            .query(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL)
                 WHERE usesysid = $1",
                &[&oid],
            )
            .await?;
        let left: BTreeSet<i32> = rows.iter().map(|row| row.get(0)).collect();
        seen.extend(&left);
        if left.is_empty() || clock::monotonic_now() > deadline {
            return Ok(Sessions { seen, left });
        }
        tokio::time::sleep(POLL).await;
        // A transaction would be shown the same sessions again.
        client
            .batch_execute("SELECT pg_stat_clear_snapshot()")
            .await?;
    }
}
