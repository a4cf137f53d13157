//! Every option of Vault's database engine that `keycard import vault` knows, and what it becomes.

/// One option, as `vault read -format=json` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// What it is an option of.
    pub of: Kind,
    /// Its key in Vault's JSON.
    pub key: &'static str,
    /// What it becomes.
    pub fate: Fate,
    /// What is worth knowing about that, in one line; may be empty.
    pub about: &'static str,
}

/// What `vault read` was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `database/config/NAME`.
    Connection,
    /// `database/roles/NAME`.
    Role,
    /// `database/static-roles/NAME`.
    StaticRole,
}

impl Kind {
    /// Where Vault keeps it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "config",
            Self::Role => "roles",
            Self::StaticRole => "static-roles",
        }
    }
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// This key of keycard's; imported.
    Key(&'static str),
    /// This key of keycard's; somebody has to write it.
    ByHand(&'static str),
    /// keycard works so in any case.
    Moot,
    /// keycard has nothing like it.
    None,
    /// keycard is going to have it.
    NotYet,
}

const fn term(of: Kind, key: &'static str, fate: Fate, about: &'static str) -> Term {
    Term {
        of,
        key,
        fate,
        about,
    }
}

/// Every option, in the order of the README.
#[rustfmt::skip]
pub const TERMS: &[Term] = {
    use Fate::{ByHand, Key, Moot, None, NotYet};
    use Kind::{Connection, Role, StaticRole};
    const ROTATION: &str = "change the admin's password in Postgres and where `password` points: it is read again for every connection";
    const STATIC: &str = "static roles are not yet supported";
    &[
    term(Connection, "plugin_name", Moot, "`postgresql-database-plugin` only"),
    term(Connection, "plugin_version", None, "there are no plugins"),
    term(Connection, "connection_url", Key("connection_url"), "`sslmode` is `disable` or `verify-full`; a password in it is left out"),
    term(Connection, "username", Key("username"), "a user of keycard's own is better: `keycard setup-sql` makes it without superuser rights"),
    term(Connection, "password", ByHand("password"), "Vault tells it to nobody; keycard reads it from the environment, a file or Secrets Manager"),
    term(Connection, "allowed_roles", Key("allowed_roles"), "with `*` as in Vault; empty denies all"),
    term(Connection, "max_open_connections", Key("max_connections"), "of one worker"),
    term(Connection, "max_idle_connections", None, "connections stay open up to `max_connections`"),
    term(Connection, "max_connection_lifetime", None, "connections stay open for as long as they work"),
    term(Connection, "verify_connection", None, "`keycard worker` connects when it starts, and waits for a database that is away"),
    term(Connection, "username_template", None, "usernames are `kc_<role>_<requester>_<random>`, at most 61 bytes"),
    term(Connection, "password_policy", None, "passwords are 32 random characters (192 bits), safe in URLs"),
    term(Connection, "password_authentication", Moot, "always `scram-sha-256`: Postgres gets a verifier, never the password"),
    term(Connection, "disable_escaping", Moot, "user and password are no part of the URL"),
    term(Connection, "auth_type", None, "the admin logs in with a password"),
    term(Connection, "service_account_json", None, "the admin logs in with a password"),
    term(Connection, "use_private_ip", None, "write the address that keycard shall connect to"),
    term(Connection, "self_managed", None, "keycard has an admin user for each database"),
    term(Connection, "tls_ca", ByHand("ca_file"), "write the PEM into a file"),
    term(Connection, "tls_certificate", None, "the admin logs in with a password"),
    term(Connection, "private_key", None, "the admin logs in with a password"),
    term(Connection, "root_rotation_statements", NotYet, ROTATION),
    term(Connection, "root_credentials_rotate_statements", NotYet, ROTATION),
    term(Connection, "rotation_period", NotYet, ROTATION),
    term(Connection, "rotation_schedule", NotYet, ROTATION),
    term(Connection, "rotation_window", NotYet, ROTATION),
    term(Connection, "rotation_policy", NotYet, ROTATION),
    term(Connection, "disable_automated_rotation", Moot, "nothing rotates by itself"),
    term(Connection, "skip_static_role_import_rotation", NotYet, STATIC),
    term(Connection, "backend", Moot, "the name of Vault's mount"),
    term(Role, "db_name", Key("database"), ""),
    term(Role, "creation_statements", Key("creation_statements"), "one text with all of them, base64 decoded; `{{password}}` is a SCRAM verifier"),
    term(Role, "renew_statements", Key("renew_statements"), "a lease keeps those of its issue; VALID UNTIL is set in any case"),
    term(Role, "revocation_statements", Key("revocation_statements"), "a lease keeps those of its issue; what they leave, keycard takes back or drops itself. Without them Vault revokes grants on tables first: the import writes statements that do so"),
    term(Role, "rollback_statements", None, "what fails is rolled back by Postgres itself"),
    term(Role, "default_ttl", Key("default_ttl"), "0 is Vault's system default, 768h unless it was tuned; keycard's default is 1h"),
    term(Role, "max_ttl", Key("max_ttl"), "0 is Vault's system maximum, 768h unless it was tuned; keycard's default is 24h"),
    term(Role, "credential_type", Moot, "`password` only; roles of another type are left out"),
    term(Role, "credential_config", None, "passwords have no settings"),
    term(StaticRole, "username", NotYet, STATIC),
    term(StaticRole, "db_name", NotYet, STATIC),
    term(StaticRole, "rotation_period", NotYet, STATIC),
    term(StaticRole, "rotation_schedule", NotYet, STATIC),
    term(StaticRole, "rotation_window", NotYet, STATIC),
    term(StaticRole, "rotation_statements", NotYet, STATIC),
    term(StaticRole, "last_vault_rotation", NotYet, STATIC),
    term(StaticRole, "next_vault_rotation", NotYet, STATIC),
    term(StaticRole, "skip_import_rotation", NotYet, STATIC),
    term(StaticRole, "self_managed_password", NotYet, STATIC),
    term(StaticRole, "credential_type", NotYet, STATIC),
    term(StaticRole, "credential_config", NotYet, STATIC),
    ]
};

impl Term {
    /// What keycard has instead, as the README and the notes of an import say it.
    #[must_use]
    pub fn keycard(&self) -> String {
        match self.fate {
            Fate::Key(key) => format!("`{key}`"),
            Fate::ByHand(key) => format!("`{key}`, by hand"),
            Fate::Moot => "not needed".to_owned(),
            Fate::None => "none".to_owned(),
            Fate::NotYet => "not yet".to_owned(),
        }
    }
}
