//! What the tests of Vault's `PostgreSQL` plugin check about statements, with statements as Vault's
//! users write them. Vault runs them as a superuser; keycard's user gets what it has to grant WITH
//! GRANT OPTION first, and what it has to create in, by the `GRANTS` of each test.

use std::time::Duration;

use keycard::clock::monotonic_now;
use serde_json::{Value, json};
use tokio_postgres::Client as Session;

use super::renewal::{assert_refuses, assert_renews};
use super::{CREATE, Guest};

/// What the owner of the database gives keycard's user, so that it can give it on.
const GRANTS: &str = r"
    CREATE SEQUENCE public.numbers;
    GRANT ALL PRIVILEGES ON ALL TABLES IN SCHEMA public TO ADMIN WITH GRANT OPTION;
    GRANT ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA public TO ADMIN WITH GRANT OPTION;
    GRANT USAGE ON SCHEMA public TO ADMIN WITH GRANT OPTION;
    GRANT ALL PRIVILEGES ON DATABASE DBNAME TO ADMIN WITH GRANT OPTION;
";

/// Creation as in Vault: one text in which several statements follow each other.
fn created_with(grants: &str) -> Value {
    json!({ "creation_statements": format!("{CREATE};\n{grants}") })
}

/// With `{{username}}` in place of `{{name}}`.
fn by_username(keys: &Value) -> Value {
    serde_json::from_str(&keys.to_string().replace("{{name}}", "{{username}}")).unwrap()
}

async fn may(session: &Session, statements: &str) {
    session.batch_execute(statements).await.unwrap();
}

async fn may_not(session: &Session, statement: &str) {
    let error = session.batch_execute(statement).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501", "{statement}");
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_grants_all_privileges_on_tables_and_a_database() {
    let keys = created_with(
        r#"GRANT ALL PRIVILEGES ON ALL TABLES IN SCHEMA public TO "{{name}}";
           GRANT ALL PRIVILEGES ON DATABASE "DBNAME" TO "{{name}}";"#,
    );
    for guest in Guest::each(&[keys.clone(), by_username(&keys)], GRANTS).await {
        let session = guest.session().await;
        may(
            &session,
            "INSERT INTO orders VALUES (2); DELETE FROM orders",
        )
        .await;
        may(&session, "CREATE SCHEMA of_the_guest").await;
        may(&session, "DROP SCHEMA of_the_guest").await;
        may_not(&session, "CREATE ROLE other").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_grants_select_on_tables_and_sequences() {
    let keys = created_with(
        r#"GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{{name}}";
           GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO "{{name}}";"#,
    );
    for guest in Guest::each(&[keys.clone(), by_username(&keys)], GRANTS).await {
        let session = guest.session().await;
        may(
            &session,
            "SELECT FROM orders; SELECT last_value FROM numbers",
        )
        .await;
        may_not(&session, "DELETE FROM orders").await;
        may_not(&session, "SELECT nextval('numbers')").await;
    }
}

/// Where Vault splits at semicolons, Postgres itself takes the text apart.
#[tokio::test(flavor = "multi_thread")]
async fn creation_in_a_do_block_with_templates_inside() {
    let block = r#"DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'crew_DBNAME') THEN
            CREATE ROLE "crew_DBNAME";
        END IF;
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{{name}}') THEN
            CREATE ROLE "{{username}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
        END IF;
        GRANT "crew_DBNAME" TO "{{name}}";
    END $$"#;
    let roles = [block, &format!("{block};")].map(|text| json!({ "creation_statements": [text] }));
    for guest in Guest::each(&roles, "").await {
        let crew = format!(
            "SELECT pg_has_role('USERNAME', 'crew_{}', 'member')",
            guest.site.dbname
        );
        assert!(guest.reads::<bool>(&crew).await);
    }
}

/// A role that all logins share, with a schema of its own that they find without naming it.
#[tokio::test(flavor = "multi_thread")]
async fn creation_by_a_large_block_and_more_statements() {
    let block = r#"DO $$
        BEGIN
            IF NOT EXISTS (SELECT * FROM pg_catalog.pg_roles WHERE rolname = 'readonly-DBNAME') THEN
                CREATE ROLE "readonly-DBNAME";
                CREATE SCHEMA IF NOT EXISTS reports;
                CREATE TABLE reports.daily AS SELECT 7 AS seven;
                ALTER ROLE "readonly-DBNAME" SET search_path = reports;
                GRANT TEMPORARY ON DATABASE "DBNAME" TO "readonly-DBNAME";
                GRANT USAGE ON SCHEMA reports TO "readonly-DBNAME";
                GRANT SELECT ON ALL TABLES IN SCHEMA reports TO "readonly-DBNAME";
                GRANT SELECT ON ALL SEQUENCES IN SCHEMA reports TO "readonly-DBNAME";
                GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA reports TO "readonly-DBNAME";
            END IF;
        END
        $$"#;
    let then = [
        format!("{CREATE};"),
        r#"GRANT "readonly-DBNAME" TO "{{name}}";"#.to_owned(),
        r#"ALTER ROLE "{{name}}" SET search_path = reports;"#.to_owned(),
        r#"GRANT CONNECT ON DATABASE "DBNAME" TO "{{name}}";"#.to_owned(),
    ];
    let each = json!({ "creation_statements": [block, then[0], then[1], then[2], then[3]] });
    let script = json!({ "creation_statements": format!("{block};\n{}", then.join("\n")) });
    for guest in Guest::each(&[each, script], GRANTS).await {
        let session = guest.session().await;
        let row = session.query_one("SELECT seven FROM daily", &[]).await;
        assert_eq!(row.unwrap().get::<_, i32>(0), 7);
        may_not(&session, "DELETE FROM daily").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_makes_a_login_that_works_at_once_and_two_seconds_later() {
    let guest = Guest::of(created_with(""), "").await;
    let until = monotonic_now() + Duration::from_secs(2);
    let mut logins = 0;
    while monotonic_now() < until || logins < 2 {
        guest.session().await;
        logins += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_by_default_and_by_statements_sets_the_expiry_to_the_second() {
    let named = json!({
        "creation_statements": CREATE,
        "renew_statements": [r#"ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}';"#],
    });
    let roles = [created_with(""), by_username(&named), named];
    for guest in Guest::each(&roles, "").await {
        assert_renews(&guest, 3_600).await;
        assert_renews(&guest, 7_200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_by_bad_sql_leaves_the_expiry_unchanged() {
    let roles = ["ladder of nonsense", "ALTER ROLE nobody_at_all LOGIN"].map(|bad| {
        json!({
            "creation_statements": CREATE,
            "renew_statements": [r#"ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}';"#, bad],
        })
    });
    for guest in Guest::each(&roles, "").await {
        assert_refuses(&guest, "renew_statements: statement 2").await;
    }
}

/// The role of every test of revocation: it cannot be dropped before something is revoked.
fn revoked_by(statements: &Value) -> Value {
    let mut keys = created_with(
        r#"GRANT ALL PRIVILEGES ON ALL TABLES IN SCHEMA public TO "{{name}}";
           GRANT ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA public TO "{{name}}";
           GRANT USAGE ON SCHEMA public TO "{{name}}";"#,
    );
    keys["revocation_statements"] = statements.clone();
    keys
}

const REVOKE: &str = r#"
    REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA public FROM "{{name}}";
    REVOKE ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA public FROM "{{name}}";
    REVOKE USAGE ON SCHEMA public FROM "{{name}}";
"#;

#[tokio::test(flavor = "multi_thread")]
async fn revocation_by_default() {
    let mut keys = created_with("");
    keys["groups"] = json!(["GROUP"]);
    let guest = Guest::of(keys, "").await;
    let session = guest.session().await;
    may(&session, "SELECT FROM orders").await;
    guest.is_revoked().await;
    assert!(session.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_by_statements_with_name_or_username_in_lines_or_a_block() {
    let lines = format!("{REVOKE} DROP ROLE IF EXISTS \"{{{{name}}}}\";");
    let roles = [
        revoked_by(&json!(lines)),
        by_username(&revoked_by(&json!(lines))),
        revoked_by(&json!(format!("DO $$ BEGIN {lines} END $$;"))),
        revoked_by(&json!([
            r#"DROP OWNED BY "{{name}}";"#,
            r#"DROP ROLE IF EXISTS "{{name}}";"#
        ])),
        // keycard itself drops what is left.
        revoked_by(&json!(REVOKE)),
    ];
    for guest in Guest::each(&roles, GRANTS).await {
        let session = guest.session().await;
        may(&session, "DELETE FROM orders; SELECT nextval('numbers')").await;
        guest.is_revoked().await;
        assert!(session.simple_query("SELECT 1").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_by_bad_sql_is_an_error_and_nothing_is_half_done() {
    let guest = Guest::of(
        revoked_by(&json!([format!("{REVOKE} no such command")])),
        GRANTS,
    )
    .await;
    let id = guest.orders.revoke(&guest.lease_id).await;
    guest.failure("revocation_statements: ").await;
    assert!(guest.orders.answers_to(&id).is_empty());
    let kept = "SELECT has_table_privilege('USERNAME', 'public.orders', 'DELETE')";
    assert!(guest.reads::<bool>(kept).await);
    // What Vault leaves alive is disabled here.
    assert!(guest.is_disabled().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_of_a_role_that_is_gone_is_a_success() {
    let roles = [created_with(""), revoked_by(&json!(REVOKE))];
    for guest in Guest::each(&roles, GRANTS).await {
        // Who granted must revoke; not even a superuser's DROP OWNED does it for him.
        let drop = format!(
            "SET ROLE {}; {}; RESET ROLE; DROP ROLE \"USERNAME\"",
            guest.site.admin,
            REVOKE.replace("{{name}}", &guest.username)
        );
        guest.superuser(&drop).await;
        guest.is_revoked().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_after_the_role_was_deleted_from_the_configuration() {
    let mut guest = Guest::of(revoked_by(&json!(REVOKE)), GRANTS).await;
    let heading = format!("[roles.{}]", guest.role);
    guest
        .restarts(|config| config.split_once(&heading).unwrap().0.to_owned())
        .await;
    guest.is_revoked().await;
}

/// Vault's own revocation takes back what its users' creation statements grant; so does what the
/// import adds for roles that relied on it.
#[tokio::test(flavor = "multi_thread")]
async fn an_imported_role_without_revocation_statements_lives_and_ends() {
    let imported = crate::vault::import(&["my-postgres-db", "app-role"]).0;
    let imported: toml::Table = imported.parse().unwrap();
    let role = &imported["roles"]["app-role"];
    let keys = json!({
        "creation_statements": role["creation_statements"].as_str().unwrap(),
        "revocation_statements": role["revocation_statements"].as_str().unwrap(),
    });
    let guests = Guest::each(&[keys.clone(), keys], GRANTS).await;
    for guest in &guests {
        may(&guest.session().await, "SELECT FROM orders").await;
    }
    guests[0].is_revoked().await;

    // What it owns is not dropped behind anybody's back.
    let owner = &guests[1];
    owner
        .superuser("CREATE TABLE public.mine (); ALTER TABLE public.mine OWNER TO \"USERNAME\"")
        .await;
    let id = owner.orders.revoke(&owner.lease_id).await;
    owner.failure("the login owns objects").await;
    assert!(owner.is_disabled().await);
    owner.superuser("DROP TABLE public.mine").await;
    owner.ends(&id).await;
    assert!(!owner.exists().await);
}

/// An ordinary role that may create in `public` plants an operator and a function that fit better
/// than those meant. They would run with the rights of keycard's user.
#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_has_planted_in_public_is_not_run() {
    // A sequence is not rolled back: it tells of statements that failed, too.
    const PLANT: &str = "
        CREATE ROLE planter_DBNAME;
        GRANT CREATE, USAGE ON SCHEMA public TO planter_DBNAME;
        SET ROLE planter_DBNAME;
        CREATE SEQUENCE public.caught;
        GRANT USAGE ON SEQUENCE public.caught TO PUBLIC;
        CREATE FUNCTION public.same(oid, regclass) RETURNS boolean LANGUAGE sql AS
            'SELECT nextval(''public.caught'') > 0 AND $1 = $2::oid';
        CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = oid, RIGHTARG = regclass);
        CREATE FUNCTION public.lower(name) RETURNS text LANGUAGE sql AS
            'SELECT nextval(''public.caught'')::text';
        CREATE FUNCTION public.greet(text) RETURNS text LANGUAGE sql AS
            'SELECT nextval(''public.caught'')::text';
        RESET ROLE;";
    let imported = crate::vault::import(&["my-postgres-db", "app-role"]).0;
    let imported: toml::Table = imported.parse().unwrap();
    let compare = "SELECT FROM pg_class WHERE tableoid = 'pg_class'::regclass;
                   SELECT lower(rolname) FROM pg_roles";
    let greet = "SELECT greet('{{name}}')";
    let roles = [
        revoked_by(
            &imported["roles"]["app-role"]["revocation_statements"]
                .as_str()
                .into(),
        ),
        json!({
            "creation_statements": format!("{CREATE}; {compare}"),
            "renew_statements": compare,
            "revocation_statements": compare,
        }),
        json!({ "creation_statements": CREATE, "revocation_statements": greet }),
        // Whoever wants another path says so.
        json!({
            "creation_statements": CREATE,
            "revocation_statements": ["SET LOCAL search_path = pg_catalog, public", greet],
        }),
    ];
    let guests = Guest::each(&roles, &format!("{GRANTS}{PLANT}")).await;
    guests[0].is_revoked().await;
    assert_renews(&guests[1], 3_600).await;
    guests[1].is_revoked().await;
    let caught = "SELECT is_called FROM public.caught";
    assert!(!guests[0].reads::<bool>(caught).await, "planted and run");
    guests[2].orders.revoke(&guests[2].lease_id).await;
    guests[2].failure("write them with their schema").await;
    let caught = "SELECT is_called FROM public.caught";
    assert!(!guests[0].reads::<bool>(caught).await, "planted and run");
    guests[3].is_revoked().await;
    assert!(guests[0].reads::<bool>(caught).await);
}
