//! What tests ask of answers and of what is left behind.

use std::path::PathBuf;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::client::{Client, Heard, SOON};
use super::eventually;
use super::site::Site;

impl Heard {
    /// The code of a denial.
    pub fn denial(&self) -> &str {
        assert_eq!(self.kind(), "request.denied.v1", "{}", self.event);
        self.data()["code"].as_str().unwrap()
    }

    /// The lease of an `issued` event.
    pub fn lease_id(&self) -> &str {
        assert_eq!(self.kind(), "credential.issued.v1", "{}", self.event);
        self.data()["lease_id"].as_str().unwrap()
    }

    /// What a denial says about anything but the command that it answers.
    pub fn denied_as(&self) -> Value {
        self.denial();
        let data = self.data();
        json!([data["code"], data["message"], data["retryable"]])
    }
}

impl Client {
    /// A request as this service writes it.
    pub fn asking(&self, id: &str, role: &str) -> Value {
        self.event(id, "credential.request.v1", json!({ "role": role }))
    }

    /// What was heard so far, in short: each event's type and the command that it answers.
    pub fn story(&self) -> Vec<String> {
        let heard = self.heard();
        let lines = heard.iter().map(|heard| {
            let answers = heard.answers().unwrap_or("nothing asked");
            format!("{} to {answers}", heard.kind())
        });
        lines.collect()
    }

    /// Publishes a command as it is; `lane` is `requests` or `leases`.
    pub async fn say(&self, lane: &str, command: &Value) {
        self.publish(lane, command.to_string().as_bytes()).await;
    }

    /// Publishes a command that the service has published before; all its answers so far.
    pub async fn say_again(&self, lane: &str, command: &Value) -> Vec<Heard> {
        let id = command["id"].as_str().unwrap();
        let before = self.answers_to(id).len();
        self.say(lane, command).await;
        self.answers(id, before + 1).await
    }

    /// Waits until a command has this many answers.
    pub async fn answers(&self, id: &str, count: usize) -> Vec<Heard> {
        // A repetition that finds the command in work waits until that attempt's hold is over.
        let seconds = 60 + SOON;
        eventually(&format!("{count} answers to {id}"), seconds, async || {
            Some(self.answers_to(id)).filter(|answers| answers.len() >= count)
        })
        .await
    }
}

impl Site {
    /// The files of the directory store that clients may read.
    pub fn secrets_told(&self) -> Vec<PathBuf> {
        let mut files = self.secret_files();
        files.retain(|file| !file.file_name().unwrap().to_string_lossy().starts_with('.'));
        files
    }

    /// Logs in with what `issued` events point to.
    pub async fn assert_credentials_work<'a>(&self, issued: impl IntoIterator<Item = &'a Value>) {
        let logins = stream::iter(issued).map(async |issued| {
            let secret = Self::secret(issued);
            assert_eq!(secret["username"], issued["username"]);
            assert_eq!(secret["lease_id"], issued["lease_id"]);
            let username = secret["username"].as_str().unwrap();
            let session = self
                .login(username, secret["password"].as_str().unwrap())
                .await
                .unwrap_or_else(|error| panic!("{username}: {error}"));
            let who = session.query_one("SELECT current_user::text", &[]).await;
            assert_eq!(who.unwrap().get::<_, &str>(0), username);
        });
        logins.buffer_unordered(8).collect::<Vec<()>>().await;
    }

    /// So many leases are alive, each with its login and its secret, and no others are there.
    pub async fn assert_live(&self, leases: i64) {
        let live = "SELECT count(*) FROM keycard.leases WHERE state = 'active'";
        assert_eq!(self.count(live).await, leases, "live leases");
        assert_eq!(self.logins().await, leases, "logins");
        let made = "SELECT count(*) FROM pg_roles WHERE pg_has_role(oid, 'GROUP', 'member')
                    AND NOT rolsuper AND rolname LIKE 'kc\\_%'";
        let made = self.count(&made.replace("GROUP", &self.group)).await;
        assert_eq!(made, leases, "logins, whatever the ledger says");
        let secrets = self.secrets_told();
        let count = i64::try_from(secrets.len()).unwrap();
        assert_eq!(count, leases, "secrets: {secrets:#?}");
    }

    /// Rows of the ledger: leases of any state, and commands.
    pub async fn rows(&self) -> (i64, i64) {
        (
            self.count("SELECT count(*) FROM keycard.leases").await,
            self.count("SELECT count(*) FROM keycard.requests").await,
        )
    }
}
