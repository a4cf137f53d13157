//! What the documents say is so.

use std::fs;
use std::path::{Path, PathBuf};

use keycard::config::KEYS;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

#[test]
fn the_readme_lists_every_key_of_the_configuration() {
    let rows: Vec<String> = KEYS
        .iter()
        .map(|key| format!("| `{}` | {} | {} |", key.path, key.default, key.about))
        .collect();
    let reference = format!(
        "| key | default | what it is for |\n|---|---|---|\n{}\n",
        rows.join("\n")
    );
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(
        readme.contains(&reference),
        "README.md does not hold this reference:\n{reference}"
    );
}

/// Links within the project lead somewhere, and a link to a test names one that exists.
#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "events/README.md",
        "infra/README.md",
        "infra/RUNBOOK.md",
        "infra/recipes/README.md",
        "infra/SIGNALS.md",
        "infra/modules/manifests/README.md",
        "infra/modules/aws/README.md",
        "infra/modules/broker/README.md",
        "infra/modules/deploy/README.md",
    ] {
        let path = root().join(document);
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.starts_with('#') {
                continue;
            }
            let target = path
                .parent()
                .unwrap()
                .join(target.split('#').next().unwrap());
            assert!(target.exists(), "{document}: {}", target.display());
            let label = text[..at].rsplit('[').next().unwrap().trim_matches('`');
            if target
                .extension()
                .is_some_and(|extension| extension == "rs")
                && label.contains('_')
                && !label.contains('/')
            {
                let source = fs::read_to_string(&target).unwrap();
                assert!(
                    source.contains(&format!("fn {label}(")),
                    "{document}: {} has no {label}",
                    target.display()
                );
            }
            links += 1;
        }
    }
    assert!(links > 20, "{links}");
}
