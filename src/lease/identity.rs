//! The names a lease goes by: its id and its requester.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Longest encoded requester, in bytes: with a role and a lease id it stays within the 512
/// characters of a secret's name and the 255 bytes of a file's.
const ENCODED_BYTES_MAX: usize = 128;

/// Longest name of a role or database in the configuration, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nobody has no name.
    #[error("a requester's name is empty")]
    EmptyRequester,
    /// Neither logs nor ledgers can hold such a name.
    #[error("a requester's name has a control character; use another broker user name")]
    ControlCharacter,
    /// The encoded name would not fit keys, paths and locators.
    #[error(
        "a requester's name takes more than {ENCODED_BYTES_MAX} bytes when encoded; use a shorter broker user name"
    )]
    LongRequester,
    /// Not `<database>.<uuid>`.
    #[error("not a lease id; one looks like app-db.01890a5d-ac96-774b-bcce-b302099a8057")]
    LeaseId,
}

/// The identity that asked: the broker's own validated user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requester(String);

impl Requester {
    /// Takes a name that the broker (or Postgres) has validated.
    ///
    /// # Errors
    /// When it is empty, has a control character, or is longer than 128 bytes once encoded.
    pub fn new(name: impl Into<String>) -> Result<Self, IdentityError> {
        let requester = Self(name.into());
        if requester.0.chars().any(char::is_control) {
            return Err(IdentityError::ControlCharacter);
        }
        match requester.encoded().len() {
            0 => Err(IdentityError::EmptyRequester),
            1..=ENCODED_BYTES_MAX => Ok(requester),
            _ => Err(IdentityError::LongRequester),
        }
    }

    /// The name as the broker knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as routing keys, locators and paths hold it: every byte outside `[A-Za-z0-9_-]`
    /// is written `=XX`. Distinct names stay distinct, and none contains a separator.
    #[must_use]
    pub fn encoded(&self) -> String {
        use fmt::Write as _;
        let mut encoded = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
                encoded.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(encoded, "={byte:02X}");
            }
        }
        encoded
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `<database>.<uuid v7>`: the database is the key of its section in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// Key of the database whose ledger knows the lease.
    pub database: String,
    /// Names the lease within that ledger; sorts by time of issue.
    pub uuid: Uuid,
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.uuid)
    }
}

impl FromStr for LeaseId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (database, uuid) = text.rsplit_once('.').ok_or(IdentityError::LeaseId)?;
        // One spelling per id: the hyphenated lower-case one that Display writes.
        let id = Self {
            database: database.to_owned(),
            uuid: Uuid::try_parse(uuid).map_err(|_| IdentityError::LeaseId)?,
        };
        if is_name(database) && id.to_string() == text {
            Ok(id)
        } else {
            Err(IdentityError::LeaseId)
        }
    }
}

/// Whether `text` can name a role or a database: 1 to 64 bytes of `[A-Za-z0-9_.-]`, the first a
/// letter, digit or underscore. Such a name is safe in paths, locators and lease ids.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= NAME_BYTES_MAX
        && bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_requesters_are_distinct_and_hold_no_separator() {
        let encoded: Vec<String> = ["a", "a.b", "a/b", "../x", "a=b", "ä", "a b"]
            .iter()
            .map(|name| Requester::new(*name).unwrap().encoded())
            .collect();
        assert_eq!(
            encoded,
            [
                "a",
                "a=2Eb",
                "a=2Fb",
                "=2E=2E=2Fx",
                "a=3Db",
                "=C3=A4",
                "a=20b"
            ]
        );
    }

    #[test]
    fn requesters_are_neither_empty_nor_long_nor_unprintable() {
        assert_eq!(Requester::new("a\0b"), Err(IdentityError::ControlCharacter));
        assert_eq!(Requester::new(""), Err(IdentityError::EmptyRequester));
        assert!(Requester::new("a".repeat(128)).is_ok());
        assert_eq!(
            Requester::new("a".repeat(129)),
            Err(IdentityError::LongRequester)
        );
        assert_eq!(
            Requester::new(".".repeat(43)),
            Err(IdentityError::LongRequester)
        );
    }

    #[test]
    fn lease_ids_have_one_spelling() {
        let text = "my-db.v2.01890a5d-ac96-774b-bcce-b302099a8057";
        let id: LeaseId = text.parse().unwrap();
        assert_eq!(id.database, "my-db.v2");
        assert_eq!(id.to_string(), text);
        for wrong in [
            "",
            "01890a5d-ac96-774b-bcce-b302099a8057",
            ".01890a5d-ac96-774b-bcce-b302099a8057",
            "db.01890A5D-AC96-774B-BCCE-B302099A8057",
            "db.01890a5dac96774bbcceb302099a8057",
            "../db.01890a5d-ac96-774b-bcce-b302099a8057",
        ] {
            assert_eq!(wrong.parse::<LeaseId>(), Err(IdentityError::LeaseId));
        }
    }

    #[test]
    fn names_are_safe_in_paths() {
        assert!(is_name("app-role") && is_name("_x") && is_name("9.a"));
        for wrong in ["", ".", "..", "-a", "a/b", "a b", "ä", &"a".repeat(65)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
