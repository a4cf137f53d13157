//! From the file's sections to the validated configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::{join, suggest};
use super::problem::Problems;
use super::section::Section;
use super::{Amqp, Aws, Config, Database, Directory, PasswordSource, Queue, Role, Store, Worker};
use super::{broker, client, connection, role};
use crate::lease::is_name;

const NAME_REMEDY: &str =
    "use 1 to 64 letters, digits, '_', '-' and '.', beginning with a letter, digit or '_'";

/// Longest prefix of secrets' names: with requester, role and lease id it stays within 512.
const PREFIX_BYTES_MAX: usize = 128;

/// Reads everything. `None` means that at least one problem was reported.
pub(super) fn config(top: &Section) -> Option<Config> {
    let installation = installation(top);
    let operators = top.requesters("operators");
    let (databases, allowed) = databases(top);
    let roles = roles(top, &allowed);
    let queue = queue(top);
    let store = store(top);
    let worker = worker(top);
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

/// A section that must be there; one of the wrong type is reported with the unknown keys.
fn required<'a>(top: &Section<'a>, name: &str, example: &str) -> Option<Section<'a>> {
    if !top.has(name) {
        top.report(name, "is missing", format!("write [{name}] with {example}"));
    }
    top.section(name)
}

fn queue(top: &Section) -> Option<Queue> {
    let section = required(
        top,
        "queue",
        r#"kind = "amqp", url = "amqps://keycard@broker.example.com:5671/keycard" and password = { env = "BROKER_PASSWORD" }"#,
    )?;
    kind(&section, &["amqp"])?;
    let password = section.password();
    let ca_file = section.path("ca_file");
    let prefetch = section.number("prefetch", 2..=2_000).unwrap_or(64);
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
    Some(Queue::Amqp(Amqp {
        uri,
        password: password?,
        ca_file,
        prefetch,
    }))
}

fn store(top: &Section) -> Option<Store> {
    let section = required(
        top,
        "store",
        r#"kind = "aws-secrets-manager", or with kind = "directory" and path = "/var/lib/keycard""#,
    )?;
    let kind = kind(&section, &["aws-secrets-manager", "directory"])?;
    let prefix = section.text("prefix").unwrap_or("keycard");
    if !is_prefix(prefix) {
        section.report(
            "prefix",
            format!("{prefix:?} cannot begin the names of secrets"),
            "use letters, digits, '_', '-' and '.' with single slashes between, no part beginning \
             with '.', at most 128 in all",
        );
    }
    let (foreign, others): (&[&str], _) = if kind == "directory" {
        (&["region", "kms_key_id"], "aws-secrets-manager")
    } else {
        (&["path"], "directory")
    };
    for key in foreign.iter().filter(|key| section.has(key)) {
        section.report(key, format!("belongs to kind = {others:?}"), "take it out");
    }
    let prefix = prefix.to_owned();
    if kind != "directory" {
        return Some(Store::Aws(Aws {
            prefix,
            region: section.text("region").map(ToOwned::to_owned),
            kms_key_id: section.text("kms_key_id").map(ToOwned::to_owned),
        }));
    }
    if !section.has("path") {
        section.report_missing("path", r#""/var/lib/keycard""#);
    }
    let path = section.path("path")?;
    if !path.is_absolute() {
        section.report(
            "path",
            "is not absolute",
            "begin it with '/': clients are told it",
        );
    }
    Some(Store::Directory(Directory { prefix, path }))
}

fn kind<'a>(section: &Section<'a>, known: &[&str]) -> Option<&'a str> {
    let examples: Vec<String> = known.iter().map(|kind| format!("{kind:?}")).collect();
    let kind = section.required_text("kind", &examples.join(" or "))?;
    if known.contains(&kind) {
        return Some(kind);
    }
    section.report(
        "kind",
        format!("{kind:?} is not known"),
        suggest(kind, known),
    );
    None
}

fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= PREFIX_BYTES_MAX
        && prefix.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        })
}

fn worker(top: &Section) -> Worker {
    let section = top.section("worker");
    let seconds = |key, range, default| {
        let own = section
            .as_ref()
            .and_then(|section| section.seconds(key, range));
        Duration::from_secs(own.unwrap_or(default))
    };
    Worker {
        sweep_interval: seconds("sweep_interval", 1..=3_600, 30),
        shutdown_grace: seconds("shutdown_grace", 1..=600, 25),
        // A ledger remembers requests for 30 days.
        max_request_age: seconds("max_request_age", 1..=30 * 86_400, 15 * 60),
    }
}

/// Reports every password that this host should hold and does not.
pub(super) fn passwords(config: &Config) -> Problems {
    let problems = Problems::default();
    let Queue::Amqp(amqp) = &config.queue;
    let databases = config.databases.iter().map(|(name, database)| {
        let section = join("databases", name);
        (join(&section, "password"), &database.password)
    });
    for (key, source) in databases.chain([("queue.password".to_owned(), &amqp.password)]) {
        if let PasswordSource::Local(local) = source
            && let Err(error) = local.read()
        {
            problems.add(key, error.to_string(), "provide it, or name another place");
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::is_prefix;

    #[test]
    fn prefixes_are_sane_paths() {
        for right in ["keycard", "a/b.c/d_e-F", &"a".repeat(128)] {
            assert!(is_prefix(right), "{right}");
        }
        for wrong in [
            "",
            "/a",
            "a/",
            "a//b",
            "a/../b",
            ".a",
            "a b",
            "ä",
            "a=b",
            &"a".repeat(129),
        ] {
            assert!(!is_prefix(wrong), "{wrong}");
        }
    }
}
