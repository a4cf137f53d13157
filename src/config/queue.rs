//! Where commands come from and results go.

use std::path::PathBuf;

use lapin::uri::AMQPUri;

use super::keys::suggest;
use super::section::Section;
use super::{PasswordSource, broker};

/// Where commands come from.
#[derive(Debug, Clone)]
pub enum Queue {
    /// `kind = "amqp"`: `RabbitMQ`, or another broker of AMQP 0-9-1.
    Amqp(Amqp),
    /// `kind = "postgres"`, as without a section: tables in one of the databases.
    Postgres {
        /// Key of the database.
        database: String,
        /// As [`Queue::prefetch`].
        prefetch: u16,
    },
}

impl Queue {
    /// Most messages that a worker holds at a time in each lane. 64 by default.
    #[must_use]
    pub fn prefetch(&self) -> u16 {
        match self {
            Self::Amqp(amqp) => amqp.prefetch,
            Self::Postgres { prefetch, .. } => *prefetch,
        }
    }
}

/// An AMQP broker.
#[derive(Debug, Clone)]
pub struct Amqp {
    uri: AMQPUri,
    /// The broker user's password.
    pub password: PasswordSource,
    /// PEM file of the authorities trusted besides the system's; only with `amqps`.
    pub ca_file: Option<PathBuf>,
    /// As [`Queue::prefetch`].
    pub prefetch: u16,
}

impl Amqp {
    /// How to connect, without the password. Its user is keycard's own, whose messages are believed
    /// to be keycard's.
    #[must_use]
    pub fn uri(&self) -> AMQPUri {
        self.uri.clone()
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Postgres,
    Amqp,
}

/// Reads the section; `databases` are the keys of all that the file has.
pub(super) fn read(top: &Section, databases: &[&str]) -> Option<Queue> {
    let section = top.section_or_empty("queue")?;
    let kind = section.kind(&[("postgres", Kind::Postgres), ("amqp", Kind::Amqp)])?;
    let prefetch = section.number("prefetch", 2..=2_000).unwrap_or(64);
    match kind {
        Kind::Postgres => {
            section.refuse(&["url", "password", "ca_file"], "amqp");
            let database = database(&section, databases)?.to_owned();
            Some(Queue::Postgres { database, prefetch })
        }
        Kind::Amqp => {
            section.refuse(&["database"], "postgres");
            broker(&section, prefetch).map(Queue::Amqp)
        }
    }
}

fn broker(section: &Section, prefetch: u16) -> Option<Amqp> {
    let password = section.password();
    let ca_file = section.path("ca_file");
    let url = section.required_text(
        "url",
        r#""amqps://keycard@broker.example.com:5671/keycard""#,
    )?;
    let uri =
        broker::parse(url).map_err(|(problem, remedy)| section.report("url", problem, remedy));
    let uri = uri.ok()?;
    if ca_file.is_some() && url.starts_with("amqp:") {
        section.report(
            "ca_file",
            "has no use without TLS",
            "write amqps:// in url, or take it out",
        );
    }
    Some(Amqp {
        uri,
        password: password?,
        ca_file,
        prefetch,
    })
}

/// The database that carries the messages: the only one, unless the section says which.
fn database<'a>(section: &Section<'a>, databases: &[&'a str]) -> Option<&'a str> {
    const KEY: &str = "database";
    if section.has(KEY) {
        let name = section.text(KEY)?;
        if !databases.contains(&name) {
            section.report(
                KEY,
                format!("{name:?} is not one of [databases]"),
                suggest(name, databases),
            );
        }
        return Some(name);
    }
    match databases {
        [only] => Some(only),
        // Reported by itself.
        [] => None,
        [first, ..] => {
            section.report(
                KEY,
                format!(
                    "is missing, and there is more than one database: {}",
                    databases.join(", ")
                ),
                format!(
                    "write [queue] with database = {first:?} to keep the messages there, or with \
                     kind = \"amqp\" for a broker"
                ),
            );
            None
        }
    }
}
