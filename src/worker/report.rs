//! What a comparison of ledgers, logins and secrets found.

use crate::lease::{Difference, LeaseId};

/// Something that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In what.
    pub kind: Kind,
    /// The database's key, as the lease's id begins, also if the configuration no longer has it.
    pub database: String,
    /// The lease, if one is known.
    pub lease: Option<LeaseId>,
    /// The login's name, or the secret's locator.
    pub subject: String,
    /// For people.
    pub detail: String,
    /// What became of it.
    pub action: Action,
}

/// In what something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A lease is alive and its login is gone.
    LoginMissing,
    /// A lease is over and its login is there.
    LoginLeft,
    /// A lease is alive and its login has another name.
    LoginRenamed,
    /// A role is named like keycard's logins, and no ledger proves that it is one.
    LoginUnproven,
    /// A lease is closed and a secret of it is there.
    SecretLeft,
    /// A secret is tagged with this installation, and no ledger proves that it belongs to a lease.
    SecretUnproven,
}

/// What becomes of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is for people to look at.
    Reported,
    /// Something, if reconciliation is to be applied.
    Due,
    /// What was due.
    Done,
    /// It was begun, and goes on later.
    Unfinished,
}

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What differs.
    pub findings: Vec<Finding>,
    /// What could not be compared (a database, or [`Report::SECRETS`]), and why.
    pub failed: Vec<(String, String)>,
    /// Databases that another keycard reconciles right now.
    pub busy: Vec<String>,
}

impl Report {
    /// Stands for the secret store among what failed.
    pub const SECRETS: &str = "the secret store";

    /// Whether everything could be compared.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.busy.is_empty()
    }
}

impl Finding {
    pub(super) fn new(
        kind: Kind,
        database: &str,
        lease: Option<LeaseId>,
        subject: String,
        detail: String,
    ) -> Self {
        Self {
            kind,
            database: database.to_owned(),
            lease,
            subject,
            detail,
            action: kind.difference().map_or(Action::Reported, |_| Action::Due),
        }
    }
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::LoginMissing,
        Self::LoginLeft,
        Self::LoginRenamed,
        Self::LoginUnproven,
        Self::SecretLeft,
        Self::SecretUnproven,
    ];

    /// Whether it is about a secret, and else about a login.
    #[must_use]
    pub fn is_of_secrets(self) -> bool {
        matches!(self, Self::SecretLeft | Self::SecretUnproven)
    }

    /// The kind as the command line and logs write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoginMissing => "login_missing",
            Self::LoginLeft => "login_left",
            Self::LoginRenamed => "login_renamed",
            Self::LoginUnproven => "login_unproven",
            Self::SecretLeft => "secret_left",
            Self::SecretUnproven => "secret_unproven",
        }
    }

    /// What the lease is told; `None` when the ledger proves too little to do anything.
    #[must_use]
    pub fn difference(self) -> Option<Difference> {
        match self {
            Self::LoginMissing => Some(Difference::LoginMissing),
            Self::LoginLeft => Some(Difference::LoginLeft),
            Self::SecretLeft => Some(Difference::SecretLeft),
            Self::LoginRenamed | Self::LoginUnproven | Self::SecretUnproven => None,
        }
    }
}
