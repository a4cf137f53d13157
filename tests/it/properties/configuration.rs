//! The configuration: no file makes it panic, faults name their key, and no password is repeated.

use std::path::Path;

use keycard::config::{Config, ConfigErrors, Environment, KEYS};
use keycard::lease::Requester;
use proptest::prelude::*;
use serde_json::json;
use toml::{Table, Value};

use super::{any_text, corpus, edited, search};

/// Stands for a password wherever one may have been written.
const CANARY: &str = "canary";

const PIECES: [&str; 36] = [
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    "\"",
    "'",
    "'''",
    "\"\"\"",
    "\\",
    ",",
    ".",
    "#",
    "\n",
    "\r",
    "{{",
    "}}",
    "{{name}}",
    "{{password}}",
    "{{username}}",
    "0",
    "-1",
    "99999999999999999999",
    "1e999",
    "true",
    "inf",
    "1979-05-27T07:32:00Z",
    "\u{0}",
    "\u{1b}[2J",
    "\u{202e}",
    "\u{e000}",
    "é",
    "*",
    "7d",
];

/// Pieces that connection strings are made of, the password's among them.
const URL_PIECES: [&str; 36] = [
    "postgresql://",
    "postgres://",
    "amqp://",
    "amqps://",
    "mysql://",
    "u",
    CANARY,
    CANARY,
    CANARY,
    ":",
    "@",
    "/",
    "?",
    "&",
    "=",
    "%",
    "%40",
    "%ff",
    " ",
    "'",
    "\\",
    ",",
    "[::1]",
    "localhost",
    "db",
    ":5432",
    "password=",
    "user=",
    "host=",
    "dbname=",
    "port=",
    "options=",
    "{{username}}",
    "{{password}}",
    "{{",
    "\u{e001}",
];

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    let environment: Environment = variables.collect();
    Config::parse(text, Path::new("/etc/keycard"), &environment)
}

fn assert_told(errors: &ConfigErrors) {
    assert!(!errors.problems().is_empty());
    for problem in errors.problems() {
        assert!(
            !problem.key.is_empty() && !problem.problem.is_empty() && !problem.remedy.is_empty()
        );
        let line = problem.to_string();
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

fn check(file: &[u8]) {
    let text = String::from_utf8_lossy(file);
    if let Err(errors) = parse(&text, &[]) {
        assert_told(&errors);
    }
}

#[test]
fn no_file_makes_it_panic_and_every_fault_names_its_place() {
    let files = corpus("configuration");
    for file in &files {
        check(file);
    }
    let any = proptest::collection::vec(any::<u8>(), 0..64);
    search(
        8,
        &prop_oneof![1 => any, 8 => edited(files, PIECES.to_vec())],
        |file| check(&file),
    );
}

/// Any value for any key, and any name for what the file names.
#[test]
fn no_value_of_any_key_makes_it_panic() {
    let file = usual();
    let value = prop_oneof![
        4 => any_text().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => "[0-9]{1,22}[dhms]?[0-9]{0,3}[dhms]?".prop_map(Value::from),
        1 => proptest::collection::vec(any_text(), 0..3).prop_map(Value::from),
        1 => any_text().prop_map(|name| Table::from_iter([(name, 1.into())]).into()),
    ];
    let key = proptest::sample::select(KEYS.to_vec());
    search(
        3,
        &(key, any_text(), value, any::<bool>()),
        |(key, name, value, keeps)| {
            let mut table = file.clone();
            let own = match key.path.split('.').next() {
                Some("databases") => "app",
                _ => "app-role",
            };
            let name = if keeps { own } else { name.as_str() };
            set(
                &mut table,
                &key.path.split('.').collect::<Vec<_>>(),
                name,
                value,
            );
            if let Err(errors) = parse(&table.to_string(), &[]) {
                assert_told(&errors);
            }
        },
    );
}

fn set(table: &mut Table, steps: &[&str], star: &str, value: Value) {
    let name = match steps[0] {
        "*" => star,
        step => step,
    };
    match &steps[1..] {
        [] => {
            table.insert(name.to_owned(), value);
        }
        rest => {
            let section = table.entry(name).or_insert_with(|| Table::new().into());
            if let Value::Table(section) = section {
                set(section, rest, star, value);
            }
        }
    }
}

/// A small file without faults.
fn usual() -> Table {
    r#"
    installation = "prod"
    [databases.app]
    connection_url = "postgresql://{{username}}:{{password}}@db.example.com/app"
    username = "keycard"
    password = { env = "P" }
    allowed_roles = ["*"]
    [roles.app-role]
    database = "app"
    groups = ["readers"]
    "#
    .parse()
    .unwrap()
}

#[test]
fn what_may_be_a_password_is_never_repeated() {
    let url = proptest::collection::vec(proptest::sample::select(URL_PIECES.to_vec()), 1..12);
    let url = url.prop_map(|pieces| pieces.concat());
    let usual_url = "(postgresql|amqps?)://[a-z]{0,2}:canary[@:/? %a-z0-9]{0,6}@?[a-z/:?=]{0,8}";
    let key = proptest::sample::select(vec![
        "databases.app.connection_url",
        "queue.url",
        "client.url",
        "queue.password",
        "databases.app.password",
        "databases.app.password.env",
    ]);
    search(3, &(key, prop_oneof![url, usual_url]), |(key, text)| {
        let mut table = usual();
        let kind = if key.starts_with("queue") {
            "amqp"
        } else {
            "postgres"
        };
        set(&mut table, &["queue", "kind"], "", kind.into());
        set(
            &mut table,
            &key.split('.').collect::<Vec<_>>(),
            "",
            text.clone().into(),
        );
        let variable = format!("KEYCARD_{}", key.replace('.', "__").to_uppercase());
        // In the file, and by the variable that overrides it.
        for read in [
            parse(&table.to_string(), &[]),
            parse(
                &usual().to_string(),
                &[(&variable, &text), ("KEYCARD_QUEUE__KIND", kind)],
            ),
        ] {
            if let Err(errors) = read {
                // `{ env = "..." }` names a variable.
                assert!(!errors.to_string().contains(CANARY), "{errors}");
            }
        }
    });
}

/// Everything within what the reference says.
#[test]
fn what_the_reference_allows_is_taken() {
    let name = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}";
    let text = any_text().prop_filter("texts", |text| {
        !text.is_empty() && text.len() <= 63 && !text.contains(char::is_control)
    });
    let requesters = any_text().prop_filter("requesters", |name| {
        !name.contains('*') && name.len() <= 42 && Requester::new(name.as_str()).is_ok()
    });
    let times = (
        1_u64..=366 * 86_400,
        1_u64..=366 * 86_400,
        1_u64..=366 * 86_400,
    );
    let strategy = (
        (name, name, name),
        (text, proptest::collection::vec(requesters, 0..4)),
        times,
        (1_u32..=1_000_000, 1_i32..=i32::MAX, 2_u16..=2_000, 1_u16..),
    );
    search(
        1,
        &strategy,
        |(
            (installation, database, role),
            (group, requesters),
            (a, b, c),
            (scram, limit, prefetch, port),
        )| {
            let mut times = [a, b, c];
            times.sort_unstable();
            let [min, default, max] = times;
            let file = json!({
                "installation": installation,
                "operators": requesters,
                "databases": { &database: {
                    "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@db.example.com:{port}/app"),
                    "username": group,
                    "password": { "file": "/run/p" },
                    "allowed_roles": [role],
                }},
                "roles": { &role: {
                    "database": database,
                    "groups": [group],
                    "requesters": requesters,
                    "min_ttl": min,
                    "default_ttl": format!("{default}s"),
                    "max_ttl": max,
                    "scram_iterations": scram,
                    "connection_limit": limit,
                }},
                "queue": { "prefetch": prefetch },
            });
            let file: Table = serde_json::from_value(file).unwrap();
            let config =
                parse(&file.to_string(), &[]).unwrap_or_else(|errors| panic!("{errors}\n{file}"));
            let database = &config.databases[&database];
            assert_eq!(
                (database.user(), database.public_port),
                (group.as_str(), port)
            );
            let role = &config.roles[&role];
            assert_eq!(role.groups, [group]);
            let asked: Vec<&str> = role.requesters.iter().map(Requester::as_str).collect();
            assert!(requesters.iter().all(|name| asked.contains(&name.as_str())));
            assert_eq!(role.policy.max_ttl.as_secs(), max.cast_signed());
            assert_eq!(config.queue.prefetch(), prefetch);
        },
    );
}
