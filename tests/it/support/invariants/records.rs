//! What the ledger says of itself.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Client;

/// A lease's row.
#[derive(Debug)]
pub struct Lease {
    pub requester: String,
    pub username: String,
    pub state: String,
    pub cause: Option<String>,
    pub generation: i32,
    pub expires_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    pub last_failure: Option<String>,
}

impl Lease {
    /// Whether its login may be there.
    pub fn has_login(&self) -> bool {
        matches!(self.state.as_str(), "issuing" | "active" | "revoking")
    }

    pub fn is_active(&self) -> bool {
        self.state == "active"
    }

    pub fn is_closed(&self) -> bool {
        self.state == "closed"
    }
}

/// A command's row.
#[derive(Debug)]
pub struct Request {
    pub kind: String,
    pub lease: Option<String>,
    /// The event that answers it.
    pub answer: Option<Value>,
    pub is_published: bool,
}

/// A row of the audit.
#[derive(Debug)]
pub struct Audited {
    pub at: Timestamp,
    pub action: String,
    pub lease: Option<String>,
    pub generation: Option<i32>,
    pub expires_at: Option<Timestamp>,
    pub cause: Option<String>,
    pub code: Option<String>,
    pub reason: String,
    /// Requester and id of the command that it was decided on.
    pub asked: Option<(String, String)>,
}

/// For people.
impl fmt::Display for Audited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at, self.action)?;
        let cause = self.cause.as_ref().or(self.code.as_ref());
        if let Some(cause) = cause {
            write!(f, " {cause}")?;
        }
        if let (Some(generation), Some(expires_at)) = (self.generation, self.expires_at) {
            write!(f, ", generation {generation} until {expires_at}")?;
        }
        if let Some((requester, id)) = &self.asked {
            write!(f, ", asked by {requester} as {id}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// All of it.
pub struct Records {
    /// By id.
    pub leases: BTreeMap<String, Lease>,
    /// By requester and id; services of tests have one source each.
    pub requests: BTreeMap<(String, String), Request>,
    /// In their order.
    pub audit: Vec<Audited>,
}

impl Records {
    /// Reads it in one snapshot.
    ///
    /// # Panics
    /// When Postgres cannot be asked.
    pub async fn read(sql: &Client) -> Self {
        sql.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .await
            .unwrap();
        let leases =
            "SELECT 'app.' || id, requester, username, state, cause, generation, expires_at,
                             revoked_at, last_failure
                      FROM keycard.leases";
        let requests =
            "SELECT requester, id, kind, 'app.' || lease, answer, published_at IS NOT NULL
                        FROM keycard.requests";
        let audit = "SELECT at, action, lease_id, generation, expires_at, cause, code, reason,
                            asked_by, request_id
                     FROM keycard.audit ORDER BY id";
        let leases = sql.query(leases, &[]).await.unwrap();
        let requests = sql.query(requests, &[]).await.unwrap();
        let audit = sql.query(audit, &[]).await.unwrap();
        sql.batch_execute("COMMIT").await.unwrap();
        let leases = leases.iter().map(|row| {
            let lease = Lease {
                requester: row.get(1),
                username: row.get(2),
                state: row.get(3),
                cause: row.get(4),
                generation: row.get(5),
                expires_at: row.get(6),
                revoked_at: row.get(7),
                last_failure: row.get(8),
            };
            (row.get(0), lease)
        });
        let requests = requests.iter().map(|row| {
            let answer: Option<&str> = row.get(4);
            let request = Request {
                kind: row.get(2),
                lease: row.get(3),
                answer: answer.map(|text| serde_json::from_str(text).unwrap()),
                is_published: row.get(5),
            };
            ((row.get(0), row.get(1)), request)
        });
        let audit = audit.iter().map(|row| Audited {
            at: row.get(0),
            action: row.get(1),
            lease: row.get(2),
            generation: row.get(3),
            expires_at: row.get(4),
            cause: row.get(5),
            code: row.get(6),
            reason: row.get(7),
            asked: row.get::<_, Option<String>>(8).zip(row.get(9)),
        });
        Self {
            leases: leases.collect(),
            requests: requests.collect(),
            audit: audit.collect(),
        }
    }

    /// A lease's audit, in its order.
    pub fn audit_of(&self, lease: &str) -> impl Iterator<Item = &Audited> {
        let is_of = move |row: &&Audited| row.lease.as_deref() == Some(lease);
        self.audit.iter().filter(is_of)
    }
}
