//! Where passwords come from. A configuration names the place; the password is read when needed.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

/// Where a password is found.
#[derive(Debug, Clone)]
pub enum PasswordSource {
    /// On this host.
    Local(LocalPassword),
    /// In AWS Secrets Manager: the secret's name or ARN.
    Secret(String),
}

/// A password that this host holds.
#[derive(Debug, Clone)]
pub enum LocalPassword {
    /// In a variable of the environment that keycard was started with.
    Env {
        /// The variable's name.
        variable: String,
        /// Its value, `None` when it is not set or not UTF-8.
        value: Option<SecretString>,
    },
    /// In a file, which is read anew at every use; one newline at its end does not count.
    File(PathBuf),
    /// In the variable that overrides the password's key, as in `KEYCARD_QUEUE__PASSWORD`.
    Given(SecretString),
}

/// Why a password cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The environment does not have it.
    #[error("the variable {0} is not set, or not UTF-8")]
    Variable(String),
    /// The file does not give it.
    #[error("the file {path} cannot be read: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        problem: std::io::Error,
    },
    /// It has no characters: nearly always a template that was not filled in.
    #[error("it is empty")]
    Empty,
}

impl LocalPassword {
    /// Reads the password as it is now.
    ///
    /// # Errors
    /// When it is missing or empty, or its file cannot be read.
    pub fn read(&self) -> Result<SecretString, PasswordError> {
        let password = match self {
            Self::Env { variable, value } => value
                .clone()
                .ok_or_else(|| PasswordError::Variable(variable.clone()))?,
            Self::File(path) => {
                let mut text =
                    std::fs::read_to_string(path).map_err(|problem| PasswordError::File {
                        path: path.clone(),
                        problem,
                    })?;
                let kept = text.strip_suffix('\n').unwrap_or(&text);
                let kept = kept.strip_suffix('\r').unwrap_or(kept).len();
                text.truncate(kept);
                text.into()
            }
            Self::Given(password) => password.clone(),
        };
        if password.expose_secret().is_empty() {
            return Err(PasswordError::Empty);
        }
        Ok(password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_at_every_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let source = LocalPassword::File(path.clone());
        assert!(matches!(source.read(), Err(PasswordError::File { .. })));
        for (content, password) in [
            ("one\n", "one"),
            ("two", "two"),
            ("three\r\n", "three"),
            (" four \n\n", " four \n"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(source.read().unwrap().expose_secret(), password);
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(source.read(), Err(PasswordError::Empty)));
    }

    #[test]
    fn no_source_shows_its_password() {
        let secret: SecretString = "canary-7f".into();
        for source in [
            LocalPassword::Given(secret.clone()),
            LocalPassword::Env {
                variable: "P".to_owned(),
                value: Some(secret),
            },
        ] {
            assert!(!format!("{source:?}").contains("canary"));
            assert_eq!(source.read().unwrap().expose_secret(), "canary-7f");
        }
    }
}
