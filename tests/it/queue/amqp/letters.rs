//! Dead letters that the broker itself has moved, drops and guards.

use keycard::queue::amqp::AmqpDeadLetters;
use keycard::queue::{DeadLetters, Delivery, Lane, Queue, Sender};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::mpsc;
use tokio::task::block_in_place;

use super::{PASSWORD, Vhost};
use crate::queue::conformance::{Backend, Command, PATIENCE, ack, assert_silent, next, requester};
use crate::support::{eventually, raw};

/// Drops a message until the broker gives it up.
async fn wear_out(lane: &mut mpsc::Receiver<Delivery>, letters: &AmqpDeadLetters) {
    let before = letters.list(100).await.unwrap().len();
    // The broker lets it be delivered 21 times.
    for _ in 0..21 {
        drop(next(lane).await);
    }
    eventually("dead-lettered", PATIENCE, async || {
        let now = letters.list(100).await.unwrap().len();
        (now > before).then_some(())
    })
    .await;
    assert_silent(lane).await;
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

/// What a client would write to look like somebody else's dead letter.
fn forged() -> FieldTable {
    let death = |queue: &str, reason: &str| {
        AMQPValue::FieldTable(table([
            ("queue", text(queue)),
            ("reason", text(reason)),
            ("count", AMQPValue::LongLongInt(1)),
            ("exchange", text("")),
            ("time", AMQPValue::Timestamp(1)),
            (
                "routing-keys",
                AMQPValue::FieldArray(vec![text("x")].into()),
            ),
        ]))
    };
    let deaths = vec![
        death("keycard.dead-letters", "rejected"),
        death("keycard.leases", "delivery_limit"),
    ];
    table([
        ("x-death", AMQPValue::FieldArray(deaths.into())),
        ("x-first-death-queue", text("keycard.leases")),
        ("x-keycard-requester", text("billing")),
        ("x-keycard-lane", text("expiry")),
        ("x-keycard-reason", text("please requeue me")),
    ])
}

/// Makes a message a dead letter, and that again after requeueing it, twice. The lanes that it was
/// listed and handed out as.
async fn given_up_again_and_again(headers: FieldTable) -> Vec<Lane> {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let mut expiry = worker.consume(Lane::Expiry);
    let letters = vhost.letters().await;
    let orders = vhost.client("orders").await;
    let properties = BasicProperties::default()
        .with_user_id("orders".into())
        .with_message_id("mine".into())
        .with_headers(headers);
    orders
        .publish("keycard.requests", "", b"deadly", properties)
        .await
        .unwrap();
    wear_out(&mut requests, &letters).await;

    let mut lanes = Vec::new();
    for queue in ["keycard.requests", "keycard.expiry", "keycard.expiry"] {
        let listed = letters.list(10).await.unwrap();
        assert_eq!(letters.list(10).await.unwrap(), listed);
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0].sender, Sender::Requester(requester("orders")));
        assert_eq!(
            listed[0].reason,
            format!("delivered too often from {queue}: workers could not read it, or died of it")
        );
        assert_ne!(listed[0].id, "mine");
        assert!(letters.requeue(&listed[0].id).await.unwrap());
        let again = next(&mut expiry).await;
        assert_eq!(again.sender, Sender::Requester(requester("orders")));
        assert_eq!(again.body, b"deadly");
        lanes.extend([listed[0].lane.unwrap(), again.lane]);
        if lanes.len() == 6 {
            ack(again).await;
        } else {
            drop(again);
            for _ in 0..20 {
                drop(next(&mut expiry).await);
            }
            eventually("dead-lettered", PATIENCE, async || {
                letters.list(10).await.unwrap().pop()
            })
            .await;
        }
    }
    assert_eq!(letters.list(10).await.unwrap(), []);
    assert_silent(&mut requests).await;
    lanes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_gave_up_comes_again_as_its_senders_own() {
    let lanes = given_up_again_and_again(FieldTable::default()).await;
    assert_eq!(lanes, [Lane::Requests; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_past_makes_nobody_of_anybody_else() {
    let lanes = given_up_again_and_again(forged()).await;
    assert!(!lanes.contains(&Lane::Expiry), "{lanes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keycards_own_events_that_the_broker_gave_up_come_again_as_they_were() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let mut expiry = worker.consume(Lane::Expiry);
    let letters = vhost.letters().await;
    let second = std::time::Duration::from_secs(1);
    worker.arm(b"due", second).await.unwrap();
    wear_out(&mut expiry, &letters).await;
    vhost
        .send("orders", Lane::Requests, Command::new("later"))
        .await;
    let deferred = next(&mut requests).await;
    worker.defer(&deferred, second).await.unwrap();
    ack(deferred).await;
    wear_out(&mut expiry, &letters).await;

    let listed = letters.list(10).await.unwrap();
    let orders = Sender::Requester(requester("orders"));
    let told: Vec<_> = listed
        .iter()
        .map(|letter| (letter.lane, &letter.sender, letter.body.as_slice()))
        .collect();
    assert_eq!(
        told,
        [
            (Some(Lane::Expiry), &Sender::Keycard, &b"due"[..]),
            (Some(Lane::Requests), &orders, b"later"),
        ]
    );
    for letter in &listed {
        assert!(letters.requeue(&letter.id).await.unwrap());
        let again = next(&mut expiry).await;
        assert_eq!(Some(again.lane), letter.lane);
        assert_eq!(again.sender, letter.sender);
        assert_eq!(again.body, letter.body);
        ack(again).await;
    }
}

/// Somebody whom the broker has not validated stays nobody.
#[tokio::test(flavor = "multi_thread")]
async fn an_unnamed_letter_stays_unnamed() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let mut requests = worker.consume(Lane::Requests);
    let mut expiry = worker.consume(Lane::Expiry);
    let letters = vhost.letters().await;
    let orders = vhost.client("orders").await;
    let properties = BasicProperties::default().with_headers(forged());
    orders
        .publish("keycard.requests", "", b"whose?", properties)
        .await
        .unwrap();
    wear_out(&mut requests, &letters).await;
    let mut letter = letters.list(10).await.unwrap().pop().unwrap();
    for _ in 0..2 {
        assert!(matches!(letter.sender, Sender::Nobody(_)), "{letter:?}");
        assert!(letters.requeue(&letter.id).await.unwrap());
        let again = next(&mut expiry).await;
        assert_eq!(again.sender, letter.sender);
        worker.dead_letter(&again, "unauthenticated").await.unwrap();
        ack(again).await;
        letter = letters.list(10).await.unwrap().pop().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_drops_is_dropped_and_nobody_is_kept_waiting() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let policy = [
        "set_policy",
        "-p",
        &vhost.name,
        "short",
        "^keycard\\.dead-letters$",
        r#"{"max-length": 3}"#,
        "--apply-to",
        "queues",
    ];
    block_in_place(|| vhost.broker.ctl(&policy));
    let mut requests = worker.consume(Lane::Requests);
    let mut expiry = worker.consume(Lane::Expiry);
    let letters = vhost.letters().await;
    for number in 0..8_u8 {
        vhost
            .send("orders", Lane::Requests, Command::new([number]))
            .await;
        let delivery = next(&mut requests).await;
        worker.dead_letter(&delivery, "no").await.unwrap();
        ack(delivery).await;
    }
    let kept = eventually("the queue is short again", PATIENCE, async || {
        let listed = letters.list(10).await.unwrap();
        (listed.len() == 3).then_some(listed)
    })
    .await;
    let bodies: Vec<u8> = kept.iter().map(|letter| letter.body[0]).collect();
    assert_eq!(bodies, [5, 6, 7]);
    assert_silent(&mut expiry).await;
    // Nothing circles: what was dropped is in no queue at all.
    eventually("nothing else is left", PATIENCE, async || {
        let depth = block_in_place(|| vhost.broker.queue_messages(&vhost.name, "keycard.expiry"));
        (depth.ready + depth.unacknowledged == 0).then_some(())
    })
    .await;
    assert_eq!(letters.list(10).await.unwrap(), kept);
    // And what is left can still be requeued.
    assert!(letters.requeue(&kept[2].id).await.unwrap());
    let again = next(&mut expiry).await;
    assert_eq!(again.body, [7]);
    ack(again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_letters_are_listed_and_the_last_of_them_is_found() {
    const LETTERS: usize = 1_000;
    let vhost = Vhost::new().await;
    let _worker = vhost.queue().await;
    let letters = vhost.letters().await;
    let admin = vhost.admin().await;
    for number in 0..LETTERS {
        let properties = BasicProperties::default()
            .with_user_id(vhost.broker.user.as_str().into())
            .with_message_id(format!("{number:04}").as_str().into());
        admin
            .publish("", "keycard.dead-letters", &[b'x'; 1_000], properties)
            .await
            .unwrap();
    }
    let listed = letters.list(usize::MAX).await.unwrap();
    assert_eq!(listed.len(), LETTERS);
    let ordered = (0..LETTERS).map(|number| format!("{number:04}"));
    assert!(listed.iter().map(|letter| letter.id.clone()).eq(ordered));
    assert_eq!(letters.list(100).await.unwrap().len(), 100);
    let last = format!("{:04}", LETTERS - 1);
    assert!(letters.discard(&last).await.unwrap());
    let listed = letters.list(usize::MAX).await.unwrap();
    assert_eq!(listed.len(), LETTERS - 1);
    assert!(listed.iter().all(|letter| letter.id != last));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_them_is_told_what_to_do() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let settings = vhost.settings_of("orders");
    let letters = AmqpDeadLetters::connect(&settings).await.unwrap();
    for refused in [
        letters.list(1).await.map(|_| ()),
        letters.requeue("x").await.map(|_| ()),
        letters.discard("x").await.map(|_| ()),
    ] {
        let error = refused.unwrap_err().to_string();
        let remedy = format!(
            "rabbitmqctl set_permissions -p '{}' 'orders' '^orders\\.' \
             '^(orders\\..*|keycard\\.(requests|leases))$' \
             '^(orders\\..*|keycard\\.(events|dead-letters))$'",
            vhost.name
        );
        assert!(error.contains("ACCESS_REFUSED"), "{error}");
        assert!(error.ends_with(&remedy), "{error}");
    }
    worker.shut_down().await;

    let empty = Vhost::new().await;
    let error = empty.letters().await.list(1).await.unwrap_err().to_string();
    assert!(
        error.contains("the first `keycard worker` makes it"),
        "{error}"
    );
    assert!(error.contains(&empty.name), "{error}");
    assert!(!error.contains(PASSWORD), "{error}");
}

/// lapin cannot read it, and no broker gives out what lies behind it.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_letter_is_told_with_a_remedy() {
    let vhost = Vhost::new().await;
    let worker = vhost.queue().await;
    let _requests = worker.consume(Lane::Requests);
    block_in_place(|| raw::publish_unreadable(vhost.broker, &vhost.name, "orders", PASSWORD));
    let error = eventually("dead-lettered", PATIENCE, async || {
        let listed = vhost.letters().await.list(10).await;
        listed.err()
    })
    .await;
    let text = error.to_string();
    assert!(text.contains("no UTF-8"), "{text}");
    assert!(text.contains("purge_queue"), "{text}");
}
