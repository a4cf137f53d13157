//! The one list of keys: what a file may hold, what variables may override, what the reference says.

use toml::Table;

use super::problem::Problems;

/// One key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its path; `*` stands for a name that the file chooses.
    pub path: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// Its default, in words; `required` when it has none.
    pub default: &'static str,
    /// What it is for, in one line.
    pub about: &'static str,
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// `"1h30m"`, or a number of seconds.
    Duration,
    /// `{ env = "NAME" }`, `{ file = "PATH" }` or `{ secret = "NAME" }`.
    Password,
    /// A list of single SQL statements, or one text with several.
    Statements,
}

/// The keys of a password's table.
pub(super) const PASSWORD_KEYS: [&str; 3] = ["env", "file", "secret"];

const fn key(path: &'static str, takes: Takes, default: &'static str, about: &'static str) -> Key {
    Key {
        path,
        takes,
        default,
        about,
    }
}

/// Every key, in the order of the reference.
#[rustfmt::skip]
pub const KEYS: &[Key] = {
    use Takes::{Duration, Flag, Number, Password, Statements, Text, Texts};
    &[
    key("installation", Text, "required", "Names this keycard in ledgers, secret tags and queues; never change it."),
    key("operators", Texts, "none", "Requesters that may renew and revoke any lease."),

    key("databases.*.connection_url", Text, "required", "postgresql:// URL or key=value pairs, with {{username}} and {{password}}; several hosts may be given."),
    key("databases.*.username", Text, "the URL's", "The admin user."),
    key("databases.*.password", Password, "required", "The admin user's password."),
    key("databases.*.allowed_roles", Texts, "none", "The roles that may use this database; `*` matches any characters."),
    key("databases.*.ca_file", Text, "the system's", "PEM file of the certificate authorities that are trusted for this database."),
    key("databases.*.public_host", Text, "the URL's first host", "The host that clients are told."),
    key("databases.*.public_port", Number, "the URL's first port", "The port that clients are told."),
    key("databases.*.max_connections", Number, "4", "Most connections of one worker for leases, 1 to 64; it takes 3 more, and 7 for a queue in this database."),

    key("roles.*.database", Text, "required", "The database that the role's logins live in."),
    key("roles.*.groups", Texts, "none", "NOLOGIN roles that each login becomes a member of; this or creation_statements is required."),
    key("roles.*.creation_statements", Statements, "none", "SQL that creates the login, with {{name}}, {{password}} and {{expiration}}."),
    key("roles.*.renew_statements", Statements, "none", "SQL that renews the login in keycard's place, with {{name}} and {{expiration}}; VALID UNTIL is set in any case."),
    key("roles.*.revocation_statements", Statements, "none", "SQL that runs before keycard drops the login, with {{name}}; what it leaves, keycard takes back or drops itself."),
    key("roles.*.reassign_owned_to", Text, "none", "NOLOGIN role that gets what a login owns when its lease ends; it holds no more than the login's groups do."),
    key("roles.*.drop_owned", Flag, "false", "Whether what a login owns is dropped when its lease ends; without this and reassign_owned_to such a login stays, disabled."),
    key("roles.*.connection_limit", Number, "no limit", "Most connections of one login at a time."),
    key("roles.*.default_ttl", Duration, "1h, or max_ttl if that is shorter", "How long a lease lives if its request does not say."),
    key("roles.*.max_ttl", Duration, "24h, or default_ttl if that is longer", "How long a lease can live with all its renewals, up to 366d."),
    key("roles.*.min_ttl", Duration, "10s, or default_ttl if that is shorter", "The shortest time that may be asked for, at least 1s."),
    key("roles.*.requesters", Texts, "none", "Who may ask for the role: Postgres roles of the queue's database, or users of the broker."),
    key("roles.*.scram_iterations", Number, "4096", "Iterations of the SCRAM verifier, 1 to 1000000; fewer make issuing faster, some clients refuse less than 4096."),
    key("roles.*.max_leases", Number, "no limit", "Most live leases of one requester."),

    key("queue.kind", Text, "postgres", "postgres: tables in a database; amqp: RabbitMQ."),
    key("queue.database", Text, "the only one", "postgres: the database that keeps the messages; required when there are several."),
    key("queue.url", Text, "required", "amqp: amqps://USER@HOST:PORT/VHOST, or amqp:// without TLS."),
    key("queue.password", Password, "required", "amqp: the broker user's password."),
    key("queue.ca_file", Text, "the system's", "amqp: PEM file of the certificate authorities that are trusted for the broker."),
    key("queue.prefetch", Number, "64", "Most messages that a worker holds at a time in each lane, 2 to 2000."),

    key("management.url", Text, "none", "The broker's management API, for `keycard doctor` only: https://ADMINISTRATOR@HOST:PORT."),
    key("management.password", Password, "none", "That administrator's password; nothing but the doctor reads it."),
    key("management.ca_file", Text, "the system's", "PEM file of the certificate authorities that are trusted for it."),

    key("store.kind", Text, "directory", "directory: files; aws-secrets-manager: AWS Secrets Manager."),
    key("store.prefix", Text, "keycard", "First part of every secret's name."),
    key("store.region", Text, "the AWS environment's", "aws-secrets-manager: the region."),
    key("store.kms_key_id", Text, "aws/secretsmanager", "aws-secrets-manager: the KMS key that encrypts the secrets."),
    key("store.path", Text, "keycard-secrets beside the file", "directory: where the files are, an absolute path."),

    key("client.url", Text, "none", "The command line's own user of the queue: postgresql://USER@HOST:PORT/DATABASE, or amqps:// as in queue.url; request, run, connect, fetch, dead-letters, lease renew and lease revoke need it."),
    key("client.password", Password, "none", "That user's password."),
    key("client.ca_file", Text, "the system's", "PEM file of the certificate authorities that are trusted for the queue's server."),

    key("worker.sweep_interval", Duration, "30s", "How often the ledger is searched for leases that nothing else has ended, 1s to 1h."),
    key("worker.reconcile_interval", Duration, "1h", "How often ledgers, logins and secrets are compared, 1s to 7d."),
    key("worker.shutdown_grace", Duration, "25s", "How long work in flight may take to finish after SIGTERM, 1s to 10m."),
    key("worker.max_request_age", Duration, "15m", "Older requests are denied, unless they carry their own expirytime; 1s to 30d."),
    key("worker.keep_closed_leases", Duration, "90d", "How long `keycard lease show` knows a lease after its end, 31d to 3660d."),
    key("worker.keep_audit", Duration, "90d", "How long `keycard audit` knows what was decided, 1d to 3660d."),
    key("worker.metrics_address", Text, "none", "Address and port where Prometheus reads the metrics, as in 127.0.0.1:9464."),
    key("worker.otlp_endpoint", Text, "none", "Collector that traces are sent to by OTLP over HTTP, as in http://127.0.0.1:4318."),
    ]
};

/// The names that may follow `pattern` (`""` for the top), each once.
fn children(pattern: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in KEYS {
        let rest = if pattern.is_empty() {
            Some(key.path)
        } else {
            key.path
                .strip_prefix(pattern)
                .and_then(|rest| rest.strip_prefix('.'))
        };
        if let Some(name) = rest.and_then(|rest| rest.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// Appends a name to a path as TOML would write it.
pub(super) fn join(path: &str, name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let name = if bare {
        name.to_owned()
    } else {
        format!("{name:?}")
    };
    if path.is_empty() {
        name
    } else {
        format!("{path}.{name}")
    }
}

/// Reports every key of the file that keycard does not know.
pub(super) fn report_unknown(table: &Table, problems: &Problems) {
    visit(table, "", "", problems);
}

fn visit(table: &Table, pattern: &str, path: &str, problems: &Problems) {
    let known = children(pattern);
    for (name, value) in table {
        let path = join(path, name);
        let step = if known == ["*"] { "*" } else { name.as_str() };
        if !known.contains(&step) {
            problems.add(
                path,
                "is not a key that keycard knows",
                suggest(name, &known),
            );
            continue;
        }
        let pattern = if pattern.is_empty() {
            step.to_owned()
        } else {
            format!("{pattern}.{step}")
        };
        match (
            KEYS.iter().find(|key| key.path == pattern),
            value.as_table(),
        ) {
            (Some(key), Some(table)) if key.takes == Takes::Password => {
                for name in table
                    .keys()
                    .filter(|name| !PASSWORD_KEYS.contains(&name.as_str()))
                {
                    problems.add(
                        join(&path, name),
                        "is not a key that keycard knows",
                        suggest(name, &PASSWORD_KEYS),
                    );
                }
            }
            (Some(_), _) => {}
            (None, Some(table)) => visit(table, &pattern, &path, problems),
            (None, None) => problems.add(
                path.clone(),
                "is a section, not a value",
                format!("write its keys under [{path}]"),
            ),
        }
    }
}

/// The remedy for a name that is not among `known`.
pub(super) fn suggest(name: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min();
    match near {
        Some((_, candidate)) => format!("did you mean {candidate}?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Levenshtein's distance, in bytes; `-` and `_` count as equal.
fn distance(a: &str, b: &str) -> usize {
    let plain = |byte: u8| {
        if byte == b'-' {
            b'_'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(plain(x) != plain(y));
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_suggested() {
        let known = ["default_ttl", "max_ttl", "min_ttl", "database"];
        assert_eq!(suggest("max-ttl", &known), "did you mean max_ttl?");
        assert_eq!(suggest("defautl_ttl", &known), "did you mean default_ttl?");
        assert_eq!(suggest("Database", &known), "did you mean database?");
        assert_eq!(
            suggest("colour", &known),
            "known here: default_ttl, max_ttl, min_ttl, database"
        );
    }

    #[test]
    fn paths_are_distinct_and_quoted_where_toml_would() {
        let mut paths: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), KEYS.len());
        assert_eq!(join("databases", "a.b"), r#"databases."a.b""#);
        assert_eq!(join("", "queue"), "queue");
    }
}
