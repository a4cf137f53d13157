//! Coming from Vault: what `keycard import vault` makes of Vault's answers, and what README says.

use std::path::PathBuf;
use std::process::Command;

use keycard::cli::{Kind, TERMS};
use tempfile::TempDir;

use crate::support::process::Output;

fn keycard(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Output::of(
        Command::new(env!("CARGO_BIN_EXE_keycard"))
            .args(arguments)
            .env_clear(),
    );
    (output.status.code(), output.stdout, output.stderr)
}

fn fixture(name: &str) -> String {
    format!("{}/tests/vault/{name}.json", env!("CARGO_MANIFEST_DIR"))
}

/// The configuration that is made of these answers, which is right, and the notes about it.
pub fn import(names: &[&str]) -> (String, Vec<String>) {
    let files: Vec<String> = names.iter().map(|name| fixture(name)).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    import_files(&files)
}

fn import_files(files: &[&str]) -> (String, Vec<String>) {
    let (code, stdout, stderr) = keycard(&[&["import", "vault"], files].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("keycard.toml");
    std::fs::write(&config, &stdout).unwrap();
    let config = config.to_str().unwrap();
    let (code, _, faults) = keycard(&["--config", config, "config", "check"]);
    assert_eq!(code, Some(0), "{faults}\n{stdout}");
    (stdout, stderr.lines().map(str::to_owned).collect())
}

/// A file of this name and content, which is left to the returned directory.
fn written(name: &str, content: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    (directory, path)
}

#[test]
fn a_connection_and_its_roles_become_a_configuration() {
    let (text, notes) = import(&["my-postgres-db", "app-role", "report-all", "nightly"]);
    let config: toml::Table = text.parse().unwrap();
    let database = &config["databases"]["my-postgres-db"];
    assert_eq!(
        database["connection_url"].as_str().unwrap(),
        "postgresql://{{username}}:{{password}}@db.example.com:5432/mydb?sslmode=verify-full"
    );
    assert_eq!(database["username"].as_str(), Some("vaultadmin"));
    assert_eq!(database["max_connections"].as_integer(), Some(8));
    let allowed = database["allowed_roles"].as_array().unwrap();
    assert_eq!(allowed.len(), 2);
    let app = &config["roles"]["app-role"];
    assert_eq!(app["default_ttl"].as_str(), Some("1h"));
    assert_eq!(app["max_ttl"].as_str(), Some("24h"));
    assert_eq!(app["requesters"].as_array().unwrap().len(), 0);
    let report = &config["roles"]["report-all"];
    // 0 is Vault's 768h, and more than max_ttl is never given.
    assert_eq!(report["default_ttl"].as_str(), Some("90m"));
    assert_eq!(
        report["creation_statements"].as_str().unwrap(),
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reports') THEN \
         CREATE ROLE reports; END IF; END $$;\n\
         CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';\n\
         GRANT reports TO \"{{name}}\";"
    );
    assert_eq!(
        report["renew_statements"].as_str().unwrap(),
        "ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';"
    );
    assert!(text.contains("# FILL IN: who may ask for it"));
    // The beginning needs neither broker nor cloud.
    assert!(!config.contains_key("queue") && !config.contains_key("store"));
    assert!(text.contains("\n# [queue]\n# kind = \"amqp\"\n"));
    assert!(text.contains("\n# [store]\n"));

    let beginnings = [
        "config/my-postgres-db: max_connection_lifetime: none; ",
        "config/my-postgres-db: max_idle_connections: none; ",
        "config/my-postgres-db: password_policy: none; ",
        "config/my-postgres-db: plugin_version: none; ",
        "config/my-postgres-db: root_credentials_rotate_statements: not yet; ",
        "config/my-postgres-db: rotation_period: not yet; ",
        "config/my-postgres-db: username_template: none; ",
        "config/my-postgres-db: verify_connection: none; ",
        "roles/app-role: rollback_statements: none; ",
        "static-roles/nightly: static roles are not yet supported; ",
        "config/my-postgres-db: connection_url: its sslmode becomes verify-full",
        "roles/app-role: what it grants to each login is revoked by statements that were added",
        "roles/report-all: default_ttl is 0, Vault's system default: 90m is written",
        "5 places are marked FILL IN; ",
    ];
    assert_eq!(notes.len(), beginnings.len(), "{notes:#?}");
    for (note, beginning) in notes.iter().zip(beginnings) {
        assert!(note.starts_with(beginning), "{note}");
    }
}

#[test]
fn what_cannot_be_imported_is_left_out_and_told() {
    let (text, notes) = import(&["legacy", "orders", "orders-rw", "stray"]);
    let config: toml::Table = text.parse().unwrap();
    let databases: Vec<&String> = config["databases"].as_table().unwrap().keys().collect();
    assert_eq!(databases, ["elsewhere", "legacy"]);
    assert!(!config.contains_key("roles"));
    // Of several, one keeps the messages.
    assert_eq!(config["queue"]["database"].as_str(), Some("elsewhere"));
    assert!(text.contains("# [roles.stray]"));
    for beginning in [
        "config/orders: is for mysql-database-plugin; ",
        "roles/orders-rw: credential_type is rsa_private_key; ",
        "roles/stray: its connection was not given; ",
        "roles.stray.creation_statements: {{password}} stands outside the PASSWORD clause",
        "config/legacy: tls_ca: `ca_file`, by hand; ",
        "config/legacy: connection_url: holds a password, which is left out",
    ] {
        let found = notes.iter().any(|note| note.starts_with(beginning));
        assert!(found, "{beginning}\n{notes:#?}");
    }
}

#[test]
fn a_password_in_a_url_is_printed_nowhere() {
    for url in [
        "postgres://root:canary@10.0.0.5/legacy?sslmode=disable",
        "postgres://root:ca/na@ry:canary@10.0.0.5/legacy",
        "postgres://root:canary?canary@10.0.0.5/legacy",
        "postgres://10.0.0.5/legacy?user=root&password=canary",
        "host=10.0.0.5 dbname=legacy user=root password='canary canary'",
        "postgres://root:{{password}}@10.0.0.5/legacy?sslpassword=canary",
        "canary",
    ] {
        let answer = serde_json::json!({ "data": {
            "plugin_name": "postgresql-database-plugin",
            "connection_details": { "connection_url": url, "private_key": "canary" },
        }});
        let (_directory, path) = written("legacy.json", &answer.to_string());
        let (text, notes) = import_files(&[path.to_str().unwrap()]);
        assert!(!text.contains("canary"), "{url}: {text}");
        assert!(!notes.concat().contains("canary"), "{url}: {notes:#?}");
        assert!(text.contains("connection_url = "));
    }
}

#[test]
fn one_unusable_option_costs_no_other() {
    let answer = |url: &str| {
        let answer = serde_json::json!({ "data": {
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": ["app-role", "report-*"],
            "connection_details": {
                "connection_url": url,
                "username": "vaultadmin",
                "max_open_connections": 8,
            },
        }});
        let (_directory, path) = written("app.json", &answer.to_string());
        let (text, notes) = import_files(&[path.to_str().unwrap()]);
        let config: toml::Table = text.parse().unwrap();
        (config["databases"]["app"].clone(), text, notes)
    };
    let url = "postgresql://{{username}}:{{password}}@db.example.com:port/app";
    let (database, text, notes) = answer(url);
    assert!(text.contains("# FILL IN: where the database is."), "{text}");
    let told = |note: &String| note.starts_with("databases.app.connection_url: ");
    assert!(notes.iter().any(told), "{notes:#?}");
    let (usable, _, _) = answer(&url.replace("port", "5432"));
    for key in ["username", "password", "allowed_roles", "max_connections"] {
        assert_eq!(database[key], usable[key], "{key}");
    }
    assert_eq!(database["allowed_roles"].as_array().unwrap().len(), 2);
}

#[test]
fn files_that_are_no_answers_are_refused() {
    for (name, content, words) in [
        ("a.json", "Key   Value", "is not JSON"),
        ("a.json", "[]", "holds no object"),
        ("a.json", r#"{"data": {"ttl": 1}}"#, "is neither of"),
        ("a b.json", r#"{"db_name": "a"}"#, "the file's name"),
    ] {
        let (_directory, path) = written(name, content);
        let (code, stdout, stderr) = keycard(&["import", "vault", path.to_str().unwrap()]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        assert!(stderr.contains(words), "{stderr}");
    }
    let twice = fixture("app-role");
    let (code, _, stderr) = keycard(&["import", "vault", &twice, &twice]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("two files hold roles/app-role"), "{stderr}");
    let (code, _, stderr) = keycard(&["import", "vault", "nowhere.json"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("nowhere.json: cannot be read"), "{stderr}");
}

#[test]
fn the_readme_maps_every_option_that_the_import_knows() {
    let rows: Vec<String> = TERMS
        .iter()
        .map(|term| {
            format!(
                "| {} | `{}` | {} | {} |",
                term.of.as_str(),
                term.key,
                term.keycard(),
                term.about
            )
        })
        .collect();
    let table = format!(
        "| of | option | keycard | what to know |\n|---|---|---|---|\n{}\n",
        rows.join("\n")
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    assert!(
        readme.contains(&table),
        "README.md does not hold this table:\n{table}"
    );
    let kinds = [Kind::Connection, Kind::Role, Kind::StaticRole];
    assert!(
        kinds
            .iter()
            .all(|kind| TERMS.iter().any(|term| term.of == *kind))
    );
}
