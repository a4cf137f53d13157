//! How a role's logins are made, renewed and revoked: groups, or statements as in Vault.

use std::num::NonZeroU32;

use jiff::Timestamp;

/// What a role of the configuration says about its logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Custom statements; without them keycard's own CREATE ROLE.
    pub creation: Option<Statements>,
    /// How the login is renewed and revoked.
    pub upkeep: Upkeep,
    /// NOLOGIN roles whose privileges the login inherits, sorted by name.
    pub groups: Vec<String>,
    /// Most sessions at a time; Postgres sets no limit when absent.
    pub connection_limit: Option<u32>,
    /// PBKDF2 iterations of the verifier.
    pub scram_iterations: NonZeroU32,
}

/// How a login is renewed and revoked where its role says so. The ledger records it when the login
/// is created, so that a lease ends as it was meant to, whatever becomes of its role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Run instead of keycard's own ALTER ROLE.
    pub renewal: Option<Statements>,
    /// Run before keycard drops what is left.
    pub revocation: Option<Statements>,
    /// What becomes of what the login owns, where no statements look after it.
    pub owned: Owned,
}

impl Upkeep {
    /// Whether somebody else's statements are part of it.
    #[must_use]
    pub fn has_statements(&self) -> bool {
        self.renewal.is_some() || self.revocation.is_some()
    }
}

/// What becomes of the objects that a login owns when its lease ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Owned {
    /// They stay, and with them the login, disabled, until somebody has decided.
    #[default]
    Kept,
    /// They are dropped.
    Dropped,
    /// They belong to this role from then on.
    Reassigned(String),
}

/// Statements of a role, with `{{name}}`, `{{username}}`, `{{expiration}}` and, where a login is
/// created, `{{password}}` in exactly this spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statements {
    /// One command each, by the extended protocol; without the semicolon at its end.
    Each(Vec<String>),
    /// Several commands in one string, which Postgres itself takes apart.
    Script(String),
}

impl Statements {
    /// The texts in their order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::Each(texts) => texts.as_slice(),
            Self::Script(text) => std::slice::from_ref(text),
        }
        .iter()
        .map(String::as_str)
    }

    /// The SQL to run, with a verifier where a login is created. The values hold no quote, backslash
    /// or brace, so they cannot leave their literal.
    pub(super) fn render(
        &self,
        username: &str,
        verifier: Option<&str>,
        expires_at: Timestamp,
    ) -> Self {
        let expiration = expires_at.to_string();
        let fill = |text: &String| {
            let filled = text
                .replace("{{name}}", username)
                .replace("{{username}}", username)
                .replace("{{expiration}}", &expiration);
            match verifier {
                Some(verifier) => filled.replace("{{password}}", verifier),
                None => filled,
            }
        };
        match self {
            Self::Each(texts) => Self::Each(texts.iter().map(fill).collect()),
            Self::Script(text) => Self::Script(fill(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled_and_others_are_left_alone() {
        let text = r#"CREATE ROLE "{{name}}" PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' -- {{other}} {{username}}"#;
        let rendered = Statements::Script(text.to_owned()).render(
            "kc_a",
            Some("SCRAM-SHA-256$1:c2FsdA==$a:b"),
            "2026-01-01T00:00:00Z".parse().unwrap(),
        );
        assert_eq!(
            rendered,
            Statements::Script(
                r#"CREATE ROLE "kc_a" PASSWORD 'SCRAM-SHA-256$1:c2FsdA==$a:b' VALID UNTIL '2026-01-01T00:00:00Z' -- {{other}} kc_a"#
                    .to_owned()
            )
        );
    }
}
