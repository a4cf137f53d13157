//! Where credentials are put.

use std::path::{Path, PathBuf};

use super::section::Section;
use crate::store::StoreKind;

/// Longest prefix of secrets' names: with requester, role and lease id it stays within 512.
const PREFIX_BYTES_MAX: usize = 128;

/// The directory of secrets beside the file, unless the file names another.
const DIRECTORY: &str = "keycard-secrets";

/// Where credentials are put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// `kind = "aws-secrets-manager"`.
    Aws(Aws),
    /// `kind = "directory"`.
    Directory(Directory),
}

impl Store {
    /// First part of every locator: `/`-separated parts of `[A-Za-z0-9_.-]`, at most 128 bytes.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self {
            Self::Aws(aws) => &aws.prefix,
            Self::Directory(directory) => &directory.prefix,
        }
    }
}

/// AWS Secrets Manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aws {
    /// See [`Store::prefix`].
    pub prefix: String,
    /// The region, if not the AWS environment's.
    pub region: Option<String>,
    /// The KMS key, if not the account's own `aws/secretsmanager`.
    pub kms_key_id: Option<String>,
}

/// A directory with a file per lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// See [`Store::prefix`].
    pub prefix: String,
    /// The directory, an absolute path.
    pub path: PathBuf,
}

/// Reads the section; `directory` is the file's own.
pub(super) fn read(top: &Section, directory: &Path) -> Option<Store> {
    let section = top.section_or_empty("store")?;
    let kind = section.kind(&StoreKind::ALL.map(|kind| (kind.name(), kind)))?;
    for other in StoreKind::ALL.into_iter().filter(|other| *other != kind) {
        section.refuse(own_keys(other), other.name());
    }
    let prefix = section.text("prefix").unwrap_or("keycard");
    if !is_prefix(prefix) {
        section.report(
            "prefix",
            format!("{prefix:?} cannot begin the names of secrets"),
            "use letters, digits, '_', '-' and '.' with single slashes between, no part beginning \
             with '.', at most 128 in all",
        );
    }
    let prefix = prefix.to_owned();
    Some(match kind {
        StoreKind::AwsSecretsManager => Store::Aws(Aws {
            prefix,
            region: section.text("region").map(ToOwned::to_owned),
            kms_key_id: section.text("kms_key_id").map(ToOwned::to_owned),
        }),
        StoreKind::Directory => {
            let path = if section.has("path") {
                section.path("path")?
            } else {
                directory.join(DIRECTORY)
            };
            if !path.is_absolute() {
                section.report(
                    "path",
                    "is not absolute",
                    "begin it with '/': clients are told it",
                );
            }
            Store::Directory(Directory { prefix, path })
        }
    })
}

/// The keys that only one kind has.
fn own_keys(kind: StoreKind) -> &'static [&'static str] {
    match kind {
        StoreKind::Directory => &["path"],
        StoreKind::AwsSecretsManager => &["region", "kms_key_id"],
    }
}

fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= PREFIX_BYTES_MAX
        && prefix.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        })
}

#[cfg(test)]
mod tests {
    use super::is_prefix;

    #[test]
    fn prefixes_are_sane_paths() {
        for right in ["keycard", "a/b.c/d_e-F", &"a".repeat(128)] {
            assert!(is_prefix(right), "{right}");
        }
        for wrong in [
            "",
            "/a",
            "a/",
            "a//b",
            "a/../b",
            ".a",
            "a b",
            "ä",
            "a=b",
            &"a".repeat(129),
        ] {
            assert!(!is_prefix(wrong), "{wrong}");
        }
    }
}
