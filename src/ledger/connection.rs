//! Connections to one database, each made with the password as it is at that moment.

use std::fmt;
use std::sync::Arc;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use secrecy::ExposeSecret as _;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{LedgerError, schema};
use crate::login;
use crate::password::ReadPassword;

/// How keycard itself reaches a database.
#[derive(Clone)]
pub struct Endpoint {
    /// Everything but the password.
    pub config: tokio_postgres::Config,
    /// The admin's password.
    pub password: ReadPassword,
    /// Verifies the server; `None` connects without TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Connects, and drives the connection in a task of its own.
    ///
    /// # Errors
    /// When the password cannot be read or Postgres cannot be reached.
    pub async fn connect(&self, database: &str) -> Result<Client, LedgerError> {
        let password = (self.password)()
            .await
            .map_err(|problem| LedgerError::Password {
                database: database.to_owned(),
                problem,
            })?;
        let mut config = self.config.clone();
        config.password(password.expose_secret());
        let failed = |error: tokio_postgres::Error| LedgerError::Pool {
            database: database.to_owned(),
            problem: login::describe(&error),
        };
        let client = if let Some(tls) = &self.tls {
            let tls = MakeRustlsConnect::new(tls.as_ref().clone());
            let (client, connection) = config.connect(tls).await.map_err(failed)?;
            drive(database, connection);
            client
        } else {
            let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
            drive(database, connection);
            client
        };
        Ok(client)
    }
}

fn drive<S, T>(database: &str, connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let database = database.to_owned();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(
                database,
                error = login::describe(&error),
                "a connection to the database broke; another is made when needed"
            );
        }
    });
}

/// Makes the pool's connections. Each is checked: it leads to the ledger that it should.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) endpoint: Endpoint,
    pub(super) database: String,
    pub(super) installation: String,
}

impl Manager for Connections {
    type Type = Client;
    type Error = LedgerError;

    async fn create(&self) -> Result<Client, LedgerError> {
        let client = self.endpoint.connect(&self.database).await?;
        schema::check_record(&client, &self.database, &self.installation).await?;
        Ok(client)
    }

    async fn recycle(&self, client: &mut Client, _: &Metrics) -> RecycleResult<LedgerError> {
        if client.is_closed() {
            Err(RecycleError::message("the connection is closed"))
        } else {
            Ok(())
        }
    }
}
