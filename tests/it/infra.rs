//! What infra/ gives to keycard and to servers, given to real ones, and the image as it runs.
//! `infra/check.sh render` keeps beside these tests what Terraform makes of examples/gitops, so that
//! they need no Terraform.

mod amqp;
mod image;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::process::Output;

#[test]
fn keycard_reads_the_configuration_that_is_rendered() {
    let rendered = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/infra/keycard.toml");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keycard"));
    // The tests' own variables begin with KEYCARD_ as well.
    command.env_clear();
    let read = Output::of(command.args(["--config", rendered, "config", "check"]));
    assert!(read.status.success(), "{}", read.stderr);
}

/// The worker's policy is no wider and no narrower than the code.
#[test]
fn the_policy_allows_what_the_store_calls() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    // An action is named where its failure is told.
    let code = read("src/store/aws.rs") + &read("src/store/aws/look.rs");
    let called: BTreeSet<&str> = code
        .split("failure(")
        .filter_map(|call| call.split('"').nth(3))
        .filter(|action| action.contains("Secret"))
        .collect();
    let policies = read("infra/modules/aws/policies/main.tf");
    let (worker, _) = policies.split_once("readers =").unwrap();
    let mut allowed: BTreeSet<&str> = worker
        .split("\"secretsmanager:")
        .skip(1)
        .filter_map(|action| action.split('"').next())
        .collect();
    assert!(
        allowed.remove("TagResource"),
        "CreateSecret with tags needs it"
    );
    assert_eq!(called, allowed);
}
