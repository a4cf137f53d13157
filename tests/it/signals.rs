//! What is written of logs and alerts is so: infra/SIGNALS.md, infra/RUNBOOK.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keycard::clock::uuid_v7;

use crate::support::process::Output;

fn path(within: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(within)
}

fn read(within: &str) -> String {
    fs::read_to_string(path(within)).unwrap()
}

/// The texts of keycard's sources, without comments.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![path("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                found.push((path, code.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    found
}

/// The arguments of a macro, from behind its opening parenthesis on.
fn arguments(text: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for letter in text.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().unwrap().push(letter);
    }
    arguments
        .iter()
        .map(|argument| argument.trim().to_owned())
        .collect()
}

/// The fields of every line that is logged and of every span, and where one of each is.
fn fields() -> BTreeMap<String, PathBuf> {
    let mut fields = BTreeMap::new();
    for (path, text) in sources() {
        for name in [
            "error",
            "warn",
            "info",
            "debug",
            "trace",
            "event",
            "info_span",
        ] {
            let call = format!("{name}!(");
            for (at, _) in text.match_indices(&call) {
                let before = text[..at].chars().next_back().unwrap();
                if before.is_alphanumeric() || before == '_' {
                    continue;
                }
                for argument in arguments(&text[at + call.len()..]) {
                    if argument.starts_with('"') && name != "info_span" {
                        // The message; what follows is said in it.
                        break;
                    }
                    let is_field = argument.starts_with(|letter: char| {
                        letter.is_ascii_lowercase() || "%?".contains(letter)
                    });
                    if is_field && !argument.starts_with("target:") && !argument.contains("Level::")
                    {
                        let field = argument.split(['=', ' ']).next().unwrap();
                        fields.insert(
                            field.trim_start_matches(['%', '?']).to_owned(),
                            path.clone(),
                        );
                    }
                }
            }
        }
    }
    fields.retain(|field, _| !field.starts_with("otel."));
    fields
}

#[test]
fn every_field_of_the_log_is_listed() {
    let fields = fields();
    assert!(
        fields.len() > 30 && fields.contains_key("lease.id"),
        "{fields:?}"
    );
    let document = read("infra/SIGNALS.md");
    let (_, table) = document
        .split_once("| field | what it is |\n|---|---|\n")
        .unwrap();
    let listed: BTreeSet<&str> = table
        .lines()
        .map_while(|row| row.strip_prefix("| `")?.split('`').next())
        .collect();
    for (field, path) in &fields {
        assert!(
            listed.contains(field.as_str()),
            "infra/SIGNALS.md does not list the field {field} of {}",
            path.display()
        );
    }
    for field in listed {
        assert!(fields.contains_key(field), "nothing logs the field {field}");
    }
}

#[test]
fn every_alert_has_its_section_in_the_runbook() {
    let alerts = read("infra/modules/manifests/files/alerts.yaml");
    let alerts: BTreeSet<&str> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let runbook = read("infra/RUNBOOK.md");
    let sections: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .filter(|title| title.starts_with("Keycard"))
        .collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(alerts, sections);
    for section in runbook.split("\n## Keycard").skip(1) {
        for part in ["**Means**: ", "**Look at**: ", "**Type**: "] {
            assert!(section.contains(part), "{part} is missing: {section}");
        }
    }
}

/// keycard takes every command of the runbook: each is one of its own, with its own arguments.
#[test]
fn every_command_of_the_runbook_exists() {
    let runbook = read("infra/RUNBOOK.md");
    let within = runbook.split('`').skip(1).step_by(2);
    let commands: BTreeSet<&str> = within
        .chain(runbook.lines())
        .filter_map(|text| {
            let in_a_pod = text.split_once(" -- /keycard ").map(|(_, command)| command);
            text.strip_prefix("keycard ").or(in_a_pod).map(str::trim)
        })
        .collect();
    assert!(commands.len() > 12, "{commands:?}");
    let lease = format!("app.{}", uuid_v7());
    for command in commands {
        let words = command.split(' ').map(|word| match word {
            "ID" => lease.as_str(),
            word => word,
        });
        // With --help clap has looked at everything before it, and nothing is done.
        let output = Output::of(
            Command::new(env!("CARGO_BIN_EXE_keycard"))
                .args(words)
                .arg("--help")
                .env_clear(),
        );
        assert!(output.status.success(), "{command}: {}", output.stderr);
        let (_, usage) = output.stdout.split_once("Usage: keycard ").unwrap();
        let named = usage.lines().next().unwrap();
        let known = command.split(' ').take_while(|word| {
            word.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
                && !word.starts_with('-')
        });
        for word in known {
            assert!(named.contains(word), "{command}: {named}");
        }
    }
}
