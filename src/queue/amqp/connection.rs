//! One connection to the broker: how it is opened, and what the broker's refusals mean.

use std::fmt::Write as _;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{OPERATION_TIMEOUT, Settings};
use crate::clock;
use crate::fault::Disposition;
use crate::password::ReadPassword;
use crate::queue::QueueError;

/// Seconds between heartbeats: a dead connection is noticed after two.
const HEARTBEAT_SECONDS: u16 = 20;

/// Longest pause between two attempts to connect; the jitter at most doubles it.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Where the broker is, and as whom keycard speaks to it.
pub(super) struct Broker {
    uri: AMQPUri,
    read_password: ReadPassword,
    ca_file: Option<PathBuf>,
    pub(super) installation: String,
}

impl Broker {
    pub(super) fn new(settings: &Settings) -> Result<Self, QueueError> {
        let wrong = |problem: String| fatal("read the broker's URL", problem);
        let mut uri = settings.uri.clone();
        let user = &uri.authority.userinfo.username;
        for (what, text) in [("user", user), ("vhost", &uri.vhost)] {
            if text.len() > 255 {
                return Err(wrong(format!("the {what} is longer than 255 bytes")));
            }
        }
        if settings.installation.is_empty() || settings.installation.len() > 200 {
            return Err(wrong(
                "the installation's name takes 1 to 200 bytes".to_owned(),
            ));
        }
        uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
        Ok(Self {
            uri,
            read_password: Arc::clone(&settings.password),
            ca_file: settings.ca_file.clone(),
            installation: settings.installation.clone(),
        })
    }

    /// keycard's own user.
    pub(super) fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    pub(super) fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// Opens a connection, its password read anew. `purpose` shows in the broker's lists.
    ///
    /// Cancel-safe: an attempt given up takes its socket with it.
    pub(super) async fn open(&self, purpose: &str) -> Result<Connection, QueueError> {
        let mut uri = self.uri.clone();
        let password = timeout(OPERATION_TIMEOUT, (self.read_password)())
            .await
            .map_err(|_| later("read its password", "that takes too long".to_owned()))?
            .map_err(|problem| later("read its password", problem))?;
        password
            .expose_secret()
            .clone_into(&mut uri.authority.userinfo.password);
        let tls = OwnedTLSConfig {
            identity: None,
            cert_chain: self.ca_certificates().await?,
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("keycard {purpose}").into())
            .with_client_property("product".into(), "keycard".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.refusal(&error))?;

        // lapin bounds neither the connecting nor the handshake, and its thread would wait for a
        // silent broker for ever.
        let attempt = Attempt::default();
        let progress = Arc::clone(&attempt.0);
        let connecting = Connection::connector(
            uri,
            runtime,
            async move |uri: AMQPUri, runtime| {
                let address = (uri.authority.host.clone(), uri.authority.port);
                let stream = AsyncTcpStream::connect(&runtime, runtime.to_socket_addrs(address));
                let stream = timeout(OPERATION_TIMEOUT, stream)
                    .await
                    .map_err(std::io::Error::from)??;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    let socket = plain.get_ref().as_fd().try_clone_to_owned()?;
                    watch(&progress, socket.into())?;
                }
                Ok(match uri.scheme {
                    AMQPScheme::AMQP => stream,
                    AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, tls.as_ref()).await?,
                })
            },
            properties,
        );
        let connected = timeout(OPERATION_TIMEOUT, connecting).await;
        match connected {
            Ok(Ok(connection)) => {
                attempt.succeed();
                Ok(connection)
            }
            Ok(Err(error)) => Err(self.refusal(&error)),
            Err(_) => Err(later("connect", "the broker does not answer".to_owned())),
        }
    }

    async fn ca_certificates(&self) -> Result<Option<String>, QueueError> {
        let Some(file) = &self.ca_file else {
            return Ok(None);
        };
        let pem = tokio::fs::read_to_string(file).await.map_err(|error| {
            let problem = format!("{}: {error}", file.display());
            later("read its certificate authorities", problem)
        })?;
        Ok(Some(pem))
    }

    /// What a failure to connect means.
    fn refusal(&self, error: &lapin::Error) -> QueueError {
        let (user, vhost) = (self.user(), self.vhost());
        match hard_error(error) {
            // The code of a limit on connections as well, which passes.
            Some((AMQPHardError::NOTALLOWED, text)) if !text.contains("limit") => fatal(
                "connect",
                format!(
                    "{text}. Remedy, where the vhost is missing: rabbitmqctl add_vhost '{vhost}'; \
                     in any case: {}",
                    permissions(user, vhost)
                ),
            ),
            _ if is_soft(error, AMQPSoftError::ACCESSREFUSED) => later(
                "connect",
                format!("the broker refuses the name or the password of its user '{user}'"),
            ),
            _ => later("connect", one_line(error)),
        }
    }
}

/// The command that gives keycard what it needs, and nothing else.
pub(super) fn permissions(user: &str, vhost: &str) -> String {
    format!(
        "rabbitmqctl set_permissions -p '{vhost}' '{user}' '^keycard\\.' \
         '^(keycard\\.|amq\\.default$)' '^keycard\\.'"
    )
}

/// An attempt to connect. Its socket is shut down when it is given up.
#[derive(Default)]
struct Attempt(Arc<Mutex<Progress>>);

#[derive(Default)]
enum Progress {
    #[default]
    Connecting,
    Connected(TcpStream),
    Over,
}

/// Notes the socket of an attempt, unless that has been given up meanwhile.
fn watch(progress: &Mutex<Progress>, socket: TcpStream) -> std::io::Result<()> {
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*progress, Progress::Over) {
        return Err(std::io::ErrorKind::TimedOut.into());
    }
    *progress = Progress::Connected(socket);
    Ok(())
}

impl Attempt {
    /// The socket is the connection's own from now on.
    fn succeed(self) {
        self.end();
    }

    fn end(&self) -> Progress {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut progress, Progress::Over)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Progress::Connected(socket) = self.end() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Pauses between attempts: 0.2 s, doubling up to 15 to 30 s, for ever.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Says once that something is away, once per change of the reason, and once that it is back.
pub(super) struct Outage {
    connection: String,
    begun: Option<(Instant, String)>,
}

impl Outage {
    pub(super) fn new(connection: impl Into<String>) -> Self {
        Self {
            connection: connection.into(),
            begun: None,
        }
    }

    pub(super) fn failed(&mut self, error: &QueueError) {
        let text = error.to_string();
        let (since, last) = match self.begun.take() {
            Some((since, last)) => (since, Some(last)),
            None => (clock::monotonic_now(), None),
        };
        if last.as_ref() != Some(&text) {
            warn!(
                queue.connection = self.connection,
                error = text,
                "RabbitMQ is out of reach; keycard keeps trying"
            );
        }
        self.begun = Some((since, text));
    }

    pub(super) fn over(&mut self) {
        if let Some((since, _)) = self.begun.take() {
            info!(
                queue.connection = self.connection,
                outage_seconds = since.elapsed().as_secs(),
                "RabbitMQ is back"
            );
        }
    }
}

/// It may pass.
pub(super) fn later(operation: &'static str, problem: String) -> QueueError {
    QueueError {
        operation,
        problem,
        disposition: Disposition::Retry,
    }
}

/// It stays until somebody mends it.
pub(super) fn fatal(operation: &'static str, problem: String) -> QueueError {
    QueueError {
        operation,
        problem,
        disposition: Disposition::Fatal,
    }
}

/// The error and its causes, none of which names a password.
pub(super) fn one_line(error: &lapin::Error) -> String {
    if let ErrorKind::ProtocolError(refusal) = error.kind() {
        return refusal.get_message().as_str().to_owned();
    }
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            // Writing to a String cannot fail.
            let _ = write!(line, ": {text}");
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}

/// The broker's reason for closing the connection.
pub(super) fn hard_error(error: &lapin::Error) -> Option<(AMQPHardError, &str)> {
    let ErrorKind::ProtocolError(refusal) = error.kind() else {
        return None;
    };
    let AMQPErrorKind::Hard(hard) = refusal.kind() else {
        return None;
    };
    Some((hard.clone(), refusal.get_message().as_str()))
}

/// Whether the broker closed the channel (or refused the credentials) with this reason.
pub(super) fn is_soft(error: &lapin::Error, reason: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal)
        if *refusal.kind() == AMQPErrorKind::Soft(reason))
}
