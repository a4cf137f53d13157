//! Creation statements that work, in every form in which Vault's users write them.

use serde_json::{Value, json};

use super::{CREATE, TRIED_AGAIN, assert_usable, site_with};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::site::Site;

/// Asks for the role, uses the login, and reads what the statements did with it.
async fn comment_of(site: &Site, role: &str) -> (Value, Option<String>) {
    let orders = site.client("orders-svc").await;
    let issued = orders.issued(role, None).await;
    assert_usable(site, &issued).await;
    let row = site
        .sql()
        .await
        .query_one(
            "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1",
            &[&issued["username"].as_str().unwrap()],
        )
        .await
        .unwrap();
    (issued, row.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_holds_one_statement_each() {
    let site = site_with(&[(
        "array",
        json!([
            format!("{CREATE};"),
            r#"GRANT "GROUP" TO "{{ username }}" ; "#,
            r#"COMMENT ON ROLE "{{name}}" IS 'for {{username}}; until {{expiration}} ;'"#,
            r#"DO $do$ BEGIN PERFORM 1; EXECUTE 'COMMENT ON ROLE "{{name}}" IS ''a;b'''; END $do$"#,
        ]),
    )])
    .await;
    let _worker = site.worker().await;
    let (issued, comment) = comment_of(&site, "array").await;
    assert_eq!(comment.unwrap(), "a;b");
    let password = Site::secret(&issued)["password"]
        .as_str()
        .unwrap()
        .to_owned();
    let session = site.login(issued["username"].as_str().unwrap(), &password);
    let session = session.await.unwrap();
    session.batch_execute("SELECT FROM orders").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_text_holds_several_statements_which_postgres_takes_apart() {
    let script = format!(
        r#"-- a comment; with a semicolon
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shared_GROUP') THEN
                CREATE ROLE "shared_GROUP" NOLOGIN;
            END IF;
        END $$;
        {CREATE};
        /* nested /* comment; */ */
        GRANT "shared_GROUP" TO "{{{{name}}}}";
        COMMENT ON ROLE "{{{{name}}}}" IS 'semi;colon, quote '' and END;';"#
    );
    let site = site_with(&[("script", json!(script))]).await;
    let _worker = site.worker().await;
    for _ in 0..2 {
        let (issued, comment) = comment_of(&site, "script").await;
        assert_eq!(comment.unwrap(), "semi;colon, quote ' and END;");
        let shared = site
            .sql()
            .await
            .query_one(
                "SELECT pg_has_role($1, 'shared_' || $2, 'member')",
                &[&issued["username"].as_str().unwrap(), &site.group],
            )
            .await
            .unwrap();
        assert!(shared.get::<_, bool>(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vaults_own_example_works_and_its_login_is_refused_at_the_end() {
    let vault = r#"CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{{name}}";"#;
    let site = site_with(&[("vault", json!(vault))]).await;
    site.sql()
        .await
        .batch_execute(&format!(
            "GRANT SELECT ON orders TO {} WITH GRANT OPTION",
            site.admin
        ))
        .await
        .unwrap();
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("vault", None).await;
    assert_usable(&site, &issued).await;
    let username = issued["username"].as_str().unwrap();
    let password = Site::secret(&issued)["password"]
        .as_str()
        .unwrap()
        .to_owned();
    let session = site.login(username, &password).await.unwrap();
    session.batch_execute("SELECT FROM orders").await.unwrap();

    orders.revoke(issued["lease_id"].as_str().unwrap()).await;
    eventually("the session ends", TRIED_AGAIN, async || {
        session.simple_query("SELECT 1").await.err()
    })
    .await;
    // Its sessions end a moment before the transaction that shuts it out is committed.
    eventually("the login is refused", TRIED_AGAIN, async || {
        site.login(username, &password).await.err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_keycards_whatever_the_statements_say() {
    let create = |rest: &str| {
        json!([format!(
            r#"CREATE ROLE "{{{{name}}}}" LOGIN PASSWORD '{{{{password}}}}' {rest}"#
        )])
    };
    let roles = [
        ("end-none", create("")),
        ("end-infinity", create("VALID UNTIL 'infinity'")),
        ("end-past", create("VALID UNTIL '2001-01-01'")),
        (
            "end-moved",
            json!([CREATE, r#"ALTER ROLE "{{name}}" VALID UNTIL 'infinity'"#]),
        ),
        (
            "upper-case",
            json!(
                r#"create user "{{username}}" encrypted password '{{ password }}' in role "GROUP""#
            ),
        ),
    ];
    let site = site_with(&roles).await;
    let _worker = site.worker().await;
    for (role, _) in &roles {
        comment_of(&site, role).await;
    }
}

/// What statements leave in the session must reach neither the rest of the transaction nor the next
/// one on the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn statements_leave_nothing_in_the_session() {
    let careless = format!(
        r#"{CREATE};
        SET search_path = public;
        SET timezone = 'Asia/Tokyo';
        SET datestyle = 'SQL, DMY';
        CREATE TEMPORARY TABLE pg_roles (oid oid, rolname name);
        CREATE TEMPORARY TABLE leases ();
        SELECT pg_advisory_lock(4711);
        PREPARE left_over AS SELECT 1;
        DECLARE left_over CURSOR WITH HOLD FOR SELECT 1;
        LISTEN left_over;
        SET ROLE "{{{{name}}}}";"#
    );
    let site = site_with(&[("careless", json!(careless))]).await;
    // One connection, so that the next step meets what the last one left.
    let config = std::fs::read_to_string(&site.config).unwrap();
    let one = config.replacen("[databases.app]", "[databases.app]\nmax_connections = 1", 1);
    std::fs::write(&site.config, one).unwrap();
    // From 16 on a creator cannot become its roles unless this says so.
    let admin = &site.admin;
    if site.postgres.version >= 16 {
        site.sql()
            .await
            .batch_execute(&format!(
                "ALTER ROLE {admin} SET createrole_self_grant = 'set'"
            ))
            .await
            .unwrap();
    } else {
        let config = std::fs::read_to_string(&site.config).unwrap();
        let grant = format!(r#"GRANT \"{{{{name}}}}\" TO {admin}; SET ROLE"#);
        std::fs::write(&site.config, config.replacen("SET ROLE", &grant, 1)).unwrap();
    }
    let _worker = site.worker().await;
    for role in ["careless", "app-role", "careless"] {
        comment_of(&site, role).await;
    }
    // A worker that had to give a connection up has ended its session, which may take its time.
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("nobody holds the lock", SOON, async || {
        (site.count(held).await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_run_side_by_side_may_race_for_what_they_share() {
    let script = format!(
        r#"DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'raced_GROUP') THEN
                PERFORM pg_sleep(0.3);
                CREATE ROLE "raced_GROUP" NOLOGIN;
            END IF;
        END $$;
        {CREATE};"#
    );
    let site = site_with(&[("raced", json!(script))]).await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(orders.request("raced", None).await);
    }
    for id in ids {
        let answer = orders.answer(&id).await;
        assert_eq!(answer.kind(), "credential.issued.v1", "{}", answer.event);
        assert_usable(&site, answer.data()).await;
    }
}
