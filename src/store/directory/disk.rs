//! What is done to files and directories, with errors that say which path and what to do.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::SEGMENT_BYTES_MAX;
use crate::store::FailureKind;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

const FULL: [io::ErrorKind; 2] = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
const FORBIDDEN: [io::ErrorKind; 2] = [
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::ReadOnlyFilesystem,
];

/// Why a change failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(
        "not a locator: 1 to {SEGMENT_BYTES_MAX} of [A-Za-z0-9_=.-] between slashes, no dot first"
    )]
    Locator,
    #[error("it was put before, with another value or by another attempt")]
    Taken,
    #[error("{} is in the way: not a {expected}, nor made by keycard; remove it", path.display())]
    InTheWay {
        path: PathBuf,
        expected: &'static str,
    },
    #[error("{} is writable for others (mode {mode:o}); chmod go-w it, or name a directory below it, which keycard then creates", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("could not {doing} {}: {error}{}", path.display(), advice(error))]
    Io {
        doing: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error("the change was interrupted")]
    Interrupted,
}

impl Trouble {
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Locator | Self::Taken => FailureKind::Refused,
            Self::Io { error, .. } => {
                let kind = error.kind();
                if kind == io::ErrorKind::InvalidFilename {
                    FailureKind::Refused
                } else if FULL.contains(&kind) {
                    FailureKind::Full
                } else if FORBIDDEN.contains(&kind) {
                    FailureKind::Denied
                } else {
                    FailureKind::Unavailable
                }
            }
            Self::Open { .. } => FailureKind::Denied,
            Self::InTheWay { .. } | Self::Interrupted => FailureKind::Unavailable,
        }
    }
}

/// What an operator can do about it.
fn advice(error: &io::Error) -> &'static str {
    let kind = error.kind();
    if FULL.contains(&kind) {
        "; free some space there"
    } else if FORBIDDEN.contains(&kind) {
        "; make it writable for keycard's user"
    } else if [
        io::ErrorKind::AlreadyExists,
        io::ErrorKind::NotADirectory,
        io::ErrorKind::NotFound,
    ]
    .contains(&kind)
    {
        "; check that path"
    } else {
        ""
    }
}

/// Says what was done to which path when it failed.
pub(super) fn io<T>(doing: &'static str, path: &Path, result: io::Result<T>) -> Result<T, Trouble> {
    result.map_err(|error| Trouble::Io {
        doing,
        path: path.to_owned(),
        error,
    })
}

/// Waits until no other process changes the store. The operating system releases it when the file
/// is closed, so a crash leaves nothing locked.
pub(super) fn lock(path: &Path) -> Result<File, Trouble> {
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path);
    let file = io("open", path, opened)?;
    io("lock", path, file.lock())?;
    Ok(file)
}

/// What is at a path. A symbolic link is [`Kind::Other`], wherever it leads: it is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Missing,
    File,
    Directory,
    Other,
}

pub(super) fn kind_of(path: &Path) -> Result<Kind, Trouble> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(Kind::File),
        Ok(found) if found.is_dir() => Ok(Kind::Directory),
        Ok(_) => Ok(Kind::Other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kind::Missing),
        Err(error) => io("examine", path, Err(error)),
    }
}

/// Creates a directory that only its owner may enter.
pub(super) fn create_directory(path: &Path, with_parents: bool) -> Result<(), Trouble> {
    let created = DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .recursive(with_parents)
        .create(path);
    io("create", path, created)
}

/// Writes a file that must not exist yet, durably.
pub(super) fn write_new(path: &Path, content: &[u8]) -> Result<(), Trouble> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path);
    let mut file = io("create", path, created)?;
    io("write", path, file.write_all(content))?;
    io("write", path, file.sync_all())
}

/// Removes a file, or the symbolic link itself; a missing one is no error.
pub(super) fn remove_file(path: &Path) -> Result<(), Trouble> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => io("remove", path, removed),
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync(directory: &Path) -> Result<(), Trouble> {
    let opened = File::open(directory);
    let synced = io("open", directory, opened)?.sync_all();
    io("write", directory, synced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_which_path_and_what_to_do() {
        // ENOSPC, EIO, EACCES, ENAMETOOLONG, EEXIST of Linux.
        for (number, text, kind) in [
            (28, "free some space", FailureKind::Full),
            (5, "secrets/x", FailureKind::Unavailable),
            (13, "writable for keycard's user", FailureKind::Denied),
            (36, "secrets/x", FailureKind::Refused),
            (17, "check that path", FailureKind::Unavailable),
        ] {
            let error = io::Error::from_raw_os_error(number);
            let trouble = io::<()>("write", Path::new("secrets/x"), Err(error)).unwrap_err();
            assert!(trouble.to_string().contains(text), "{trouble}");
            assert_eq!(trouble.kind(), kind);
        }
    }
}
