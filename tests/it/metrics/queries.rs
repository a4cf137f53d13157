//! What dashboard and alerts ask for is there, and what is there is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use keycard::clock::uuid_v7;
use keycard::lease::DenialCode;
use keycard::store::directory::Directory;
use keycard::store::{FailureKind, SecretStore as _};
use keycard::worker::Kind;
use serde_json::Value;

use super::{LATE, UP, WAITING, is, samples, scraped, until, worker_with_metrics};
use crate::support::site::{Site, Wishes};

/// What Prometheus adds to what it reads.
const ADDED: [&str; 2] = ["namespace", "pod"];

/// The labels of a metric, and the values that each has.
type Labels = BTreeMap<String, BTreeSet<String>>;

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A query, and the names of labels that are shown of its answer.
struct Query {
    expression: String,
    shown: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_asked_for_is_there_and_everything_there_is_known() {
    let site = Site::new(Wishes {
        reconcile_interval: "1s",
        ..Wishes::default()
    })
    .await;
    let (_worker, address) = worker_with_metrics(&site).await;
    let orphans = r#"keycard_orphans{database="app",kind="secret_unproven"}"#;
    until(address, orphans, is(0.0)).await;
    let lease = format!("app.{}", uuid_v7());
    let locator = format!("keycard/orders-svc/app-role/{lease}");
    let tags = [("keycard-installation".to_owned(), site.name.clone())].into();
    let store = Directory::open(&site.secrets).unwrap();
    let value = "precious".into();
    store.put(&locator, uuid_v7(), &value, &tags).await.unwrap();
    until(address, orphans, is(1.0)).await;
    store.delete(&locator).await.unwrap();
    until(address, orphans, is(0.0)).await;

    let orders = site.client("orders-svc").await;
    orders.issued("app-role", None).await;
    // It ends soon, be it delivered before or not.
    orders.request("app-role", Some(1)).await;
    let denied = orders.request("no-such-role", None).await;
    assert_eq!(orders.answer(&denied).await.denial(), "role_not_allowed");
    orders.publish("requests", b"{").await;
    until(
        address,
        r#"keycard_dead_letters_total{reason="invalid_event"}"#,
        is(1.0),
    )
    .await;
    until(address, LATE, is(1.0)).await;
    for up in ["keycard_store_up", "keycard_queue_up", UP] {
        until(address, up, is(1.0)).await;
    }
    until(address, WAITING, |count| count >= 0.0).await;

    let metrics = labels(samples(address).await.keys());
    let queries = queries();
    assert!(queries.len() > 25, "{}", queries.len());
    for query in &queries {
        answerable(query, &metrics);
    }
    bounded(&metrics);
    let table = table(&scraped(address).await, &metrics);
    assert!(
        file("infra/SIGNALS.md").contains(&table),
        "infra/SIGNALS.md does not hold this table:\n{table}"
    );
}

/// Every metric that a query names is there, with the labels and values that it asks for.
fn answerable(query: &Query, metrics: &BTreeMap<String, Labels>) {
    let Query { expression, shown } = query;
    let named = selectors(expression);
    assert!(!named.is_empty(), "{expression}");
    let grouped = grouped(expression);
    for (metric, asked) in named {
        let labels = metrics
            .get(&metric)
            .unwrap_or_else(|| panic!("no worker has {metric}: {expression}"));
        for (label, values) in asked {
            if ADDED.contains(&label.as_str()) {
                continue;
            }
            let there = &labels[&label];
            for value in values.split('|') {
                assert!(
                    there.contains(value) || value == "-",
                    "{metric} has no {label}={value:?}: {expression}"
                );
            }
        }
        for label in &grouped {
            assert!(
                labels.contains_key(label) || ADDED.contains(&label.as_str()),
                "{metric} has no {label}: {expression}"
            );
        }
    }
    assert!(
        shown.is_subset(&grouped),
        "{shown:?} of {expression} are not in its answer"
    );
}

/// The queries of the dashboard and of the alerts.
fn queries() -> Vec<Query> {
    let dashboard: Value =
        serde_json::from_str(&file("infra/modules/manifests/files/dashboard.json")).unwrap();
    let mut found: Vec<Query> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| Query {
            expression: target["expr"].as_str().unwrap().to_owned(),
            shown: between(target["legendFormat"].as_str().unwrap(), "{{", "}}"),
        })
        .collect();
    let variable = dashboard["templating"]["list"][1]["query"]["query"].as_str();
    let metric = variable.unwrap().strip_prefix("label_values(").unwrap();
    found.push(Query {
        expression: metric.split(',').next().unwrap().to_owned(),
        shown: BTreeSet::new(),
    });
    let alerts = file("infra/modules/manifests/files/alerts.yaml");
    for alert in alerts.split("- alert: ").skip(1) {
        let (_, expression) = alert.split_once("expr: ").unwrap();
        let (expression, rest) = expression.split_once("\n        labels:").unwrap();
        let expression = expression.split("\n        for:").next().unwrap();
        found.push(Query {
            expression: expression.to_owned(),
            shown: between(rest, "{{ $labels.", " }}"),
        });
    }
    found
}

fn between(text: &str, begin: &str, end: &str) -> BTreeSet<String> {
    text.split(begin)
        .skip(1)
        .map(|rest| rest.split(end).next().unwrap().to_owned())
        .collect()
}

/// Each metric in a query, with the labels and values that it is narrowed to.
fn selectors(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    expression
        .match_indices("keycard_")
        .map(|(at, _)| {
            let rest = &expression[at..];
            let end = rest.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
            let (metric, rest) = rest.split_at(end.unwrap_or(rest.len()));
            let matchers = rest
                .strip_prefix('{')
                .map_or("", |rest| rest.split_once('}').unwrap().0);
            let narrowed = matchers.split(',').filter(|matcher| !matcher.is_empty());
            let narrowed = narrowed.map(|matcher| {
                let mut parts = matcher.split('"');
                let label = parts.next().unwrap().trim_end_matches(['=', '!', '~']);
                (label.to_owned(), parts.next().unwrap().to_owned())
            });
            (metric.to_owned(), narrowed.collect())
        })
        .collect()
}

/// The labels that a query groups by: what its answer has.
fn grouped(expression: &str) -> BTreeSet<String> {
    between(expression, "by (", ")")
        .iter()
        .flat_map(|names| names.split(", "))
        .map(str::to_owned)
        .collect()
}

/// The metrics that are there, with their labels.
fn labels<'a>(samples: impl Iterator<Item = &'a String>) -> BTreeMap<String, Labels> {
    let mut metrics: BTreeMap<String, Labels> = BTreeMap::new();
    for sample in samples {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let metric = metrics.entry(name.to_owned()).or_default();
        for pair in labels.trim_end_matches('}').split(',') {
            if let Some((label, value)) = pair.split_once('=') {
                let values = metric.entry(label.to_owned()).or_default();
                values.insert(value.trim_matches('"').to_owned());
            }
        }
    }
    metrics
}

/// No label has a value but those of the configuration and of the code.
fn bounded(metrics: &BTreeMap<String, Labels>) {
    for (metric, labels) in metrics {
        for (label, values) in labels {
            let known = |value: &String| match label.as_str() {
                "database" => value == "app",
                "role" => ["app-role", "-"].contains(&value.as_str()),
                "outcome" | "reason" => {
                    let codes = DenialCode::ALL.map(DenialCode::as_str);
                    codes.contains(&value.as_str())
                        || ["issued", "renewed", "other"].contains(&value.as_str())
                }
                "cause" => {
                    ["expired", "requested", "operator", "missing"].contains(&value.as_str())
                }
                "kind" => {
                    Kind::ALL.iter().any(|kind| kind.as_str() == value)
                        || FailureKind::ALL.iter().any(|kind| kind.as_str() == value)
                }
                "stage" => value
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "le" => value == "+Inf" || value.parse::<f64>().is_ok(),
                _ => false,
            };
            for value in values {
                assert!(known(value), "{metric}: {label}={value:?}");
            }
        }
    }
}

/// Every metric as documents list it: its name, type, labels, and what it says of itself.
fn table(text: &str, metrics: &BTreeMap<String, Labels>) -> String {
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        assert!(name.starts_with("keycard_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        assert_eq!(
            kind == "histogram",
            name.ends_with("_seconds") && !name.contains("oldest"),
            "{name}"
        );
        let sample = if kind == "histogram" {
            format!("{name}_bucket")
        } else {
            name.to_owned()
        };
        let labels = metrics[&sample].keys().filter(|label| *label != "le");
        let labels: Vec<String> = labels.map(|label| format!("`{label}`")).collect();
        let help = format!("# HELP {name} ");
        let help = text.lines().find_map(|line| line.strip_prefix(&help));
        rows.insert(name, (kind, labels.join(", "), help.unwrap_or_default()));
    }
    let mut table = "| metric | type | labels | what it is |\n|---|---|---|---|\n".to_owned();
    for (name, (kind, labels, help)) in rows {
        assert!(help.len() > 20, "{name}: {help:?}");
        writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    table
}
