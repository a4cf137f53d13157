//! Postgres connection strings, URL or `key=value`, taken apart far enough to honour what
//! tokio-postgres does not know, and never repeating in a message what a string holds.

use std::collections::BTreeMap;
use std::error::Error as _;

use percent_encoding::percent_decode_str;

/// What is wrong with a URL: a problem and its remedy.
pub(super) type UrlFault = (String, String);

/// Stand for the templates while the string is parsed: private-use characters, which no user,
/// password or separator contains.
const USER: &str = "\u{E000}";
const PASSWORD: &str = "\u{E001}";

const EXAMPLE: &str =
    "write it like postgresql://{{username}}:{{password}}@db.example.com:5432/mydb";

/// Options that tokio-postgres takes as they are.
const PASSED: [&str; 15] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "channel_binding",
    "load_balance_hosts",
];

/// Options that keycard reads itself, as libpq means them.
const OURS: [&str; 5] = [
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "keepalives_count",
];

/// Options of libpq that keycard has no use for; only known names are repeated in messages.
const UNSUPPORTED: [&str; 20] = [
    "passfile",
    "require_auth",
    "client_encoding",
    "fallback_application_name",
    "replication",
    "gssencmode",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslkeylogfile",
    "sslpassword",
    "sslcertmode",
    "sslcrl",
    "sslcrldir",
    "sslsni",
    "requirepeer",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "krbsrvname",
    "service",
];

/// A connection string, taken apart.
#[derive(Debug)]
pub(super) struct ConnInfo {
    /// Everything tokio-postgres understands, without user and password.
    pub(super) settings: tokio_postgres::Config,
    /// Who connects, if the string says.
    pub(super) user: Option<UserPart>,
    /// Options that keycard reads itself.
    pub(super) ours: BTreeMap<String, String>,
}

/// The user of a connection string.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UserPart {
    /// A user's name.
    Literal(String),
    /// What stands before and after `{{username}}` (Azure: `{{username}}@server`).
    Template(String, String),
}

pub(super) fn parse(text: &str) -> Result<ConnInfo, UrlFault> {
    let marked = mark(text)?;
    let mut ours = BTreeMap::new();
    let is_url = ["postgres://", "postgresql://"]
        .iter()
        .any(|prefix| marked.starts_with(prefix));
    let kept = if is_url {
        without_ours_in_url(&marked, &mut ours)?
    } else if marked.contains("://") {
        return Err(("is no URL of Postgres".to_owned(), EXAMPLE.to_owned()));
    } else {
        without_ours_in_pairs(&marked, &mut ours)?
    };
    let mut settings: tokio_postgres::Config = kept.parse().map_err(|error| unreadable(&error))?;
    match settings.get_password() {
        None => {}
        Some(password) if password == PASSWORD.as_bytes() => {}
        Some(_) => return Err(embedded_password()),
    }
    let user = settings.get_user().filter(|user| !user.is_empty());
    let user = user.map(|user| match user.split_once(USER) {
        Some((before, after)) => UserPart::Template(before.to_owned(), after.to_owned()),
        None => UserPart::Literal(user.to_owned()),
    });
    settings.user("").password("");
    // The Debug output shows everything but the password.
    let rest = format!("{settings:?} {ours:?} {user:?}");
    if [USER, PASSWORD]
        .iter()
        .any(|mark| rest.contains(&mark.escape_debug().to_string()))
    {
        return Err((
            "has {{username}} or {{password}} in a place that is not the user's or the password's"
                .to_owned(),
            EXAMPLE.to_owned(),
        ));
    }
    Ok(ConnInfo {
        settings,
        user,
        ours,
    })
}

pub(super) fn embedded_password() -> UrlFault {
    (
        "holds a password".to_owned(),
        r#"write {{password}} in its place and set password = { env = "NAME" }"#.to_owned(),
    )
}

/// Puts the marks where the templates are.
fn mark(text: &str) -> Result<String, UrlFault> {
    let mut marked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, from)) = rest.split_once("{{") {
        let (name, after) = from.split_once("}}").unwrap_or((from, ""));
        marked.push_str(before);
        marked.push_str(match name.trim() {
            "username" => USER,
            "password" => PASSWORD,
            // The name may be part of a password, so it is not repeated.
            _ => {
                return Err((
                    "has a template that is not known".to_owned(),
                    "use {{username}} and {{password}}".to_owned(),
                ));
            }
        });
        rest = after;
    }
    marked.push_str(rest);
    Ok(marked)
}

fn unreadable(error: &tokio_postgres::Error) -> UrlFault {
    // Only these texts are known to repeat nothing of the string.
    let detail = error.source().map(ToString::to_string);
    match detail.filter(|text| text.starts_with("invalid value for option")) {
        Some(detail) => (format!("has an {detail}"), EXAMPLE.to_owned()),
        None => ("cannot be read".to_owned(), EXAMPLE.to_owned()),
    }
}

/// Keeps an option of ours; `true` when tokio-postgres takes it.
fn sort(key: &str, value: &str, ours: &mut BTreeMap<String, String>) -> Result<bool, UrlFault> {
    if PASSED.contains(&key) {
        return Ok(true);
    }
    if OURS.contains(&key) {
        ours.insert(key.to_owned(), value.to_owned());
        return Ok(false);
    }
    let remedy = "take it out";
    Err(if UNSUPPORTED.contains(&key) {
        (
            format!("has the option {key}, which keycard does not support"),
            remedy.to_owned(),
        )
    } else {
        (
            "has an option that libpq does not know".to_owned(),
            remedy.to_owned(),
        )
    })
}

fn without_ours_in_url(url: &str, ours: &mut BTreeMap<String, String>) -> Result<String, UrlFault> {
    // As in tokio-postgres: the first @ ends user and password, then ? starts the options.
    let start = url.find('@').unwrap_or_default();
    let Some(at) = url[start..].find('?').map(|at| start + at) else {
        return Ok(url.to_owned());
    };
    let mut kept = Vec::new();
    for pair in url[at + 1..].split('&').filter(|pair| !pair.is_empty()) {
        let decode = |text| percent_decode_str(text).decode_utf8().ok();
        let (key, value) = pair
            .split_once('=')
            .and_then(|(key, value)| Some((decode(key)?, decode(value)?)))
            .ok_or_else(|| {
                (
                    "has an option without a value".to_owned(),
                    EXAMPLE.to_owned(),
                )
            })?;
        if sort(&key, &value, ours)? {
            kept.push(pair);
        }
    }
    Ok(format!("{}?{}", &url[..at], kept.join("&")))
}

fn without_ours_in_pairs(
    text: &str,
    ours: &mut BTreeMap<String, String>,
) -> Result<String, UrlFault> {
    let mut kept = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, value, after) =
            pair(rest).ok_or_else(|| ("cannot be read".to_owned(), EXAMPLE.to_owned()))?;
        if sort(key, &value, ours)? {
            kept.push(format!(
                "{key}='{}'",
                value.replace('\\', r"\\").replace('\'', r"\'")
            ));
        }
        rest = after.trim_start();
    }
    Ok(kept.join(" "))
}

/// The first `key = value` of a text (the value quoted or not, `\` before any character), and what
/// comes after it.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (key, rest) = text.split_once('=')?;
    let rest = rest.trim_start();
    let (quoted, body) = match rest.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, rest),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.push(characters.next()?.1),
            '\'' if quoted => {
                let after = &body[at + 1..];
                let ends = after.is_empty() || after.starts_with(char::is_whitespace);
                return ends.then(|| (key.trim_end(), value, after));
            }
            c if c.is_whitespace() && !quoted => return Some((key.trim_end(), value, &body[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then(|| (key.trim_end(), value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_passwords_are_refused_and_never_shown() {
        for text in [
            "postgres://u:canary@h/db",
            "postgres://u:canary?x@h/db",
            "postgres://u:x{{password}}canary@h/db",
            "postgres://u@h/db?password=canary",
            "host=h dbname=d user=u password=canary",
            "host=h dbname=d password = 'canary \\' x'",
            "host=h dbname=d password=two canary",
            "host=h dbname=d password=two canary=1",
            "host=h password='canary",
            "postgres://u:{{canary}}@h/db",
            "postgres://u:{{canary@h/db",
            "postgres://u:{{password}}@h/db?canary=1",
            "postgres://u:{{password}}@h/db?canary",
            "postgres://u:p@canary/w@h:canary/db",
            "mysql://u:canary@h/db",
            "canary",
        ] {
            let (problem, remedy) = parse(text).unwrap_err();
            assert!(
                !problem.contains("canary") && !remedy.contains("canary"),
                "{text}: {problem}"
            );
        }
        assert_eq!(
            parse("postgres://u:p@h/db").unwrap_err(),
            embedded_password()
        );
        assert_eq!(parse("host=h password=p").unwrap_err(), embedded_password());
    }

    #[test]
    fn templates_stand_for_user_and_password_only() {
        for text in [
            "postgres://{{username}}:{{password}}@{{username}}/db",
            "postgres://{{username}}:{{password}}@h/{{password}}",
            "postgres://{{username}}:{{password}}@h/db?sslrootcert={{username}}",
            "postgres://{{password}}@h/db",
            "postgres://{{username}}{{username}}@h/db",
            "host=h dbname=d options={{password}}",
        ] {
            let (problem, _) = parse(text).unwrap_err();
            assert!(problem.contains("in a place"), "{text}: {problem}");
        }
        let info = parse("host=h dbname=d user='{{ username }}@server' password={{password}}");
        assert_eq!(
            info.unwrap().user,
            Some(UserPart::Template(String::new(), "@server".to_owned()))
        );
    }

    #[test]
    fn options_of_ours_are_taken_out() {
        for text in [
            "postgres://a,b:5433/db?sslmode=verify-ca&connect_timeout=3&sslrootcert=%2Fca%20x.pem",
            "host=a,b port=5432,5433 dbname = db sslmode=verify-ca sslrootcert='/ca x.pem' connect_timeout=3",
        ] {
            let info = parse(text).unwrap();
            assert_eq!(info.ours["sslmode"], "verify-ca");
            assert_eq!(info.ours["sslrootcert"], "/ca x.pem");
            assert_eq!(info.settings.get_hosts().len(), 2);
            assert_eq!(info.settings.get_ports(), [5432, 5433]);
            assert_eq!(info.settings.get_dbname(), Some("db"));
            assert_eq!(info.settings.get_connect_timeout().unwrap().as_secs(), 3);
        }
        let (problem, _) = parse("host=h sslcert=x").unwrap_err();
        assert_eq!(
            problem,
            "has the option sslcert, which keycard does not support"
        );
    }
}
