//! Creation statements that make no login, or the wrong one: denied, and nothing is left.

use serde_json::{Value, json};

use super::{CREATE, assert_nothing_left, denied, site_with, unusable};
use crate::support::site::Site;

fn with(attributes: &str) -> Value {
    json!([format!(
        r#"CREATE ROLE "{{{{name}}}}" {attributes} PASSWORD '{{{{password}}}}'"#
    )])
}

/// Each role is denied with these words, and afterwards the worker goes on.
async fn assert_refused(site: &Site, beginning: &str, roles: &[(&str, Value, &str)]) {
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    for (role, _, words) in roles {
        let message = unusable(&denied(&orders, role).await);
        assert!(message.contains(words), "{role}: {message}");
        assert_nothing_left(site, beginning).await;
    }
    orders.issued("app-role", None).await;
}

async fn site_of(roles: &[(&str, Value, &str)]) -> Site {
    let roles: Vec<(&str, Value)> = roles
        .iter()
        .map(|(name, statements, _)| (*name, statements.clone()))
        .collect();
    site_with(&roles).await
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_fail_are_denied_and_leave_nothing() {
    let roles = [
        (
            "wrong-two",
            json!([format!("{CREATE}; SELECT 'second'")]),
            "statement 1",
        ),
        (
            "wrong-sql",
            json!([CREATE, "GRANT nonsense"]),
            "statement 2",
        ),
        (
            "wrong-script",
            json!(format!("{CREATE}; GRANT nonsense;")),
            "42601",
        ),
        ("wrong-end", with("LOGIN VALID UNTIL 'never' "), "22007"),
        (
            "wrong-table",
            json!([CREATE, r#"GRANT SELECT ON nowhere TO "{{name}}""#]),
            "nowhere",
        ),
        (
            "wrong-division",
            json!([CREATE, "SELECT 1 / 0"]),
            "statement 2",
        ),
        (
            "wrong-database",
            json!([CREATE, "CREATE DATABASE d"]),
            "statement 2",
        ),
        ("wrong-twice", json!([CREATE, CREATE]), "statement 2"),
        (
            "wrong-raise",
            json!([
                CREATE,
                r"DO $$ BEGIN RAISE EXCEPTION '%', current_query() || 'SCRAM-SHA-256$4096:' USING ERRCODE = '42501'; END $$"
            ]),
            "statement 2",
        ),
    ];
    let site = site_of(&roles).await;
    assert_refused(&site, "kc_wrong_", &roles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_that_would_be_more_than_logins_are_refused() {
    let roles = [
        ("more-super", with("LOGIN SUPERUSER"), ""),
        ("more-createdb", with("LOGIN CREATEDB"), ""),
        ("more-createrole", with("LOGIN CREATEROLE"), ""),
        ("more-replication", with("LOGIN REPLICATION"), ""),
        ("more-bypassrls", with("LOGIN BYPASSRLS"), ""),
        (
            "more-admin",
            json!([
                CREATE,
                r#"DO $$ BEGIN EXECUTE format('GRANT %I TO "{{name}}"', current_user); END $$"#
            ]),
            "",
        ),
        (
            "more-indirect",
            json!(format!(
                r#"{CREATE};
                DO $$ BEGIN
                    CREATE ROLE "between_GROUP" CREATEROLE;
                    GRANT "between_GROUP" TO "GROUP";
                    GRANT "GROUP" TO "{{{{name}}}}";
                END $$"#
            )),
            "",
        ),
    ];
    let site = site_of(&roles).await;
    assert_refused(&site, "kc_more_", &roles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_make_no_login_are_refused() {
    let roles = [
        (
            "none-made",
            json!(
                r#"DO $$ BEGIN IF false THEN CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'; END IF; END $$"#
            ),
            "did not create the login",
        ),
        (
            "none-dropped",
            json!([CREATE, r#"DROP ROLE "{{name}}""#]),
            "did not create the login",
        ),
        (
            "none-renamed",
            json!([CREATE, r#"ALTER ROLE "{{name}}" RENAME TO "kc_none_other""#]),
            "did not create the login",
        ),
        ("none-nologin", with(""), "no LOGIN role"),
    ];
    let site = site_of(&roles).await;
    assert_refused(&site, "kc_none_", &roles).await;
}

/// A statement that only works once must not make the second request wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_work_only_once_are_denied_from_the_second_time_on() {
    let site = site_with(&[(
        "once",
        json!([CREATE, r#"CREATE ROLE "once_GROUP" NOLOGIN"#]),
    )])
    .await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    orders.issued("once", None).await;
    let message = unusable(&denied(&orders, "once").await);
    assert!(message.contains("42710"), "{message}");
    assert_eq!(site.logins().await, 1);
}
