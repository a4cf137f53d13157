//! One credential in use: it works from when it was told until its lease ends, and not after.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use keycard::clock::uuid_v7;
use serde_json::Value;
use tokio::time::sleep;
use tokio_postgres::{Client, Error};

use crate::support::audit::Secrets;
use crate::support::invariants::Violation;

use super::town::Town;

/// What a credential is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Read,
    /// Leaves a table, which makes the login's end a long one.
    Build,
    /// Stays connected until it is thrown out.
    Stay,
}

/// What an `issued` event told.
pub struct Key {
    pub owner: String,
    pub lease_id: String,
    role: String,
    issued: Value,
    /// What the store had when it was first looked into.
    secret: OnceLock<Value>,
}

/// How often somebody tries again while Postgres is away.
const TRIES: usize = 40;
const PAUSE: Duration = Duration::from_millis(500);

impl Key {
    pub fn of(owner: &str, issued: &Value) -> Self {
        Self {
            owner: owner.to_owned(),
            lease_id: issued["lease_id"].as_str().unwrap().to_owned(),
            role: issued["role"].as_str().unwrap().to_owned(),
            issued: issued.clone(),
            secret: OnceLock::new(),
        }
    }

    /// Uses it, and tells what came of it.
    pub async fn use_for(&self, purpose: Use, town: &Town) -> &'static str {
        for _ in 0..TRIES {
            if let Some(used) = self.try_for(purpose, town).await {
                return used;
            }
            sleep(PAUSE).await;
        }
        "credentials not tried, Postgres being away"
    }

    /// `None` when Postgres is away.
    async fn try_for(&self, purpose: Use, town: &Town) -> Option<&'static str> {
        let kept = Secrets::Fake(&town.store).all();
        let Some(secret) = kept.get(self.issued["secret"]["locator"].as_str().unwrap()) else {
            return self.end(town, "its secret is gone").await;
        };
        if self.secret.get_or_init(|| secret.clone()) != secret {
            town.find(Violation::of(&self.lease_id, "its secret has changed"));
        }
        let (username, password) = (&secret["username"], &secret["password"]);
        let entered = town
            .site
            .login(username.as_str().unwrap(), password.as_str().unwrap())
            .await;
        match entered {
            Ok(session) => self.at_work(purpose, town, &session).await.ok(),
            Err(error) if is_refusal(&error) => self.end(town, "its login is refused").await,
            Err(_) => None,
        }
    }

    async fn at_work(
        &self,
        purpose: Use,
        town: &Town,
        session: &Client,
    ) -> Result<&'static str, Error> {
        let since = "SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let since: SystemTime = session.query_one(since, &[]).await?.get(0);
        session
            .execute("INSERT INTO orders VALUES (2)", &[])
            .await?;
        self.judge_entry(town, since).await;
        match purpose {
            Use::Build if self.role == "builder" => {
                let name = uuid_v7().simple();
                let table = format!("CREATE TABLE built_{name} (id int)");
                session.batch_execute(&table).await?;
                Ok("credentials used to build")
            }
            Use::Read | Use::Build => Ok("credentials used"),
            Use::Stay => {
                // Ends with an error: its lease has ended, or Postgres.
                while session.query_one("SELECT pg_sleep(1)", &[]).await.is_ok() {}
                Ok("sessions kept open to their end")
            }
        }
    }

    /// No session begins after the last end that the lease was ever given.
    async fn judge_entry(&self, town: &Town, since: SystemTime) {
        let too_late = "SELECT coalesce(max(expires_at) < $2, true) FROM keycard.audit
                        WHERE lease_id = $1 AND action IN ('created', 'renewed')";
        if let Some(sql) = town.superuser().await
            && let Ok(row) = sql.query_one(too_late, &[&self.lease_id, &since]).await
            && row.get::<_, bool>(0)
        {
            town.find(Violation::of(
                &self.lease_id,
                "its login works after its end",
            ));
        }
    }

    /// The credential does not work, which is right if its lease has ended; `None` when Postgres is
    /// away. A lease that lives now has lived since it was told.
    async fn end(&self, town: &Town, what: &str) -> Option<&'static str> {
        let lives = "SELECT count(*) FROM keycard.leases
                     WHERE 'app.' || id = $1 AND state = 'active' AND expires_at > clock_timestamp()";
        let sql = town.superuser().await?;
        let row = sql.query_one(lives, &[&self.lease_id]).await.ok()?;
        if row.get::<_, i64>(0) > 0 {
            town.find(Violation::of(&self.lease_id, format!("alive, and {what}")));
        }
        Some("credentials refused after their end")
    }
}

/// Whether Postgres itself says that this login may not enter.
fn is_refusal(error: &Error) -> bool {
    error
        .code()
        .is_some_and(|code| matches!(code.code(), "28P01" | "28000"))
}
