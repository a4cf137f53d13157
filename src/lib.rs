//! keycard issues short-lived `PostgreSQL` credentials on request and takes them back on time.
//!
//! ARCHITECTURE.md is the map: modules, invariants and the walk of one lease through the code.

pub mod app;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod fault;
pub mod injection;
pub mod lease;
pub mod ledger;
pub mod login;
pub mod metrics;
pub mod password;
pub mod queue;
pub mod store;
pub mod telemetry;
pub mod wire;
pub mod worker;
