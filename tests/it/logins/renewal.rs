//! Renewal by statements of the role's own: they act, and keycard decides about the end.

use serde_json::{Value, json};

use super::{CREATE, Guest, unusable};

const UNTIL: &str = "SELECT rolvaliduntil FROM pg_roles WHERE rolname = 'USERNAME'";

fn renewing(statements: &Value) -> Value {
    json!({
        "creation_statements": CREATE,
        "renew_statements": statements,
        "max_ttl": "2h",
    })
}

/// Renews, and checks that Postgres and the answer tell the same new end, to the second.
pub async fn assert_renews(guest: &Guest, ttl_seconds: i64) {
    let before: jiff::Timestamp = guest.reads(UNTIL).await;
    let answer = guest.renewal(ttl_seconds).await;
    assert_eq!(answer.kind(), "lease.renewed.v1", "{}", answer.event);
    let told = answer.data()["expires_at"].as_str().unwrap();
    let told: jiff::Timestamp = told.parse().unwrap();
    assert_eq!(guest.reads::<jiff::Timestamp>(UNTIL).await, told);
    assert!(told > before);
    guest.session().await;
}

/// Asks for a renewal that must be refused, and checks that nothing has changed.
pub async fn assert_refuses(guest: &Guest, words: &str) {
    const ROLE: &str = "SELECT (oid, rolname, rolcanlogin, rolvaliduntil)::text FROM pg_roles
        WHERE rolname = 'USERNAME'";
    let (role, lease): (String, _) = (guest.reads(ROLE).await, guest.shown());
    let message = unusable(&guest.renewal(3_600).await);
    assert!(message.contains(words), "{words}: {message}");
    assert_eq!(guest.reads::<String>(ROLE).await, role, "{words}");
    assert_eq!(guest.shown(), lease, "{words}");
    guest.session().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_the_leases_whatever_renew_statements_set() {
    let roles = [
        r#"ALTER ROLE "{{name}}" VALID UNTIL 'infinity'"#,
        r#"ALTER ROLE "{{name}}" VALID UNTIL '2001-01-01'"#,
        "SELECT 'nothing for {{username}}'",
    ];
    for guest in Guest::each(&roles.map(|text| renewing(&json!([text]))), "").await {
        assert_renews(&guest, 3_600).await;
    }
}

/// Accidents that must make no login without a lease, and none that lives on for ever.
#[tokio::test(flavor = "multi_thread")]
async fn renew_statements_that_break_the_login_are_refused_and_undone() {
    let gone = "the login is gone";
    let roles = [
        (json!([r#"DROP ROLE "{{name}}""#]), gone),
        (
            json!([r#"ALTER ROLE "{{name}}" RENAME TO "renamed_GROUP""#]),
            "renamed",
        ),
        (json!([r#"ALTER ROLE "{{name}}" NOLOGIN"#]), "no LOGIN role"),
        (
            json!(r#"DROP ROLE "{{name}}"; CREATE ROLE "{{name}}" LOGIN"#),
            gone,
        ),
        (
            json!(r#"ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}'; COMMIT"#),
            "renew_statements: COMMIT, ROLLBACK",
        ),
        (
            json!([
                r#"ALTER ROLE "{{name}}" VALID UNTIL 'infinity'"#,
                "ROLLBACK"
            ]),
            "renew_statements: statement 2: COMMIT, ROLLBACK",
        ),
    ];
    let keys: Vec<Value> = roles
        .iter()
        .map(|(statements, _)| renewing(statements))
        .collect();
    let guests = Guest::each(&keys, "").await;
    for (guest, (_, words)) in guests.iter().zip(&roles) {
        assert_refuses(guest, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renew_statements_cannot_make_a_login_more_than_a_login() {
    let guest = Guest::of(renewing(&json!([r#"GRANT "GROUP" TO "{{name}}""#])), "").await;
    assert_renews(&guest, 900).await;
    let elevate = format!("ALTER ROLE {} CREATEDB", guest.site.group);
    guest.superuser(&elevate).await;
    assert_refuses(&guest, "CREATEDB").await;
}

/// A lease is renewed as was written when it was issued, and a new one as is written now.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_the_renew_statements_of_its_issue() {
    const COMMENT: &str =
        "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'USERNAME'";
    let keys = renewing(&json!(r#"COMMENT ON ROLE "{{name}}" IS 'as of its issue'"#));
    let mut guest = Guest::of(keys, "").await;
    guest
        .restarts(|config| config.replace("as of its issue", "as of now"))
        .await;
    let newer = Guest::arrive(&guest.site, &guest.worker, guest.role.clone()).await;
    for (guest, comment) in [(&guest, "as of its issue"), (&newer, "as of now")] {
        assert_renews(guest, 3_600).await;
        assert_eq!(guest.reads::<String>(COMMENT).await, comment);
    }
}
