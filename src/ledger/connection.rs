//! Connections to one database, each made with the password as it is at that moment.

use std::error::Error as _;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use secrecy::ExposeSecret as _;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{CONNECT_TIMEOUT, LedgerError, schema};
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
        self.open(database, None).await
    }

    /// Connects to another database of the same server.
    ///
    /// # Errors
    /// As for [`Endpoint::connect`].
    pub async fn connect_to(&self, database: &str, dbname: &str) -> Result<Client, LedgerError> {
        let mut there = self.clone();
        there.config.dbname(dbname);
        there.connect(database).await
    }

    /// Connects like [`Endpoint::connect`]. `woken` is notified whenever the server notifies a
    /// channel that the client listens to, and when the connection has ended.
    ///
    /// # Errors
    /// As for [`Endpoint::connect`].
    pub async fn listen(&self, database: &str, woken: Arc<Notify>) -> Result<Client, LedgerError> {
        self.open(database, Some(woken)).await
    }

    async fn open(
        &self,
        database: &str,
        woken: Option<Arc<Notify>>,
    ) -> Result<Client, LedgerError> {
        let password = (self.password)()
            .await
            .map_err(|problem| LedgerError::Password {
                database: database.to_owned(),
                problem,
            })?;
        let mut config = self.config.clone();
        config.password(password.expose_secret());
        let failed = |problem: String| LedgerError::Pool {
            database: database.to_owned(),
            problem: format!("{}: {problem}", address(&self.config)),
        };
        let refused =
            |error: tokio_postgres::Error| failed(login::describe(&error) + remedy(&error));
        let connecting = async {
            if let Some(tls) = &self.tls {
                let tls = MakeRustlsConnect::new(tls.as_ref().clone());
                let (client, connection) = config.connect(tls).await.map_err(refused)?;
                drive(database, connection, woken);
                Ok(client)
            } else {
                let (client, connection) = config.connect(NoTls).await.map_err(refused)?;
                drive(database, connection, woken);
                Ok(client)
            }
        };
        timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| {
                Err(failed(
                    "it does not answer; mend host and port, or what keeps this host from it"
                        .to_owned(),
                ))
            })
    }
}

/// For messages: where Postgres is looked for.
fn address(config: &tokio_postgres::Config) -> String {
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| {
        // One port serves all hosts.
        let port = ports.get(index).or(ports.first()).unwrap_or(&5432);
        match host {
            Host::Tcp(host) => format!("{host}:{port}"),
            Host::Unix(directory) => format!("{}, port {port}", directory.display()),
        }
    });
    hosts.collect::<Vec<_>>().join(" or ")
}

/// What helps where a connection is not to be had, if that is known.
fn remedy(error: &tokio_postgres::Error) -> &'static str {
    match error.code() {
        Some(&SqlState::INVALID_PASSWORD) => {
            "; mend the user's name or password, here or in Postgres"
        }
        Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            "; let the user in, in pg_hba.conf or by ALTER ROLE ... LOGIN"
        }
        Some(&SqlState::TOO_MANY_CONNECTIONS) => "; end connections there, or raise that limit",
        Some(&SqlState::INVALID_CATALOG_NAME) => "; create that database, or name another",
        Some(_) => "",
        None => {
            let source = error
                .source()
                .and_then(|source| source.downcast_ref::<io::Error>());
            let is_tls = |error: &io::Error| {
                error
                    .get_ref()
                    .is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
            };
            match source {
                Some(error) if is_tls(error) => {
                    "; name the host as in the server's certificate, and in ca_file the authority that signed it"
                }
                // What tokio-postgres says of a server that is no primary.
                Some(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    "; it is a standby or read-only: name the primary, at best every host of the cluster"
                }
                Some(_) => "; start Postgres there, or mend host and port",
                None => {
                    "; where the server has no TLS, set it up, or write sslmode=disable in the URL"
                }
            }
        }
    }
}

fn drive<S, T>(
    database: &str,
    mut connection: tokio_postgres::Connection<S, T>,
    woken: Option<Arc<Notify>>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let database = database.to_owned();
    tokio::spawn(async move {
        let wake = || {
            if let Some(woken) = &woken {
                woken.notify_one();
            }
        };
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(_))) => wake(),
                // Notices are the server's log's.
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::warn!(
                        database,
                        error = login::describe(&error),
                        "a connection to the database broke; another is made when needed"
                    );
                    break;
                }
                None => break,
            }
        }
        // The client sees that it has ended as soon as this is gone.
        drop(connection);
        wake();
    });
}

/// Makes the pool's connections. Each is checked: it leads to the ledger that it should.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(super) endpoint: Endpoint,
    pub(super) database: String,
    pub(super) installation: String,
    /// Told when the server was started again, as after a restore.
    pub(super) restarted: Arc<Notify>,
}

impl Connections {
    /// One that is nobody else's, and whether it leads to a server that was started again.
    pub(super) async fn open(&self) -> Result<(Client, bool), LedgerError> {
        // Boxed: it is rare, and large in every future that may need a connection.
        let client = Box::pin(self.endpoint.connect(&self.database)).await?;
        let restarted = schema::check_record(&client, &self.database, &self.installation).await?;
        Ok((client, restarted))
    }
}

impl Manager for Connections {
    type Type = Client;
    type Error = LedgerError;

    async fn create(&self) -> Result<Client, LedgerError> {
        let (client, restarted) = self.open().await?;
        if restarted {
            self.restarted.notify_one();
        }
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
