//! Integration tests on real servers.

// So that clippy.toml's leave to unwrap in tests covers functions that tests share.
#![cfg(test)]

mod age;
mod architecture;
mod audit_trail;
mod authorisation;
mod cli;
mod commands;
mod contract;
mod crash_matrix;
mod dead_letters;
mod demo;
mod doctor;
mod documents;
mod embedded;
mod expiry;
mod fleet;
mod hostile;
mod idempotency;
mod idle;
mod infra;
mod ledger;
mod life;
mod logins;
mod metrics;
mod outages;
mod poison;
mod properties;
mod queue;
mod readme;
mod reconcile;
mod restore;
mod revocation;
mod secrecy;
mod services;
mod shutdown;
mod signals;
mod slow_secrets;
mod soak;
mod store;
mod support;
mod tls;
mod traces;
mod ttl;
mod vault;
