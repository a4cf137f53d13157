//! Login with tokens in place of passwords, as `RabbitMQ`'s OAuth 2 plugin reads them.

use std::fs;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::Value;

use super::{asks_and_reads, may_do_nothing_else};
use crate::support::broker::confirming_channel;
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::servers::RabbitMq;
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

/// What a user's token has to allow.
const SCOPES: &str = include_str!("../scopes.json");

/// The key that tokens are signed with, as Erlang's library takes it.
const KEY: &str =
    r#"#{<<"kty">> => <<"oct">>, <<"k">> => <<"b25seSBpbiB0aGlzIHRlc3Qgb25seSBpbiB0aGlzIHQ">>}"#;

/// How long keycard's first token lives: it comes from starting to serving meanwhile.
const FIRST_TOKEN_SECONDS: u64 = 60;

#[ignore = "starts a broker of its own, whose plugin nothing else needs; make verify"]
#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_a_service_may_do_the_same_and_keycard_outlives_its_own() {
    let rabbitmq: &RabbitMq = Box::leak(Box::new(RabbitMq::start(None)));
    take_tokens(rabbitmq);
    let site = Site::new(Wishes {
        queue: QueueKind::Amqp(rabbitmq),
        ..Wishes::default()
    })
    .await;
    let token_file = site.path().join("token");
    let first = token(&site, "keycard", FIRST_TOKEN_SECONDS);
    fs::write(&token_file, &first).unwrap();
    let configuration = fs::read_to_string(&site.config).unwrap().replace(
        r#"password = { env = "BROKER_PASSWORD" }"#,
        &format!("password = {{ file = {token_file:?} }}"),
    );
    fs::write(&site.config, configuration).unwrap();
    let broker = format!(
        "amqp://keycard@{}:{}/{}",
        rabbitmq.host, rabbitmq.port, site.vhost
    );
    let worker = site.worker_unready(&[("KEYCARD_QUEUE__URL", &broker)]);
    worker.ready().await;
    fs::write(&token_file, token(&site, "keycard", 3_600)).unwrap();

    let orders_token = token(&site, "orders-svc", 3_600);
    let orders = connect(&site, "orders-svc", &orders_token).await.unwrap();
    asks_and_reads(&orders).await;
    may_do_nothing_else(&orders).await;

    // The name that somebody gives beside a token counts for nothing.
    let mallory = connect(&site, "billing-svc", &orders_token).await.unwrap();
    let channel = confirming_channel(&mallory).await;
    let publishing = channel
        .basic_publish(
            "keycard.requests".into(),
            "".into(),
            BasicPublishOptions::default(),
            b"{}",
            BasicProperties::default().with_user_id("billing-svc".into()),
        )
        .await
        .unwrap();
    let refusal = publishing.await.unwrap_err().to_string();
    assert!(refusal.contains("PRECONDITION_FAILED"), "{refusal}");

    eventually("keycard's first token has expired", 2 * SOON, async || {
        let expired = connect(&site, "keycard", &first).await.is_err();
        expired.then_some(())
    })
    .await;
    asks_and_reads(&orders).await;
}

/// Lets users log in with tokens that the test signs, or with passwords.
fn take_tokens(rabbitmq: &RabbitMq) {
    rabbitmq.ctl(&[
        "eval",
        &format!(
            r#"{{ok, Plugins}} = application:get_env(rabbit, plugins_dir),
            [code:add_patha(Path) || Path <- filelib:wildcard(filename:join(Plugins, "{{base64url,jose,rabbitmq_auth_backend_oauth2}}-*/ebin"))],
            Set = fun(Key, Value) -> application:set_env(rabbitmq_auth_backend_oauth2, Key, Value) end,
            Set(resource_server_id, <<"rabbitmq">>),
            Set(key_config, [{{default_key, <<"key">>}}, {{signing_keys, #{{<<"key">> => {{map, {KEY}}}}}}}]),
            {{ok, _}} = application:ensure_all_started(rabbitmq_auth_backend_oauth2),
            application:set_env(rabbit, auth_backends, [rabbit_auth_backend_oauth2, rabbit_auth_backend_internal])."#
        ),
    ]);
}

/// A token of `user`, good for so many seconds, with the scopes that are rendered for it.
fn token(site: &Site, user: &str, seconds: u64) -> String {
    let scopes: Value = serde_json::from_str(SCOPES).unwrap();
    let scopes: Vec<String> = scopes[user]
        .as_array()
        .unwrap()
        .iter()
        .map(|scope| {
            let (permission, pattern) = scope.as_str().unwrap().split_once(":keycard/").unwrap();
            format!(r#"<<"rabbitmq.{permission}:{}/{pattern}">>"#, site.vhost)
        })
        .collect();
    let printed = site.rabbitmq().ctl(&[
        "eval",
        &format!(
            r#"Claims = #{{<<"sub">> => <<"{user}">>, <<"aud">> => [<<"rabbitmq">>],
                <<"exp">> => os:system_time(second) + {seconds}, <<"scope">> => [{}]}},
            Signed = jose_jwt:sign(jose_jwk:from_map({KEY}), #{{<<"alg">> => <<"HS256">>, <<"kid">> => <<"key">>}}, Claims),
            {{_, Token}} = jose_jws:compact(Signed), binary_to_list(Token)."#,
            scopes.join(", ")
        ),
    ]);
    printed.trim().trim_matches('"').to_owned()
}

async fn connect(site: &Site, user: &str, token: &str) -> lapin::Result<Connection> {
    let rabbitmq = site.rabbitmq();
    let uri = format!(
        "amqp://{user}:{token}@{}:{}/{}",
        rabbitmq.host, rabbitmq.port, site.vhost
    );
    Connection::connect(&uri, ConnectionProperties::default()).await
}
