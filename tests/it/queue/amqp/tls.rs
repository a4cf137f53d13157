//! TLS with a certificate authority of one's own, and what an operator reads when it is wrong.

use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, Once};

use keycard::queue::amqp::AmqpQueue;
use keycard::queue::{Lane, Queue};
use lapin::uri::AMQPScheme;
use tokio::task::block_in_place;
use tracing_subscriber::fmt::MakeWriter;

use super::{Vhost, connect};
use crate::queue::conformance::{Backend, Command, PATIENCE, ack, next};
use crate::support::authority::{Authority, trusted, trusted_rabbitmq};
use crate::support::eventually;

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
    let vhost = Vhost::of(block_in_place(trusted_rabbitmq));
    let settings = |ca_file: &Path| {
        let mut settings = vhost.settings();
        settings.uri.scheme = AMQPScheme::AMQPS;
        "localhost".clone_into(&mut settings.uri.authority.host);
        settings.uri.authority.port = vhost.broker.tls_port.unwrap();
        settings.ca_file = Some(ca_file.to_owned());
        settings
    };

    let worker = connect(settings(&trusted().certificate())).await.unwrap();
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
    // Its file goes with it.
    let stranger = Authority::for_hosts(&["localhost"]);
    let refused = settings(&stranger.certificate());
    let said = log.clone();
    let connecting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(async {
                let mut connecting = pin!(AmqpQueue::connect(refused));
                let told = eventually("it is told", PATIENCE, async || {
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
