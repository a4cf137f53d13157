//! The strict stand-in is as strict as AWS where the other tests rely on it.

use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use aws_sdk_secretsmanager::operation::create_secret::builders::CreateSecretFluentBuilder;
use aws_sdk_secretsmanager::operation::list_secrets::ListSecretsOutput;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, Tag};
use futures_util::future::join_all;
use keycard::clock::{monotonic_now, uuid_v7};

use super::aws::{environment, environment_in, store};
use super::{locator, put};
use crate::support::secrets_manager::{Call, FakeSecretsManager, Operation};

async fn refusal(call: CreateSecretFluentBuilder) -> String {
    let error = call.send().await.unwrap_err();
    error.code().unwrap().to_owned()
}

#[tokio::test]
async fn it_refuses_what_aws_refuses() {
    let fake = FakeSecretsManager::start();
    let client = Client::new(&environment(&fake.url()));
    let create = || {
        client
            .create_secret()
            .name("keycard/a=2Eb/role")
            .secret_string("value")
    };
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    for wrong in [
        create().name("a b"),
        create().name("a:b"),
        create().name("a".repeat(513)),
        create().name("role-abc123"),
        create().client_request_token("short"),
        create().client_request_token("x".repeat(65)),
        create().secret_string("x".repeat(65_537)),
        create().tags(tag("requester", "a*b")),
        create().tags(tag("requester", &"x".repeat(257))),
        create().tags(tag("aws:x", "x")),
        create().description("unknown here"),
    ] {
        assert_eq!(refusal(wrong).await, "ValidationException");
    }
    for wrong in [
        create().tags(tag("x", "1")).tags(tag("x", "2")),
        create().set_tags(Some((0..51).map(|n| tag(&n.to_string(), "x")).collect())),
    ] {
        assert_eq!(refusal(wrong).await, "InvalidParameterException");
    }
    assert!(fake.secrets().is_empty());
    create().send().await.unwrap();
    let gentle = client.delete_secret().secret_id("keycard/a=2Eb/role");
    gentle.send().await.unwrap_err();
    assert_eq!(fake.secrets().len(), 1);
}

#[tokio::test]
async fn it_throttles() {
    let fake = FakeSecretsManager::start();
    let client = Client::new(&environment_in("eu-south-1", &fake.url()));
    let throttled = |call: &Call| call.outcome == "ThrottlingException";
    // More than fifty in a second, which a busy machine may not send the first time.
    crate::support::eventually("throttled", 60, async || {
        let creates = (0..80).map(|_| {
            client
                .create_secret()
                .name(locator("app"))
                .secret_string("value")
                .send()
        });
        join_all(creates).await;
        fake.calls().iter().any(throttled).then_some(())
    })
    .await;
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = monotonic_now() + Duration::from_secs(30);
    while !holds() {
        assert!(monotonic_now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A put that is late lands although its client has gone.
#[tokio::test]
async fn a_held_put_lands_when_it_is_let_go() {
    let fake = FakeSecretsManager::start();
    let store = store(&fake);
    let locator = locator("app");
    fake.pause();
    let putting = {
        let locator = locator.clone();
        tokio::spawn(async move { put(&store, &locator, uuid_v7(), "x").await })
    };
    eventually("the put", || fake.held() > 0).await;
    putting.abort();
    assert!(putting.await.unwrap_err().is_cancelled());
    assert!(fake.secrets().is_empty());
    fake.resume();
    eventually("the late put", || {
        fake.held() == 0 && fake.secrets().contains_key(&locator)
    })
    .await;
    let expected = Call {
        operation: Operation::CreateSecret,
        name: locator,
        outcome: "ok".to_owned(),
    };
    // More than one only if the client has given one up for taking too long.
    let calls = fake.calls();
    assert!(calls.iter().all(|call| *call == expected), "{calls:?}");
}

#[tokio::test]
async fn it_lists_in_pages() {
    let fake = FakeSecretsManager::start();
    let store = store(&fake);
    for name in ["a/1", "a/2", "a/3", "b/1"] {
        put(&store, name, uuid_v7(), "value").await.unwrap();
    }
    let client = Client::new(&environment(&fake.url()));
    let filter = Filter::builder()
        .key(FilterNameStringType::Name)
        .values("a/")
        .build();
    let pages = client
        .list_secrets()
        .filters(filter)
        .max_results(2)
        .into_paginator()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .unwrap();
    let names: Vec<&str> = pages
        .iter()
        .flat_map(ListSecretsOutput::secret_list)
        .filter_map(|secret| secret.name())
        .collect();
    assert_eq!(pages.len(), 2);
    assert_eq!(names, ["a/1", "a/2", "a/3"]);
}
