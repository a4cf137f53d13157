//! How keycard reaches a database: from `connection_url` to tokio-postgres's settings.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::conninfo::{self, UrlFault, UserPart};
use super::section::Section;
use crate::check::is_this_host;

/// How a connection is protected. There is nothing between: TLS with a server that nobody has
/// verified protects against nobody who can stand in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS with a server whose certificate a trusted authority has signed for this host.
    VerifyFull,
}

/// Everything about connecting that `connection_url` and its neighbours say.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// All but the password.
    pub(super) settings: tokio_postgres::Config,
    pub(super) tls: TlsMode,
    /// Trusted instead of the system's authorities.
    pub(super) ca_file: Option<PathBuf>,
    /// The first host, as clients may be told it.
    pub(super) host: String,
    /// The first host's port.
    pub(super) port: u16,
    pub(super) dbname: String,
}

/// Limits that the URL's own `options` may change: milliseconds.
const LIMITS: &str = "-c statement_timeout=10000 -c lock_timeout=5000 \
                      -c idle_in_transaction_session_timeout=30000";

/// Settings that keycard's statements rely on, so they come after the URL's own. Without its name in
/// the path, `pg_temp` would be searched first.
const PINNED: &str =
    "-c search_path=pg_catalog,pg_temp -c timezone=UTC -c client_min_messages=warning";

/// Reads the connection of a database's section.
pub(super) fn read(section: &Section) -> Option<Connection> {
    const URL: &str = "connection_url";
    let url = section.required_text(
        URL,
        r#""postgresql://{{username}}:{{password}}@db.example.com:5432/mydb""#,
    );
    let username = section.text("username");
    let ca_file = section.path("ca_file");
    let fault = |(problem, remedy)| section.report(URL, problem, remedy);
    let info = conninfo::parse(url?).map_err(fault).ok()?;
    let user = match (info.user, username) {
        (Some(UserPart::Template(before, after)), Some(name)) => format!("{before}{name}{after}"),
        (Some(UserPart::Literal(user)), None) => user,
        (Some(UserPart::Literal(user)), Some(name)) if user == name => user,
        (None, Some(name)) => name.to_owned(),
        (Some(UserPart::Literal(_)), Some(_)) => {
            fault((
                "names another user than username".to_owned(),
                "write {{username}} in its place".to_owned(),
            ));
            return None;
        }
        (Some(UserPart::Template(..)) | None, None) => {
            if !section.has("username") {
                section.report_missing("username", r#""keycard""#);
            }
            return None;
        }
    };
    connection(info.settings, &info.ours, &user, ca_file)
        .map_err(fault)
        .ok()
}

/// Reads a client's connection: a URL that names its user.
pub(super) fn of_client(url: &str, ca_file: Option<PathBuf>) -> Result<Connection, UrlFault> {
    let info = conninfo::parse(url)?;
    let Some(UserPart::Literal(user)) = info.user else {
        return fault(
            "names no user",
            "write it like postgresql://orders-svc@db.example.com:5432/mydb",
        );
    };
    connection(info.settings, &info.ours, &user, ca_file)
}

fn connection(
    settings: tokio_postgres::Config,
    ours: &BTreeMap<String, String>,
    user: &str,
    ca_file: Option<PathBuf>,
) -> Result<Connection, UrlFault> {
    let mut connection = addressed(settings)?;
    connection.settings.user(user);
    protect(&mut connection, ours, ca_file)?;
    complete(&mut connection.settings, ours)?;
    Ok(connection)
}

fn fault<T>(problem: impl Into<String>, remedy: &str) -> Result<T, UrlFault> {
    Err((problem.into(), remedy.to_owned()))
}

/// Finds out where the settings lead.
fn addressed(settings: tokio_postgres::Config) -> Result<Connection, UrlFault> {
    let (hosts, addresses) = (settings.get_hosts(), settings.get_hostaddrs());
    let count = hosts.len().max(addresses.len());
    let first = hosts
        .iter()
        .map(host_name)
        .chain(addresses.iter().map(ToString::to_string))
        .next();
    let Some(host) = first else {
        return fault("names no host", "write the database's host in it");
    };
    if hosts.iter().any(|host| host_name(host).is_empty()) {
        return fault(
            "has a host without a name",
            "write the database's host in it",
        );
    }
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return fault(
            "has more hosts than hostaddrs, or fewer",
            "write one hostaddr for each host",
        );
    }
    let ports = settings.get_ports();
    if ports.len() > 1 && ports.len() != count {
        return fault(
            "has more ports than hosts, or fewer",
            "write one port for all, or one each",
        );
    }
    if ports.contains(&0) {
        return fault("has port 0", "write a port from 1 to 65535");
    }
    let Some(dbname) = settings.get_dbname().filter(|name| !name.is_empty()) else {
        return fault(
            "names no database",
            "write the database's name after the port: .../mydb",
        );
    };
    Ok(Connection {
        tls: TlsMode::VerifyFull,
        ca_file: None,
        host,
        port: ports.first().copied().unwrap_or(5432),
        dbname: dbname.to_owned(),
        settings,
    })
}

fn host_name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.to_string_lossy().into_owned(),
    }
}

/// Decides about TLS. Unless the URL says otherwise, nothing crosses a network in clear or to a
/// server that is not known: libpq's own default, `prefer`, would allow both.
fn protect(
    connection: &mut Connection,
    ours: &BTreeMap<String, String>,
    ca_file: Option<PathBuf>,
) -> Result<(), UrlFault> {
    let sslrootcert = ours.get("sslrootcert").map(String::as_str);
    connection.ca_file = match (sslrootcert, ca_file) {
        (Some(_), Some(_)) => return fault("has sslrootcert, and ca_file is set", "keep one"),
        (None | Some("system"), file) => file,
        (Some(path), None) => Some(path.into()),
    };
    let has_ca = connection.ca_file.is_some();
    let is_socket = |host: &Host| matches!(host, Host::Unix(_));
    if connection.settings.get_hosts().iter().any(is_socket)
        && connection.settings.get_hosts().iter().all(is_socket)
    {
        // As in libpq, which ignores sslmode there.
        connection.tls = TlsMode::Disable;
        connection.settings.ssl_mode(SslMode::Disable);
        return Ok(());
    }
    let stays_here = {
        let (hosts, addresses) = (
            connection.settings.get_hosts(),
            connection.settings.get_hostaddrs(),
        );
        if addresses.is_empty() {
            hosts.iter().all(is_loopback)
        } else {
            addresses.iter().all(IpAddr::is_loopback)
        }
    };
    connection.tls = match ours.get("sslmode").map(String::as_str) {
        None if stays_here && !has_ca => TlsMode::Disable,
        None | Some("verify-full") => TlsMode::VerifyFull,
        Some("disable") if has_ca => {
            return fault(
                "disables TLS, and a file of authorities is given",
                "write sslmode=verify-full",
            );
        }
        Some("disable") => TlsMode::Disable,
        Some("allow" | "prefer" | "require" | "verify-ca") => {
            return fault(
                "has an sslmode that does not verify which server it talks to",
                "write sslmode=verify-full, with ca_file for an authority of your own, or sslmode=disable",
            );
        }
        Some(_) => {
            return fault(
                "has an sslmode that keycard does not know",
                "write disable or verify-full",
            );
        }
    };
    if connection.tls != TlsMode::Disable && connection.settings.get_hosts().is_empty() {
        return fault(
            "has hostaddr only, and a certificate names a host",
            "write host as well",
        );
    }
    connection.settings.ssl_mode(match connection.tls {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::VerifyFull => SslMode::Require,
    });
    Ok(())
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => is_this_host(name),
    }
}

/// Adds what the URL leaves open. A dead server is noticed within a minute.
fn complete(
    settings: &mut tokio_postgres::Config,
    ours: &BTreeMap<String, String>,
) -> Result<(), UrlFault> {
    match ours.get("target_session_attrs").map(String::as_str) {
        None | Some("any" | "read-write" | "primary") => {}
        Some(_) => {
            return fault(
                "asks for a server that cannot be written to",
                "take target_session_attrs out: keycard looks for the primary itself",
            );
        }
    }
    settings.target_session_attrs(TargetSessionAttrs::ReadWrite);
    if settings.get_application_name().is_none() {
        settings.application_name("keycard");
    }
    if settings.get_connect_timeout().is_none() {
        settings.connect_timeout(Duration::from_secs(5));
    }
    // 2 hours is what tokio-postgres and Linux begin with.
    if settings.get_keepalives_idle() == Duration::from_hours(2) {
        settings.keepalives_idle(Duration::from_secs(30));
    }
    if settings.get_keepalives_interval().is_none() {
        settings.keepalives_interval(Duration::from_secs(10));
    }
    let number = |name: &str, default: u32| match ours.get(name).map(|text| text.parse::<u32>()) {
        None => Ok(default),
        Some(Ok(number)) if number > 0 => Ok(number),
        Some(_) => fault(format!("has an invalid {name}"), "write a number above 0"),
    };
    settings.keepalives_retries(number("keepalives_count", 3)?);
    // libpq counts milliseconds here; tokio-postgres's own parser takes the number for seconds.
    let milliseconds = number("tcp_user_timeout", 30_000)?;
    settings.tcp_user_timeout(Duration::from_millis(milliseconds.into()));
    let options = match settings.get_options() {
        None => format!("{LIMITS} {PINNED}"),
        Some(own) => format!("{LIMITS} {own} {PINNED}"),
    };
    settings.options(options);
    Ok(())
}
