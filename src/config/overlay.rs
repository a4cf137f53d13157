//! Variables of the environment that override keys of the file.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::SecretString;
use toml::{Table, Value};

use super::environment::{self, Environment};
use super::keys::{KEYS, Key, PASSWORD_KEYS, Takes, join};
use super::problem::Problems;

/// A file's content with the environment's overrides in it.
#[derive(Debug, Default)]
pub(super) struct Raw {
    /// All values but the passwords that variables give.
    pub(super) table: Table,
    /// Passwords that variables give, by their key's path.
    pub(super) given: BTreeMap<String, SecretString>,
    /// Which variable set a key.
    pub(super) variables: BTreeMap<String, String>,
}

/// A key that a variable may override, with the names that the file chose.
struct Target {
    key: &'static Key,
    steps: Vec<String>,
    /// Of a password's key: one of [`PASSWORD_KEYS`].
    source: Option<&'static str>,
}

impl Target {
    fn path(&self) -> String {
        self.steps
            .iter()
            .fold(String::new(), |path, step| join(&path, step))
    }

    fn variable(&self) -> String {
        environment::variable(self.steps.iter().map(String::as_str).chain(self.source))
    }
}

/// Puts the environment's overrides into `table`.
pub(super) fn overlay(table: Table, environment: &Environment, problems: &Problems) -> Raw {
    let targets = targets(&table);
    let mut by_variable: BTreeMap<String, Vec<&Target>> = BTreeMap::new();
    for target in &targets {
        by_variable
            .entry(target.variable())
            .or_default()
            .push(target);
    }
    let mut raw = Raw {
        table,
        ..Raw::default()
    };
    let mut unmatched = Vec::new();
    let mut seen = BTreeMap::new();
    let mut replaced = BTreeSet::new();
    for (variable, name, value) in environment.overrides() {
        let target = match by_variable.get(&name).map(Vec::as_slice) {
            Some([target]) => *target,
            Some(several) => {
                let paths: Vec<String> = several.iter().map(|target| target.path()).collect();
                problems.add(
                    variable,
                    format!("could mean {}", paths.join(" or ")),
                    "set these keys in the file, or rename one of the sections",
                );
                continue;
            }
            None => {
                unmatched.push(variable);
                continue;
            }
        };
        if let Some(other) = seen.insert(name, variable.clone()) {
            problems.add(
                variable,
                format!("sets the same key as {other}"),
                "keep one of them",
            );
            continue;
        }
        let Some(value) = value.to_str() else {
            problems.add(variable, "is not UTF-8", "set it to a UTF-8 text");
            continue;
        };
        let path = target.path();
        if target.key.takes == Takes::Password && replaced.insert(path.clone()) {
            set(&mut raw.table, &target.steps, Value::Table(Table::new()));
        }
        if let Some(source) = target.source {
            let mut steps = target.steps.clone();
            steps.push(source.to_owned());
            set(&mut raw.table, &steps, Value::String(value.to_owned()));
        } else if target.key.takes == Takes::Password {
            raw.given.insert(path.clone(), value.into());
        } else {
            set(
                &mut raw.table,
                &target.steps,
                parse(value, target.key.takes),
            );
        }
        raw.variables.insert(path, variable);
    }
    report_unmatched(&unmatched, &raw, &targets, problems);
    raw
}

/// The variables that give passwords, set or not: those that the file or another variable names,
/// and those that override a password.
pub(super) fn password_variables(file: Table, environment: &Environment) -> BTreeSet<String> {
    let targets = targets(&file);
    let mut variables: BTreeSet<String> = named(&file, &targets).map(str::to_owned).collect();
    variables.extend(environment.overrides().filter_map(|(variable, name, _)| {
        let gives = |target: &Target| {
            target.key.takes == Takes::Password
                && target.source.is_none()
                && target.variable() == name
        };
        targets.iter().any(gives).then_some(variable)
    }));
    // What is wrong was reported when the configuration was read.
    let raw = overlay(file, environment, &Problems::default());
    variables.extend(named(&raw.table, &targets).map(str::to_owned));
    variables
}

/// The variables that passwords are read from.
fn named<'a>(table: &'a Table, targets: &'a [Target]) -> impl Iterator<Item = &'a str> {
    targets
        .iter()
        .filter(|target| target.source == Some("env"))
        .filter_map(|target| get(table, &target.steps)?.get("env")?.as_str())
}

/// A variable that matches no key is a mistake, unless a password is read from it.
fn report_unmatched(unmatched: &[String], raw: &Raw, targets: &[Target], problems: &Problems) {
    let read: Vec<&str> = named(&raw.table, targets).collect();
    for variable in unmatched
        .iter()
        .filter(|name| !read.contains(&name.as_str()))
    {
        problems.add(
            variable,
            "matches no key",
            "unset it, or write it like KEYCARD_QUEUE__URL; databases and roles must be in the file",
        );
    }
}

/// Every key that can be overridden, given the names of databases and roles in the file.
fn targets(table: &Table) -> Vec<Target> {
    let mut targets = Vec::new();
    for key in KEYS {
        let mut paths: Vec<Vec<String>> = vec![Vec::new()];
        for step in key.path.split('.') {
            paths = paths
                .into_iter()
                .flat_map(|path| {
                    let names = if step == "*" {
                        let table = get(table, &path).and_then(Value::as_table);
                        table
                            .map(|table| table.keys().cloned().collect())
                            .unwrap_or_default()
                    } else {
                        vec![step.to_owned()]
                    };
                    names
                        .into_iter()
                        .map(move |name| [path.as_slice(), &[name]].concat())
                })
                .collect();
        }
        for steps in paths {
            if key.takes == Takes::Password {
                targets.extend(PASSWORD_KEYS.map(|source| Target {
                    key,
                    steps: steps.clone(),
                    source: Some(source),
                }));
            }
            targets.push(Target {
                key,
                steps,
                source: None,
            });
        }
    }
    targets
}

fn get<'a>(table: &'a Table, steps: &[String]) -> Option<&'a Value> {
    let (first, rest) = steps.split_first()?;
    rest.iter()
        .try_fold(table.get(first)?, |value, step| value.get(step))
}

/// Sets a key, making the sections above it. Where a section is no section nothing is set: that is
/// reported anyway.
fn set(table: &mut Table, steps: &[String], value: Value) {
    match steps {
        [] => {}
        [last] => {
            table.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let section = table
                .entry(first.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Some(section) = section.as_table_mut() {
                set(section, rest, value);
            }
        }
    }
}

/// A variable's text as what its key takes. What is no TOML value stays a text.
fn parse(text: &str, takes: Takes) -> Value {
    let is_toml = match takes {
        Takes::Text | Takes::Password => false,
        Takes::Statements => text.trim_start().starts_with('['),
        Takes::Texts | Takes::Number | Takes::Flag | Takes::Duration => true,
    };
    is_toml
        .then(|| text.parse().ok())
        .flatten()
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlaid(file: &str, variables: &[(&str, &str)]) -> (Raw, Vec<String>) {
        let problems = Problems::default();
        let raw = overlay(
            file.parse().unwrap(),
            &variables
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            &problems,
        );
        let errors = problems.into_errors(|_| None);
        let lines =
            errors.map(|errors| errors.problems().iter().map(ToString::to_string).collect());
        (raw, lines.unwrap_or_default())
    }

    #[test]
    fn variables_override_keys_of_every_type() {
        let (raw, problems) = overlaid(
            "[databases.my-postgres-db]\nconnection_url = 'a'\n[roles.App.Role]\n[roles.'x.y']",
            &[
                ("KEYCARD_DATABASES__MY_POSTGRES_DB__CONNECTION_URL", "[1]"),
                ("keycard_roles__X_Y__max_leases", "7"),
                ("KEYCARD_ROLES__X_Y__DEFAULT_TTL", "1h"),
                ("KEYCARD_ROLES__X_Y__MAX_TTL", "7200"),
                ("KEYCARD_ROLES__X_Y__GROUPS", r#"["a", "b"]"#),
                ("KEYCARD_ROLES__X_Y__CREATION_STATEMENTS", "CREATE 1"),
                ("KEYCARD_OPERATORS", "platform-ops"),
                ("KEYCARD_QUEUE__PREFETCH", "8"),
                ("PATH", "/bin"),
            ],
        );
        assert_eq!(problems, [""; 0]);
        assert_eq!(
            raw.table,
            r#"
            operators = "platform-ops"
            [databases.my-postgres-db]
            connection_url = "[1]"
            [queue]
            prefetch = 8
            [roles.App.Role]
            [roles."x.y"]
            max_leases = 7
            default_ttl = "1h"
            max_ttl = 7200
            groups = ["a", "b"]
            creation_statements = "CREATE 1"
            "#
            .parse()
            .unwrap()
        );
    }

    #[test]
    fn a_password_replaces_the_files_source_and_enters_no_table() {
        let file = "[queue]\npassword = { env = 'B' }\n[databases.d]\npassword = { file = 'f' }";
        let (raw, problems) = overlaid(
            file,
            &[
                ("KEYCARD_QUEUE__PASSWORD", "canary"),
                ("KEYCARD_DATABASES__D__PASSWORD__ENV", "KEYCARD_D_PASSWORD"),
                ("KEYCARD_D_PASSWORD", "canary"),
            ],
        );
        assert_eq!(problems, [""; 0]);
        assert!(raw.given.contains_key("queue.password"));
        assert!(!format!("{raw:?}").contains("canary"));
        assert_eq!(
            raw.table["databases"]["d"]["password"],
            "{ env = 'KEYCARD_D_PASSWORD' }".parse().unwrap()
        );
    }

    #[test]
    fn every_variable_that_gives_a_password_is_known() {
        let file = "[queue]\npassword = { env = 'B' }\n[databases.d]\npassword = { file = 'f' }\n\
                    [client]\npassword = { env = 'C' }";
        let variables = [
            ("KEYCARD_QUEUE__PASSWORD__ENV", "D"),
            ("keycard_databases__d__password", "canary"),
            ("KEYCARD_CLIENT__URL", "amqp://b"),
            ("PATH", "/bin"),
        ];
        let environment = variables.map(|(name, value)| (name.into(), value.into()));
        let environment = environment.into_iter().collect();
        let found = password_variables(file.parse().unwrap(), &environment);
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(found, ["B", "C", "D", "keycard_databases__d__password"]);
    }

    #[test]
    fn what_matches_nothing_or_several_keys_is_an_error() {
        let (_, problems) = overlaid(
            "[roles.a-b]\n[roles.a_b]\n[roles.c]",
            &[
                ("KEYCARD_ROLES__A_B__MAX_TTL", "1h"),
                ("KEYCARD_ROLES__C__MAX_TTL", "1h"),
                ("keycard_roles__c__max_ttl", "2h"),
                ("KEYCARD_ROLES__D__MAX_TTL", "1h"),
                ("KEYCARD_QUEUE_URL", "amqp://b"),
            ],
        );
        assert_eq!(
            problems,
            [
                "KEYCARD_QUEUE_URL: matches no key; unset it, or write it like KEYCARD_QUEUE__URL; \
                 databases and roles must be in the file",
                "KEYCARD_ROLES__A_B__MAX_TTL: could mean roles.a-b.max_ttl or roles.a_b.max_ttl; \
                 set these keys in the file, or rename one of the sections",
                "KEYCARD_ROLES__D__MAX_TTL: matches no key; unset it, or write it like \
                 KEYCARD_QUEUE__URL; databases and roles must be in the file",
                "keycard_roles__c__max_ttl: sets the same key as KEYCARD_ROLES__C__MAX_TTL; \
                 keep one of them",
            ]
        );
    }
}
