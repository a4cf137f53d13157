//! One connection to the broker: how it is opened, and what the broker's refusals mean.

use std::fmt::Write as _;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use super::{OPERATION_TIMEOUT, Settings};
use crate::check::is_this_host;
use crate::fault::Disposition;
use crate::password::ReadPassword;
use crate::queue::QueueError;
use crate::queue::outage::Outage;

/// Seconds between heartbeats: a dead connection is noticed after two.
const HEARTBEAT_SECONDS: u16 = 20;

/// What a connection is for, which says what its user must be allowed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// keycard itself.
    Worker,
    /// A requester.
    Client,
    /// A requester who handles dead letters as well.
    Operator,
}

/// Where the broker is, and as whom keycard speaks to it.
pub(super) struct Broker {
    part: Part,
    uri: AMQPUri,
    read_password: ReadPassword,
    ca_file: Option<PathBuf>,
    pub(super) installation: String,
}

impl Broker {
    pub(super) fn new(part: Part, settings: &Settings) -> Result<Self, QueueError> {
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
            part,
            uri,
            read_password: Arc::clone(&settings.password),
            ca_file: settings.ca_file.clone(),
            installation: settings.installation.clone(),
        })
    }

    /// Whom it is used by; for a worker keycard's own user.
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
        timeout(OPERATION_TIMEOUT, Box::pin(connect(uri, tls, properties)))
            .await
            .map_err(|_| {
                let (address, remedy) = (self.address(), self.remedy());
                let problem = format!("{address}: the broker does not answer{remedy}");
                later("connect", problem)
            })?
            .map_err(|error| self.refusal(&error))
    }

    /// What can be done where the broker is not reached.
    fn remedy(&self) -> String {
        format!(
            ". Remedy: start the broker, or mend host and port in {}.url (amqps:// only where the \
             broker takes TLS)",
            self.section()
        )
    }

    /// Where the configuration says how it is reached.
    fn section(&self) -> &'static str {
        match self.part {
            Part::Worker => "queue",
            Part::Client | Part::Operator => "client",
        }
    }

    /// Whether nobody between can read or change what is said.
    pub(super) fn is_protected(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS || is_this_host(&self.uri.authority.host)
    }

    /// For messages: what is spoken where, which is what may be wrong.
    pub(super) fn address(&self) -> String {
        let (host, port) = (&self.uri.authority.host, self.uri.authority.port);
        match self.uri.scheme {
            AMQPScheme::AMQP => format!("{host}:{port} without TLS (amqp://)"),
            AMQPScheme::AMQPS => format!("{host}:{port} with TLS (amqps://)"),
        }
    }

    /// The command that gives the user what its part needs, and nothing else of keycard's.
    pub(super) fn permissions(&self) -> String {
        let (user, vhost) = (self.user(), self.vhost());
        let own = user.replace('.', "\\.");
        let (configure, write, read) = match self.part {
            Part::Worker => (
                "^keycard\\.".to_owned(),
                "^(keycard\\.|amq\\.default$)".to_owned(),
                "^keycard\\.".to_owned(),
            ),
            Part::Client => (
                format!("^{own}\\."),
                format!("^({own}\\..*|keycard\\.(requests|leases))$"),
                format!("^({own}\\..*|keycard\\.events)$"),
            ),
            Part::Operator => (
                format!("^{own}\\."),
                format!("^({own}\\..*|keycard\\.(requests|leases))$"),
                format!("^({own}\\..*|keycard\\.(events|dead-letters))$"),
            ),
        };
        format!(
            "rabbitmqctl set_permissions -p '{vhost}' '{user}' '{configure}' '{write}' '{read}'"
        )
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

    /// What it means for a client or an operator that a channel was closed under them.
    pub(super) fn refused(&self, operation: &'static str, error: &lapin::Error) -> QueueError {
        let text = one_line(error);
        if is_soft(error, AMQPSoftError::ACCESSREFUSED) {
            let remedy = self.permissions();
            fatal(operation, format!("{text}. Remedy: {remedy}"))
        } else if is_soft(error, AMQPSoftError::NOTFOUND) {
            let vhost = self.vhost();
            fatal(
                operation,
                format!(
                    "{text}. Remedy: the first `keycard worker` makes it; or is '{vhost}' not \
                     keycard's vhost?"
                ),
            )
        } else {
            later(operation, text)
        }
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
                    self.permissions()
                ),
            ),
            _ if is_soft(error, AMQPSoftError::ACCESSREFUSED) => later(
                "connect",
                format!(
                    "the broker refuses the name or the password of its user '{user}'. Remedy: mend \
                     the user in {0}.url or {0}.password, or set that password: rabbitmqctl \
                     change_password '{user}'",
                    self.section()
                ),
            ),
            _ => later(
                "connect",
                format!("{}: {}{}", self.address(), one_line(error), self.remedy()),
            ),
        }
    }
}

/// TCP, TLS and the handshake. The first two are not left to lapin's thread, where a refusal is lost
/// to whoever does not listen yet (lapin 4.12.3: `IoLoop::start` beside `Connection::start`).
async fn connect(
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    let address = (uri.authority.host.clone(), uri.authority.port);
    let stream = AsyncTcpStream::connect(&runtime, runtime.to_socket_addrs(address)).await?;
    let AsyncTcpStream::Plain(plain) = &stream else {
        return Err(io::Error::from(io::ErrorKind::Unsupported).into());
    };
    let attempt = Attempt::on(plain.get_ref())?;
    let stream = match uri.scheme {
        AMQPScheme::AMQP => stream,
        AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, tls.as_ref()).await?,
    };
    // lapin asks for it once, as it is not told to recover.
    let stream = Mutex::new(Some(stream));
    let take = async move |_, _| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted).into())
    };
    let connection = Connection::connector(uri, runtime, take, properties).await?;
    attempt.succeed();
    Ok(connection)
}

/// An attempt to connect. Its socket is shut down when it is given up: lapin's thread would wait
/// for a silent broker for ever.
struct Attempt(Option<TcpStream>);

impl Attempt {
    fn on(socket: &impl AsFd) -> io::Result<Self> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        Ok(Self(Some(socket.into())))
    }

    /// The socket is the connection's own from now on.
    fn succeed(mut self) {
        self.0 = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Watches over one connection.
pub(super) fn outage(connection: impl Into<String>) -> Outage {
    Outage::new("RabbitMQ", connection)
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
