//! What `keycard doctor` has looked at, as values: every part examines itself and says so alike.

use std::net::IpAddr;

/// Who rehearses roles: the requester of those leases, and so the name of no service.
pub const DOCTOR: &str = "keycard-doctor";

/// One thing that was looked at. Its texts hold nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it is about, as the configuration names it: `databases.app.ledger`.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was seen, for people.
    pub seen: String,
    /// What to do about it, unless all is well or what was seen says so itself.
    pub remedy: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// keycard works, and somebody should know of it.
    Warning,
    /// keycard does not work until somebody mends it.
    Failure,
}

/// Whether a host is this one, so that nobody is between.
#[must_use]
pub fn is_this_host(name: &str) -> bool {
    let is_loopback = |address: IpAddr| address.is_loopback();
    name == "localhost" || name.parse().is_ok_and(is_loopback)
}

impl Status {
    /// As the command line writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

impl Check {
    /// All is well.
    #[must_use]
    pub fn ok(name: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status: Status::Ok,
            seen: seen.into(),
            remedy: None,
        }
    }

    /// It works, and somebody should know.
    #[must_use]
    pub fn warning(
        name: impl Into<String>,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(name, seen)
        }
    }

    /// It does not work.
    #[must_use]
    pub fn failure(
        name: impl Into<String>,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Failure,
            ..Self::warning(name, seen, remedy)
        }
    }

    /// It does not work, and what was seen says what to do.
    #[must_use]
    pub fn failed(name: impl Into<String>, error: &impl std::fmt::Display) -> Self {
        Self {
            status: Status::Failure,
            ..Self::ok(name, error.to_string())
        }
    }
}
