//! Logins as keycard itself makes them: members of groups.

use super::{assert_nothing_left, assert_usable, denied, unusable};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::site::{Site, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_a_member_of_its_groups_and_nothing_more() {
    let site = Site::new(Wishes {
        role: "groups = [\"GROUP\"]\nconnection_limit = 2".to_owned(),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    assert_usable(&site, &issued).await;

    let username = issued["username"].as_str().unwrap();
    let superuser = site.sql().await;
    let row = superuser
        .query_one(
            "SELECT rolcanlogin, rolinherit, rolconnlimit, rolconfig IS NULL,
                    rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,
                    (SELECT array_agg(roleid::regrole::text) FROM pg_auth_members
                     WHERE member = r.oid)
             FROM pg_roles r WHERE rolname = $1",
            &[&username],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(1));
    assert_eq!(row.get::<_, i32>(2), 2);
    assert!(row.get::<_, bool>(3) && !row.get::<_, bool>(4));
    assert_eq!(row.get::<_, Vec<String>>(5), [site.group.as_str()]);
    if site.postgres.version >= 16 {
        let options = superuser
            .query_one(
                "SELECT inherit_option, set_option, admin_option FROM pg_auth_members
                 WHERE member = (SELECT oid FROM pg_roles WHERE rolname = $1)",
                &[&username],
            )
            .await
            .unwrap();
        let options: [bool; 3] = [options.get(0), options.get(1), options.get(2)];
        assert_eq!(options, [true, false, false]);
    }

    let password = super::Site::secret(&issued)["password"]
        .as_str()
        .unwrap()
        .to_owned();
    let session = site.login(username, &password).await.unwrap();
    session
        .batch_execute("INSERT INTO orders VALUES (2); SELECT * FROM orders")
        .await
        .unwrap();
    for forbidden in [
        "DELETE FROM orders",
        "CREATE TABLE public.mine ()",
        "CREATE ROLE other",
        "SELECT FROM keycard.leases",
        "CREATE TABLE keycard.mine ()",
        "SELECT FROM pg_authid",
    ] {
        let error = session.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}");
    }
    // The session that showed it to be usable may take its time to end.
    let _second = eventually("a second session", SOON, async || {
        site.login(username, &password).await.ok()
    })
    .await;
    let third = site.login(username, &password).await;
    assert_eq!(third.err().unwrap().code().unwrap().code(), "53300");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verifier_has_the_iterations_of_its_role() {
    let site = Site::usual().await;
    site.configure(
        r#"
[roles.fast]
database = "app"
requesters = ["orders-svc"]
groups = ["GROUP"]
scram_iterations = 512
"#,
    );
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    for (role, beginning) in [
        ("app-role", "SCRAM-SHA-256$4096:"),
        ("fast", "SCRAM-SHA-256$512:"),
    ] {
        let issued = orders.issued(role, None).await;
        let row = site
            .sql()
            .await
            .query_one(
                "SELECT rolpassword FROM pg_authid WHERE rolname = $1",
                &[&issued["username"].as_str().unwrap()],
            )
            .await
            .unwrap();
        let verifier: &str = row.get(0);
        assert!(verifier.starts_with(beginning), "{verifier}");
        assert_usable(&site, &issued).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usernames_tell_role_and_requester_and_fit_postgres() {
    let long = "A-role.with-a_very.long-name_that-nobody.would-type_twice-ever";
    let site = Site::new(Wishes {
        requesters: vec!["orders-svc", "a/b", "../x"],
        ..Wishes::default()
    })
    .await;
    site.configure(&format!(
        r#"
[roles."{long}"]
database = "app"
requesters = ["orders-svc", "{service}"]
groups = ["GROUP"]
"#,
        service = "ämter-für-äußerst-lange-namen-日本"
    ));
    let service = "ämter-für-äußerst-lange-namen-日本";
    site.add_services(&[service]).await;
    let _worker = site.worker().await;
    for (user, role, beginning) in [
        ("orders-svc", "app-role", "kc_app_role_orders_svc_"),
        ("a/b", "app-role", "kc_app_role_a_b_"),
        ("../x", "app-role", "kc_app_role____x_"),
        ("orders-svc", long, "kc_a_role_with_a_very_orders_svc_"),
        (service, long, "kc_a_role_with_a_very__mter_f_r__u_erst__"),
    ] {
        let issued = site.client(user).await.issued(role, None).await;
        let username = issued["username"].as_str().unwrap();
        assert!(username.starts_with(beginning), "{username}");
        assert!(username.len() <= 63, "{username}");
        assert_eq!(username.len(), beginning.len() + 20, "{username}");
        assert_eq!(issued["requester"], user);
        assert_usable(&site, &issued).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_missing_is_named_in_the_denial() {
    let site = Site::usual().await;
    site.configure(
        r#"
[roles.gone]
database = "app"
requesters = ["orders-svc"]
groups = ["GROUP", "no_such_group"]
"#,
    );
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let message = unusable(&denied(&orders, "gone").await);
    assert!(
        message.contains(r#"role "no_such_group" does not exist"#),
        "{message}"
    );
    assert_nothing_left(&site, "kc_gone_").await;
    // The rest of the installation goes on.
    orders.issued("app-role", None).await;
}
