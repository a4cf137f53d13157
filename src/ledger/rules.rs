//! What the configuration says about leases, as the ledger and the worker need it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use crate::lease::{Lease, Policy, Requester, RolePolicy};
use crate::login::Template;

/// The rules of one installation. The configuration builds them; nothing changes them.
#[derive(Debug)]
pub struct Rules {
    /// The installation's name.
    pub installation: String,
    /// Who may renew and revoke any lease.
    pub operators: BTreeSet<Requester>,
    /// How long an attempt keeps a lease to itself.
    pub hold: SignedDuration,
    /// Requests and renewals older than this are denied.
    pub request_age_max: SignedDuration,
    /// How long closed leases are kept, counted from when nothing can wake them any more.
    pub keep_closed_leases: SignedDuration,
    /// How long rows of the audit are kept.
    pub keep_audit: SignedDuration,
    /// By name.
    pub roles: BTreeMap<String, Role>,
    /// What clients are told about each database, by its key.
    pub databases: BTreeMap<String, Told>,
    /// First part of every locator.
    pub prefix: String,
}

/// A role of the configuration.
#[derive(Debug)]
pub struct Role {
    /// Key of its database.
    pub database: String,
    /// Who may ask for it.
    pub requesters: BTreeSet<Requester>,
    /// Its times and limits.
    pub policy: RolePolicy,
    /// How its logins are made.
    pub template: Template,
}

/// How clients reach a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Name of the database.
    pub dbname: String,
    /// Whether clients should use TLS.
    pub tls: bool,
}

impl Rules {
    /// The rules that apply to a lease of `role` for `requester`, in a database whose revocations are
    /// `frozen` or not.
    #[must_use]
    pub fn policy(&self, role: &str, requester: &Requester, frozen: bool) -> Policy {
        Policy {
            hold: self.hold,
            request_age_max: self.request_age_max,
            frozen,
            role: self
                .roles
                .get(role)
                .filter(|role| role.requesters.contains(requester))
                .map(|role| role.policy.clone()),
        }
    }

    /// The rules where there is neither lease nor role.
    #[must_use]
    pub fn no_role(&self, frozen: bool) -> Policy {
        Policy {
            hold: self.hold,
            request_age_max: self.request_age_max,
            frozen,
            role: None,
        }
    }

    /// Where the secret of one attempt goes. No two attempts share a locator, and a requester's
    /// secrets all lie below `<prefix>/<requester>/`.
    #[must_use]
    pub fn locator(&self, lease: &Lease) -> String {
        let base = format!(
            "{}/{}/{}/{}",
            self.prefix,
            lease.requester.encoded(),
            lease.role,
            lease.id
        );
        if lease.attempt == 1 {
            base
        } else {
            format!("{base}.{}", lease.attempt)
        }
    }
}
