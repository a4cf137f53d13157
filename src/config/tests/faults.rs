//! What is told about a file with faults, word for word.

use super::{README, environment, parse, parse_with};

#[test]
fn an_empty_file_shows_what_a_small_one_needs() {
    assert_eq!(
        parse("").unwrap_err().to_string(),
        r#"databases: has no database; write a section [databases.NAME]
installation: is missing; write installation = "prod""#
    );
}

#[test]
fn all_faults_are_told_at_once() {
    const FILE: &str = r#"
        installation = "prod/eu"
        operator = ["platform-ops"]

        [databases.app]
        connection_url = "postgresql://keycard:hunter2@db.example.com/app"
        allowed_roles = ["reader-*"]
        max_connections = 0

        [roles.writer]
        database = "app"
        groups = ["app_readwrite"]
        max_ttl = "24x"

        [roles.reader-a]
        database = "apps"
        creation_statements = [
            "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'",
            "CREATE USER MAPPING FOR \"{{name}}\" SERVER s OPTIONS (password '{{password}}')",
            "GRANT reader TO {{user}}",
        ]
        default_ttl = "2h"
        max_ttl = "1h"
        requesters = [""]

        [roles.reader-b]
        database = "app"

        [queue]
        kind = "kafka"

        [store]
        kind = "directory"
        prefix = "../x"
        colour = "blue"

        [worker]
        sweep_interval = "2h"
        keep_closed_leases = "30d"
        metrics_address = ":9464"
        otlp_endpoint = "grpc://user:secret@collector:4317"
    "#;
    const TOLD: &str = r#"KEYCARD_QUEUE_URL: matches no key; unset it, or write it like KEYCARD_QUEUE__URL; databases and roles must be in the file
databases.app.connection_url: holds a password; write {{password}} in its place and set password = { env = "NAME" }
databases.app.max_connections: 0 is out of range; write a number from 1 to 64
databases.app.password: is missing; write { env = "NAME" }, { file = "PATH" } or { secret = "NAME-OR-ARN" }
installation: "prod/eu" is no name; use 1 to 64 letters, digits, '_', '-' and '.', beginning with a letter, digit or '_'
operator: is not a key that keycard knows; did you mean operators?
queue.kind: "kafka" is not known; known here: postgres, amqp
roles.reader-a.creation_statements: statement 2: {{password}} stands outside the PASSWORD clause of a role; write it as PASSWORD '{{password}}' in CREATE ROLE or ALTER ROLE only: it is a SCRAM verifier, which works nowhere else
roles.reader-a.creation_statements: statement 3: {{user}} is not known; use {{name}}, {{username}}, {{password}} and {{expiration}}
roles.reader-a.database: "apps" is not one of [databases]; did you mean app?
roles.reader-a.default_ttl: 2h is more than max_ttl, 1h; lower it or raise max_ttl
roles.reader-a.requesters: has an empty text or a zero character in it; take it out
roles.reader-b: has neither groups nor creation_statements; write groups = ["app_readwrite"], or creation_statements as in Vault
roles.writer.database: "app" does not allow this role; add "writer" to its allowed_roles
roles.writer.max_ttl: "24x" is not a duration; write it like "90s", "15m", "1h" or "7d"
store.colour: is not a key that keycard knows; known here: kind, prefix, region, kms_key_id, path
store.prefix: "../x" cannot begin the names of secrets; use letters, digits, '_', '-' and '.' with single slashes between, no part beginning with '.', at most 128 in all
worker.keep_closed_leases: "30d" is out of range; write a duration from 31d to 3660d
worker.metrics_address: ":9464" is no address and port; write it like "127.0.0.1:9464", or "0.0.0.0:9464" for every address of this host
worker.otlp_endpoint: is no http:// or https:// URL without user and query; write it like "http://127.0.0.1:4318", without /v1/traces
worker.sweep_interval: "2h" is out of range; write a duration from 1s to 1h"#;
    let variables = environment(&[("KEYCARD_QUEUE_URL", "amqp://x")]);
    let errors = parse_with(FILE, &variables).unwrap_err();
    assert_eq!(errors.to_string(), TOLD);
}

#[test]
fn a_collector_that_could_not_be_reached_is_refused_at_once() {
    for (url, problem) in [
        (
            "http://127.0.0.1:4318/v1/traces/",
            "has the path of traces, which keycard adds itself",
        ),
        ("http://127.0.0.1:99999", "has no valid host or port"),
        ("https://:4318", "has no valid host or port"),
    ] {
        let variables = environment(&[("KEYCARD_WORKER__OTLP_ENDPOINT", url)]);
        let errors = parse_with(README, &variables).unwrap_err();
        let told = format!("ENDPOINT): {problem}; ");
        assert!(errors.to_string().contains(&told), "{errors}");
    }
}
