//! Each role rehearsed, and what a rehearsal leaves: nothing, unless it must.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use keycard::clock::host_now;

use super::{Said, assert_nothing_is_left, doctor, superuser};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::site::{Site, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn each_role_that_cannot_work_is_told_with_what_postgres_says() {
    let site = Site::new(Wishes {
        sections: r#"
[roles.broken]
database = "app"
creation_statements = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'", "GRANT no_such_group TO \"{{name}}\""]
[roles.direct]
database = "app"
creation_statements = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'", "GRANT SELECT ON public.orders TO \"{{name}}\""]
[roles.sticky]
database = "app"
groups = ["GROUP"]
revocation_statements = ["SELECT 1/0"]
"#
        .to_owned(),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    superuser(
        &site,
        &format!(
            "GRANT SELECT ON public.orders TO {} WITH GRANT OPTION",
            site.admin
        ),
    )
    .await;
    let said = Said::by(&site);
    assert_eq!(said.code, Some(1));
    said.says("roles.broken", "failure", "no_such_group");
    said.says("roles.direct", "warning", "give the role `groups`");
    said.says("roles.sticky", "failure", "could not be dropped");
    said.says("roles.app-role", "ok", "dropped");
    // The one login that is left is refused, and on record.
    let left = "SELECT count(*) FROM pg_roles JOIN keycard.leases l ON login_oid = oid
                WHERE NOT rolcanlogin AND l.state = 'revoking' AND l.role = 'sticky'";
    assert_eq!((site.logins().await, site.count(left).await), (1, 1));

    superuser(
        &site,
        &format!(
            "REVOKE CONNECT ON DATABASE {0} FROM PUBLIC; GRANT CONNECT ON DATABASE {0} TO {1}",
            site.dbname, site.admin
        ),
    )
    .await;
    let said = Said::by(&site);
    said.says("roles.app-role", "failure", "cannot log in");
    let left = "SELECT count(*) FROM pg_roles JOIN keycard.leases l ON login_oid = oid
                WHERE l.role <> 'sticky'";
    assert_eq!(site.count(left).await, 0);
}

/// Kills a doctor in the step that would write this into the audit.
async fn killed_in(site: &Site, action: &str) {
    let slow = format!(
        "SET ROLE {};
         CREATE FUNCTION keycard.slow() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_sleep(24); RETURN NEW; END';
         CREATE TRIGGER slow BEFORE INSERT ON keycard.audit FOR EACH ROW
             WHEN (NEW.action = '{action}') EXECUTE FUNCTION keycard.slow()",
        site.admin
    );
    superuser(site, &slow).await;
    // A statement may take 10 s, unless the URL says otherwise; a step takes no longer than 25 s.
    let url = site.url_with("statement_timeout", 60);
    let mut dying = doctor(site);
    dying.env("KEYCARD_DATABASES__APP__CONNECTION_URL", url);
    let mut dying = dying.stdout(Stdio::null()).spawn().unwrap();
    eventually("a role is rehearsed", SOON, async || {
        let asleep = "SELECT count(*) FROM pg_stat_activity
                      WHERE wait_event = 'PgSleep' AND datname = current_database()";
        (site.count(asleep).await == 1).then_some(())
    })
    .await;
    dying.kill().unwrap();
    assert_eq!(dying.wait().unwrap().signal(), Some(9));
    superuser(
        site,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE wait_event = 'PgSleep' AND datname = current_database();
         DROP FUNCTION keycard.slow CASCADE",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_that_dies_leaves_a_login_that_ends_by_itself() {
    let site = Site::new(Wishes {
        sweep_interval: "1s",
        // Those of the dead do not count, or the doctor could rehearse but one.
        role: "max_leases = 1".to_owned(),
        ..Wishes::default()
    })
    .await;
    let mut worker = site.worker().await;
    site.is_prepared().await;
    worker.kill();
    // In each of its steps, whose audit takes long enough to be killed in it. The last one clears
    // up after the login, which is gone by then.
    for (action, left) in [
        ("issued", Some("issuing")),
        ("revoked", Some("active")),
        ("closed", None),
    ] {
        killed_in(&site, action).await;
        let rows = site
            .sql()
            .await
            .query(
                "SELECT state, rolvaliduntil = expires_at,
                        state = 'active' OR held_until >= expires_at, expires_at
                 FROM keycard.leases JOIN pg_roles ON oid = login_oid
                 ORDER BY issued_at DESC, id DESC LIMIT 1",
                &[],
            )
            .await
            .unwrap();
        if let Some(left) = left {
            let (state, is_end, is_held): (&str, bool, bool) =
                (rows[0].get(0), rows[0].get(1), rows[0].get(2));
            assert_eq!((state, is_end, is_held), (left, true, true), "{action}");
            let ends: jiff::Timestamp = rows[0].get(3);
            assert!(ends.duration_since(host_now()).as_secs() <= 20);
        }
    }
    let dropped = "SELECT count(*) FROM keycard.leases WHERE state = 'dropped'";
    assert_eq!((site.logins().await, site.count(dropped).await), (2, 1));

    // Their time is brought forward; the logins' own end needs nobody.
    superuser(
        &site,
        "UPDATE keycard.leases SET expires_at = clock_timestamp(), held_until = clock_timestamp(),
             wake_at = clock_timestamp(), retry_at = clock_timestamp()",
    )
    .await;
    let _worker = site.worker().await;
    eventually("the leases are closed", SOON, async || {
        let closed = "SELECT count(*) FROM keycard.leases WHERE state = 'closed'";
        (site.count(closed).await == 3).then_some(())
    })
    .await;
    assert_nothing_is_left(&site).await;
    // The first one's worker delivered nothing.
    let delivered = "SELECT count(*) FROM keycard.audit WHERE action = 'issued'";
    assert_eq!(site.count(delivered).await, 2);
    assert_eq!(Said::by(&site).about("roles.app-role")[0].0, "ok");
}
