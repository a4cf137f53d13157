//! A credential in the formats that programs take.

use clap::ValueEnum;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};

use super::credential::Held;
use crate::store::credential::Credential;

/// How a credential is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Lines of export PGHOST='...' for a shell's eval or source.
    Env,
    /// The secret as it is stored.
    Json,
    /// A postgresql:// URL.
    Dsn,
    /// A line for ~/.pgpass.
    Pgpass,
}

/// What a URL's parts may hold unencoded (RFC 3986, unreserved).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The credential in a format, without a newline at its end.
pub(super) fn show(held: &Held, format: Format) -> SecretString {
    match format {
        Format::Env => env(&held.credential),
        Format::Json => held.json.clone(),
        Format::Dsn => dsn(&held.credential),
        Format::Pgpass => pgpass(&held.credential),
    }
}

/// libpq's variables but the password's. Without TLS, PGSSLMODE stays as it is.
pub(super) fn variables(credential: &Credential) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("PGHOST", credential.host.clone()),
        ("PGPORT", credential.port.to_string()),
        ("PGDATABASE", credential.dbname.clone()),
        ("PGUSER", credential.username.clone()),
    ];
    if credential.ssl {
        variables.push(("PGSSLMODE", "verify-full".to_owned()));
    }
    variables
}

/// Variables that would make libpq overlook the credential's.
pub(super) const OVERRIDING: [&str; 3] = ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE"];

fn env(credential: &Credential) -> SecretString {
    let mut text = buffer(credential);
    let password = credential.password.expose_secret();
    let variables = variables(credential);
    let named = variables
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .chain([("PGPASSWORD", password)]);
    for (name, value) in named {
        text.push_str("export ");
        text.push_str(name);
        text.push_str("='");
        push_replaced(&mut text, value, |letter| {
            (letter == '\'').then_some("'\\''")
        });
        text.push_str("'\n");
    }
    text.pop();
    finished(&text)
}

fn dsn(credential: &Credential) -> SecretString {
    let encoded = |text: &str| percent_encode(text.as_bytes(), UNRESERVED).to_string();
    let mut text = buffer(credential);
    text.push_str("postgresql://");
    text.push_str(&encoded(&credential.username));
    text.push(':');
    for piece in percent_encode(credential.password.expose_secret().as_bytes(), UNRESERVED) {
        text.push_str(piece);
    }
    text.push('@');
    if credential.host.contains(':') {
        text.push('[');
        text.push_str(&credential.host);
        text.push(']');
    } else {
        // A socket's directory, too, is written encoded.
        text.push_str(&encoded(&credential.host));
    }
    text.push(':');
    text.push_str(&credential.port.to_string());
    text.push('/');
    text.push_str(&encoded(&credential.dbname));
    if credential.ssl {
        text.push_str("?sslmode=verify-full");
    }
    finished(&text)
}

fn pgpass(credential: &Credential) -> SecretString {
    let mut text = buffer(credential);
    let port = credential.port.to_string();
    for part in [
        &credential.host,
        &port,
        &credential.dbname,
        &credential.username,
    ] {
        push_replaced(&mut text, part, escaped_in_pgpass);
        text.push(':');
    }
    let password = credential.password.expose_secret();
    push_replaced(&mut text, password, escaped_in_pgpass);
    finished(&text)
}

fn escaped_in_pgpass(letter: char) -> Option<&'static str> {
    match letter {
        ':' => Some("\\:"),
        '\\' => Some("\\\\"),
        _ => None,
    }
}

fn push_replaced(
    text: &mut String,
    value: &str,
    replacement: impl Fn(char) -> Option<&'static str>,
) {
    for letter in value.chars() {
        match replacement(letter) {
            Some(replacement) => text.push_str(replacement),
            None => text.push(letter),
        }
    }
}

/// A buffer that never grows leaves no copy behind: no format makes more than four bytes of one.
fn buffer(credential: &Credential) -> Zeroizing<String> {
    let texts = [
        credential.host.len(),
        credential.username.len(),
        credential.password.expose_secret().len(),
        credential.dbname.len(),
    ];
    Zeroizing::new(String::with_capacity(256 + 4 * texts.iter().sum::<usize>()))
}

fn finished(text: &str) -> SecretString {
    SecretString::from(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const PASSWORD: &str = "it's:a\\\"$(touch x)\"`@/%";

    fn credential(host: &str, ssl: bool) -> Credential {
        Credential {
            host: host.to_owned(),
            port: 5432,
            username: "kc_a'b".to_owned(),
            password: SecretString::from(PASSWORD),
            dbname: "my db".to_owned(),
            ssl,
            lease_id: "app.x".to_owned(),
            expires_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_shell_reads_the_variables_as_they_are() {
        let script = env(&credential("db.internal", true));
        let script = format!(
            "{}\nprintf '%s\\n' \"$PGHOST\" \"$PGPORT\" \"$PGDATABASE\" \"$PGUSER\" \"$PGSSLMODE\" \"$PGPASSWORD\"",
            script.expose_secret()
        );
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines,
            [
                "db.internal",
                "5432",
                "my db",
                "kc_a'b",
                "verify-full",
                PASSWORD
            ]
        );
    }

    #[test]
    fn a_url_is_read_back_as_it_was() {
        for host in ["db.internal", "::1", "/run/postgresql"] {
            let url = dsn(&credential(host, false));
            let read: tokio_postgres::Config = url.expose_secret().parse().unwrap();
            assert_eq!(read.get_password(), Some(PASSWORD.as_bytes()));
            assert_eq!(read.get_user(), Some("kc_a'b"));
            assert_eq!(read.get_dbname(), Some("my db"));
            assert_eq!(read.get_ports(), [5432]);
        }
        let url = dsn(&credential("db.internal", true));
        assert!(url.expose_secret().ends_with("?sslmode=verify-full"));
    }

    #[test]
    fn colons_and_backslashes_are_escaped_in_a_password_file() {
        let line = pgpass(&credential("::1", true));
        assert_eq!(
            line.expose_secret(),
            "\\:\\:1:5432:my db:kc_a'b:it's\\:a\\\\\"$(touch x)\"`@/%"
        );
    }
}
