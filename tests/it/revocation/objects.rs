//! What depends on a login when its lease ends, other than sessions: it goes, or it is reported.

use super::*;
use crate::support::servers::own_postgres;

/// As much as a group lets its logins make.
pub(super) const MAY_CREATE: &str = "GRANT CREATE, USAGE ON SCHEMA public TO GROUP;
    GRANT CREATE ON DATABASE DBNAME TO GROUP";

/// One of everything that a login can make here.
const THINGS: &str = "
    CREATE TABLE public.mine (id serial PRIMARY KEY, name text);
    CREATE INDEX ON public.mine (lower(name));
    CREATE VIEW public.mine_seen AS SELECT * FROM public.mine;
    CREATE FUNCTION public.mine_counted() RETURNS bigint LANGUAGE sql SECURITY DEFINER
        AS 'SELECT count(*) FROM public.mine';
    CREATE SCHEMA own_schema;
    CREATE TABLE own_schema.within (id int);
    CREATE TYPE public.mood AS ENUM ('good', 'bad');
    CREATE DOMAIN public.positive AS int CHECK (VALUE > 0);
    CREATE SEQUENCE public.counter;
    CREATE POLICY only_good ON public.mine USING (true);
    GRANT SELECT ON public.mine TO PUBLIC;
    ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT INSERT ON TABLES TO PUBLIC;
    SELECT lo_create(4711);
    CREATE TEMPORARY TABLE passing (id int);";

pub(super) fn role(keys: &str) -> Wishes {
    Wishes {
        role: format!("groups = [\"GROUP\"]\n{keys}"),
        ..Wishes::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_owns_is_dropped_where_its_role_says_so() {
    let guest = Guest::of(role("drop_owned = true"), MAY_CREATE).await;
    guest.session.batch_execute(THINGS).await.unwrap();
    guest.revoked().await;
    guest.assert_gone().await;
    assert_eq!(guest.shown()["failures"], 0);
    let left =
        "SELECT count(*) FROM pg_class WHERE relname IN ('mine', 'mine_seen', 'within', 'counter')";
    assert_eq!(guest.reads::<i64>(left).await, 0);
    let left = "SELECT count(*) FROM pg_largeobject_metadata";
    assert_eq!(guest.reads::<i64>(left).await, 0);
    assert_eq!(guest.reads::<i64>("SELECT count(*) FROM orders").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_owns_goes_to_the_role_that_its_role_names() {
    let guest = Guest::of(
        role("reassign_owned_to = \"keeper_GROUP\""),
        &format!("{MAY_CREATE};\nCREATE TABLE public.kept_secret AS SELECT 42 AS secret;\nALTER TABLE public.kept_secret OWNER TO keeper_GROUP"),
    )
    .await;
    guest.session.batch_execute(THINGS).await.unwrap();
    // A trap: by these the next login of the role would read what the keeper alone can.
    guest
        .session
        .batch_execute(
            "CREATE FUNCTION public.trap() RETURNS SETOF int LANGUAGE plpgsql SECURITY DEFINER
                 AS 'BEGIN RETURN QUERY SELECT secret FROM public.kept_secret; END';
             CREATE FUNCTION public.trap_inside() RETURNS SETOF int LANGUAGE plpgsql
                 AS 'BEGIN RETURN QUERY SELECT secret FROM public.kept_secret; END';
             CREATE VIEW public.trap_seen AS SELECT * FROM public.trap_inside() AS secret;
             GRANT SELECT ON public.trap_seen TO PUBLIC",
        )
        .await
        .unwrap();
    guest.revoked().await;
    guest.assert_gone().await;
    assert_eq!(guest.shown()["failures"], 0);

    let keeper = format!("keeper_{}", guest.site.group);
    let owners = format!(
        "SELECT count(*) FROM (
             SELECT relowner FROM pg_class
             WHERE relname IN ('mine', 'mine_seen', 'within', 'counter', 'trap_seen')
             UNION ALL SELECT proowner FROM pg_proc
             WHERE proname IN ('mine_counted', 'trap', 'trap_inside') AND NOT prosecdef
             UNION ALL SELECT typowner FROM pg_type WHERE typname IN ('mood', 'positive')
             UNION ALL SELECT nspowner FROM pg_namespace WHERE nspname = 'own_schema'
             UNION ALL SELECT lomowner FROM pg_largeobject_metadata WHERE oid = 4711
         ) AS owned (owner) WHERE owner = '{keeper}'::regrole"
    );
    assert_eq!(guest.reads::<i64>(&owners).await, 12);
    assert_eq!(
        guest
            .reads::<i64>("SELECT count(*) FROM pg_default_acl")
            .await,
        0
    );
    let member = format!(
        "SELECT pg_has_role('{}', '{keeper}', 'USAGE')",
        guest.site.admin
    );
    assert!(
        !guest.reads::<bool>(&member).await,
        "the admin keeps no rights"
    );

    let issued = guest.orders.issued("app-role", None).await;
    let secret = Site::secret(&issued);
    let next = guest
        .site
        .login(
            issued["username"].as_str().unwrap(),
            secret["password"].as_str().unwrap(),
        )
        .await
        .unwrap();
    for trap in ["SELECT trap()", "SELECT * FROM trap_seen"] {
        let error = next.batch_execute(trap).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{trap}");
    }
    next.batch_execute("SELECT * FROM mine").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_was_granted_goes_without_any_setting() {
    let creation = r#"creation_statements = [
        "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'",
        "GRANT SELECT, UPDATE (id) ON public.orders TO \"{{name}}\"",
        "GRANT USAGE ON SCHEMA extra TO \"{{name}}\"",
        "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO %I', current_database(), '{{name}}'); END $$",
        "GRANT EXECUTE ON FUNCTION extra.f() TO \"{{name}}\"",
        "GRANT SET ON PARAMETER log_min_duration_statement TO \"{{name}}\"",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO \"{{name}}\"",
    ]"#;
    let prepare = "CREATE SCHEMA extra;
        GRANT USAGE, CREATE ON SCHEMA extra TO ADMIN WITH GRANT OPTION;
        CREATE FUNCTION extra.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
        GRANT EXECUTE ON FUNCTION extra.f() TO ADMIN WITH GRANT OPTION;
        GRANT SELECT, UPDATE ON public.orders TO ADMIN WITH GRANT OPTION;
        GRANT CREATE ON DATABASE DBNAME TO ADMIN WITH GRANT OPTION;
        GRANT SET ON PARAMETER log_min_duration_statement TO ADMIN WITH GRANT OPTION";
    let wishes = Wishes {
        role: creation.to_owned(),
        ..Wishes::default()
    };
    let guest = Guest::of(wishes, prepare).await;
    guest
        .session
        .batch_execute("SELECT FROM orders")
        .await
        .unwrap();
    guest.revoked().await;
    guest.assert_gone().await;
    assert_eq!(guest.shown()["failures"], 0);
}

/// Who granted it alone may revoke it: keycard's user may not, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_granted_is_reported() {
    let guest = Guest::new().await;
    guest
        .superuser("GRANT SELECT ON public.orders TO USERNAME")
        .await;
    let id = guest.orders.revoke(&guest.lease_id).await;
    let named = format!(
        "the login is still named by 1 table, view or sequence in database {:?}",
        guest.site.dbname
    );
    guest.failure(&named).await;
    guest
        .superuser("REVOKE SELECT ON public.orders FROM USERNAME")
        .await;
    guest.ends(&id).await;
    guest.assert_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_made_of_what_a_login_owns_is_not_dropped_with_it() {
    let guest = Guest::of(role("drop_owned = true"), MAY_CREATE).await;
    guest
        .session
        .batch_execute("CREATE TABLE public.mine (id int)")
        .await
        .unwrap();
    guest
        .superuser("CREATE VIEW public.theirs AS SELECT * FROM public.mine")
        .await;
    let id = guest.orders.revoke(&guest.lease_id).await;
    guest.failure("2BP01").await;
    guest.superuser("DROP VIEW public.theirs").await;
    guest.ends(&id).await;
    guest.assert_gone().await;
}

/// Kinds and numbers of what it owns, here and in another database of the server.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_owns_anywhere_is_reported_and_what_it_granted_is_taken_back() {
    let guest = Guest::of(role(""), MAY_CREATE).await;
    let other = Elsewhere::of(&guest, "_too").await;
    other
        .session
        .batch_execute("CREATE TABLE there (id int); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        .await
        .unwrap();
    guest
        .session
        .batch_execute(
            "CREATE TABLE public.mine (id int); CREATE TABLE public.too (id int);
             CREATE TYPE public.mood AS ENUM ('good')",
        )
        .await
        .unwrap();
    let friend = Friend::of(&guest).await;
    let id = guest.orders.revoke(&guest.lease_id).await;
    let failure = guest.failure("the login owns ").await;
    for counted in [
        format!(
            "2 tables, views, sequences or such in database {:?}",
            guest.site.dbname
        ),
        format!("1 type in database {:?}", guest.site.dbname),
        format!("1 table, view or sequence in database {:?}", other.dbname),
        format!("1 routine in database {:?}", other.dbname),
    ] {
        assert!(failure.contains(&counted), "{counted}: {failure}");
    }
    eventually("the friend is no member any more", SOON, async || {
        (!friend.is_member(&guest).await).then_some(())
    })
    .await;
    assert!(guest.orders.answers_to(&id).is_empty());
    other.drop_owned(&guest).await;
    guest.superuser("DROP OWNED BY USERNAME").await;
    guest.ends(&id).await;
    guest.assert_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_owns_in_another_database_goes_with_it() {
    let guest = Guest::of(role("drop_owned = true"), MAY_CREATE).await;
    let other = Elsewhere::of(&guest, "_too").await;
    other
        .session
        .batch_execute("CREATE TABLE there (id int)")
        .await
        .unwrap();
    let friend = Friend::of(&guest).await;
    guest.revoked().await;
    guest.assert_gone().await;
    assert_eq!(guest.shown()["failures"], 0);
    assert!(!friend.is_member(&guest).await);
    let superuser = guest.site.sql_in(&other.dbname).await;
    let there = superuser.query_one("SELECT to_regclass('there') IS NULL", &[]);
    assert!(there.await.unwrap().get::<_, bool>(0));
}

/// Another database of the same server, in which the guest may create.
pub(super) struct Elsewhere {
    pub(super) dbname: String,
    pub(super) session: Session,
}

impl Elsewhere {
    pub(super) async fn of(guest: &Guest, suffix: &str) -> Self {
        let dbname = format!("{}{suffix}", guest.site.dbname);
        let quoted = dbname.replace('"', "\"\"");
        guest
            .superuser(&format!("CREATE DATABASE \"{quoted}\""))
            .await;
        let superuser = guest.site.sql_in(&dbname).await;
        let grant = format!("GRANT CREATE ON SCHEMA public TO {}", guest.site.group);
        superuser.batch_execute(&grant).await.unwrap();
        let site = &guest.site;
        let session = site.connect(&dbname, &guest.username, &guest.password);
        Self {
            session: session.await.unwrap(),
            dbname,
        }
    }

    async fn drop_owned(&self, guest: &Guest) {
        let superuser = guest.site.sql_in(&self.dbname).await;
        let drop = format!("DROP OWNED BY {}", guest.username);
        superuser.batch_execute(&drop).await.unwrap();
    }
}

/// A role that the guest has made a member of the group.
struct Friend(String);

impl Friend {
    async fn of(guest: &Guest) -> Self {
        let name = format!("friend_{}", guest.site.name);
        let group = &guest.site.group;
        guest
            .superuser(&format!(
                "CREATE ROLE {name} NOLOGIN; GRANT {group} TO USERNAME WITH ADMIN OPTION"
            ))
            .await;
        let grant = format!("GRANT {group} TO {name}");
        guest.session.batch_execute(&grant).await.unwrap();
        let friend = Self(name);
        assert!(friend.is_member(guest).await);
        friend
    }

    async fn is_member(&self, guest: &Guest) -> bool {
        let query = format!(
            "SELECT pg_has_role('{}', '{}', 'member')",
            self.0, guest.site.group
        );
        guest.reads(&query).await
    }
}

/// They outlive sessions, hold locks, and only who prepared them may end them, where it did.
#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_of_a_login_are_rolled_back_wherever_they_are() {
    let settings = [("max_prepared_transactions", "5")];
    let postgres = own_postgres(&settings);
    let site = || Wishes {
        postgres,
        ..role("")
    };
    // Rows alone are nothing that DROP ROLE would see.
    let rows = Guest::of(site(), MAY_CREATE).await;
    rows.session
        .batch_execute("BEGIN; INSERT INTO orders VALUES (7); PREPARE TRANSACTION 'it''s here'")
        .await
        .unwrap();
    let table = Guest::of(site(), MAY_CREATE).await;
    let other = Elsewhere::of(&table, "_too").await;
    other
        .session
        .batch_execute("BEGIN; CREATE TABLE there (id int); PREPARE TRANSACTION 'there'")
        .await
        .unwrap();
    for guest in [&rows, &table] {
        guest.revoked().await;
        guest.assert_gone().await;
        assert_eq!(guest.shown()["failures"], 0);
    }
    let left = "SELECT count(*) FROM pg_prepared_xacts";
    assert_eq!(rows.reads::<i64>(left).await, 0);
    assert_eq!(rows.reads::<i64>("SELECT count(*) FROM orders").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_that_a_login_granted_ends_with_it() {
    let guest = Guest::new().await;
    let friend = Friend::of(&guest).await;
    guest.revoked().await;
    guest.assert_gone().await;
    assert_eq!(guest.shown()["failures"], 0);
    assert!(!friend.is_member(&guest).await);
}

/// Somebody's open transaction names the login: it cannot be dropped, and nobody waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_that_names_a_login_keeps_nobody_else() {
    let guest = Guest::new().await;
    let hostile = guest.site.sql().await;
    let grant = format!("BEGIN; GRANT SELECT ON public.orders TO {}", guest.username);
    hostile.batch_execute(&grant).await.unwrap();
    let id = guest.orders.revoke(&guest.lease_id).await;
    guest.failure("").await;
    guest.assert_shut_out().await;
    let other = guest.orders.issued("app-role", None).await;
    let asked = guest
        .orders
        .revoke(other["lease_id"].as_str().unwrap())
        .await;
    assert_eq!(guest.orders.answer(&asked).await.kind(), "lease.revoked.v1");
    assert!(guest.orders.answers_to(&id).is_empty());
    hostile.batch_execute("ROLLBACK").await.unwrap();
    guest.ends(&id).await;
    guest.assert_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_by_what_its_role_said_when_it_was_issued() {
    let mut guest = Guest::of(role("drop_owned = true"), MAY_CREATE).await;
    guest
        .session
        .batch_execute("CREATE TABLE public.mine (id int)")
        .await
        .unwrap();
    guest.worker.kill();
    let config = std::fs::read_to_string(&guest.site.config).unwrap();
    let without = config.replace("drop_owned = true", "reassign_owned_to = \"nobody\"");
    std::fs::write(&guest.site.config, without).unwrap();
    let _worker = guest.site.worker().await;
    guest.revoked().await;
    guest.assert_gone().await;
}
