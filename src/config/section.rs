//! Reading typed values out of the file's sections, reporting what has the wrong type.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::LazyLock;

use toml::{Table, Value};

use super::duration;
use super::environment::Environment;
use super::keys::{PASSWORD_KEYS, join, suggest};
use super::overlay::Raw;
use super::password::{LocalPassword, PasswordSource};
use super::problem::Problems;
use crate::check::DOCTOR;
use crate::lease::Requester;

const PASSWORD_REMEDY: &str =
    r#"write { env = "NAME" }, { file = "PATH" } or { secret = "NAME-OR-ARN" }"#;

/// What all sections are read with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) raw: &'a Raw,
    pub(super) environment: &'a Environment,
    pub(super) problems: &'a Problems,
}

/// One section of the file. A method that finds a value of the wrong kind reports it and gives
/// `None`, as for a value that is absent.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    context: Context<'a>,
    path: String,
    table: &'a Table,
}

impl<'a> Section<'a> {
    pub(super) fn top(context: Context<'a>) -> Self {
        Self {
            context,
            path: String::new(),
            table: &context.raw.table,
        }
    }

    /// The section `name`. A value that is no section is reported with the unknown keys.
    pub(super) fn section(&self, name: &str) -> Option<Section<'a>> {
        Some(Self {
            context: self.context,
            path: join(&self.path, name),
            table: self.table.get(name)?.as_table()?,
        })
    }

    /// The section `name`, or an empty one in its place.
    pub(super) fn section_or_empty(&self, name: &str) -> Option<Section<'a>> {
        static EMPTY: LazyLock<Table> = LazyLock::new(Table::new);
        if self.has(name) {
            return self.section(name);
        }
        Some(Self {
            context: self.context,
            path: join(&self.path, name),
            table: &EMPTY,
        })
    }

    /// The sections below this one, whose names the file chose.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'a str, Section<'a>)> {
        self.table
            .keys()
            .filter_map(|name| Some((name.as_str(), self.section(name)?)))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn is_text(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(Value::is_str)
    }

    pub(super) fn report(&self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.context
            .problems
            .add(join(&self.path, key), problem, remedy);
    }

    /// Reports a fault of the section itself.
    pub(super) fn report_here(&self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.context.problems.add(&self.path, problem, remedy);
    }

    pub(super) fn problems(&self) -> usize {
        self.context.problems.count()
    }

    pub(super) fn report_missing(&self, key: &str, example: &str) {
        self.report(key, "is missing", format!("write {key} = {example}"));
    }

    /// A text that is not empty.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        let value = self.table.get(key)?;
        match value.as_str() {
            None => self.report(key, "is not a text", "put it in quotes"),
            Some("") => self.report(key, "is empty", "write something or leave the key out"),
            Some(text) if text.contains('\0') => {
                self.report(key, "has a zero character in it", "take it out");
            }
            Some(text) => return Some(text),
        }
        None
    }

    pub(super) fn required_text(&self, key: &str, example: &str) -> Option<&'a str> {
        if !self.has(key) {
            self.report_missing(key, example);
        }
        self.text(key)
    }

    /// Which kind of thing it is about; the first of `known` if it does not say.
    pub(super) fn kind<Kind: Copy>(&self, known: &[(&str, Kind)]) -> Option<Kind> {
        const KEY: &str = "kind";
        if !self.has(KEY) {
            return known.first().map(|(_, first)| *first);
        }
        let written = self.text(KEY)?;
        if let Some((_, kind)) = known.iter().find(|(name, _)| *name == written) {
            return Some(*kind);
        }
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let problem = format!("{written:?} is not known");
        self.report(KEY, problem, suggest(written, &names));
        None
    }

    /// Reports those of `keys` that are here and belong to another kind.
    pub(super) fn refuse(&self, keys: &[&str], other: &str) {
        for key in keys.iter().filter(|key| self.has(key)) {
            self.report(
                key,
                format!("belongs to kind = {other:?}"),
                "take it out, or set that kind",
            );
        }
    }

    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A list of texts that are not empty; an absent one is an empty list.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<&'a str>> {
        let Some(value) = self.table.get(key) else {
            return Some(Vec::new());
        };
        let texts: Option<Vec<&str>> = value
            .as_array()
            .and_then(|list| list.iter().map(Value::as_str).collect());
        match texts {
            None => self.report(
                key,
                "is not a list of texts",
                r#"write it like ["one", "two"]"#,
            ),
            Some(texts)
                if texts
                    .iter()
                    .any(|text| text.is_empty() || text.contains('\0')) =>
            {
                self.report(
                    key,
                    "has an empty text or a zero character in it",
                    "take it out",
                );
            }
            Some(texts) => return Some(texts),
        }
        None
    }

    /// A list of requesters: users of the broker, or Postgres roles.
    pub(super) fn requesters(&self, key: &str) -> Option<BTreeSet<Requester>> {
        let mut requesters = BTreeSet::new();
        let names = self.texts(key)?;
        let known = self.problems();
        for name in names {
            if name.contains('*') {
                self.report(
                    key,
                    format!("{name:?} looks like a pattern"),
                    "list each user by name",
                );
                continue;
            }
            if name == DOCTOR {
                self.report(
                    key,
                    format!("{name:?} is the requester of `keycard doctor`"),
                    "give that user another name",
                );
                continue;
            }
            match Requester::new(name) {
                Ok(requester) => {
                    requesters.insert(requester);
                }
                Err(error) => {
                    self.report(key, error.to_string(), "list users by name");
                }
            }
        }
        (self.problems() == known).then_some(requesters)
    }

    /// A whole number within `range`.
    pub(super) fn number<T: TryFrom<i64>>(
        &self,
        key: &str,
        range: RangeInclusive<i64>,
    ) -> Option<T> {
        let value = self.table.get(key)?;
        let remedy = format!("write a number from {} to {}", range.start(), range.end());
        let Some(number) = value.as_integer() else {
            self.report(key, "is not a whole number", remedy);
            return None;
        };
        let fitting = range
            .contains(&number)
            .then(|| T::try_from(number).ok())
            .flatten();
        if fitting.is_none() {
            self.report(key, format!("{number} is out of range"), remedy);
        }
        fitting
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        let flag = self.table.get(key)?.as_bool();
        if flag.is_none() {
            self.report(
                key,
                "is neither true nor false",
                "write one of them, without quotes",
            );
        }
        flag
    }

    /// A duration within `range`, in seconds.
    pub(super) fn seconds(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.table.get(key)?;
        let (shown, seconds) = if let Some(text) = value.as_str() {
            (format!("{text:?}"), duration::parse(text))
        } else if let Some(number) = value.as_integer() {
            (number.to_string(), u64::try_from(number).ok())
        } else {
            ("the value".to_owned(), None)
        };
        let Some(seconds) = seconds else {
            self.report(
                key,
                format!("{shown} is not a duration"),
                duration::EXAMPLES,
            );
            return None;
        };
        if range.contains(&seconds) {
            return Some(seconds);
        }
        self.report(
            key,
            format!("{shown} is out of range"),
            format!(
                "write a duration from {} to {}",
                duration::show(*range.start()),
                duration::show(*range.end())
            ),
        );
        None
    }

    /// Where the password is found; required.
    pub(super) fn password(&self) -> Option<PasswordSource> {
        const KEY: &str = "password";
        let given = self.context.raw.given.get(&join(&self.path, KEY));
        let Some(value) = self.table.get(KEY) else {
            self.report(KEY, "is missing", PASSWORD_REMEDY);
            return None;
        };
        let Some(table) = value.as_table() else {
            self.report(
                KEY,
                "is no place where a password is found",
                PASSWORD_REMEDY,
            );
            return None;
        };
        let named: Vec<&str> = PASSWORD_KEYS
            .into_iter()
            .filter(|key| table.contains_key(*key))
            .collect();
        match (given, named.as_slice()) {
            (Some(password), []) => Some(PasswordSource::Local(LocalPassword::Given(
                password.clone(),
            ))),
            (None, [source]) => {
                let name = self.section(KEY)?.text(source)?;
                Some(match *source {
                    "env" => PasswordSource::Local(LocalPassword::Env {
                        variable: name.to_owned(),
                        value: self.context.environment.text(name).map(Into::into),
                    }),
                    "file" => PasswordSource::Local(LocalPassword::File(name.into())),
                    _ => PasswordSource::Secret(name.to_owned()),
                })
            }
            (None, []) => {
                self.report(
                    KEY,
                    "names no place where a password is found",
                    PASSWORD_REMEDY,
                );
                None
            }
            (Some(_), [_, ..]) | (None, [_, _, ..]) => {
                self.report(KEY, "names more than one place", "keep one of them");
                None
            }
        }
    }
}
