//! What infra/ gives to keycard and to servers, given to real ones, and the image as it runs. `infra/check.sh render` keeps beside
//! these tests what Terraform makes of examples/gitops, so that they need no Terraform.

mod amqp;
mod image;

use crate::support::process::Output;

#[test]
fn keycard_reads_the_configuration_that_is_rendered() {
    let rendered = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/infra/keycard.toml");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keycard"));
    let read = Output::of(command.args(["--config", rendered, "config", "check"]));
    assert!(read.status.success(), "{}", read.stderr);
}
