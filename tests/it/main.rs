//! Integration tests on real servers.

// Under `cfg(test)`, so that clippy.toml's leave to unwrap in tests covers functions that tests share.
#[cfg(test)]
mod contract;
