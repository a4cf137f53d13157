//! What is wrong with a configuration: everything at once, each with its remedy.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

/// One fault of the configuration. No part of it holds a password or a URL's user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The key, as in `roles.app-role.max_ttl`; or the variable, or the place in the file.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (part, end) in [(&self.key, ": "), (&self.problem, "; "), (&self.remedy, "")] {
            // One line, whatever the names in the file are.
            for character in part.chars() {
                if character.is_control() {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            f.write_str(end)?;
        }
        Ok(())
    }
}

/// Every fault of a configuration, at least one, sorted by key; displayed one to a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: Option<PathBuf>,
    problems: Vec<Problem>,
}

impl ConfigErrors {
    pub(super) fn one(key: &str, problem: String, remedy: &str) -> Self {
        Self {
            file: None,
            problems: vec![Problem {
                key: key.to_owned(),
                problem,
                remedy: remedy.to_owned(),
            }],
        }
    }

    pub(super) fn of_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// The file that they are in, if one was found.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The faults.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects faults while the rest of the configuration is still looked at.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn add(
        &self,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.borrow_mut().push(Problem {
            key: key.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    pub(super) fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// `None` when nothing was found. `variable` tells which variable a key was set by.
    pub(super) fn into_errors(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<ConfigErrors> {
        let mut problems = self.0.into_inner();
        problems.sort();
        problems.dedup();
        for problem in &mut problems {
            if let Some(variable) = variable(&problem.key) {
                problem.key = format!("{} (from {variable})", problem.key);
            }
        }
        (!problems.is_empty()).then_some(ConfigErrors {
            file: None,
            problems,
        })
    }
}
