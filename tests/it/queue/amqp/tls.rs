//! TLS with a certificate authority of one's own, and what an operator reads when it is wrong.

use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, Once};

use keycard::queue::amqp::AmqpQueue;
use keycard::queue::{Lane, Queue};
use lapin::uri::AMQPScheme;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::task::block_in_place;
use tracing_subscriber::fmt::MakeWriter;

use super::{Vhost, connect};
use crate::queue::conformance::{Backend, Command, ack, next};
use crate::support::eventually;
use crate::support::servers::{RabbitMq, Tls};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn write(directory: &Path, name: &str, pem: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, pem).unwrap();
    path
}

/// As the binary does.
pub fn use_one_crypto_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_and_no_other() {
    use_one_crypto_provider();
    let directory = tempfile::tempdir().unwrap();
    let (right, wrong) = (authority("right"), authority("wrong"));
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &right)
        .unwrap();
    let certificate = write(directory.path(), "tls.crt", &certificate.pem());
    let key = write(directory.path(), "tls.key", &key.serialize_pem());
    let right = write(directory.path(), "right.crt", &right.pem());
    let wrong = write(directory.path(), "wrong.crt", &wrong.pem());
    let broker = block_in_place(|| {
        RabbitMq::start(Some(&Tls {
            certificate: &certificate,
            key: &key,
            authority: &right,
        }))
    });
    let vhost = Vhost::of(Box::leak(Box::new(broker)));
    let settings = |ca_file: &Path| {
        let mut settings = vhost.settings();
        settings.uri.scheme = AMQPScheme::AMQPS;
        "localhost".clone_into(&mut settings.uri.authority.host);
        settings.uri.authority.port = vhost.broker.tls_port.unwrap();
        settings.ca_file = Some(ca_file.to_owned());
        settings
    };

    let worker = connect(settings(&right)).await.unwrap();
    let mut requests = worker.consume(Lane::Requests);
    vhost
        .send("orders", Lane::Requests, Command::new("1"))
        .await;
    ack(next(&mut requests).await).await;

    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    let refused = settings(&wrong);
    let said = log.clone();
    let connecting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(async {
                let mut connecting = pin!(AmqpQueue::connect(refused));
                let told = eventually("it is told", 30, async || {
                    said.text().contains("UnknownIssuer").then_some(())
                });
                tokio::select! {
                    _ = &mut connecting => panic!("it gave up, or is connected"),
                    () = told => {}
                }
                // It keeps trying, and says no more of it.
                let more = tokio::time::timeout(std::time::Duration::from_secs(4), connecting);
                assert!(more.await.is_err());
            });
        });
    });
    block_in_place(|| connecting.join()).unwrap();
    let text = log.text();
    assert!(text.contains("UnknownIssuer"), "{text}");
    let warnings = text.lines().filter(|line| line.contains(" WARN ")).count();
    assert_eq!(warnings, 1, "one for the whole outage: {text}");
    assert!(
        !text.contains("outdated") && !text.contains("p@ss"),
        "{text}"
    );
}
