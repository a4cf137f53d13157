//! What a login is: its name, its privileges, and the statements that make, renew and revoke it.

mod groups;
mod refused;
mod renewal;
mod revocation;
mod statements;
mod transactions;
mod vault;

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::client::{Client, Heard, TRIED_AGAIN};
use crate::support::eventually;
use crate::support::process::Worker;
use crate::support::site::Site;

const CREATE: &str =
    r#"CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;

/// A role with creation statements: one text, or an array of them.
fn role(name: &str, statements: &Value) -> String {
    role_of(name, &json!({ "creation_statements": statements }))
}

/// A role with these keys.
fn role_of(name: &str, keys: &Value) -> String {
    let mut text = format!(
        "\n[roles.{name}]\ndatabase = \"app\"\nrequesters = [\"orders-svc\"]\nmin_ttl = \"1s\"\n"
    );
    for (key, value) in keys.as_object().unwrap() {
        // Strings, numbers and arrays of strings look the same in TOML and JSON.
        let _ = writeln!(text, "{key} = {value}");
    }
    text
}

/// A lease of one role, and who holds it.
struct Guest {
    site: Arc<Site>,
    worker: Arc<Worker>,
    orders: Client,
    role: String,
    lease_id: String,
    username: String,
    password: String,
}

impl Guest {
    /// The guest of a role with these keys, in which `GROUP` is the site's group and `DBNAME` its
    /// database. `prepare` is what a superuser does before; in it `ADMIN` is keycard's user.
    async fn of(keys: Value, prepare: &str) -> Self {
        let mut guests = Self::each(&[keys], prepare).await;
        guests.remove(0)
    }

    /// One guest for each role, all at one site.
    async fn each(roles: &[Value], prepare: &str) -> Vec<Self> {
        let site = Site::usual().await;
        for (number, keys) in roles.iter().enumerate() {
            let role = role_of(&format!("guest-{number}"), keys);
            site.configure(&role.replace("DBNAME", &site.dbname));
        }
        let prepare = prepare
            .replace("ADMIN", &site.admin)
            .replace("DBNAME", &site.dbname);
        site.sql().await.batch_execute(&prepare).await.unwrap();
        let (worker, site) = (Arc::new(site.worker().await), Arc::new(site));
        let mut guests = Vec::new();
        for number in 0..roles.len() {
            let role = format!("guest-{number}");
            guests.push(Self::arrive(&site, &worker, role).await);
        }
        guests
    }

    async fn arrive(site: &Arc<Site>, worker: &Arc<Worker>, role: String) -> Self {
        let orders = site.client("orders-svc").await;
        let issued = orders.issued(&role, Some(600)).await;
        assert_usable(site, &issued).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            site: Arc::clone(site),
            worker: Arc::clone(worker),
            role,
            lease_id: text(&issued["lease_id"]),
            username: text(&issued["username"]),
            password: text(&Site::secret(&issued)["password"]),
            orders,
        }
    }

    /// The worker ends, the configuration is edited, and another worker begins.
    async fn restarts(&mut self, edit: impl FnOnce(String) -> String) {
        Arc::get_mut(&mut self.worker).unwrap().kill();
        let config = std::fs::read_to_string(&self.site.config).unwrap();
        std::fs::write(&self.site.config, edit(config)).unwrap();
        self.worker = Arc::new(self.site.worker().await);
    }

    /// Its session.
    async fn session(&self) -> tokio_postgres::Client {
        let session = self.site.login(&self.username, &self.password);
        session.await.unwrap()
    }

    /// What a superuser reads; `USERNAME` stands for the login.
    async fn reads<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, query: &str) -> T {
        let query = query.replace("USERNAME", &self.username);
        let superuser = self.site.sql().await;
        superuser.query_one(&query, &[]).await.unwrap().get(0)
    }

    /// What a superuser does; `USERNAME` stands for the login.
    async fn superuser(&self, statements: &str) {
        let statements = statements.replace("USERNAME", &self.username);
        self.site.superuser(&statements).await;
    }

    /// Whether the login is in Postgres.
    async fn exists(&self) -> bool {
        self.reads("SELECT count(*) > 0 FROM pg_roles WHERE rolname = 'USERNAME'")
            .await
    }

    /// The answer to a renewal.
    async fn renewal(&self, ttl_seconds: i64) -> Heard {
        let id = self.orders.renew(&self.lease_id, Some(ttl_seconds)).await;
        self.orders.answer(&id).await
    }

    /// Revokes it, which must succeed.
    async fn is_revoked(&self) {
        let id = self.orders.revoke(&self.lease_id).await;
        eventually("the lease is closed", TRIED_AGAIN, async || {
            (self.shown()["state"] == "closed").then_some(())
        })
        .await;
        self.ends(&id).await;
        assert!(!self.exists().await, "{}", self.role);
    }

    /// Waits for the answer to a revocation, which may have failed before.
    async fn ends(&self, id: &str) {
        let answer = self.orders.answer_within(id, TRIED_AGAIN).await;
        assert_eq!(answer.kind(), "lease.revoked.v1", "{}", answer.event);
    }

    /// The lease as an operator sees it.
    fn shown(&self) -> Value {
        self.site.shown(&self.lease_id)
    }

    /// Waits until a revocation has failed for the reason that these words tell, and returns the
    /// whole of it: on a busy machine an attempt before may have failed for another.
    async fn failure(&self, words: &str) -> String {
        let what = format!("a failure that tells of {words:?}");
        let shown = eventually(&what, TRIED_AGAIN, async || {
            Some(self.shown()).filter(|shown| {
                let told = shown["last_failure"].as_str();
                shown["failures"].as_u64() >= Some(1)
                    && told.is_some_and(|told| told.contains(words))
            })
        });
        shown.await["last_failure"].as_str().unwrap().to_owned()
    }

    /// Disabled, with nobody in it.
    async fn is_disabled(&self) -> bool {
        self.reads(
            "SELECT NOT rolcanlogin AND rolvaliduntil = '-infinity'
                AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = r.oid)
             FROM pg_roles r WHERE rolname = 'USERNAME'",
        )
        .await
    }
}

/// A site with further roles of such statements.
async fn site_with(roles: &[(&str, Value)]) -> Site {
    let site = Site::usual().await;
    for (name, statements) in roles {
        site.configure(&role(name, statements));
    }
    site
}

/// Asks for a role and reads the denial that must come.
async fn denied(client: &Client, role: &str) -> Heard {
    let id = client.request(role, None).await;
    let answer = client.answer(&id).await;
    assert_eq!(
        answer.kind(),
        "request.denied.v1",
        "{role}: {}",
        answer.event
    );
    answer
}

/// The login works, and ends when its lease does.
async fn assert_usable(site: &Site, issued: &Value) {
    let username = issued["username"].as_str().unwrap();
    let password = Site::secret(issued)["password"]
        .as_str()
        .unwrap()
        .to_owned();
    let session = site.login(username, &password).await.unwrap();
    session.simple_query("SELECT 1").await.unwrap();
    let row = site
        .sql()
        .await
        .query_one(
            "SELECT rolvaliduntil = expires_at FROM pg_roles
             JOIN keycard.leases ON username = rolname WHERE rolname = $1",
            &[&username],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "VALID UNTIL of {username}");
}

/// Nothing is left of requests for roles whose logins' names begin so.
async fn assert_nothing_left(site: &Site, beginning: &str) {
    let logins = site
        .sql()
        .await
        .query(
            "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, $1)",
            &[&beginning],
        )
        .await
        .unwrap();
    let logins: Vec<&str> = logins.iter().map(|row| row.get(0)).collect();
    assert_eq!(logins, [""; 0]);
    assert_eq!(
        site.count("SELECT count(*) FROM keycard.leases WHERE state <> 'closed'")
            .await,
        0
    );
    assert!(
        site.secret_files()
            .iter()
            .all(|file| file.ends_with(".lock"))
    );
}

/// The code and message of a denial, which holds nothing of statements or verifiers.
fn unusable(denial: &Heard) -> String {
    assert_eq!(denial.data()["code"], "role_unusable", "{}", denial.event);
    assert_eq!(denial.data()["retryable"], json!(false));
    let message = denial.data()["message"].as_str().unwrap().to_owned();
    for secret in ["SCRAM-SHA-256", "$4096", "CREATE ROLE", "kc_"] {
        assert!(!message.contains(secret), "{message}");
    }
    message
}
