//! A place of its own for each test: queue, database, store, configuration and workers.

mod configuration;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use self::configuration::environment;
use super::client::{Client, SOON};
use super::eventually;
use super::process::{Output, Worker};
use super::servers::{Postgres, shared_postgres, shared_rabbitmq};
use super::services::QueueKind;

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
    pub queue: QueueKind,
    pub store: StoreKind,
    /// Further lines of the role `app-role`.
    pub role: String,
    /// Further sections.
    pub sections: String,
    /// How often the sweep comes; rarely, so that tests show what events do.
    pub sweep_interval: &'static str,
    /// How often a worker reconciles; practically never, for the same reason.
    pub reconcile_interval: &'static str,
    /// Who may ask for `app-role`.
    pub requesters: Vec<&'static str>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            postgres: shared_postgres(),
            queue: QueueKind::default(),
            store: StoreKind::Directory,
            role: String::new(),
            sections: String::new(),
            sweep_interval: "10m",
            reconcile_interval: "7d",
            requesters: vec!["orders-svc", "billing-svc"],
        }
    }
}

/// One installation of keycard.
pub struct Site {
    /// Unique on this machine for as long as the tests run.
    pub name: String,
    pub postgres: &'static Postgres,
    pub queue: QueueKind,
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

static SITES: AtomicU32 = AtomicU32::new(0);

impl Site {
    /// The usual site.
    pub async fn usual() -> Self {
        Self::new(Wishes::default()).await
    }

    /// A site on `RabbitMQ`, for what no other queue has.
    pub async fn on_rabbitmq() -> Self {
        Self::new(Wishes {
            queue: QueueKind::Amqp(shared_rabbitmq()),
            ..Wishes::default()
        })
        .await
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
            secrets: directory.path().join("keycard-secrets"),
            postgres: wishes.postgres,
            queue: wishes.queue,
            environment: environment(&wishes.store),
            directory,
            workers: AtomicU32::new(0),
            name,
        };
        fs::write(&site.config, site.configuration(&wishes)).unwrap();
        site.prepare_queue().await;
        site.prepare_database().await;
        site
    }

    async fn prepare_database(&self) {
        let server = self.sql_in("postgres").await;
        // Not as a copy of template1, which has to be without a session: autovacuum may be in it.
        server
            .batch_execute(&format!(
                "CREATE DATABASE {} TEMPLATE template0",
                self.dbname
            ))
            .await
            .unwrap();
        // A zone other than UTC, so that no time is right by accident.
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

    /// Replaces a text of the configuration, which has to be there.
    pub fn rewrite(&self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&self.config, text.replace(from, to)).unwrap();
    }

    /// Adds a further database: then it has to be said which one holds the queue.
    pub fn configure_database(&self, sections: &str) {
        self.configure(sections);
        if let QueueKind::Postgres = self.queue {
            self.configure("[queue]\nkind = \"postgres\"\ndatabase = \"app\"\n");
        }
    }

    /// A second database of the site's cluster with a role `other-role`, of which these are further
    /// lines; a superuser's connection to it.
    pub async fn second_database(&self, role: &str) -> tokio_postgres::Client {
        let second = format!("{}_b", self.dbname);
        self.configure_database(&format!(
            r#"
[databases.other]
connection_url = "postgresql://{{{{username}}}}:{{{{password}}}}@{}:{}/{second}"
username = "{}"
password = {{ env = "DB_ADMIN_PASSWORD" }}
allowed_roles = ["*"]
[roles.other-role]
database = "other"
groups = ["GROUP"]
requesters = ["orders-svc"]
{role}
"#,
            self.postgres.host, self.postgres.port, self.admin
        ));
        let create = format!("CREATE DATABASE {second} TEMPLATE template0");
        self.sql().await.batch_execute(&create).await.unwrap();
        let script = self.keycard(&["setup-sql", "--database", "other"]).stdout;
        let sql = self.sql_in(&second).await;
        sql.batch_execute(&script).await.unwrap();
        sql
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

    /// Runs statements as a superuser in the site's database.
    pub async fn superuser(&self, statements: &str) {
        self.sql().await.batch_execute(statements).await.unwrap();
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
        let config = self.connection(dbname, username, password);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// How anybody connects to the site's server.
    pub fn connection(
        &self,
        dbname: &str,
        username: &str,
        password: &str,
    ) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.postgres.host)
            .port(self.postgres.port)
            .dbname(dbname)
            .user(username)
            .password(password);
        config
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
        Client::connect(self, user).await
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

    /// The database's URL for keycard, with a setting for its sessions and their statements' time.
    pub fn url_with(&self, setting: &str, seconds: u32) -> String {
        format!(
            "postgresql://{{{{username}}}}:{{{{password}}}}@{}:{}/{}\
             ?options=-c%20{setting}%3D{seconds}s%20-c%20statement_timeout%3D{seconds}s",
            self.postgres.host, self.postgres.port, self.dbname
        )
    }

    /// A worker serves after five seconds even if its ledger is not prepared: waits until it is, and
    /// whoever prepares it has let go of the lock.
    pub async fn is_prepared(&self) {
        const PREPARED: &str = "SELECT FROM keycard.ledger WHERE NOT EXISTS (
            SELECT FROM pg_locks JOIN pg_database d ON d.oid = database
            WHERE locktype = 'advisory' AND datname = current_database())";
        let sql = self.sql().await;
        eventually("the ledger is prepared", SOON, async || {
            let ledger = sql.query_opt(PREPARED, &[]).await;
            ledger.ok().flatten().map(|_| ())
        })
        .await;
    }

    /// Starts a worker with further variables in its environment, and does not wait.
    pub fn worker_unready(&self, variables: &[(&str, &str)]) -> Worker {
        self.worker_at("debug", variables)
    }

    /// The same, at a log level.
    pub fn worker_at(&self, level: &str, variables: &[(&str, &str)]) -> Worker {
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.path().join(format!("worker{number}.log"));
        let mut command = self.command(&["--log-level", level, "worker"]);
        Worker::start(command.envs(variables.iter().copied()), log)
    }

    /// Runs the command line of this site to its end.
    pub fn keycard(&self, arguments: &[&str]) -> Output {
        Output::of(&mut self.command(arguments))
    }

    /// A lease as an operator sees it.
    pub fn shown(&self, lease_id: &str) -> Value {
        let shown = self.keycard(&["lease", "show", lease_id, "--output", "json"]);
        assert!(shown.status.success(), "{}", shown.stderr);
        serde_json::from_str(&shown.stdout).unwrap()
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
        if let QueueKind::Amqp(rabbitmq) = self.queue {
            rabbitmq.delete_vhost(&self.vhost);
        }
    }
}
