//! Holds events/ (schemas, examples, README, `AsyncAPI` document) and the wire types equal.

mod commands;
mod mutants;
mod results;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use jsonschema::Validator;
use keycard::lease::DenialCode;
use keycard::wire;
use serde_json::Value;

/// What services send. Everything else is written by keycard.
const COMMANDS: [&str; 3] = [
    wire::CREDENTIAL_REQUEST,
    wire::LEASE_RENEW,
    wire::LEASE_REVOKE,
];

fn events() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("events")
}

fn read(path: &str) -> String {
    let path = events().join(path);
    fs::read_to_string(&path).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()))
}

fn read_json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|problem| panic!("{path}: {problem}"))
}

fn names_in(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(events().join(folder)).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn schema(kind: &str) -> Value {
    read_json(&format!("{kind}.schema.json"))
}

pub(crate) fn validator(kind: &str) -> Validator {
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema(kind))
        .unwrap()
}

/// The examples of one type, by case.
pub(crate) fn examples(kind: &str) -> BTreeMap<String, Value> {
    let cases = names_in(&format!("examples/{kind}"));
    cases
        .into_iter()
        .map(|file| {
            let example = read_json(&format!("examples/{kind}/{file}"));
            (file.strip_suffix(".json").unwrap().to_owned(), example)
        })
        .collect()
}

fn keys(object: &Value) -> BTreeSet<&str> {
    let object = object.as_object().unwrap();
    object.keys().map(String::as_str).collect()
}

#[test]
fn every_type_has_a_schema_and_several_examples() {
    let schemas: BTreeSet<String> = wire::TYPES.map(|kind| format!("{kind}.schema.json")).into();
    let mut files = names_in(".");
    files.retain(|name| name.ends_with(".schema.json"));
    assert_eq!(files, schemas);
    let mut folders = names_in("examples");
    // The rest are services in other languages: `services.rs` runs them.
    folders.retain(|name| name.starts_with("keycard."));
    assert_eq!(
        folders,
        wire::TYPES.map(str::to_owned).into(),
        "examples without a type, or a type without examples"
    );
    for kind in wire::TYPES {
        assert!(jsonschema::meta::is_valid(&schema(kind)), "{kind}");
        assert_eq!(schema(kind)["title"], kind);
        assert!(examples(kind).len() >= 2, "{kind}");
    }
}

/// Otherwise nobody would miss a schema of a type that is left out of the list.
#[test]
fn every_type_that_the_code_names_is_listed() {
    let source = include_str!("../../src/wire/mod.rs");
    let named: BTreeSet<&str> = source
        .lines()
        .filter(|line| line.starts_with("pub const ") && line.contains(": &str = \"keycard."))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    let mut listed: BTreeSet<&str> = wire::TYPES.into();
    listed.insert(wire::LEASE_EXPIRING);
    assert_eq!(named, listed);
}

#[test]
fn every_example_is_valid() {
    for kind in wire::TYPES {
        let validator = validator(kind);
        for (case, example) in examples(kind) {
            if let Err(problem) = validator.validate(&example) {
                panic!("{kind}/{case}: {problem} at {}", problem.instance_path());
            }
        }
    }
}

/// The examples of results are what the code writes, and those of commands what it reads, so this
/// holds schemas and code together.
#[test]
fn what_a_schema_names_is_what_its_examples_hold() {
    fn compare(at: &str, root: &Value, schema: &Value, instances: &[Value]) {
        let schema = match schema["$ref"].as_str() {
            Some(reference) => root.pointer(&reference[1..]).unwrap(),
            None => schema,
        };
        if schema["properties"].is_null() {
            return;
        }
        let all: BTreeSet<&str> = instances.iter().flat_map(keys).collect();
        assert_eq!(keys(&schema["properties"]), all, "{at}: properties");
        let always = |key: &&str| instances.iter().all(|instance| instance.get(key).is_some());
        let required = schema["required"].as_array().unwrap();
        assert_eq!(
            required
                .iter()
                .map(|key| key.as_str().unwrap())
                .collect::<BTreeSet<_>>(),
            all.iter().copied().filter(always).collect(),
            "{at}: required"
        );
        for key in all {
            let values: Vec<Value> = instances
                .iter()
                .filter_map(|instance| instance.get(key).cloned())
                .collect();
            compare(
                &format!("{at}/{key}"),
                root,
                &schema["properties"][key],
                &values,
            );
        }
    }
    for kind in wire::TYPES {
        let root = schema(kind);
        let instances: Vec<Value> = examples(kind).into_values().collect();
        compare(kind, &root, &root, &instances);
    }
}

#[test]
fn commands_are_closed_and_everything_else_is_open() {
    for kind in wire::TYPES {
        let closed = COMMANDS.contains(&kind);
        let validator = validator(kind);
        for (case, example) in examples(kind) {
            for at in ["", "/data"] {
                let mut later = example.clone();
                let object = later.pointer_mut(at).unwrap();
                object["added_by_a_later_version"] = true.into();
                assert_eq!(validator.is_valid(&later), !closed, "{kind}/{case} {at}");
            }
        }
    }
}

#[test]
fn the_schema_knows_exactly_the_codes_of_denials_and_the_causes() {
    let enumerated = |kind, property| -> Vec<String> {
        let schema = schema(kind);
        let property = &schema["properties"]["data"]["properties"][property];
        let words = property["anyOf"][0]["enum"].as_array().unwrap();
        words
            .iter()
            .map(|word| word.as_str().unwrap().into())
            .collect()
    };
    assert_eq!(
        enumerated(wire::REQUEST_DENIED, "code"),
        DenialCode::ALL.map(DenialCode::as_str)
    );
    assert_eq!(
        enumerated(wire::LEASE_REVOKED, "cause"),
        keycard::lease::Cause::ALL.map(keycard::lease::Cause::as_str)
    );
}

#[test]
fn the_readme_names_every_type_and_lists_every_code() {
    let readme = read("README.md");
    for kind in wire::TYPES.into_iter().chain([wire::LEASE_EXPIRING]) {
        assert!(readme.contains(&format!("| `{kind}` |")), "{kind}");
    }
    let rows: Vec<Vec<&str>> = readme
        .lines()
        .map(|line| line.split('|').map(str::trim).collect())
        .filter(|cells: &Vec<&str>| cells.len() == 6 && !cells[1].contains('.'))
        .filter(|cells| cells[1].starts_with('`'))
        .collect();
    let listed: Vec<(&str, &str)> = rows
        .iter()
        .map(|cells| (cells[1].trim_matches('`'), cells[3]))
        .collect();
    let expected = DenialCode::ALL.map(|code| {
        let retryable = if code.is_retryable() { "yes" } else { "no" };
        (code.as_str(), retryable)
    });
    assert_eq!(listed, expected);
}

#[test]
fn the_asyncapi_document_refers_to_every_schema_and_to_nothing_else() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = read_json("asyncapi.json");
    assert_eq!(document["asyncapi"], "3.0.0");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let (local, files): (BTreeSet<&str>, BTreeSet<&str>) =
        found.into_iter().partition(|at| at.starts_with('#'));
    let schemas = wire::TYPES.map(|kind| format!("./{kind}.schema.json"));
    assert_eq!(files, schemas.iter().map(String::as_str).collect());
    for at in local {
        assert!(document.pointer(&at[1..]).is_some(), "{at}");
    }
    let messages = document["components"]["messages"].as_object().unwrap();
    let names: BTreeSet<&str> = messages
        .values()
        .map(|message| message["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, wire::TYPES.into());
}
