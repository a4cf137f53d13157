//! Clearing away what depends on a login, in every database of its server.

use tokio::time::timeout;
use tokio_postgres::Client;

use super::{CONNECT_TIMEOUT, Ledger, LedgerError, StoredLease};
use crate::login::{self, Leaver};

impl Ledger {
    /// Clears away what depends on a lease's login: prepared transactions, privileges, and what it
    /// owns as far as the lease says. Returns what is left and keeps the login from being dropped,
    /// for people.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn clear_objects(&self, stored: &StoredLease) -> Result<Option<String>, LedgerError> {
        let by_statements = stored.upkeep.revocation.is_some();
        let leaver = Leaver {
            username: &stored.lease.username,
            oid: stored.login_oid,
            owned: (!by_statements).then_some(&stored.upkeep.owned),
        };
        let sql = |error| self.sql("clear away what depends on a login", &error);
        // These connections come on top of the pool's, whose sessions should stay as they are.
        let _turn = self.clearing.acquire().await;
        let connection = self.connection().await?;
        let databases = login::databases(&connection, leaver.oid)
            .await
            .map_err(sql)?;
        drop(connection);
        let mut reasons = Vec::new();
        for dbname in databases {
            let refused = match self.connect_to(&dbname).await {
                Ok(mut client) => login::clear(&mut client, &leaver).await.map_err(sql)?,
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = refused {
                reasons.push(format!("in database {dbname:?}: {reason}"));
            }
        }
        let connection = self.connection().await?;
        if reasons.is_empty() && !by_statements {
            reasons.extend(login::left(&connection, &leaver).await.map_err(sql)?);
        }
        if !reasons.is_empty() {
            login::withdraw(&connection, &leaver).await.map_err(sql)?;
        }
        Ok((!reasons.is_empty()).then(|| reasons.join("; ")))
    }

    async fn connect_to(&self, dbname: &str) -> Result<Client, LedgerError> {
        let endpoint = &self.pool.manager().endpoint;
        timeout(CONNECT_TIMEOUT, endpoint.connect_to(&self.database, dbname))
            .await
            .unwrap_or_else(|_| {
                Err(LedgerError::Silent {
                    operation: "connect",
                    database: self.database.clone(),
                })
            })
    }
}
