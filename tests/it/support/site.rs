//! A place of its own for each test: vhost, database, store, configuration and workers.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use keycard::lease::Requester;
use serde_json::Value;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use super::client::Client;
use super::eventually;
use super::servers::{Postgres, RabbitMq, shared_postgres, shared_rabbitmq};

/// Where a site keeps its secrets.
pub enum StoreKind {
    /// In files.
    Directory,
    /// In something that speaks Secrets Manager's protocol, at this address.
    Aws(String),
}

/// What a test wants different from the usual.
pub struct Wishes {
    pub postgres: &'static Postgres,
    pub rabbitmq: &'static RabbitMq,
    pub store: StoreKind,
    /// Further lines of the role `app-role`.
    pub role: String,
    /// Further sections.
    pub sections: String,
    /// How often the sweep comes; rarely, so that tests show what events do.
    pub sweep_interval: &'static str,
    /// Who may ask for `app-role`.
    pub requesters: Vec<&'static str>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            postgres: shared_postgres(),
            rabbitmq: shared_rabbitmq(),
            store: StoreKind::Directory,
            role: String::new(),
            sections: String::new(),
            sweep_interval: "10m",
            requesters: vec!["orders-svc", "billing-svc"],
        }
    }
}

/// One installation of keycard.
pub struct Site {
    /// Unique on this machine for as long as the tests run.
    pub name: String,
    pub postgres: &'static Postgres,
    pub rabbitmq: &'static RabbitMq,
    pub vhost: String,
    pub dbname: String,
    pub admin: String,
    pub group: String,
    pub config: PathBuf,
    pub secrets: PathBuf,
    environment: Vec<(String, String)>,
    directory: TempDir,
    workers: AtomicU32,
}

/// Broker users of every site; their password is their name.
const USERS: [&str; 9] = [
    "kc-worker",
    "orders-svc",
    "billing-svc",
    "platform-ops",
    "mallory",
    "a",
    "a.b",
    "a/b",
    "../x",
];

static SITES: AtomicU32 = AtomicU32::new(0);

impl Site {
    /// The usual site.
    pub async fn usual() -> Self {
        Self::new(Wishes::default()).await
    }

    pub async fn new(wishes: Wishes) -> Self {
        let number = SITES.fetch_add(1, Ordering::Relaxed);
        let name = format!("site{}x{number}", std::process::id());
        let directory = TempDir::with_prefix("keycard-").unwrap();
        let site = Self {
            vhost: name.clone(),
            dbname: name.clone(),
            admin: format!("admin_{name}"),
            group: format!("app_{name}"),
            config: directory.path().join("keycard.toml"),
            secrets: directory.path().join("secrets"),
            postgres: wishes.postgres,
            rabbitmq: wishes.rabbitmq,
            environment: environment(&wishes.store),
            directory,
            workers: AtomicU32::new(0),
            name,
        };
        fs::write(&site.config, site.configuration(&wishes)).unwrap();
        site.prepare_broker();
        site.prepare_database().await;
        site
    }

    fn configuration(&self, wishes: &Wishes) -> String {
        let mut text = format!(
            r#"
installation = "{name}"
operators = ["platform-ops"]

[databases.app]
connection_url = "postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/{dbname}"
username = "{admin}"
password = {{ env = "DB_ADMIN_PASSWORD" }}
allowed_roles = ["*"]

[roles.app-role]
database = "app"
requesters = {requesters:?}
{role}
[queue]
kind = "amqp"
url = "amqp://kc-worker@{broker}:{broker_port}/{vhost}"
password = {{ env = "BROKER_PASSWORD" }}

[worker]
sweep_interval = "{sweep_interval}"
"#,
            name = self.name,
            host = self.postgres.host,
            port = self.postgres.port,
            dbname = self.dbname,
            admin = self.admin,
            requesters = wishes.requesters,
            role = self.role(&wishes.role),
            broker = self.rabbitmq.host,
            broker_port = self.rabbitmq.port,
            vhost = self.vhost,
            sweep_interval = wishes.sweep_interval,
        );
        match &wishes.store {
            StoreKind::Directory => {
                let _ = write!(
                    text,
                    "[store]\nkind = \"directory\"\npath = {:?}\n",
                    self.secrets
                );
            }
            StoreKind::Aws(_) => {
                let _ = write!(
                    text,
                    "[store]\nkind = \"aws-secrets-manager\"\nprefix = \"keycard\"\n"
                );
            }
        }
        text.push_str(&wishes.sections.replace("GROUP", &self.group));
        text
    }

    /// Groups and times, unless the test says otherwise.
    fn role(&self, wished: &str) -> String {
        let mut lines = String::new();
        for (key, value) in [
            ("default_ttl", "\"1h\"".to_owned()),
            ("max_ttl", "\"24h\"".to_owned()),
            ("min_ttl", "\"1s\"".to_owned()),
        ] {
            if !wished.contains(key) {
                let _ = writeln!(lines, "{key} = {value}");
            }
        }
        if !wished.contains("creation_statements") && !wished.contains("groups") {
            let _ = writeln!(lines, "groups = [\"{}\"]", self.group);
        }
        lines + &wished.replace("GROUP", &self.group) + "\n"
    }

    fn prepare_broker(&self) {
        let rabbitmq = self.rabbitmq;
        rabbitmq.create_vhost(&self.vhost);
        for user in USERS {
            add_user_once(rabbitmq, user);
            if user == "kc-worker" {
                let own = "^keycard\\.";
                let write = "^(keycard\\.|amq\\.default$)";
                rabbitmq.set_permissions(&self.vhost, user, own, write, own);
            } else {
                // Its own anonymous queue, the two command exchanges, results.
                rabbitmq.set_permissions(
                    &self.vhost,
                    user,
                    "^amq\\.gen.*",
                    "^(amq\\.gen.*|keycard\\.(requests|leases))$",
                    "^(amq\\.gen.*|keycard\\.events)$",
                );
                let own = format!("^{}\\.", Requester::new(user).unwrap().encoded());
                rabbitmq.set_topic_permissions(&self.vhost, user, "keycard.events", &own);
            }
        }
    }

    async fn prepare_database(&self) {
        let server = self.sql_in("postgres").await;
        // A zone other than UTC, so that no time is right by accident.
        server
            .batch_execute(&format!("CREATE DATABASE {}", self.dbname))
            .await
            .unwrap();
        server
            .batch_execute(&format!(
                "ALTER DATABASE {} SET timezone = 'America/St_Johns'",
                self.dbname
            ))
            .await
            .unwrap();
        let database = self.sql().await;
        database
            .batch_execute(&format!(
                "CREATE ROLE {group} NOLOGIN;
                 CREATE TABLE public.orders (id int);
                 INSERT INTO public.orders VALUES (1);
                 GRANT SELECT, INSERT ON public.orders TO {group}",
                group = self.group
            ))
            .await
            .unwrap();
        let script = self.keycard(&["setup-sql", "--database", "app"]);
        assert!(script.status.success(), "{}", script.stderr);
        database.batch_execute(&script.stdout).await.unwrap();
        database
            .batch_execute(&format!("ALTER ROLE {} PASSWORD 'admin'", self.admin))
            .await
            .unwrap();
        let more_than_it_needs = database
            .query_one(
                "SELECT rolsuper OR rolcreatedb OR rolreplication OR rolbypassrls
                 FROM pg_roles WHERE rolname = $1",
                &[&self.admin],
            )
            .await
            .unwrap();
        assert!(!more_than_it_needs.get::<_, bool>(0), "{}", self.admin);
    }

    /// Adds to the configuration, after the script of `setup-sql` was made from it.
    pub fn configure(&self, sections: &str) {
        let text = fs::read_to_string(&self.config).unwrap();
        let more = sections.replace("GROUP", &self.group);
        fs::write(&self.config, text + &more).unwrap();
    }

    /// A superuser's connection to the site's database.
    pub async fn sql(&self) -> tokio_postgres::Client {
        self.sql_in(&self.dbname).await
    }

    pub async fn sql_in(&self, dbname: &str) -> tokio_postgres::Client {
        self.connect(dbname, &self.postgres.superuser, &self.postgres.password)
            .await
            .unwrap()
    }

    /// Anybody's connection to the site's database.
    pub async fn login(
        &self,
        username: &str,
        password: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        self.connect(&self.dbname, username, password).await
    }

    pub async fn connect(
        &self,
        dbname: &str,
        username: &str,
        password: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host(&self.postgres.host)
            .port(self.postgres.port)
            .dbname(dbname)
            .user(username)
            .password(password)
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// One number of the site's database.
    pub async fn count(&self, query: &str) -> i64 {
        self.sql().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Logins that keycard has made for this site's roles and not dropped.
    pub async fn logins(&self) -> i64 {
        self.count(
            "SELECT count(*) FROM pg_roles WHERE rolname IN (SELECT username FROM keycard.leases)",
        )
        .await
    }

    /// A service of this site.
    pub async fn client(&self, user: &str) -> Client {
        Client::connect(&self.uri(user), user).await
    }

    /// How a broker user of this site connects.
    pub fn uri(&self, user: &str) -> String {
        let encoded =
            percent_encoding::utf8_percent_encode(user, percent_encoding::NON_ALPHANUMERIC);
        format!(
            "amqp://{encoded}:{encoded}@{}:{}/{}",
            self.rabbitmq.host, self.rabbitmq.port, self.vhost
        )
    }

    /// The secret that an `issued` event points to, as a client reads a file.
    pub fn secret(issued: &Value) -> Value {
        let path = issued["secret"]["locator"].as_str().unwrap();
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_str(&text).unwrap()
    }

    /// Files in the directory store.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        files(&self.secrets)
    }

    /// Starts a worker and waits until it serves.
    pub async fn worker(&self) -> Worker {
        let worker = self.worker_unready(&[]);
        worker.ready().await;
        worker
    }

    /// Starts a worker with further variables in its environment, and does not wait.
    pub fn worker_unready(&self, variables: &[(&str, &str)]) -> Worker {
        self.worker_at("debug", variables)
    }

    /// The same, at a log level.
    pub fn worker_at(&self, level: &str, variables: &[(&str, &str)]) -> Worker {
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.path().join(format!("worker{number}.log"));
        let child = self
            .command(&["--log-level", level, "worker"])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Worker { child, log }
    }

    /// Runs the command line of this site to its end.
    pub fn keycard(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        Output {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Where a test may put files of its own; they go with the site.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The command line of this site, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keycard"));
        command
            .args(["--config"])
            .arg(&self.config)
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }
}

fn environment(store: &StoreKind) -> Vec<(String, String)> {
    let mut variables = vec![
        ("DB_ADMIN_PASSWORD".to_owned(), "admin".to_owned()),
        ("BROKER_PASSWORD".to_owned(), "kc-worker".to_owned()),
    ];
    if let StoreKind::Aws(url) = store {
        for (key, value) in [
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", url.as_str()),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ] {
            variables.push((key.to_owned(), value.to_owned()));
        }
    }
    variables
}

/// Users belong to the broker, not to a vhost.
fn add_user_once(rabbitmq: &RabbitMq, user: &str) {
    static ADDED: OnceLock<std::sync::Mutex<std::collections::BTreeSet<(u16, String)>>> =
        OnceLock::new();
    let mut added = ADDED.get_or_init(Default::default).lock().unwrap();
    if added.insert((rabbitmq.port, user.to_owned())) {
        rabbitmq.add_user(user, user);
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return vec![];
    };
    entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

impl Drop for Site {
    fn drop(&mut self) {
        self.rabbitmq.delete_vhost(&self.vhost);
    }
}

/// What a finished command said.
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A running worker; killed when dropped.
pub struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    pub async fn ready(&self) {
        eventually("the worker serves", 60, async || {
            self.log().contains("keycard serves").then_some(())
        })
        .await;
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it any signal.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// Waits for its end.
    pub async fn exit(&mut self, seconds: u64) -> ExitStatus {
        eventually("the worker ends", seconds, async || {
            self.child.try_wait().unwrap()
        })
        .await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- {}", self.log.display());
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
