//! The configuration as a whole.

mod connections;
mod embedded;
mod faults;
mod roles;

use secrecy::ExposeSecret as _;

use super::*;

const README: &str = r#"
installation = "prod"
operators = ["platform-ops"]

[databases.my-postgres-db]
connection_url = "postgresql://{{username}}:{{password}}@db.example.com:5432/mydb"
username = "vaultadmin"
password = { env = "DB_ADMIN_PASSWORD" }
allowed_roles = ["app-role"]

[roles.app-role]
database = "my-postgres-db"
creation_statements = ["CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"]
default_ttl = "1h"
max_ttl = "24h"
requesters = ["orders-svc"]

[queue]
kind = "amqp"
url = "amqps://keycard@broker.example.com:5671/keycard"
password = { env = "BROKER_PASSWORD" }

[store]
kind = "aws-secrets-manager"     # or "directory" with path = "..."
prefix = "keycard"
"#;

fn environment(variables: &[(&str, &str)]) -> Environment {
    let pairs = variables.iter();
    pairs
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    parse_with(text, &Environment::default())
}

fn parse_with(text: &str, environment: &Environment) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("/etc/keycard"), environment)
}

fn amqp(config: &Config) -> &Amqp {
    match &config.queue {
        Queue::Amqp(amqp) => amqp,
        Queue::Postgres { .. } => unreachable!("{:?}", config.queue),
    }
}

/// The README's file with one line replaced.
fn edited(from: &str, to: &str) -> Result<Config, ConfigErrors> {
    assert_eq!(README.matches(from).count(), 1, "{from}");
    parse(&README.replace(from, to))
}

/// The README's file with its connection URL replaced.
fn connecting(url: &str) -> Result<Database, ConfigErrors> {
    let own = r#""postgresql://{{username}}:{{password}}@db.example.com:5432/mydb""#;
    let mut config = edited(own, &format!("'''{url}'''"))?;
    Ok(config.databases.remove("my-postgres-db").unwrap())
}

/// The README's role with its times and statements replaced.
fn templated(keys: &str) -> Result<Role, ConfigErrors> {
    let (before, rest) = README.split_once("creation_statements").unwrap();
    let (_, after) = rest.split_once("max_ttl = \"24h\"").unwrap();
    let mut config = parse(&format!("{before}{keys}{after}"))?;
    Ok(config.roles.remove("app-role").unwrap())
}

#[test]
fn the_readmes_file_is_taken_word_for_word() {
    let variables = environment(&[
        ("DB_ADMIN_PASSWORD", "canary1"),
        ("BROKER_PASSWORD", "canary2"),
    ]);
    let config = parse_with(README, &variables).unwrap();
    config.check_passwords().unwrap();
    assert!(!format!("{config:?}").contains("canary"));

    assert_eq!(config.installation, "prod");
    assert_eq!(config.operators.first().unwrap().as_str(), "platform-ops");
    let database = &config.databases["my-postgres-db"];
    assert_eq!(database.user(), "vaultadmin");
    assert_eq!(database.tls, TlsMode::VerifyFull);
    assert_eq!(database.public_host, "db.example.com");
    assert_eq!(
        (database.public_port, database.dbname.as_str()),
        (5432, "mydb")
    );
    assert_eq!(database.max_connections, 4);
    let role = &config.roles["app-role"];
    assert_eq!(role.database, "my-postgres-db");
    assert_eq!(
        role.creation_statements,
        Some(Statements::Each(vec![
            "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
                .to_owned()
        ]))
    );
    assert_eq!(role.policy.default_ttl.as_secs(), 3_600);
    assert_eq!(role.policy.max_ttl.as_secs(), 86_400);
    assert_eq!(role.policy.min_ttl.as_secs(), 10);
    assert_eq!(
        (role.scram_iterations, role.connection_limit),
        (4_096, None)
    );
    let amqp = amqp(&config);
    assert_eq!(amqp.prefetch, 64);
    let uri = amqp.uri();
    assert_eq!(uri.authority.userinfo.username, "keycard");
    assert_eq!(uri.authority.userinfo.password, "");
    assert_eq!(uri.vhost, "keycard");
    assert_eq!(config.store.prefix(), "keycard");
    assert_eq!(config.worker.sweep_interval.as_secs(), 30);
    assert_eq!(config.worker.shutdown_grace.as_secs(), 25);
    assert_eq!(config.worker.max_request_age.as_secs(), 900);
    assert_eq!(config.worker.keep_closed_leases.as_secs(), 90 * 86_400);
    assert_eq!(config.worker.keep_audit.as_secs(), 90 * 86_400);
    assert_eq!(config.worker.metrics_address, None);
}

#[test]
fn passwords_that_are_missing_are_told_together() {
    assert_eq!(
        parse(README)
            .unwrap()
            .check_passwords()
            .unwrap_err()
            .to_string(),
        "databases.my-postgres-db.password: the variable DB_ADMIN_PASSWORD is not set, or not \
         UTF-8; provide it, or name another place\n\
         queue.password: the variable BROKER_PASSWORD is not set, or not UTF-8; provide it, or \
         name another place"
    );
}

#[test]
fn variables_come_before_the_file() {
    let config = parse_with(
        README,
        &environment(&[
            (
                "KEYCARD_DATABASES__MY_POSTGRES_DB__CONNECTION_URL",
                "postgres://{{username}}@[::1]:5/d",
            ),
            ("KEYCARD_QUEUE__URL", "amqp://me@localhost/v"),
            ("KEYCARD_QUEUE__PASSWORD", "canary"),
            ("KEYCARD_STORE__KIND", "directory"),
            ("KEYCARD_STORE__PATH", "/tmp/secrets"),
            ("KEYCARD_WORKER__SWEEP_INTERVAL", "1s"),
        ]),
    )
    .unwrap();
    assert_eq!(config.databases["my-postgres-db"].public_host, "::1");
    let amqp = amqp(&config);
    assert_eq!(amqp.uri().authority.userinfo.username, "me");
    let PasswordSource::Local(password) = &amqp.password else {
        unreachable!("{:?}", amqp.password)
    };
    assert_eq!(password.read().unwrap().expose_secret(), "canary");
    assert!(!format!("{config:?}").contains("canary"));
    assert!(matches!(config.store, Store::Directory(_)));
    assert_eq!(config.worker.sweep_interval.as_secs(), 1);

    let errors = parse_with(README, &environment(&[("KEYCARD_QUEUE__PREFETCH", "1")]));
    assert_eq!(
        errors.unwrap_err().to_string(),
        "queue.prefetch (from KEYCARD_QUEUE__PREFETCH): 1 is out of range; \
         write a number from 2 to 2000"
    );
}

#[test]
fn passwords_are_never_in_the_file() {
    for (source, problem) in [
        ("'canary'", "is no place where a password is found"),
        ("{}", "names no place where a password is found"),
        ("{ env = 'A', file = 'B' }", "names more than one place"),
        ("{ env = '' }", "password.env: is empty"),
        (
            "{ envv = 'A' }",
            "password.envv: is not a key that keycard knows; did you mean env?",
        ),
    ] {
        let errors = edited("{ env = \"BROKER_PASSWORD\" }", source).unwrap_err();
        let text = errors.to_string();
        assert!(text.contains(problem) && !text.contains("canary"), "{text}");
    }
    let config = edited(
        "{ env = \"BROKER_PASSWORD\" }",
        "{ secret = 'prod/broker' }",
    )
    .unwrap();
    assert!(
        matches!(&amqp(&config).password, PasswordSource::Secret(name) if name == "prod/broker")
    );
}

#[test]
fn stores_have_their_own_keys() {
    let errors = edited(
        "kind = \"aws-secrets-manager\" ",
        "kind = \"directory\"\npath = \"secrets\"\nregion = \"eu-central-1\" ",
    );
    assert_eq!(
        errors.unwrap_err().to_string(),
        "store.path: is not absolute; begin it with '/': clients are told it\n\
         store.region: belongs to kind = \"aws-secrets-manager\"; take it out, or set that kind"
    );
}

/// Every key of the list is read, and nothing is read that is not in the list.
#[test]
fn the_list_of_keys_is_what_is_read() {
    for key in KEYS {
        let store = if key.path == "store.path" {
            "directory"
        } else {
            "aws-secrets-manager"
        };
        let mut table: Table = README
            .replace("aws-secrets-manager", store)
            .parse()
            .unwrap();
        let path = key
            .path
            .replace("databases.*", "databases.my-postgres-db")
            .replace("roles.*", "roles.app-role");
        let mut steps: Vec<&str> = path.split('.').collect();
        let last = steps.pop().unwrap();
        let mut section = &mut table;
        for step in steps {
            let entry = section.entry(step).or_insert(Table::new().into());
            section = entry.as_table_mut().unwrap();
        }
        let wrong: toml::Value = if key.takes == Takes::Flag {
            7.into()
        } else {
            true.into()
        };
        section.insert(last.to_owned(), wrong);
        let errors = parse(&table.to_string()).unwrap_err();
        let named = errors.problems().iter().find(|problem| problem.key == path);
        let named = named.unwrap_or_else(|| unreachable!("{path}: {errors}"));
        assert!(!named.problem.contains("not a key"), "{named}");
    }
}

#[test]
fn syntax_errors_have_a_place() {
    let errors = parse("installation = \"prod\"\noperators = [\"ä\", x]\n").unwrap_err();
    let line = errors.to_string();
    assert!(
        line.starts_with("line 2, column 19: is not TOML: "),
        "{line}"
    );
    assert!(!line.contains('\n'));
    for text in [
        "p = canary",
        "p = \"\\canary\"",
        "p = 'canary",
        "p = { canary",
        "p = 'a'\np = 'canary'",
    ] {
        let errors = parse(text).unwrap_err();
        assert!(!errors.to_string().contains("canary"), "{errors}");
    }
}

#[test]
fn the_first_file_is_read_and_all_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = ["one.toml", "two.toml"].map(|name| directory.path().join(name));
    let errors = read_first(&[&one, &two]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        format!(
            "--config: there is no {} and no {}; create the file, or name another with --config PATH",
            one.display(),
            two.display()
        )
    );
    std::fs::write(&two, README).unwrap();
    assert_eq!(
        read_first(&[&one, &two]).unwrap(),
        (two.clone(), README.to_owned())
    );
    assert!(Config::load(Some(&two), &Environment::default()).is_ok());
    assert!(read_first(&[directory.path(), &two]).is_err());
}
