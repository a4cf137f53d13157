//! A broker that is not who it should be.

use super::{Secured, trusted_postgres};
use crate::support::authority::{Authority, trusted, trusted_rabbitmq};
use crate::support::process::Output;
use crate::support::servers::shared_rabbitmq;
use crate::support::services::QueueKind;

/// The worker does not serve and says all of `words`.
async fn misses_its_broker(secured: &Secured, words: &[&str]) {
    let log = secured.says(words).await;
    assert!(!log.contains("keycard serves"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_an_unknown_authority_is_not_spoken_to() {
    let ca = trusted().certificate();
    let mut secured =
        Secured::new(trusted_postgres(), QueueKind::Amqp(trusted_rabbitmq()), &ca).await;
    let stranger = Authority::for_hosts(&["127.0.0.1"]);
    let other = stranger.certificate();
    secured.set("KEYCARD_QUEUE__CA_FILE", other.to_str().unwrap());
    misses_its_broker(&secured, &["RabbitMQ is out of reach", "UnknownIssuer"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_tls_is_not_spoken_to_when_tls_is_wanted() {
    let ca = trusted().certificate();
    let queue = QueueKind::Amqp(shared_rabbitmq());
    let secured = Secured::new(trusted_postgres(), queue, &ca).await;
    misses_its_broker(&secured, &["RabbitMQ is out of reach", "corrupt message"]).await;
}

/// The doctor gives an administrator's password to nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_management_api_is_asked_only_with_the_authority_of_ones_own() {
    let ca = trusted().certificate();
    let broker = trusted_rabbitmq();
    let secured = Secured::new(trusted_postgres(), QueueKind::Amqp(broker), &ca).await;
    let stranger = Authority::for_hosts(&["127.0.0.1"]);
    let url = format!(
        "https://{}@127.0.0.1:{}",
        broker.user,
        broker.https_port.unwrap()
    );
    for (authority, words) in [
        (ca, "no other user of vhost"),
        (stranger.certificate(), "UnknownIssuer"),
    ] {
        let mut doctor = secured.site.command(&["doctor"]);
        doctor.envs(secured.variables.iter().map(|(name, value)| (name, value)));
        doctor.env("KEYCARD_MANAGEMENT__URL", &url);
        doctor.env("KEYCARD_MANAGEMENT__PASSWORD", &broker.password);
        doctor.env("KEYCARD_MANAGEMENT__CA_FILE", authority);
        let said = Output::of(&mut doctor).stdout;
        assert!(said.contains(words), "{said}");
    }
}
