//! Revocation by statements of the role's own: they act, and keycard sees to it that the login goes.

use serde_json::{Value, json};

use super::{CREATE, Guest, TRIED_AGAIN};
use crate::support::eventually;

fn revoking(statements: &Value) -> Value {
    json!({ "creation_statements": CREATE, "revocation_statements": statements })
}

#[tokio::test(flavor = "multi_thread")]
async fn keycard_drops_what_revocation_statements_leave() {
    let roles = [
        json!(["SELECT 'nothing for {{username}}'"]),
        json!([r#"ALTER ROLE "{{name}}" VALID UNTIL 'infinity'"#]),
        // Another role of that name is nobody's business.
        json!(r#"DROP ROLE "{{name}}"; SELECT 1"#),
    ];
    for guest in Guest::each(&roles.each_ref().map(revoking), "").await {
        let session = guest.session().await;
        guest.is_revoked().await;
        assert!(session.simple_query("SELECT 1").await.is_err());
    }
}

/// They fail as a whole, and nobody waits for them with the login alive.
#[tokio::test(flavor = "multi_thread")]
async fn revocation_statements_that_fail_leave_the_login_disabled_and_are_tried_again() {
    let statements = json!([
        r#"REVOKE "GROUP" FROM "{{name}}""#,
        "INSERT INTO public.goodbyes VALUES ('{{name}}')",
    ]);
    let mut keys = revoking(&statements);
    keys["groups"] = json!(["GROUP"]);
    let guest = Guest::of(keys, "").await;
    let session = guest.session().await;
    let id = guest.orders.revoke(&guest.lease_id).await;

    let failure = guest.failure("revocation_statements: statement 2: ").await;
    assert!(failure.contains("goodbyes"), "{failure}");
    assert_eq!(guest.shown()["state"], "revoking");
    assert!(guest.is_disabled().await);
    assert!(session.simple_query("SELECT 1").await.is_err());
    let member = format!(
        "SELECT pg_has_role('USERNAME', '{}', 'member')",
        guest.site.group
    );
    assert!(guest.reads::<bool>(&member).await, "nothing is half done");
    assert!(guest.orders.answers_to(&id).is_empty());

    let mend = format!(
        "CREATE TABLE public.goodbyes (username text);
         GRANT INSERT ON public.goodbyes TO {}",
        guest.site.admin
    );
    guest.superuser(&mend).await;
    guest.ends(&id).await;
    assert!(!guest.exists().await);
    let goodbyes = "SELECT count(*) FROM public.goodbyes WHERE username = 'USERNAME'";
    assert_eq!(guest.reads::<i64>(goodbyes).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_statements_that_go_too_far_are_undone() {
    let roles = [
        (json!(r#"DROP ROLE "{{name}}"; COMMIT"#), "COMMIT, ROLLBACK"),
        (
            json!([r#"DROP ROLE "{{name}}""#, "ROLLBACK"]),
            "statement 2",
        ),
        (
            json!([r#"ALTER ROLE "{{name}}" RENAME TO "renamed_GROUP""#]),
            "renamed",
        ),
    ];
    let keys: Vec<Value> = roles
        .iter()
        .map(|(statements, _)| revoking(statements))
        .collect();
    for (guest, (_, words)) in Guest::each(&keys, "").await.iter().zip(&roles) {
        guest.orders.revoke(&guest.lease_id).await;
        guest.failure(words).await;
        assert!(guest.is_disabled().await, "{words}");
    }
}

/// Together they take longer than a step may: it is not given up before the login is disabled.
#[tokio::test(flavor = "multi_thread")]
async fn revocation_statements_that_take_too_long_leave_the_login_disabled() {
    let wait = "SELECT pg_sleep(9)";
    let guest = Guest::of(
        revoking(&json!([wait, "SET statement_timeout = 0", wait, wait])),
        "",
    )
    .await;
    guest.orders.revoke(&guest.lease_id).await;
    guest.failure("statement 3: SQLSTATE 57014").await;
    assert!(guest.is_disabled().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_the_revocation_statements_of_its_issue() {
    let note = "INSERT INTO public.goodbyes VALUES ('{{username}} of old')";
    let mut guest = Guest::of(
        revoking(&json!(note)),
        "CREATE TABLE public.goodbyes (username text); GRANT INSERT ON public.goodbyes TO ADMIN",
    )
    .await;
    guest
        .restarts(|config| config.replace(" of old", " of now"))
        .await;
    guest.is_revoked().await;
    let goodbye: String = guest.reads("SELECT username FROM public.goodbyes").await;
    assert_eq!(goodbye, format!("{} of old", guest.username));
}

/// Other than by DROP ROLE alone, what the login made is not in its way.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_owns_can_be_kept_and_what_it_was_granted_is_dropped() {
    let statements = json!([
        r#"REASSIGN OWNED BY "{{name}}" TO CURRENT_USER"#,
        r#"DROP OWNED BY "{{name}}""#,
    ]);
    let mut keys = revoking(&statements);
    keys["default_ttl"] = json!("4s");
    let guest = Guest::of(
        keys,
        "GRANT CREATE, USAGE ON SCHEMA public TO ADMIN WITH GRANT OPTION",
    )
    .await;
    let admin = guest
        .site
        .connect(&guest.site.dbname, &guest.site.admin, "admin");
    let grant = format!("GRANT CREATE ON SCHEMA public TO \"{}\"", guest.username);
    admin.await.unwrap().batch_execute(&grant).await.unwrap();
    let session = guest.session().await;
    session
        .batch_execute("CREATE TABLE public.mine AS SELECT 7 AS seven")
        .await
        .unwrap();

    // This time nobody asks: it is due.
    assert_eq!(guest.renewal(1).await.kind(), "lease.renewed.v1");
    eventually("the login is gone", TRIED_AGAIN, async || {
        (!guest.exists().await).then_some(())
    })
    .await;
    let owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'mine'";
    assert_eq!(guest.reads::<String>(owner).await, guest.site.admin);
    assert_eq!(guest.reads::<i32>("SELECT seven FROM public.mine").await, 7);
}
