//! What the command line needs when it acts as a service: a section of its own, with a broker user
//! of its own.

use std::path::{Path, PathBuf};

use lapin::uri::AMQPUri;

use super::section::Section;
use super::{ConfigErrors, Environment, PasswordSource, broker};

/// How the command line reaches the broker as a service.
#[derive(Debug, Clone)]
pub struct Client {
    /// Where the broker is; without the password.
    pub uri: AMQPUri,
    /// The broker user's password.
    pub password: PasswordSource,
    /// PEM file of the authorities trusted besides the system's; only with `amqps`.
    pub ca_file: Option<PathBuf>,
}

impl Client {
    /// Reads the `client` section and nothing else of the file, as a client's machine has no more.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigErrors> {
        super::parse(&super::read(path)?, environment, read)
    }
}

/// Reads the section.
pub(super) fn read(top: &Section) -> Option<Client> {
    const EXAMPLE: &str = r#""amqps://orders-svc@broker.example.com:5671/keycard""#;
    if !top.has("client") {
        top.report(
            "client",
            "is missing",
            format!(
                "write [client] with url = {EXAMPLE} and password = {{ env = \"NAME\" }}, a broker user of your own"
            ),
        );
    }
    let section = top.section("client")?;
    let password = section.password();
    let ca_file = section.path("ca_file");
    let url = section.required_text("url", EXAMPLE)?;
    let uri = broker::parse(url)
        .map_err(|(problem, remedy)| section.report("url", problem, remedy))
        .ok()?;
    Some(Client {
        uri,
        password: password?,
        ca_file,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn load(text: &str) -> Result<Client, ConfigErrors> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        Client::load(Some(Path::new(file.path())), &Environment::from_iter([]))
    }

    #[test]
    fn a_client_needs_nothing_but_its_section() {
        let client = load(
            "[client]\nurl = \"amqps://orders-svc@broker/keycard\"\npassword = { env = \"P\" }",
        );
        let client = client.unwrap();
        assert_eq!(client.uri.authority.userinfo.username, "orders-svc");
        let errors = load("").unwrap_err().to_string();
        assert!(errors.contains("write [client] with url"), "{errors}");
        let errors = load("[client]\nurl = \"amqp://broker\"").unwrap_err();
        assert_eq!(errors.problems().len(), 2, "{errors}");
    }
}
