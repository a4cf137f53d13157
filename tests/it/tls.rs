//! TLS to the broker and to Postgres, with authorities of one's own.

mod amqp;

use std::path::Path;
use std::sync::OnceLock;

use crate::services::with_python;
use crate::support::authority::{Authority, trusted, trusted_rabbitmq};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::{Output, Worker};
use crate::support::servers::{Postgres, postgres_version, shared_postgres};
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

/// A database that speaks TLS.
fn trusted_postgres() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| {
        let version = postgres_version();
        trusted().start(|tls| Postgres::start(version, &[], Some(tls)))
    })
}

/// A broker that speaks TLS, if this run is about brokers.
fn trusted_queue() -> QueueKind {
    match QueueKind::default() {
        QueueKind::Amqp(_) => QueueKind::Amqp(trusted_rabbitmq()),
        QueueKind::Postgres => QueueKind::Postgres,
    }
}

/// A site on these servers, and how a worker reaches them by TLS.
struct Secured {
    site: Site,
    variables: Vec<(&'static str, String)>,
}

/// Not to be found in any log.
const ADMIN_CANARY: &str = "canary-of-the-admin";
const BROKER_CANARY: &str = "canary-of-the-broker";

impl Secured {
    async fn new(postgres: &'static Postgres, queue: QueueKind, ca: &Path) -> Self {
        let site = Site::new(Wishes {
            postgres,
            queue,
            ..Wishes::default()
        })
        .await;
        let sql = site.sql().await;
        let change = format!("ALTER ROLE {} PASSWORD '{ADMIN_CANARY}'", site.admin);
        sql.batch_execute(&change).await.unwrap();
        let ca = ca.to_str().unwrap().to_owned();
        let mut variables = vec![
            ("DB_ADMIN_PASSWORD", ADMIN_CANARY.to_owned()),
            ("KEYCARD_DATABASES__APP__CA_FILE", ca.clone()),
        ];
        if let QueueKind::Amqp(rabbitmq) = queue {
            let port = rabbitmq.tls_port.unwrap_or(rabbitmq.port);
            let user = format!("worker-{}", site.name);
            rabbitmq.add_user(&user, BROKER_CANARY);
            rabbitmq.set_permissions(&site.vhost, &user, ".*", ".*", ".*");
            variables.extend([
                ("BROKER_PASSWORD", BROKER_CANARY.to_owned()),
                (
                    "KEYCARD_QUEUE__URL",
                    format!("amqps://{user}@127.0.0.1:{port}/{}", site.vhost),
                ),
                ("KEYCARD_QUEUE__CA_FILE", ca),
            ]);
        }
        Self { site, variables }
    }

    fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.into()));
    }

    fn worker(&self) -> Worker {
        let variables: Vec<(&str, &str)> = self
            .variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        self.site.worker_unready(&variables)
    }

    /// What `keycard doctor` says of all this.
    fn doctor(&self) -> Output {
        let mut doctor = self.site.command(&["doctor"]);
        let variables = self.variables.iter();
        Output::of(doctor.envs(variables.map(|(name, value)| (name, value))))
    }

    /// The worker leaves the database alone and says all of `words`.
    async fn misses_its_database(&self, words: &[&str]) {
        self.says(words).await;
        let ledger = "SELECT count(*) FROM pg_class
                      WHERE relnamespace = to_regnamespace('keycard')";
        assert_eq!(self.site.count(ledger).await, 0);
    }

    async fn says(&self, words: &[&str]) -> String {
        let worker = self.worker();
        eventually(&format!("the log says {words:?}"), SOON, async || {
            let log = worker.log();
            words.iter().all(|word| log.contains(word)).then_some(())
        })
        .await;
        let log = worker.log();
        assert!(!log.contains(ADMIN_CANARY) && !log.contains(BROKER_CANARY));
        log
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_issued_over_tls_with_an_authority_of_ones_own() {
    let ca = trusted().certificate();
    let secured = Secured::new(trusted_postgres(), trusted_queue(), &ca).await;
    let worker = secured.worker();
    worker.ready().await;
    let site = &secured.site;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    let secret = Site::secret(&issued);
    assert_eq!(secret["ssl"], true);
    let clear = site
        .count(&format!(
            "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
             WHERE usename = '{}' AND NOT ssl",
            site.admin
        ))
        .await;
    assert_eq!(clear, 0);
    let encrypted = site
        .count(&format!(
            "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
             WHERE usename = '{}' AND ssl",
            site.admin
        ))
        .await;
    assert!(encrypted > 0);
    let looked = secured.doctor();
    let said = &looked.stdout;
    assert!(looked.status.success(), "{said}");
    assert!(said.contains(", over verified TLS"), "{said}");
}

/// libpq takes the authority from its own variable.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_speaks_tls_with_an_authority_of_ones_own() {
    let ca = trusted().certificate();
    let secured = Secured::new(trusted_postgres(), trusted_queue(), &ca).await;
    let worker = secured.worker();
    worker.ready().await;
    let site = &secured.site;
    let url = match site.queue {
        QueueKind::Amqp(rabbitmq) => {
            let port = rabbitmq.tls_port.unwrap();
            format!("amqps://orders-svc@127.0.0.1:{port}/{}", site.vhost)
        }
        QueueKind::Postgres => site.client_url("orders-svc"),
    };
    site.configure(&format!(
        "[client]\nurl = {url:?}\npassword = {{ env = \"MY_PASSWORD\" }}\nca_file = {ca:?}\n"
    ));
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let mut command = site.command(&["run", "app-role", "--", "psql", "-Atc", encrypted]);
    command
        .env("MY_PASSWORD", "orders-svc")
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", site.path());
    let unknown = command.output().unwrap();
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert!(said.contains("root certificate file"), "{said}");
    let known = command.env("PGSSLROOTCERT", &ca).output().unwrap();
    let said = String::from_utf8(known.stderr).unwrap();
    assert_eq!(String::from_utf8(known.stdout).unwrap(), "t\n", "{said}");
}

/// The short service as well looks whom it gives its password.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_service_verifies_its_database() {
    let ca = trusted().certificate();
    let secured = Secured::new(trusted_postgres(), QueueKind::Postgres, &ca).await;
    let worker = secured.worker();
    worker.ready().await;
    let site = &secured.site;
    let url = site.client_url("orders-svc");
    let url = url.replace("orders-svc@", "orders-svc:orders-svc@") + "?sslmode=disable";
    let mut service = with_python("embedded.py");
    service.env("QUEUE_URL", url).env("ROLE", "app-role");
    let known = service.env("PGSSLROOTCERT", &ca).output().unwrap();
    assert!(known.status.success(), "{known:?}");
    let stranger = Authority::for_hosts(&["127.0.0.1"]);
    service.env("PGSSLROOTCERT", stranger.certificate());
    let unknown = service.output().unwrap();
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert!(said.contains("certificate verify failed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_an_unknown_authority_is_not_spoken_to() {
    let ca = trusted().certificate();
    let mut secured = Secured::new(trusted_postgres(), trusted_queue(), &ca).await;
    let stranger = Authority::for_hosts(&["127.0.0.1"]);
    let other = stranger.certificate();
    secured.set("KEYCARD_DATABASES__APP__CA_FILE", other.to_str().unwrap());
    secured
        .misses_its_database(&[
            "a database cannot be used yet",
            "UnknownIssuer",
            "in ca_file the authority that signed it",
        ])
        .await;
    let looked = secured.doctor();
    let said = &looked.stdout;
    assert_eq!(looked.status.code(), Some(1), "{said}");
    assert!(said.contains("UnknownIssuer"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_the_certificate_of_another_host_is_not_spoken_to() {
    let elsewhere = Authority::for_hosts(&["db.example.com"]);
    let version = postgres_version();
    let postgres = elsewhere.start(|tls| Postgres::start(version, &[], Some(tls)));
    let postgres: &'static Postgres = Box::leak(Box::new(postgres));
    let ca = elsewhere.certificate();
    let mut secured = Secured::new(postgres, trusted_queue(), &ca).await;
    if let QueueKind::Amqp(_) = secured.site.queue {
        let broker_ca = trusted().certificate();
        secured.set("KEYCARD_QUEUE__CA_FILE", broker_ca.to_str().unwrap());
    }
    secured
        .misses_its_database(&[
            "a database cannot be used yet",
            "not valid for name",
            "name the host as in the server's certificate",
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_tls_is_not_spoken_to_when_tls_is_wanted() {
    let ca = trusted().certificate();
    let postgres = shared_postgres();
    let secured = Secured::new(postgres, trusted_queue(), &ca).await;
    secured
        .misses_its_database(&[
            "a database cannot be used yet",
            "server does not support TLS",
        ])
        .await;
}
