//! The command line as somebody meets it who has never used it.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::Output;
use crate::support::site::Site;

/// Runs keycard in an empty directory, without a variable in its environment.
fn keycard(directory: &TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Output::of(
        Command::new(env!("CARGO_BIN_EXE_keycard"))
            .args(arguments)
            .current_dir(directory.path())
            .env_clear(),
    );
    (output.status.code(), output.stdout, output.stderr)
}

fn write(directory: &TempDir, text: &str) {
    std::fs::write(directory.path().join("keycard.toml"), text).unwrap();
}

/// The configuration of issue and README, with one key of each kind wrong.
const WRONG: &str = r#"
installation = "prod"
operator = ["platform-ops"]

[databases.app]
connection_url = "postgresql://{{username}}:{{password}}@db.example.com:5432/mydb?sslmode=require"
username = "vaultadmin"
password = "admin-secret"
allowed_roles = ["other"]

[roles.app-role]
database = "app"
default_ttl = "2d"
max_ttl = "1d"
requesters = ["orders-*"]
creation_statements = ["CREATE ROLE \"{{role_name}}\" LOGIN PASSWORD '{{password}}'"]

[queue]
kind = "kafka"

[store]
kind = "directory"
"#;

#[test]
fn a_wrong_configuration_is_reported_as_a_whole_with_remedies() {
    let directory = TempDir::new().unwrap();
    write(&directory, WRONG);
    for command in [&["config", "check"][..], &["worker"], &["lease", "list"]] {
        let (code, stdout, stderr) = keycard(&directory, command);
        assert_eq!(code, Some(2), "{stderr}");
        assert_eq!(stdout, "");
        let keys: Vec<&str> = stderr
            .lines()
            .skip(1)
            .map(|line| line.split(": ").next().unwrap())
            .collect();
        assert_eq!(
            keys,
            [
                "databases.app.connection_url",
                "databases.app.password",
                "operator",
                "queue.kind",
                "roles.app-role.creation_statements",
                "roles.app-role.database",
                "roles.app-role.default_ttl",
                "roles.app-role.requesters",
            ],
            "{stderr}"
        );
        assert!(stderr.lines().skip(1).all(|line| line.contains("; ")));
        assert!(!stderr.contains("admin-secret"));
    }
}

#[test]
fn a_right_configuration_is_checked_without_connecting() {
    let directory = TempDir::new().unwrap();
    write(&directory, &super::readme::block("prod"));
    let (code, stdout, stderr) = keycard(&directory, &["config", "check"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains(r#"installation "prod""#), "{stdout}");

    // Only who starts needs the passwords.
    let (code, _, stderr) = keycard(&directory, &["worker"]);
    assert_eq!(code, Some(2));
    for variable in ["DB_ADMIN_PASSWORD", "BROKER_PASSWORD"] {
        assert!(stderr.contains(variable), "{stderr}");
    }
}

#[test]
fn what_is_missing_or_misspelt_is_told_with_what_to_do() {
    let directory = TempDir::new().unwrap();
    for (arguments, words) in [
        (&["config", "check"][..], "--config PATH"),
        (
            &["worker", "--config", "nowhere.toml"],
            "there is no nowhere.toml",
        ),
        (&["workr"], "similar subcommand exists: 'worker'"),
        (&[], "Example:"),
        (&["lease"], "Example:"),
        (&["config"], "Example:"),
        (&["setup-sql"], "--database <NAME>"),
        (&["lease", "show"], "<LEASE>"),
        (&["lease", "list", "--output", "yaml"], "table, json"),
        (&["lease", "list", "--limit", "0"], "not in 1.."),
        (&["audit", "--since", "yesterday"], "is no duration"),
        (&["audit", "--lease", "x"], "one looks like app-db."),
        (&["--log-level", "loud", "worker"], "\"debug\""),
        (&["request"], "<ROLE>"),
    ] {
        let (code, stdout, stderr) = keycard(&directory, arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
    write(&directory, "installation = \"prod\n");
    let (code, _, stderr) = keycard(&directory, &["config", "check"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("line 1, column "), "{stderr}");

    write(&directory, &super::readme::block("prod"));
    for (arguments, words) in [
        (
            &["setup-sql", "--database", "mydb"][..],
            "no database \"mydb\"; it has my-postgres-db",
        ),
        (
            &["lease", "show", "mydb.01890a5d-ac96-774b-bcce-b302099a8057"],
            "no database \"mydb\", which the lease's id begins with; it has my-postgres-db",
        ),
    ] {
        let (code, _, stderr) = keycard(&directory, arguments);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[test]
fn help_reads_well() {
    let directory = TempDir::new().unwrap();
    for command in [&[][..], &["worker"], &["lease", "list"], &["run"]] {
        let arguments = [command, &["--help"]].concat();
        let (code, stdout, _) = keycard(&directory, &arguments);
        assert_eq!(code, Some(0), "{command:?}");
        assert!(stdout.contains("Example:\n  keycard"), "{stdout}");
        assert!(!stdout.contains('`'), "{stdout}");
    }
    let (code, stdout, _) = keycard(&directory, &["--version"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        stdout.trim(),
        concat!("keycard ", env!("CARGO_PKG_VERSION"))
    );
}

fn right(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", output.stderr);
    assert_eq!(output.stderr, "");
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_listed_and_shown_as_tables_and_as_json() {
    let site = Site::usual().await;
    let early = site.keycard(&["lease", "list"]);
    assert_eq!(early.status.code(), Some(1));
    assert!(
        early
            .stderr
            .contains("no ledger; `keycard worker` makes it"),
        "{}",
        early.stderr
    );
    let _worker = site.worker().await;
    assert_eq!(
        right(site.keycard(&["lease", "list"])),
        "LEASE  ROLE  REQUESTER  STATE  EXPIRES AT  USERNAME\n"
    );
    assert_eq!(
        right(site.keycard(&["lease", "list", "--output=json"])),
        "[]\n"
    );

    let orders = site.client("orders-svc").await;
    let first = orders.issued("app-role", None).await;
    let second = orders.issued("app-role", None).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (ended, alive) = (text(&first["lease_id"]), text(&second["lease_id"]));
    let id = orders.revoke(&ended).await;
    assert_eq!(orders.answer(&id).await.kind(), "lease.revoked.v1");

    let table = right(site.keycard(&["lease", "list"]));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    let cells: Vec<&str> = lines[1].split_whitespace().collect();
    let (expiry, username) = (text(&second["expires_at"]), text(&second["username"]));
    assert_eq!(
        cells,
        [
            &alive,
            "app-role",
            "orders-svc",
            "active",
            &expiry,
            &username
        ]
    );
    let all = right(site.keycard(&["lease", "list", "--all", "--output", "json"]));
    let all: Value = serde_json::from_str(&all).unwrap();
    let ids: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|lease| lease["lease_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [&alive, &ended], "newest first");
    let newest = right(site.keycard(&["lease", "list", "--all", "--limit", "1", "--output=json"]));
    let newest: Value = serde_json::from_str(&newest).unwrap();
    assert_eq!(newest.as_array().unwrap().len(), 1);

    let shown = right(site.keycard(&["lease", "show", &ended, "--output", "json"]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    for (key, value) in [
        ("state", "closed"),
        ("cause", "requested"),
        ("requester", "orders-svc"),
        ("role", "app-role"),
    ] {
        assert_eq!(shown[key], value);
    }
    assert_eq!(shown["username"], first["username"]);
    assert_eq!(shown, all[1]);
    let shown = right(site.keycard(&["lease", "show", &alive]));
    for words in ["FIELD", "lease_id", &alive, "expires_at", &expiry, "stuck"] {
        assert!(shown.contains(words), "{shown}");
    }

    let unknown = "app.01890a5d-ac96-774b-bcce-b302099a8057";
    let output = site.keycard(&["lease", "show", unknown]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stderr.contains("there is no lease") && output.stderr.contains("lease list --all"),
        "{}",
        output.stderr
    );
}

/// What keycard cannot reach, it names; and says nothing that is secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_let_keycard_in_is_named() {
    let site = Site::usual().await;
    let wrong = site
        .command(&["lease", "list"])
        .env("DB_ADMIN_PASSWORD", "wrong-canary")
        .output()
        .unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    assert!(
        said.contains("database app") && said.contains("password authentication failed"),
        "{said}"
    );
    assert!(!said.contains("wrong-canary"), "{said}");

    let unreachable = site
        .command(&["lease", "list"])
        .env(
            "KEYCARD_DATABASES__APP__CONNECTION_URL",
            "postgresql://{{username}}:{{password}}@127.0.0.1:1/x",
        )
        .output()
        .unwrap();
    let said = String::from_utf8(unreachable.stderr).unwrap();
    assert_eq!(unreachable.status.code(), Some(1), "{said}");
    assert!(said.contains("Connection refused"), "{said}");
}
