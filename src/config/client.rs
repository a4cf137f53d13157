//! What the command line needs when it acts as a service: a section of its own, with a user of its
//! own.

use std::path::{Path, PathBuf};

use lapin::uri::AMQPUri;

use super::conninfo::UrlFault;
use super::problem::Problems;
use super::section::Section;
use super::{ConfigErrors, Environment, PasswordSource, TlsMode, broker, check, connection};

/// How the command line reaches the queue as a service; the scheme of `url` says which queue.
#[derive(Debug, Clone)]
pub enum Client {
    /// `amqp://` or `amqps://`.
    Amqp(AmqpClient),
    /// `postgresql://`.
    Postgres(PostgresClient),
}

/// A user of the broker's.
#[derive(Debug, Clone)]
pub struct AmqpClient {
    /// Where the broker is, and the user; without the password.
    pub uri: AMQPUri,
    /// The broker user's password.
    pub password: PasswordSource,
    /// PEM file of the authorities trusted besides the system's; only with `amqps`.
    pub ca_file: Option<PathBuf>,
}

/// A Postgres role.
#[derive(Debug, Clone)]
pub struct PostgresClient {
    /// How to connect, without the password.
    pub connection: tokio_postgres::Config,
    /// The role's password.
    pub password: PasswordSource,
    /// How the connection is protected, as for [`Database`](super::Database).
    pub tls: TlsMode,
    /// PEM file of the authorities trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Client {
    /// Reads the `client` section and nothing else of the file, as a client's machine has no more,
    /// and tries the password.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once; or that the password cannot be had.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigErrors> {
        let (path, text) = super::read(path)?;
        super::parse(&text, environment, read)
            .and_then(Self::with_password)
            .map_err(|errors| errors.of_file(&path))
    }

    fn with_password(self) -> Result<Self, ConfigErrors> {
        let problems = Problems::default();
        let (Self::Amqp(AmqpClient { password, .. })
        | Self::Postgres(PostgresClient { password, .. })) = &self;
        check::password("client.password", password, &problems);
        problems.into_errors(|_| None).map_or(Ok(self), Err)
    }

    /// The user that it connects as: the requester that keycard sees.
    #[must_use]
    pub fn user(&self) -> &str {
        match self {
            Self::Amqp(broker) => &broker.uri.authority.userinfo.username,
            Self::Postgres(database) => database.connection.get_user().unwrap_or_default(),
        }
    }
}

/// Reads the section.
pub(super) fn read(top: &Section) -> Option<Client> {
    const EXAMPLE: &str = r#""postgresql://orders-svc@db.example.com:5432/mydb" or "amqps://orders-svc@broker.example.com:5671/keycard""#;
    if !top.has("client") {
        top.report(
            "client",
            "is missing",
            format!(
                "write [client] with url = {EXAMPLE} and password = {{ env = \"NAME\" }}, a user of your own"
            ),
        );
    }
    let section = top.section("client")?;
    let password = section.password();
    let ca_file = section.path("ca_file");
    let url = section.required_text("url", EXAMPLE)?;
    let fault = |(problem, remedy): UrlFault| section.report("url", problem, remedy);
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("amqp" | "amqps") => {
            let uri = broker::parse(url).map_err(fault).ok()?;
            Some(Client::Amqp(AmqpClient {
                uri,
                password: password?,
                ca_file,
            }))
        }
        Some("postgres" | "postgresql") => {
            let connection = connection::of_client(url, ca_file).map_err(fault).ok()?;
            Some(Client::Postgres(PostgresClient {
                connection: connection.settings,
                password: password?,
                tls: connection.tls,
                ca_file: connection.ca_file,
            }))
        }
        Some(_) | None => {
            section.report(
                "url",
                "does not begin with postgresql://, amqps:// or amqp://",
                format!("write it like {EXAMPLE}"),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn load(text: &str) -> Result<Client, ConfigErrors> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let environment = Environment::from_iter([("P".into(), "me".into())]);
        Client::load(Some(Path::new(file.path())), &environment)
    }

    #[test]
    fn a_client_needs_nothing_but_its_section() {
        let client = load(
            "[client]\nurl = \"amqps://orders-svc@broker/keycard\"\npassword = { env = \"P\" }",
        );
        let client = client.unwrap();
        assert!(matches!(client, Client::Amqp(_)));
        assert_eq!(client.user(), "orders-svc");
        let errors =
            load("[client]\nurl = \"amqp://me@broker\"\npassword = { env = \"Q\" }").unwrap_err();
        assert_eq!(errors.problems()[0].key, "client.password", "{errors}");
        let errors = load("").unwrap_err().to_string();
        assert!(errors.contains("write [client] with url"), "{errors}");
        let errors = load("[client]\nurl = \"amqp://broker\"").unwrap_err();
        assert_eq!(errors.problems().len(), 2, "{errors}");
    }

    #[test]
    fn a_client_in_postgres_is_protected_as_a_database_is() {
        for (url, expected) in [
            (
                "postgresql://orders-svc@db.example.com/app",
                TlsMode::VerifyFull,
            ),
            (
                "postgres://orders-svc:{{password}}@db/app",
                TlsMode::VerifyFull,
            ),
            (
                "postgresql://orders-svc@127.0.0.1:6543/app",
                TlsMode::Disable,
            ),
        ] {
            let text = format!("[client]\nurl = {url:?}\npassword = {{ env = \"P\" }}");
            let client = load(&text).unwrap();
            assert_eq!(client.user(), "orders-svc", "{url}");
            let Client::Postgres(database) = client else {
                unreachable!("{client:?}")
            };
            assert_eq!(database.tls, expected, "{url}");
        }
        for (url, problem) in [
            ("postgresql://me:canary@db/app", "holds a password"),
            ("postgresql://db/app", "names no user"),
            ("postgresql://{{username}}@db/app", "names no user"),
            ("postgresql://me@db", "names no database"),
            ("postgresql://me@db/app?sslmode=require", "does not verify"),
            ("https://canary@db/app", "does not begin with postgresql://"),
            ("canary", "does not begin with postgresql://"),
        ] {
            let text = format!("[client]\nurl = {url:?}\npassword = {{ env = \"P\" }}");
            let errors = load(&text).unwrap_err();
            assert_eq!(errors.problems().len(), 1, "{errors}");
            let line = errors.to_string();
            assert!(
                line.starts_with("client.url: ") && line.contains(problem),
                "{line}"
            );
            assert!(!line.contains("canary"), "{line}");
        }
    }
}
