//! The keycard command.

fn main() {}
