//! A store that fails shows in what way.

use super::{is, samples, until, worker_with_metrics};
use crate::support::client::SOON;
use crate::support::secrets_manager::{FakeSecretsManager, Fault, Operation};
use crate::support::site::{Site, StoreKind, Wishes};

/// The SDK's tries at one operation.
const TRIES: usize = 4;

const THROTTLED: &str = r#"keycard_store_errors_total{kind="throttled"}"#;
const DENIED: &str = r#"keycard_store_errors_total{kind="denied"}"#;
const FULL: &str = r#"keycard_store_errors_total{kind="full"}"#;
const DEFERRED: &str = r#"keycard_requests_deferred_total{role="app-role"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_throttles_denies_or_is_full_shows_so_and_what_it_puts_off() {
    let fake = FakeSecretsManager::start();
    let site = Site::new(Wishes {
        store: StoreKind::Aws(fake.url()),
        ..Wishes::default()
    })
    .await;
    let (_worker, address) = worker_with_metrics(&site).await;
    until(address, "keycard_store_up", is(1.0)).await;
    let before = samples(address).await;
    for none in [THROTTLED, DENIED, FULL, DEFERRED] {
        assert!(is(0.0)(before[none]), "{none}: {before:?}");
    }

    fake.fail_next_of(Operation::CreateSecret, TRIES, Fault::Throttle);
    for code in ["AccessDeniedException", "LimitExceededException"] {
        fake.fail_next_of(Operation::CreateSecret, 1, Fault::Refuse(code));
    }
    let orders = site.client("orders-svc").await;
    // Each failure is waited out; then it is issued all the same.
    let request = orders.request("app-role", None).await;
    let answer = orders.answer_within(&request, 3 * SOON).await;
    assert_eq!(answer.kind(), "credential.issued.v1");
    for (counter, times) in [(THROTTLED, 1.0), (DENIED, 1.0), (FULL, 1.0)] {
        until(address, counter, is(times)).await;
    }
    assert!(samples(address).await[DEFERRED] >= 3.0);

    // The looks at the store are throttled as well, and so it is out of reach until one is not.
    fake.fail_next_of(Operation::DescribeSecret, 100 * TRIES, Fault::Throttle);
    until(address, "keycard_store_up", is(0.0)).await;
    until(address, THROTTLED, |times| times >= 2.0).await;
    fake.heal();
    until(address, "keycard_store_up", is(1.0)).await;
}
