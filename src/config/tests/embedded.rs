//! Without [queue] and [store]: Postgres carries the messages, files hold the secrets.

use super::super::*;
use super::{environment, parse, parse_with};

/// All that keycard needs.
const SMALL: &str = r#"
installation = "try"
[databases.app]
connection_url = "postgresql://keycard:{{password}}@127.0.0.1:5432/app"
password = { env = "DB_ADMIN_PASSWORD" }
allowed_roles = ["*"]
[roles.app-role]
database = "app"
groups = ["app_readwrite"]
requesters = ["orders-svc"]
"#;

const OTHER: &str = r#"
[databases.other]
connection_url = "postgresql://keycard@127.0.0.1:5432/other"
password = { env = "DB_ADMIN_PASSWORD" }
"#;

fn told(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn ten_lines_are_a_configuration() {
    let config = parse_with(SMALL, &environment(&[("DB_ADMIN_PASSWORD", "x")])).unwrap();
    config.check_passwords().unwrap();
    let Queue::Postgres { database, prefetch } = &config.queue else {
        unreachable!("{:?}", config.queue)
    };
    assert_eq!((database.as_str(), *prefetch), ("app", 64));
    assert_eq!(
        config.store,
        Store::Directory(Directory {
            prefix: "keycard".to_owned(),
            path: "/etc/keycard/keycard-secrets".into(),
        })
    );
}

#[test]
fn secrets_are_beside_the_file_wherever_that_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keycard.toml");
    std::fs::write(&file, SMALL).unwrap();
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(file.strip_prefix("/").unwrap());
    assert!(relative.is_relative() && relative.exists());
    for path in [&file, &relative] {
        let config = Config::load(Some(path), &Environment::default()).unwrap();
        let Store::Directory(store) = config.store else {
            unreachable!("{:?}", config.store)
        };
        assert!(store.path.is_absolute(), "{}", store.path.display());
        let parent = store.path.parent().unwrap().canonicalize().unwrap();
        assert_eq!(parent, directory.path().canonicalize().unwrap());
        assert!(store.path.ends_with("keycard-secrets"));
    }
}

#[test]
fn with_several_databases_one_is_named() {
    assert_eq!(
        told(&format!("{SMALL}{OTHER}")),
        r#"queue.database: is missing, and there is more than one database: app, other; write [queue] with database = "app" to keep the messages there, or with kind = "amqp" for a broker"#
    );
    let named = |name: &str| format!("{SMALL}{OTHER}[queue]\ndatabase = {name:?}\nprefetch = 8");
    let config = parse(&named("other")).unwrap();
    assert_eq!(config.queue.prefetch(), 8);
    assert!(matches!(config.queue, Queue::Postgres { database, .. } if database == "other"));
    assert_eq!(
        told(&named("others")),
        r#"queue.database: "others" is not one of [databases]; did you mean other?"#
    );
}

#[test]
fn queues_have_their_own_keys() {
    assert_eq!(
        told(&format!("{SMALL}[queue]\nurl = \"amqps://k@b/v\"")),
        r#"queue.url: belongs to kind = "amqp"; take it out, or set that kind"#
    );
    let amqp = "kind = \"amqp\"\nurl = \"amqps://k@b/v\"\npassword = { env = \"B\" }";
    assert_eq!(
        told(&format!("{SMALL}[queue]\ndatabase = \"app\"\n{amqp}")),
        r#"queue.database: belongs to kind = "postgres"; take it out, or set that kind"#
    );
    let management = "[management]\nurl = \"https://a@b\"\npassword = { env = \"B\" }";
    assert_eq!(
        told(&format!("{SMALL}{management}")),
        "management: has no use with the queue in Postgres; take it out"
    );
    let config = parse(&format!("{SMALL}[queue]\n{amqp}\n{management}")).unwrap();
    let asked = config.management.unwrap();
    assert_eq!((asked.user.as_str(), asked.url.host()), ("a", Some("b")));
    let authority = "ca_file = \"/ca.pem\"";
    let open = management.replace("https", "http");
    assert_eq!(
        told(&format!("{SMALL}[queue]\n{amqp}\n{open}\n{authority}")),
        "management.ca_file: has no use without TLS; write https:// in url, or take it out"
    );
    assert!(told(&format!("queue = 1\n{SMALL}")).contains("queue: is a section, not a value"));
}

#[test]
fn requesters_fit_the_names_of_postgres_roles() {
    let fitting = "a".repeat(63);
    assert!(parse(&SMALL.replace("orders-svc", &fitting)).is_ok());
    let long = "a".repeat(64);
    let text = format!("operators = [{long:?}]\n{SMALL}").replace("orders-svc", &long);
    let remedy = "is longer than the name of a Postgres role; \
                  use at most 63 bytes: with this queue requesters are Postgres roles";
    assert_eq!(
        told(&text),
        format!("operators: {long:?} {remedy}\nroles.app-role.requesters: {long:?} {remedy}")
    );
    let amqp = "[queue]\nkind = \"amqp\"\nurl = \"amqps://k@b/v\"\npassword = { env = \"B\" }";
    assert!(parse(&format!("{text}{amqp}")).is_ok());
}
