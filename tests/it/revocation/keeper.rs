//! Who may get what a login owns, and what nobody may get.

use super::objects::role;
use super::*;

const KEEPER: &str = "reassign_owned_to = \"keeper_GROUP\"";
const MAY_CREATE: &str = "GRANT CREATE, USAGE ON SCHEMA public TO GROUP";

/// The lease of a guest that owns a table and what `made` says stays, for the reason that `words`
/// tell; nothing is half done.
async fn stays(prepare: &str, made: &str, words: &str) -> Guest {
    let prepare = format!("{MAY_CREATE};\n{prepare}");
    let guest = Guest::of(role(KEEPER), prepare.trim_end_matches(";\n")).await;
    let made = format!("CREATE TABLE public.mine (id int); {made}");
    guest.session.batch_execute(&made).await.unwrap();
    guest.orders.revoke(&guest.lease_id).await;
    guest.failure(words).await;
    let owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'mine'";
    assert_eq!(guest.reads::<String>(owner).await, guest.username);
    guest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_could_do_more_than_the_login_gets_nothing() {
    for (prepare, words) in [
        ("DROP ROLE keeper_GROUP", "does not exist"),
        ("ALTER ROLE keeper_GROUP LOGIN", "can log in"),
        (
            "ALTER ROLE keeper_GROUP CREATEROLE",
            "has SUPERUSER, CREATEROLE",
        ),
        (
            "GRANT pg_read_all_data TO keeper_GROUP",
            "is a member of pg_read_all_data",
        ),
        (
            "CREATE TABLE public.secret (id int);\nGRANT SELECT ON public.secret TO keeper_GROUP",
            "holds privileges of its own",
        ),
    ] {
        stays(prepare, "", words).await;
    }
    let routine = "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    stays("REVOKE GROUP FROM keeper_GROUP", routine, "42501").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_run_with_the_keepers_rights_stays_where_it_is() {
    const F: &str =
        "CREATE FUNCTION public.f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';";
    for (made, words) in [
        (
            "CREATE TABLE public.log (id int);
             CREATE RULE spy AS ON INSERT TO public.mine DO ALSO INSERT INTO public.log VALUES (1)",
            "rule spy on public.mine",
        ),
        (
            "CREATE MATERIALIZED VIEW public.seen AS SELECT * FROM public.mine WITH NO DATA",
            "materialized view public.seen",
        ),
        (&format!("{F} CREATE INDEX spy ON public.mine (public.f(id))"), "index public.spy"),
        (&format!("{F} CREATE INDEX spy ON public.mine (id) WHERE public.f(id) > 0"), "index public.spy"),
        (&format!("{F} CREATE STATISTICS public.spy ON (public.f(id)) FROM public.mine"), "statistics spy"),
        (
            "CREATE FUNCTION public.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER spy BEFORE INSERT ON public.mine EXECUTE FUNCTION public.t();
             ALTER TABLE public.mine ENABLE ALWAYS TRIGGER spy",
            "trigger spy on public.mine",
        ),
        // The check of a foreign key reads the other table as its owner, and casts on its way.
        (
            "CREATE TYPE public.mood AS ENUM ('good');
             CREATE FUNCTION public.f(public.mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
             CREATE CAST (public.mood AS int) WITH FUNCTION public.f(public.mood) AS IMPLICIT;
             CREATE TABLE public.numbers (id int PRIMARY KEY);
             CREATE TABLE public.moods (m public.mood CONSTRAINT spy REFERENCES public.numbers)",
            "foreign key spy on public.moods",
        ),
        (
            "CREATE FUNCTION public.f(int, int) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT 1.0::float8';
             CREATE TYPE public.spy AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = public.f)",
            "range type public.spy",
        ),
    ] {
        stays("", made, words).await;
    }
}

/// A keeper may be one of the groups themselves: its rights are the login's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_the_role_may_be_the_keeper() {
    let guest = Guest::of(role("reassign_owned_to = \"GROUP\""), MAY_CREATE).await;
    guest
        .session
        .batch_execute("CREATE TABLE public.mine (id int)")
        .await
        .unwrap();
    guest.revoked().await;
    guest.assert_gone().await;
    let owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'mine'";
    assert_eq!(guest.reads::<String>(owner).await, guest.site.group);
}

/// Functions of a login are never run while it goes, whatever they hang on.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_login_made_is_run_while_it_goes() {
    let guest = Guest::of(
        role(KEEPER),
        &format!("{MAY_CREATE};\nCREATE TABLE public.ran_as (who name);\nGRANT INSERT ON public.ran_as TO PUBLIC"),
    )
    .await;
    guest
        .session
        .batch_execute(
            "CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO public.ran_as VALUES (current_user); RETURN NEW; END';
             CREATE FUNCTION public.value() RETURNS int LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO public.ran_as VALUES (current_user); RETURN 1; END';
             CREATE FUNCTION public.format(text, VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_format'",
        )
        .await
        .unwrap_err();
    guest
        .session
        .batch_execute(
            "CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO public.ran_as VALUES (current_user); RETURN NEW; END';
             CREATE FUNCTION public.value() RETURNS int LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO public.ran_as VALUES (current_user); RETURN 1; END';
             CREATE FUNCTION public.format(text, regprocedure) RETURNS text LANGUAGE sql AS
                 'SELECT ''DROP TABLE public.orders'' FROM public.value()';
             CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE sql AS
                 'SELECT ''x'' FROM public.value()';
             CREATE TABLE public.mine (id int DEFAULT public.value() CHECK (public.value() > 0));
             CREATE TRIGGER spy BEFORE INSERT OR UPDATE OR DELETE ON public.mine
                 FOR EACH ROW EXECUTE FUNCTION public.spy();
             CREATE FUNCTION public.definer() RETURNS int SECURITY DEFINER LANGUAGE sql AS
                 'SELECT public.value()'",
        )
        .await
        .unwrap();
    guest.revoked().await;
    guest.assert_gone().await;
    assert_eq!(
        guest
            .reads::<i64>("SELECT count(*) FROM public.ran_as")
            .await,
        0
    );
}
