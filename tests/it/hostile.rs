//! What a sender may write that is meant to hurt: it changes nothing outside the sender's own
//! command, and steers nobody's terminal.

mod amqp;
mod names;
mod statements;

use keycard::wire::{self, Accepts};
use serde_json::{Value, json};

use crate::support::client::{Client, SOON, fresh_id};
use crate::support::eventually;
use crate::support::process::Worker;
use crate::support::queues::Queues;
use crate::support::services::{QueueKind, WORKER};
use crate::support::site::Site;

/// The fields of every command's envelope, and one that none has.
const ATTRIBUTES: [&str; 13] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "expirytime",
    "traceparent",
    "tracestate",
    "datacontenttype",
    "dataschema",
    "data",
    "priority",
];

/// Texts that stand in each field of a command in turn.
fn hostile_texts() -> Vec<String> {
    [
        "'; DROP SCHEMA keycard CASCADE; --",
        "\"; DROP ROLE \"orders-svc\"; --",
        "$$; DROP TABLE keycard.leases; $$",
        "\\'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity; --\\",
        "{{name}} {{password}} {{{{name}}}} %s%n%p $1 ${jndi:ldap://x}",
        "../../../../etc/passwd",
        "orders-svc",
        "#",
        "*.#",
        "\u{0}",
        "a\u{0}b",
        "\u{1b}]0;mine\u{7}\u{1b}[2J\u{9b}31m\r\n\u{7f}",
        "WARN keycard: \r\nforged line",
        "\u{202e}gnihton\u{202c}\u{200f}\u{2066}\u{2028}",
        "\u{feff}\u{fffd}\u{fffe}\u{10ffff}",
        "",
        " ",
        "null",
        "1e400",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([
        "x".repeat(257),
        "\u{1f600}".repeat(256),
        "e\u{301}".repeat(300),
        "'".repeat(60_000),
    ])
    .collect()
}

/// Values that are no text, as JSON has them.
fn hostile_values() -> Vec<String> {
    let deep = |open: &str, close: &str, levels| open.repeat(levels) + &close.repeat(levels);
    let mut values: Vec<String> = [
        "null",
        "true",
        "{}",
        "[]",
        "[\"x\"]",
        "{\"$ref\":\"x\",\"__proto__\":{}}",
        "0",
        "-0",
        "-1",
        "-0.0",
        "0.5",
        "9007199254740991",
        "9007199254740992",
        "-9007199254740991",
        "9223372036854775807",
        "-9223372036854775809",
        "18446744073709551616",
        "1e308",
        "1e400",
        "-1e400",
        "1E-400",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\u0000\"",
        "NaN",
        "Infinity",
    ]
    .map(str::to_owned)
    .into();
    values.extend([
        deep("[", "]", 120),
        deep("[", "]", 30_000),
        deep("{\"a\":", "}", 10_000),
        "9".repeat(60_000),
    ]);
    values
}

/// Every command with each field holding hostile things in turn: a third of them each, as
/// properties/wire.rs has the decoder read all. Each with its lane.
fn hostile_commands(sender: &Client, others_lease: &str) -> Vec<(&'static str, Vec<u8>)> {
    const HERE: &str = "\"put it here\"";
    let put = json!("put it here");
    let mut bodies = Vec::new();
    for (lane, kind, data) in [
        (
            "requests",
            "credential.request.v1",
            json!({ "role": "app-role", "ttl_seconds": 60 }),
        ),
        (
            "leases",
            "lease.renew.v1",
            json!({ "lease_id": others_lease, "ttl_seconds": 60 }),
        ),
        (
            "leases",
            "lease.revoke.v1",
            json!({ "lease_id": others_lease, "reason": "no more" }),
        ),
    ] {
        let own: Vec<String> = data.as_object().unwrap().keys().cloned().collect();
        let attributes = ATTRIBUTES.map(|name| ("", name.to_owned())).into_iter();
        let fields = own.into_iter().map(|name| ("/data", name));
        for (number, (at, name)) in attributes.chain(fields).enumerate() {
            let texts = hostile_texts().into_iter();
            let texts = texts.map(|text| json!(text).to_string());
            let values = texts.chain(hostile_values());
            for value in values.skip(number % 3).step_by(3) {
                let mut event = sender.event(&fresh_id(), kind, data.clone());
                event.pointer_mut(at).unwrap()[&name] = put.clone();
                bodies.push((lane, event.to_string().replacen(HERE, &value, 1).into()));
            }
        }
    }
    bodies
}

/// The commands that the decoder can name, and so must be answered.
fn nameable(commands: &[(&'static str, Vec<u8>)]) -> (Vec<String>, usize) {
    let (mut answered, mut parked) = (Vec::new(), 0);
    for (lane, body) in commands {
        let accepts = match *lane {
            "requests" => Accepts::Requests,
            _ => Accepts::Leases,
        };
        match wire::decode(accepts, body) {
            Ok(incoming) => answered.push(incoming.id),
            Err(refused) => {
                parked += 1;
                // Without a source nobody is told.
                answered.extend(refused.source.and(refused.id));
            }
        }
    }
    answered.sort();
    (answered, parked)
}

/// Everything that no command may change: relations, functions and rights of keycard's schema and
/// of the site's own, and all roles but logins.
async fn schema(site: &Site) -> String {
    let query = "
        SELECT coalesce(string_agg(line, E'\\n' ORDER BY line), '') FROM (
            SELECT format('%s %s %s %s', n.nspname, c.relname, c.relkind, c.relacl) AS line
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('keycard', 'public')
            UNION ALL
            SELECT format('%s %s %s', proname, md5(prosrc), proacl)
            FROM pg_proc WHERE pronamespace = 'keycard'::regnamespace
            UNION ALL
            SELECT format('%s %s %s', rolname, rolsuper, rolcanlogin)
            FROM pg_roles WHERE rolname LIKE $1 OR rolname = ANY ($2)
        ) AS lines";
    let own = format!("%{}", site.name);
    // Where these are users of a broker, roles of their names come with other tests' sites.
    let services = match site.queue {
        QueueKind::Amqp(_) => vec![],
        QueueKind::Postgres => vec!["orders-svc", "billing-svc", "mallory"],
    };
    let row = site.sql().await.query_one(query, &[&own, &services]).await;
    row.unwrap().get(0)
}

/// Nothing in the text steers a terminal, or changes the order in which it shows it.
fn assert_plain(text: &str) {
    let steers = |c: char| c.is_control() || "\u{200f}\u{2028}\u{202c}\u{202e}\u{2066}".contains(c);
    for line in text.lines() {
        assert!(!line.contains(steers), "{line:?}");
    }
}

/// A worker whose log is JSON.
async fn worker_in_json(site: &Site) -> Worker {
    let mut command = site.command(&["--log-format", "json", "worker"]);
    let worker = Worker::start(&mut command, site.path().join("json.log"));
    worker.ready().await;
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_commands_change_nothing_but_their_own_answers() {
    let site = Site::with_mallory().await;
    let text_worker = site.worker().await;
    let mut json_worker = worker_in_json(&site).await;
    let orders = site.client("orders-svc").await;
    let mallory = site.client("mallory").await;
    let queues = Queues::of(&site).await;
    let issued = orders.issued("app-role", None).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    let before = schema(&site).await;
    assert!(before.contains("keycard leases"), "{before}");

    let mut commands = hostile_commands(&mallory, lease_id);
    if let QueueKind::Postgres = site.queue {
        // More is refused to its sender.
        commands.retain(|(_, body)| body.len() <= wire::BODY_BYTES_MAX);
    }
    let (mut expected, parked) = nameable(&commands);
    assert!(
        expected.len() > 100 && parked > 100,
        "{parked} {expected:?}"
    );
    for (lane, body) in &commands {
        mallory.publish(lane, body).await;
    }
    // Each is a dead letter with its reason once, or none.
    for _ in 0..parked {
        let letter = queues.dead_letter().await;
        assert_eq!(letter.requester.as_deref(), Some("mallory"));
        assert_plain(&letter.reason);
    }
    // A request of another's is served meanwhile and afterwards.
    let other = orders.issued("app-role", None).await;
    let count = expected.len();
    eventually("every answer", 4 * SOON, async || {
        (mallory.told().len() >= count).then_some(())
    })
    .await;
    let heard = mallory.told();
    let mut answered: Vec<String> = heard
        .iter()
        .map(|heard| heard.answers().unwrap().to_owned())
        .collect();
    answered.sort();
    expected.sort();
    assert_eq!(answered, expected);
    for heard in &heard {
        heard.denial();
        assert_plain(heard.data()["message"].as_str().unwrap());
    }

    assert_eq!(schema(&site).await, before);
    assert_eq!(orders.told().len(), 2, "{:?}", orders.story());
    site.assert_live(2).await;
    site.assert_credentials_work([&issued, &other]).await;
    site.assert_no_dead_letters().await;
    assert_plain(&text_worker.log());
    // While it runs its last line may be written in part.
    json_worker.terminate();
    assert!(json_worker.exit(SOON).await.success());
    for line in json_worker.log().lines() {
        // For programs, to which marks mean nothing.
        assert!(!line.contains(char::is_control), "{line:?}");
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_read_of_hostile_commands_steers_no_terminal() {
    const STEERING: &str = "\u{9b}31m\u{7f}\u{202e}\u{2066}\u{2028}";
    let site = Site::with_mallory().await;
    // Who may read dead letters; everybody's password is their name.
    let operator = match site.queue {
        QueueKind::Amqp(_) => WORKER,
        QueueKind::Postgres => "platform-ops",
    };
    site.configure(&format!(
        "[client]\nurl = \"{}\"\npassword = {{ env = \"PASSWORD\" }}\n",
        site.client_url(operator)
    ));
    let worker = site.worker().await;
    let mallory = site.client("mallory").await;
    let issued = mallory.issued("mallorys", None).await;
    // Marks are no control characters: they may stand in texts for people.
    let reason = "\u{202e}over\u{2066}\u{2028}";
    let data = json!({ "lease_id": issued["lease_id"], "reason": reason });
    let id = format!("{reason}{}", fresh_id());
    mallory.send(&id, "lease.revoke.v1", data).await;
    mallory.answer(&id).await;
    // JSON lets nearly everything stand in its strings.
    let unreadable = json!({ "type": STEERING }).to_string();
    mallory.publish("leases", unreadable.as_bytes()).await;

    let shown = |arguments: &[&str]| {
        let mut command = site.command(arguments);
        let output = command.env("PASSWORD", operator).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_plain(&stdout);
        stdout
    };
    eventually("the dead letter", SOON, async || {
        (shown(&["dead-letters", "list", "--output", "json"]).trim() != "[]").then_some(())
    })
    .await;
    for arguments in [
        &["lease", "list", "--all"][..],
        &["audit"],
        &["dead-letters", "list"],
    ] {
        shown(arguments);
        let listed = shown(&[arguments, &["--output", "json"]].concat());
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let listed = listed.as_array().unwrap();
        assert!(!listed.is_empty(), "{arguments:?}");
        match arguments[0] {
            "audit" => assert!(listed.iter().any(|row| row["reason"] == reason)),
            "dead-letters" => {
                assert_eq!(listed[0]["event"], unreadable);
                let id = listed[0]["id"].as_str().unwrap();
                assert!(shown(&["dead-letters", "show", id]).contains("\\u{9b}31m"));
            }
            _ => {}
        }
    }
    assert_plain(&worker.log());
}
