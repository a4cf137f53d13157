//! Room for what senders nest.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::config::Environment;

/// What Rust reads the size of every new thread's stack from, once.
const VARIABLE: &str = "RUST_MIN_STACK";

/// lapin reads and drops a message's headers by recursion, as deep as their sender has nested them,
/// and a thread that reaches the end of its stack ends the process. A frame of the broker's usual
/// 128 KiB holds 26,000 levels, which took between 32 and 64 MiB in a release and between 256 and
/// 512 MiB in a debug build. It is address space: memory only once somebody nests.
const STACK_BYTES: usize = if cfg!(debug_assertions) {
    512 << 20
} else {
    96 << 20
};

/// Starts this program again in its own place, with that room on each thread, unless it has been.
/// Where that is not possible it goes on as it is.
pub(super) fn make_room(environment: &Environment) {
    if environment.text(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Comes back only with an error.
    let _ = again
        .args(arguments)
        .env(VARIABLE, STACK_BYTES.to_string())
        .exec();
}
