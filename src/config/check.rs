//! From the file's sections to the validated configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hyper::Uri;

use super::keys::join;
use super::management::is_host_and_port;
use super::problem::Problems;
use super::section::Section;
use super::{Config, Database, PasswordSource, Queue, Role, Worker};
use super::{client, connection, management, queue, role, store};
use crate::lease::{Requester, is_name};

const NAME_REMEDY: &str =
    "use 1 to 64 letters, digits, '_', '-' and '.', beginning with a letter, digit or '_'";

/// Postgres cuts longer names of roles.
const ROLE_NAME_BYTES_MAX: usize = 63;

/// Reads everything; `directory` is the file's own. `None` means that at least one problem was
/// reported.
pub(super) fn config(top: &Section, directory: &Path) -> Option<Config> {
    let installation = installation(top);
    let operators = top.requesters("operators");
    let (databases, allowed) = databases(top);
    let roles = roles(top, &allowed);
    let queue = queue::read(top, &allowed.keys().copied().collect::<Vec<_>>());
    let management = management::read(top);
    let store = store::read(top, directory);
    let worker = worker(top);
    if let Some(Queue::Postgres { .. }) = queue {
        check_role_names(top, operators.as_ref(), &roles);
        if top.has("management") {
            let problem = "has no use with the queue in Postgres";
            top.report("management", problem, "take it out");
        }
    }
    if top.has("client") {
        // Another program's section, but a fault in it is one of this file.
        client::read(top);
    }
    Some(Config {
        installation: installation?,
        operators: operators?,
        databases,
        roles,
        queue: queue?,
        management,
        store: store?,
        worker,
    })
}

fn installation(top: &Section) -> Option<String> {
    let name = top.required_text("installation", r#""prod""#)?;
    if !is_name(name) {
        top.report("installation", format!("{name:?} is no name"), NAME_REMEDY);
    }
    Some(name.to_owned())
}

type Allowed<'a> = BTreeMap<&'a str, Option<Vec<&'a str>>>;

fn databases<'a>(top: &Section<'a>) -> (BTreeMap<String, Database>, Allowed<'a>) {
    let mut databases = BTreeMap::new();
    let mut allowed = BTreeMap::new();
    let Some(sections) = top.section("databases") else {
        if !top.has("databases") {
            top.report(
                "databases",
                "has no database",
                "write a section [databases.NAME]",
            );
        }
        return (databases, allowed);
    };
    if sections.is_empty() {
        top.report(
            "databases",
            "has no database",
            "write a section [databases.NAME]",
        );
    }
    for (name, section) in sections.sections() {
        if !is_name(name) {
            section.report_here("is no name for a database", NAME_REMEDY);
        }
        allowed.insert(name, section.texts("allowed_roles"));
        if let Some(database) = database(&section) {
            databases.insert(name.to_owned(), database);
        }
    }
    (databases, allowed)
}

fn database(section: &Section) -> Option<Database> {
    let password = section.password();
    let public_host = section.text("public_host");
    let public_port = section.number("public_port", 1..=u16::MAX.into());
    let max_connections = section.number("max_connections", 1..=64).unwrap_or(4);
    let connection = connection::read(section)?;
    Some(Database {
        password: password?,
        tls: connection.tls,
        ca_file: connection.ca_file,
        public_host: public_host.map_or(connection.host, ToOwned::to_owned),
        public_port: public_port.unwrap_or(connection.port),
        dbname: connection.dbname,
        max_connections,
        settings: connection.settings,
    })
}

fn roles(top: &Section, allowed: &Allowed) -> BTreeMap<String, Role> {
    let Some(sections) = top.section("roles") else {
        return BTreeMap::new();
    };
    let read = |(name, section): (&str, Section)| {
        if !is_name(name) {
            section.report_here("is no name for a role", NAME_REMEDY);
        }
        Some((name.to_owned(), role::read(name, &section, allowed)?))
    };
    sections.sections().filter_map(read).collect()
}

/// With the queue in Postgres requesters are its roles.
fn check_role_names(
    top: &Section,
    operators: Option<&BTreeSet<Requester>>,
    roles: &BTreeMap<String, Role>,
) {
    let check = |section: &Section, key: &str, names: &BTreeSet<Requester>| {
        let is_long = |name: &&Requester| name.as_str().len() > ROLE_NAME_BYTES_MAX;
        for name in names.iter().filter(is_long) {
            section.report(
                key,
                format!(
                    "{:?} is longer than the name of a Postgres role",
                    name.as_str()
                ),
                "use at most 63 bytes: with this queue requesters are Postgres roles",
            );
        }
    };
    if let Some(operators) = operators {
        check(top, "operators", operators);
    }
    let sections = top.section("roles");
    for (name, section) in sections.iter().flat_map(Section::sections) {
        if let Some(role) = roles.get(name) {
            check(&section, "requesters", &role.requesters);
        }
    }
}

fn worker(top: &Section) -> Worker {
    const DAY: u64 = 86_400;
    const KEEP_MAX: u64 = 3_660 * DAY;
    let section = top.section("worker");
    let seconds = |key, range, default| {
        let own = section
            .as_ref()
            .and_then(|section| section.seconds(key, range));
        Duration::from_secs(own.unwrap_or(default))
    };
    Worker {
        sweep_interval: seconds("sweep_interval", 1..=3_600, 30),
        reconcile_interval: seconds("reconcile_interval", 1..=7 * 86_400, 3_600),
        shutdown_grace: seconds("shutdown_grace", 1..=600, 25),
        // A ledger remembers requests for 30 days.
        max_request_age: seconds("max_request_age", 1..=30 * 86_400, 15 * 60),
        // Requests refer to their lease for 30 days.
        keep_closed_leases: seconds("keep_closed_leases", 31 * DAY..=KEEP_MAX, 90 * DAY),
        keep_audit: seconds("keep_audit", DAY..=KEEP_MAX, 90 * DAY),
        metrics_address: section.as_ref().and_then(metrics_address),
        otlp_endpoint: section.as_ref().and_then(otlp_endpoint),
    }
}

fn metrics_address(section: &Section) -> Option<SocketAddr> {
    const KEY: &str = "metrics_address";
    let text = section.text(KEY)?;
    let address = text.parse().ok();
    if address.is_none() {
        section.report(
            KEY,
            format!("{text:?} is no address and port"),
            r#"write it like "127.0.0.1:9464", or "0.0.0.0:9464" for every address of this host"#,
        );
    }
    address
}

fn otlp_endpoint(section: &Section) -> Option<String> {
    const KEY: &str = "otlp_endpoint";
    let text = section.text(KEY)?;
    let host = ["http://", "https://"]
        .into_iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    // Credentials in it would be told in errors.
    let is_base = host.is_some_and(|host| !host.is_empty() && !host.contains(['@', '?', '#', ' ']));
    let problem = if !is_base {
        "is no http:// or https:// URL without user and query"
    } else if text.trim_end_matches('/').ends_with("/v1/traces") {
        "has the path of traces, which keycard adds itself"
    } else if !text
        .parse()
        .is_ok_and(|url: Uri| url.authority().is_some_and(is_host_and_port))
    {
        "has no valid host or port"
    } else {
        return Some(text.to_owned());
    };
    let remedy = r#"write it like "http://127.0.0.1:4318", without /v1/traces"#;
    section.report(KEY, problem, remedy);
    None
}

/// Reports every password that this host should hold and does not.
pub(super) fn passwords(config: &Config) -> Problems {
    let problems = Problems::default();
    let queue = match &config.queue {
        Queue::Amqp(amqp) => Some(("queue.password".to_owned(), &amqp.password)),
        Queue::Postgres { .. } => None,
    };
    let databases = config.databases.iter().map(|(name, database)| {
        let section = join("databases", name);
        (join(&section, "password"), &database.password)
    });
    for (key, source) in databases.chain(queue) {
        password(key, source, &problems);
    }
    problems
}

/// Reports a password that this host should hold and does not.
pub(super) fn password(key: impl Into<String>, source: &PasswordSource, problems: &Problems) {
    if let PasswordSource::Local(local) = source
        && let Err(error) = local.read()
    {
        problems.add(key, error.to_string(), "provide it, or name another place");
    }
}
