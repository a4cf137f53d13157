//! The keycard.toml that is made of Vault's answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use toml::Value;

use super::source::Source;
use super::terms::Kind;
use super::url;
use crate::config::{Config, Environment};

/// Revokes what was granted to the login in its database, as Vault does by default; but a login
/// that owns something stays, disabled, as DROP OWNED would drop that.
const REVOCATION: &str = r#"DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_shdepend
               WHERE refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
               AND refobjid = '"{{name}}"'::pg_catalog.regrole AND deptype = 'o') THEN
        RAISE EXCEPTION 'the login owns objects' USING ERRCODE = 'dependent_objects_still_exist';
    END IF;
    DROP OWNED BY "{{name}}";
END $$;"#;

/// What somebody has to do begins with it.
const MARK: &str = "# FILL IN: ";

/// Stands for a database that is not known.
const URL: &str = "postgresql://{{username}}:{{password}}@db.example.com:5432/mydb";

const HEAD: &str = r#"# Made by `keycard import vault`. Fill in what is marked FILL IN, then run `keycard config check`.

# FILL IN: a name for this keycard; never change it afterwards.
installation = "prod"
# FILL IN: requesters that may renew and revoke any lease.
operators = []
"#;

const WITHOUT: &str = "# Without these: messages through tables of the database, secrets in a directory beside this file.\n";

const BROKER: &str = r#"# kind = "amqp"
# url = "amqps://keycard@broker.example.com:5671/keycard"
# password = { env = "BROKER_PASSWORD" }
"#;

const STORE: &str = r#"
# [store]
# kind = "aws-secrets-manager"
# prefix = "keycard"
"#;

/// Made of all sources; `notes` say what is different from Vault or missing.
pub(super) struct Draft<'a> {
    databases: BTreeMap<&'a str, Option<&'a Source>>,
    roles: BTreeMap<&'a str, &'a Source>,
    notes: Vec<String>,
}

impl<'a> Draft<'a> {
    /// Leaves out what keycard cannot have.
    pub(super) fn new(sources: &'a [Source]) -> Self {
        let mut draft = Self {
            databases: BTreeMap::new(),
            roles: BTreeMap::new(),
            notes: vec![],
        };
        for source in sources {
            draft.notes.extend(source.losses());
            match source.kind {
                Kind::Connection => draft.add_connection(source),
                Kind::Role => draft.add_role(source),
                Kind::StaticRole => {}
            }
        }
        for role in draft.roles.values() {
            if let Some(database) = role.text("db_name")
                && !draft.databases.contains_key(database)
            {
                draft.notes.push(format!(
                    "{}: its connection was not given; add the answer of `vault read -format=json database/config/{database}`",
                    role.place()
                ));
                draft.databases.insert(database, None);
            }
        }
        draft
    }

    fn add_connection(&mut self, source: &'a Source) {
        match source.text("plugin_name") {
            None | Some("postgresql-database-plugin") => {
                self.databases.insert(&source.name, Some(source));
            }
            Some(other) => self.notes.push(format!(
                "{}: is for {other}; keycard is for PostgreSQL only, so it is left out",
                source.place()
            )),
        }
    }

    fn add_role(&mut self, source: &'a Source) {
        match source.text("credential_type") {
            None | Some("password") => {
                self.roles.insert(&source.name, source);
            }
            Some(other) => self.notes.push(format!(
                "{}: credential_type is {other}; keycard has passwords only, so it is left out",
                source.place()
            )),
        }
    }

    /// Writes it. What `keycard config check` would refuse becomes a placeholder or a comment.
    pub(super) fn write(mut self) -> (String, Vec<String>) {
        let mut unusable = BTreeSet::new();
        let (text, _) = self.text(&unusable);
        if let Err(errors) = Config::parse(&text, Path::new("/"), &Environment::default()) {
            for problem in errors.problems() {
                self.notes.push(problem.to_string());
                unusable.insert(problem.key.clone());
            }
        }
        let (text, more) = self.text(&unusable);
        self.notes.extend(more);
        self.notes.push(format!(
            "{} places are marked FILL IN; until `requesters` names somebody, nobody may ask for a role",
            text.matches(MARK).count()
        ));
        (text, self.notes)
    }

    fn text(&self, unusable: &BTreeSet<String>) -> (String, Vec<String>) {
        let mut notes = Vec::new();
        let mut text = HEAD.to_owned();
        for (name, source) in &self.databases {
            text.push_str(&self.database(name, *source, unusable, &mut notes));
        }
        for (name, source) in &self.roles {
            let role = role(name, source, &mut notes);
            let section = section("roles", name);
            if unusable.iter().any(|key| owner(key) == section) {
                text.push_str("\n# Left out: keycard cannot use it as it is.\n");
                for line in role.trim().lines() {
                    let _ = writeln!(text, "# {line}");
                }
            } else {
                text.push_str(&role);
            }
        }
        text.push('\n');
        // One database keeps the messages without being named.
        match self.databases.keys().next() {
            Some(first) if self.databases.len() > 1 => {
                text.push_str("[queue]\n# FILL IN: the database that keeps the messages.\n");
                line(&mut text, "database", *first);
                text.push_str(WITHOUT);
            }
            Some(_) | None => {
                text.push_str(WITHOUT);
                text.push_str("# [queue]\n");
            }
        }
        text.push_str(BROKER);
        text.push_str(STORE);
        (text, notes)
    }

    fn database(
        &self,
        name: &str,
        source: Option<&Source>,
        unusable: &BTreeSet<String>,
        notes: &mut Vec<String>,
    ) -> String {
        let section = section("databases", name);
        let mut text = format!("\n[{section}]\n");
        // What Vault says of this key, unless keycard cannot use it.
        let usable = |key: &str| source.filter(|_| !unusable.contains(&format!("{section}.{key}")));
        let url = usable("connection_url").and_then(|source| {
            let url = url::of_keycard(source.text("connection_url")?);
            for note in url.notes {
                notes.push(format!("{}: connection_url: {note}", source.place()));
            }
            Some(url.text)
        });
        if url.is_none() {
            text.push_str("# FILL IN: where the database is.\n");
        }
        line(&mut text, "connection_url", url.as_deref().unwrap_or(URL));
        match usable("username").and_then(|source| source.text("username")) {
            Some(username) => line(&mut text, "username", username),
            None if text.contains("{{username}}") => {
                text.push_str("# FILL IN: keycard's own user.\n");
                line(&mut text, "username", "keycard");
            }
            None => {}
        }
        text.push_str(
            "# FILL IN: where that user's password is found; Vault tells it to nobody.\n",
        );
        let variable: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect();
        let _ = writeln!(text, "password = {{ env = \"DB_{variable}_PASSWORD\" }}");
        let allowed = match source {
            Some(source) => source.texts("allowed_roles"),
            None => self.roles_of(name),
        };
        line(&mut text, "allowed_roles", allowed);
        if let Some(most) = source.and_then(|source| source.number("max_open_connections"))
            && (1..=64).contains(&most)
        {
            let _ = writeln!(text, "max_connections = {most}");
        }
        text
    }

    fn roles_of(&self, database: &str) -> Vec<String> {
        let roles = self.roles.iter();
        roles
            .filter(|(_, role)| role.text("db_name") == Some(database))
            .map(|(name, _)| (*name).to_owned())
            .collect()
    }
}

fn role(name: &str, source: &Source, notes: &mut Vec<String>) -> String {
    let mut text = format!("\n[{}]\n", section("roles", name));
    line(
        &mut text,
        "database",
        source.text("db_name").unwrap_or("FILL IN"),
    );
    text.push_str("# FILL IN: who may ask for it, by name; nobody else can.\n");
    line(&mut text, "requesters", Vec::<String>::new());
    let mut seconds = |key: &str| match source.ttl_seconds(key) {
        Ok(seconds) => Some(seconds),
        Err(problem) => {
            notes.push(format!(
                "{}: {key}: {problem}; write it yourself",
                source.place()
            ));
            None
        }
    };
    let (default, most) = (seconds("default_ttl"), seconds("max_ttl"));
    for (key, ttl) in [
        // Vault, too, gives no more than max_ttl.
        (
            "default_ttl",
            default.map(|ttl| ttl.min(most.unwrap_or(ttl))),
        ),
        ("max_ttl", most),
    ] {
        let Some(ttl) = ttl else { continue };
        if source.seconds(key) == Ok(0) {
            notes.push(format!(
                "{}: {key} is 0, Vault's system default: {} is written, unless it was tuned in Vault",
                source.place(),
                shown(ttl)
            ));
        }
        line(&mut text, key, shown(ttl));
    }
    for key in [
        "creation_statements",
        "renew_statements",
        "revocation_statements",
    ] {
        if let Some(statements) = source.statements(key) {
            line(&mut text, key, statements);
        }
    }
    let grants = source
        .statements("creation_statements")
        .is_some_and(|statements| grants_to_the_login(&statements));
    if grants && source.statements("revocation_statements").is_none() {
        notes.push(format!(
            "{}: what it grants to each login is revoked by statements that were added; better are groups, see README.md",
            source.place()
        ));
        text.push_str(
            "# Added: as Vault revokes by default what was granted to the login itself.\n",
        );
        line(&mut text, "revocation_statements", REVOCATION);
    }
    text
}

/// Whether statements grant privileges, rather than the membership of a role.
fn grants_to_the_login(statements: &str) -> bool {
    statements.to_ascii_uppercase().split(';').any(|statement| {
        let words: Vec<&str> = statement.split_whitespace().collect();
        let grant = words.iter().position(|word| *word == "GRANT");
        grant.is_some_and(|at| words[at..].contains(&"ON"))
    })
}

/// `key = value` as TOML writes it.
fn line(text: &mut String, key: &str, value: impl Into<Value>) {
    let _ = writeln!(text, "{key} = {}", value.into());
}

/// The heading of a section.
fn section(of: &str, name: &str) -> String {
    let bare = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare {
        format!("{of}.{name}")
    } else {
        format!("{of}.{name:?}")
    }
}

/// The section that a key of the configuration is in, as [`section`] writes it.
fn owner(key: &str) -> String {
    match key.rsplit_once('.') {
        Some((section, last)) if section.contains('.') && !last.ends_with('"') => {
            section.to_owned()
        }
        _ => key.to_owned(),
    }
}

/// 5400 as `90m`.
fn shown(seconds: u64) -> String {
    [(3_600, 'h'), (60, 'm')]
        .into_iter()
        .find(|(unit, _)| seconds.is_multiple_of(*unit))
        .map_or_else(
            || format!("{seconds}s"),
            |(unit, letter)| format!("{}{letter}", seconds / unit),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_sections() {
        for (key, belongs) in [
            ("roles.app.max_ttl", "roles.app"),
            ("roles.app", "roles.app"),
            (r#"roles."a.b".max_ttl"#, r#"roles."a.b""#),
            (r#"roles."a.b""#, r#"roles."a.b""#),
            ("installation", "installation"),
        ] {
            assert_eq!(owner(key), belongs);
        }
    }

    #[test]
    fn grants_of_privileges_are_told_from_memberships() {
        let create = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}';"#;
        for (rest, grants) in [
            (r#"GRANT SELECT ON t TO "{{name}}";"#, true),
            (r#"grant usage on schema s to "{{name}}""#, true),
            (r#"GRANT readers TO "{{name}}";"#, false),
            ("", false),
        ] {
            assert_eq!(
                grants_to_the_login(&format!("{create} {rest}")),
                grants,
                "{rest}"
            );
        }
    }
}
