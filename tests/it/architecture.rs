//! The shape of the code: imports point one way, and the core imports nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down: a module may import those that come after it.
const ORDER: [&str; 17] = [
    "main",
    "cli",
    "app",
    "config",
    "worker",
    "queue",
    "store",
    "ledger",
    "login",
    "wire",
    "lease",
    "password",
    "check",
    "fault",
    "injection",
    "metrics",
    "clock",
];

/// May be imported by whoever starts it, and imports nothing.
const TELEMETRY: &str = "telemetry";

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let first = path.strip_prefix(&root).unwrap().iter().next().unwrap();
                let module = Path::new(first).file_stem().unwrap().to_str().unwrap();
                let text = fs::read_to_string(&path).unwrap();
                found.push((module.to_owned(), path, text));
            }
        }
    }
    found
}

/// The modules of keycard that a source names: `crate::x`, and `keycard::x` in the binary.
fn imports(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| {
            line.match_indices("crate::")
                .chain(line.match_indices("keycard::"))
                .map(|(at, prefix)| {
                    line[at + prefix.len()..]
                        .chars()
                        .take_while(|character| character.is_ascii_lowercase() || *character == '_')
                        .collect()
                })
                .collect::<Vec<String>>()
        })
        .filter(|name| !name.is_empty())
        .collect()
}

fn rank(module: &str) -> usize {
    ORDER
        .iter()
        .position(|known| *known == module)
        .unwrap_or_else(|| panic!("src/{module} has no place in the order of imports"))
}

#[test]
fn imports_point_downwards() {
    let sources = sources();
    assert!(sources.len() > 40, "{}", sources.len());
    let mut checked = 0;
    for (module, path, text) in &sources {
        if module == "lib" || module == TELEMETRY {
            continue;
        }
        for import in imports(text) {
            if import == TELEMETRY || import == *module {
                continue;
            }
            assert!(
                rank(module) < rank(&import),
                "{} imports {import}, which lies above it",
                path.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn the_core_imports_nothing_of_keycard_and_does_nothing_by_itself() {
    let core: Vec<_> = sources()
        .into_iter()
        .filter(|(module, path, _)| module == "lease" && !path.to_string_lossy().contains("test"))
        .collect();
    assert!(core.len() >= 5);
    for (_, path, text) in core {
        for foreign in ["crate::", "async ", "tokio", "HashMap", "::now(", "tracing"] {
            assert!(
                !text.contains(foreign),
                "{} holds {foreign:?}",
                path.display()
            );
        }
    }
}

#[test]
fn adapters_do_not_know_each_other() {
    let adapters = adapters();
    for (module, path, text) in sources() {
        let path = path.to_string_lossy();
        for (port, adapter) in &adapters {
            if !path.contains(&format!("src/{port}/{adapter}")) {
                continue;
            }
            for (_, other) in adapters
                .iter()
                .filter(|(of, it)| of == port && it != adapter)
            {
                assert!(
                    !text.contains(&format!("super::{other}"))
                        && !text.contains(&format!("{module}::{other}")),
                    "{path} knows {other}"
                );
            }
        }
    }
}

#[test]
fn every_adapter_passes_the_suite_of_its_port() {
    for (port, adapter) in adapters() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
        let path = tests.join(&port).join(format!("{adapter}.rs"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            text.contains("conformance(") || text.contains("conformance!("),
            "{} does not run the conformance suite",
            path.display()
        );
    }
}

/// Port and name of every adapter: who implements a port.
fn adapters() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut adapters: Vec<(String, String)> = sources()
        .into_iter()
        .filter(|(_, _, text)| {
            text.contains("impl SecretStore for ") || text.contains("impl Queue for ")
        })
        .map(|(port, path, _)| {
            let within = path.strip_prefix(src.join(&port)).unwrap();
            let first = Path::new(within.iter().next().unwrap());
            (
                port,
                first.file_stem().unwrap().to_str().unwrap().to_owned(),
            )
        })
        .collect();
    adapters.sort();
    assert!(adapters.len() >= 4, "{adapters:?}");
    adapters
}
