//! Integration tests on real servers.

// So that clippy.toml's leave to unwrap in tests covers functions that tests share.
#![cfg(test)]

mod age;
mod architecture;
mod authorisation;
mod cli;
mod contract;
mod documents;
mod expiry;
mod idempotency;
mod ledger;
mod life;
mod logins;
mod outages;
mod poison;
mod queue;
mod readme;
mod revocation;
mod secrecy;
mod shutdown;
mod slow_store;
mod store;
mod support;
mod tls;
mod ttl;
