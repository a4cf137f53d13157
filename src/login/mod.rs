//! Postgres login roles: their names, their passwords, and every change of them.

mod change;
mod custom;
mod keeper;
mod name;
mod objects;
mod password;
mod sessions;
mod setup;
mod sqlstate;
mod template;

pub use change::{Applied, Login, apply};
pub use name::username;
pub use objects::{Leaver, clear, databases, left, withdraw};
pub use password::{SCRAM_ITERATIONS, generate as generate_password, scram_verifier};
pub use sessions::terminate_sessions;
pub use setup::{Setup, setup_sql};
pub use sqlstate::{describe, disposition};
pub use template::{Owned, Statements, Template, Upkeep};
