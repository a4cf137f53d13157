//! The keycard command.

use std::process::ExitCode;

use clap::Parser as _;
use keycard::cli::Arguments;
use keycard::config::Environment;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The only one in this binary; the AWS SDK brings the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match keycard::cli::run(arguments, &Environment::of_process()).await {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("keycard: {failure}");
            failure.exit_code()
        }
    }
}
