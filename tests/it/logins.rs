//! What a login is: its name, its privileges, and the statements that make it.

mod groups;
mod refused;
mod statements;
mod transactions;

use serde_json::{Value, json};

use crate::support::client::{Client, Heard};
use crate::support::site::Site;

const CREATE: &str =
    r#"CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;

/// A role with creation statements: one text, or an array of them.
fn role(name: &str, statements: &Value) -> String {
    // Strings and arrays of strings look the same in TOML and JSON.
    format!(
        "\n[roles.{name}]\ndatabase = \"app\"\nrequesters = [\"orders-svc\"]\ncreation_statements = {statements}\n"
    )
}

/// A site with further roles of such statements.
async fn site_with(roles: &[(&str, Value)]) -> Site {
    let site = Site::usual().await;
    for (name, statements) in roles {
        site.configure(&role(name, statements));
    }
    site
}

/// Asks for a role and reads the denial that must come.
async fn denied(client: &Client, role: &str) -> Heard {
    let id = client.request(role, None).await;
    let answer = client.answer(&id).await;
    assert_eq!(
        answer.kind(),
        "request.denied.v1",
        "{role}: {}",
        answer.event
    );
    answer
}

/// The login works, and ends when its lease does.
async fn assert_usable(site: &Site, issued: &Value) {
    let username = issued["username"].as_str().unwrap();
    let password = Site::secret(issued)["password"]
        .as_str()
        .unwrap()
        .to_owned();
    let session = site.login(username, &password).await.unwrap();
    session.simple_query("SELECT 1").await.unwrap();
    let row = site
        .sql()
        .await
        .query_one(
            "SELECT rolvaliduntil = expires_at FROM pg_roles
             JOIN keycard.leases ON username = rolname WHERE rolname = $1",
            &[&username],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "VALID UNTIL of {username}");
}

/// Nothing is left of requests for roles whose logins' names begin so.
async fn assert_nothing_left(site: &Site, beginning: &str) {
    let logins = site
        .sql()
        .await
        .query(
            "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, $1)",
            &[&beginning],
        )
        .await
        .unwrap();
    let logins: Vec<&str> = logins.iter().map(|row| row.get(0)).collect();
    assert_eq!(logins, [""; 0]);
    assert_eq!(
        site.count("SELECT count(*) FROM keycard.leases WHERE state <> 'closed'")
            .await,
        0
    );
    assert!(
        site.secret_files()
            .iter()
            .all(|file| file.ends_with(".lock"))
    );
}

/// The code and message of a denial, which holds nothing of statements or verifiers.
fn unusable(denial: &Heard) -> String {
    assert_eq!(denial.data()["code"], "role_unusable", "{}", denial.event);
    assert_eq!(denial.data()["retryable"], json!(false));
    let message = denial.data()["message"].as_str().unwrap().to_owned();
    for secret in ["SCRAM-SHA-256", "$4096", "CREATE ROLE", "kc_"] {
        assert!(!message.contains(secret), "{message}");
    }
    message
}
