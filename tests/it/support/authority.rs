//! Certificate authorities of the tests' own, and the broker that one of them vouches for.

use std::path::PathBuf;
use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::task::block_in_place;

use super::servers::{RabbitMq, Tls};

/// A private authority, and what it has signed.
pub struct Authority {
    directory: TempDir,
}

impl Authority {
    /// One that has signed a certificate for these hosts.
    pub fn for_hosts(hosts: &[&str]) -> Self {
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

    /// What makes others trust it, a file.
    pub fn certificate(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// Starts a server with the certificate.
    pub fn start<T>(&self, start: impl FnOnce(&Tls<'_>) -> T) -> T {
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

/// The authority that vouches for the servers that tests share.
pub fn trusted() -> &'static Authority {
    static SHARED: OnceLock<Authority> = OnceLock::new();
    SHARED.get_or_init(|| Authority::for_hosts(&["127.0.0.1", "localhost"]))
}

/// The broker that speaks TLS as well.
pub fn trusted_rabbitmq() -> &'static RabbitMq {
    static SHARED: OnceLock<RabbitMq> = OnceLock::new();
    SHARED.get_or_init(|| trusted().start(|tls| RabbitMq::start(Some(tls))))
}
