//! Logins that end before their time, and those that will not go.

mod freeze;
mod hostile;
mod keeper;
mod objects;
mod outage;

use serde_json::Value;
use tokio_postgres::Client as Session;

use crate::support::client::{Client, Heard, SOON, TRIED_AGAIN};
use crate::support::eventually;
use crate::support::process::Worker;
use crate::support::site::{Site, Wishes};

/// A site with a worker, and a lease of `orders-svc` with its session open.
struct Guest {
    worker: Worker,
    site: Site,
    orders: Client,
    lease_id: String,
    username: String,
    password: String,
    session: Session,
}

impl Guest {
    async fn new() -> Self {
        Self::of(Wishes::default(), "").await
    }

    /// The guest of a site with these wishes. `prepare` is what a superuser does before; in it `GROUP`
    /// is the site's group, `ADMIN` keycard's user and `DBNAME` the database.
    async fn of(wishes: Wishes, prepare: &str) -> Self {
        let site = Site::new(wishes).await;
        let prepare = prepare
            .replace("GROUP", &site.group)
            .replace("ADMIN", &site.admin)
            .replace("DBNAME", &site.dbname);
        for statement in prepare.split(";\n") {
            site.sql().await.batch_execute(statement).await.unwrap();
        }
        let worker = site.worker().await;
        let orders = site.client("orders-svc").await;
        let issued = orders.issued("app-role", None).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let username = text(&issued["username"]);
        let password = text(&Site::secret(&issued)["password"]);
        let session = site.login(&username, &password).await.unwrap();
        Self {
            lease_id: text(&issued["lease_id"]),
            username,
            password,
            session,
            orders,
            worker,
            site,
        }
    }

    /// Revokes and waits for the answer.
    async fn revoked(&self) -> Heard {
        let id = self.orders.revoke(&self.lease_id).await;
        self.ends(&id).await
    }

    /// Waits for the answer to a revocation, which may have failed before.
    async fn ends(&self, id: &str) -> Heard {
        let answer = self.orders.answer_within(id, TRIED_AGAIN).await;
        assert_eq!(answer.kind(), "lease.revoked.v1", "{}", answer.event);
        answer
    }

    async fn assert_shut_out(&self) {
        assert!(self.session.simple_query("SELECT 1").await.is_err());
        let again = self.site.login(&self.username, &self.password).await;
        assert_eq!(again.err().unwrap().code().unwrap().code(), "28P01");
    }

    async fn assert_gone(&self) {
        self.assert_shut_out().await;
        assert_eq!(self.site.logins().await, 0);
        assert!(
            self.site
                .secret_files()
                .iter()
                .all(|file| file.ends_with(".lock"))
        );
    }

    /// Lets the login own a table, as no role of a real installation should.
    async fn own_a_table(&self) {
        let grant = format!("GRANT CREATE ON SCHEMA public TO {}", self.site.group);
        self.site.sql().await.batch_execute(&grant).await.unwrap();
        self.session
            .batch_execute("CREATE TABLE public.mine ()")
            .await
            .unwrap();
    }

    async fn superuser(&self, statement: &str) {
        let statement = statement.replace("USERNAME", &self.username);
        self.site.superuser(&statement).await;
    }

    /// What a superuser reads; `USERNAME` stands for the login.
    async fn reads<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, query: &str) -> T {
        let query = query.replace("USERNAME", &self.username);
        let superuser = self.site.sql().await;
        superuser.query_one(&query, &[]).await.unwrap().get(0)
    }

    /// Waits until a revocation has failed for the reason that these words tell, and returns the
    /// whole of it: on a busy machine an attempt before may have failed for another. The login is
    /// disabled by then.
    async fn failure(&self, words: &str) -> String {
        let failure = self.failed(words).await;
        assert!(self.is_disabled().await, "{failure}");
        failure
    }

    /// The same, whatever has become of the login.
    async fn failed(&self, words: &str) -> String {
        let what = format!("a failure that tells of {words:?}");
        let shown = self.until_shown(&what, |shown| {
            let told = shown["last_failure"].as_str();
            shown["failures"].as_u64() >= Some(1) && told.is_some_and(|told| told.contains(words))
        });
        shown.await["last_failure"].as_str().unwrap().to_owned()
    }

    /// The lease as an operator sees it.
    fn shown(&self) -> Value {
        self.site.shown(&self.lease_id)
    }

    async fn until_shown(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let shown = async || Some(self.shown()).filter(&holds);
        eventually(what, TRIED_AGAIN, shown).await
    }

    /// Disabled in every way, and without sessions.
    async fn is_disabled(&self) -> bool {
        let row = self
            .site
            .sql()
            .await
            .query_one(
                "SELECT NOT rolcanlogin AND rolvaliduntil = '-infinity' AND rolconnlimit = 0
                    AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = r.oid)
                 FROM pg_roles r WHERE rolname = $1",
                &[&self.username],
            )
            .await
            .unwrap();
        row.get(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_revokes_and_its_sessions_end() {
    let guest = Guest::new().await;
    let second = guest.site.login(&guest.username, &guest.password);
    let _second = second.await.unwrap();
    let answer = guest.revoked().await;
    assert_eq!(answer.data()["cause"], "requested");
    assert_eq!(answer.data()["sessions_terminated"], 2);
    assert_eq!(answer.data()["username"], guest.username.as_str());
    guest.assert_gone().await;
    let notice = guest
        .orders
        .notice("lease.revoked.v1", &guest.lease_id, SOON);
    assert_eq!(notice.await.data()["sessions_terminated"], 2);

    let again = guest.revoked().await;
    assert_eq!(again.data()["revoked_at"], answer.data()["revoked_at"]);
    let late = guest.orders.renew(&guest.lease_id, None).await;
    assert_eq!(
        guest.orders.answer(&late).await.data()["code"],
        "lease_ended"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_revokes_in_the_middle_of_a_transaction() {
    let guest = Guest::new().await;
    let operator = guest.site.client("platform-ops").await;
    let billing = guest.site.client("billing-svc").await;
    guest
        .session
        .batch_execute("BEGIN; INSERT INTO orders VALUES (7)")
        .await
        .unwrap();

    let forbidden = billing.revoke(&guest.lease_id).await;
    let denial = billing.answer(&forbidden).await;
    assert_eq!(denial.data()["code"], "lease_unknown");
    let id = operator.revoke(&guest.lease_id).await;
    let answer = operator.answer(&id).await;

    assert_eq!(answer.data()["cause"], "operator");
    assert_eq!(answer.data()["requester"], "orders-svc");
    guest.assert_gone().await;
    let notice = guest
        .orders
        .notice("lease.revoked.v1", &guest.lease_id, SOON);
    assert_eq!(notice.await.data()["cause"], "operator");
    assert_eq!(guest.site.count("SELECT count(*) FROM orders").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_a_temporary_table_does_not_keep_its_login() {
    let guest = Guest::new().await;
    guest
        .session
        .batch_execute("CREATE TEMPORARY TABLE mine AS SELECT 1; BEGIN; SELECT FROM mine")
        .await
        .unwrap();
    let answer = guest.revoked().await;
    assert_eq!(answer.data()["sessions_terminated"], 1);
    guest.assert_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_owns_a_table_is_disabled_and_dropped_once_it_can_be() {
    let guest = Guest::new().await;
    guest.own_a_table().await;
    let id = guest.orders.revoke(&guest.lease_id).await;
    let shown = guest
        .until_shown("two attempts", |shown| {
            shown["failures"].as_u64() >= Some(2)
        })
        .await;
    assert_eq!(shown["state"], "revoking");
    assert_eq!(shown["stuck"], false);
    let failure = shown["last_failure"].as_str().unwrap();
    let owns = format!(
        "the login owns 1 table, view or sequence in database {:?}",
        guest.site.dbname
    );
    assert!(failure.contains(&owns), "{failure}");
    assert!(failure.contains("reassign_owned_to or drop_owned = true"));
    assert!(guest.is_disabled().await);
    guest.assert_shut_out().await;
    assert!(guest.orders.answers_to(&id).is_empty());

    guest.superuser("DROP TABLE public.mine").await;
    let answer = guest.ends(&id).await;
    assert_eq!(answer.data()["sessions_terminated"], 1);
    guest.assert_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_cannot_be_dropped_is_marked_stuck_and_told() {
    let guest = Guest::new().await;
    guest.own_a_table().await;
    let id = guest.orders.revoke(&guest.lease_id).await;
    let notice = guest
        .orders
        .notice("lease.revocation_failed.v1", &guest.lease_id, TRIED_AGAIN)
        .await;
    let told = notice.data();
    assert_eq!(told["attempts"], 6);
    assert_eq!(told["username"], guest.username.as_str());
    assert!(told["reason"].as_str().unwrap().contains("drop_owned"));
    let next: jiff::Timestamp = told["next_attempt_at"].as_str().unwrap().parse().unwrap();
    let wait = next.duration_since(keycard::clock::host_now()).as_secs();
    assert!((200..=400).contains(&wait), "{wait}");

    assert_eq!(guest.shown()["stuck"], true);
    assert_eq!(guest.shown()["failures"], 6);
    let list = guest.site.keycard(&["lease", "list"]).stdout;
    assert!(list.contains("revoking (stuck)"), "{list}");
    let stuck = guest.site.keycard(&["lease", "list", "--state", "stuck"]);
    assert!(stuck.stdout.contains(&guest.lease_id), "{}", stuck.stdout);
    assert!(guest.is_disabled().await);
    guest.assert_shut_out().await;
    assert!(guest.orders.answers_to(&id).is_empty());
    // Everybody else is served.
    guest.orders.issued("app-role", None).await;

    // Once the cause is gone, who asks again need not wait for the next attempt.
    guest.superuser("DROP TABLE public.mine").await;
    guest.revoked().await;
    guest.ends(&id).await;
    assert!(guest.shown()["stuck"] == false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_a_dba_dropped_is_revoked_all_the_same() {
    let guest = Guest::new().await;
    guest.superuser("DROP ROLE USERNAME").await;
    let answer = guest.revoked().await;
    assert_eq!(answer.data()["cause"], "requested");
    // The session of a login that is gone lives on until it is terminated.
    assert_eq!(answer.data()["sessions_terminated"], 1);
    guest.assert_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_a_dba_renamed_is_reported_and_left_alone() {
    let guest = Guest::new().await;
    let renamed = format!("renamed_{}", guest.site.name);
    guest
        .superuser(&format!("ALTER ROLE USERNAME RENAME TO {renamed}"))
        .await;
    let id = guest.orders.revoke(&guest.lease_id).await;
    guest.failed(&format!("renamed to {renamed:?}")).await;
    let exists = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{renamed}'");
    assert_eq!(guest.site.count(&exists).await, 1);

    guest
        .superuser(&format!("ALTER ROLE {renamed} RENAME TO USERNAME"))
        .await;
    guest.ends(&id).await;
    guest.assert_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_of_the_same_name_is_not_touched() {
    let guest = Guest::new().await;
    guest
        .superuser("DROP ROLE USERNAME; CREATE ROLE USERNAME LOGIN PASSWORD 'other'")
        .await;
    let other = guest.site.login(&guest.username, "other").await.unwrap();
    guest.revoked().await;
    other.simple_query("SELECT 1").await.unwrap();
    guest.site.login(&guest.username, "other").await.unwrap();
    assert_eq!(guest.site.logins().await, 1);
    assert!(guest.session.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_role_left_the_configuration_is_revoked() {
    let mut guest = Guest::new().await;
    guest.worker.kill();
    let config = std::fs::read_to_string(&guest.site.config).unwrap();
    let without = config.replace("[roles.app-role]", "[roles.other-role]");
    std::fs::write(&guest.site.config, without).unwrap();
    let _worker = guest.site.worker().await;
    let renewal = guest.orders.renew(&guest.lease_id, None).await;
    let denial = guest.orders.answer(&renewal).await;
    assert_eq!(denial.data()["code"], "role_not_allowed");
    guest.revoked().await;
    guest.assert_gone().await;
}
