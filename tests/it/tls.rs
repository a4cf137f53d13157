//! TLS to the broker and to Postgres, with authorities of one's own.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::task::block_in_place;

use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::servers::{
    Postgres, RabbitMq, Tls, postgres_version, shared_postgres, shared_rabbitmq,
};
use crate::support::site::{Site, Wishes, Worker};

/// A private authority, and what it has signed.
struct Authority {
    directory: TempDir,
}

impl Authority {
    /// One that has signed a certificate for these hosts.
    fn for_hosts(hosts: &[&str]) -> Self {
        // What a static holds is not removed at the end: it stays below target/.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // As two authorities of the same name would be taken for one.
        let name = format!("authority {}", keycard::clock::uuid_v7());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let names: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let server_key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(names).unwrap();
        let server = server.signed_by(&server_key, &issuer).unwrap();
        for (name, pem) in [
            ("ca.pem", own.pem()),
            ("server.pem", server.pem()),
            ("server.key", server_key.serialize_pem()),
        ] {
            std::fs::write(directory.path().join(name), pem).unwrap();
        }
        Self { directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn certificate(&self) -> PathBuf {
        self.file("ca.pem")
    }

    fn start<T>(&self, start: impl FnOnce(&Tls<'_>) -> T) -> T {
        let (certificate, key) = (self.file("server.pem"), self.file("server.key"));
        let authority = self.certificate();
        block_in_place(|| {
            start(&Tls {
                certificate: &certificate,
                key: &key,
                authority: &authority,
            })
        })
    }
}

/// Servers that speak TLS, and who vouches for them.
struct Trusted {
    authority: Authority,
    postgres: Postgres,
    rabbitmq: RabbitMq,
}

fn trusted() -> &'static Trusted {
    static SHARED: OnceLock<Trusted> = OnceLock::new();
    SHARED.get_or_init(|| {
        let authority = Authority::for_hosts(&["127.0.0.1", "localhost"]);
        let version = postgres_version();
        Trusted {
            postgres: authority.start(|tls| Postgres::start(version, &[], Some(tls))),
            rabbitmq: authority.start(|tls| RabbitMq::start(Some(tls))),
            authority,
        }
    })
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
    async fn new(postgres: &'static Postgres, rabbitmq: &'static RabbitMq, ca: &Path) -> Self {
        let site = Site::new(Wishes {
            postgres,
            rabbitmq,
            ..Wishes::default()
        })
        .await;
        let sql = site.sql().await;
        let change = format!("ALTER ROLE {} PASSWORD '{ADMIN_CANARY}'", site.admin);
        sql.batch_execute(&change).await.unwrap();
        let ca = ca.to_str().unwrap().to_owned();
        let port = rabbitmq.tls_port.unwrap_or(rabbitmq.port);
        let user = format!("worker-{}", site.name);
        rabbitmq.add_user(&user, BROKER_CANARY);
        rabbitmq.set_permissions(&site.vhost, &user, ".*", ".*", ".*");
        let variables = vec![
            ("DB_ADMIN_PASSWORD", ADMIN_CANARY.to_owned()),
            ("BROKER_PASSWORD", BROKER_CANARY.to_owned()),
            ("KEYCARD_DATABASES__APP__CA_FILE", ca.clone()),
            (
                "KEYCARD_QUEUE__URL",
                format!("amqps://{user}@127.0.0.1:{port}/{}", site.vhost),
            ),
            ("KEYCARD_QUEUE__CA_FILE", ca),
        ];
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

    /// The worker does not serve and says all of `words`.
    async fn misses_its_broker(&self, words: &[&str]) {
        let log = self.says(words).await;
        assert!(!log.contains("keycard serves"));
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
    let servers = trusted();
    let ca = servers.authority.certificate();
    let secured = Secured::new(&servers.postgres, &servers.rabbitmq, &ca).await;
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_an_unknown_authority_is_not_spoken_to() {
    let servers = trusted();
    let ca = servers.authority.certificate();
    let mut secured = Secured::new(&servers.postgres, &servers.rabbitmq, &ca).await;
    let stranger = Authority::for_hosts(&["127.0.0.1"]);
    let other = stranger.certificate();
    secured.set("KEYCARD_QUEUE__CA_FILE", other.to_str().unwrap());
    secured
        .misses_its_broker(&["RabbitMQ is out of reach", "UnknownIssuer"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_an_unknown_authority_is_not_spoken_to() {
    let servers = trusted();
    let ca = servers.authority.certificate();
    let mut secured = Secured::new(&servers.postgres, &servers.rabbitmq, &ca).await;
    let stranger = Authority::for_hosts(&["127.0.0.1"]);
    let other = stranger.certificate();
    secured.set("KEYCARD_DATABASES__APP__CA_FILE", other.to_str().unwrap());
    secured
        .misses_its_database(&["a database cannot be used yet", "UnknownIssuer"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_the_certificate_of_another_host_is_not_spoken_to() {
    let servers = trusted();
    let elsewhere = Authority::for_hosts(&["db.example.com"]);
    let version = postgres_version();
    let postgres = elsewhere.start(|tls| Postgres::start(version, &[], Some(tls)));
    let postgres: &'static Postgres = Box::leak(Box::new(postgres));
    let ca = elsewhere.certificate();
    let mut secured = Secured::new(postgres, &servers.rabbitmq, &ca).await;
    let broker_ca = servers.authority.certificate();
    secured.set("KEYCARD_QUEUE__CA_FILE", broker_ca.to_str().unwrap());
    secured
        .misses_its_database(&["a database cannot be used yet", "not valid for name"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_tls_is_not_spoken_to_when_tls_is_wanted() {
    let servers = trusted();
    let ca = servers.authority.certificate();
    let postgres = shared_postgres();
    let secured = Secured::new(postgres, &servers.rabbitmq, &ca).await;
    secured
        .misses_its_database(&[
            "a database cannot be used yet",
            "server does not support TLS",
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_tls_is_not_spoken_to_when_tls_is_wanted() {
    let servers = trusted();
    let ca = servers.authority.certificate();
    let rabbitmq = shared_rabbitmq();
    let secured = Secured::new(&servers.postgres, rabbitmq, &ca).await;
    secured
        .misses_its_broker(&["RabbitMQ is out of reach", "corrupt message"])
        .await;
}
