//! A directory of files: one per lease, below a root that only keycard's user may write.
//!
//! Whoever may read a file there may use the credential, so it suits services of the same user on
//! the same host or volume; a root in memory (tmpfs) keeps passwords off the disk.

mod disk;
mod note;
mod walk;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use jiff::Timestamp;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, mpsc};
use uuid::Uuid;

use self::disk::{
    Kind, Trouble, create_directory, io, kind_of, lock, remove_file, sync, write_new,
};
use self::note::Note;
use super::{Described, FailureKind, Listed, SecretStore, StoreError, StoreKind, Stored};
use crate::metrics;

/// Held while anything below the root changes, by any process. No segment of a locator begins with
/// a dot, so neither this nor the names of [`Files`] can be a secret's.
const LOCK: &str = ".lock";

/// Longest segment of a locator, in bytes: file systems take 255, and [`Files`] adds a few.
const SEGMENT_BYTES_MAX: usize = 240;

/// Secrets as files.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    /// Queues this process's changes in the order of asking, so that at most one of them blocks a
    /// thread on the lock file.
    turn: Arc<Mutex<()>>,
}

/// The root cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the secret store cannot use {}: {problem}", root.display())]
pub struct RootUnusable {
    /// The root as configured.
    pub root: PathBuf,
    /// Why, and what to do.
    pub problem: String,
}

impl Directory {
    /// A store below `root`, which is created (mode 0700) if it is missing.
    ///
    /// # Errors
    /// When the root is no directory, is writable for its group or for everybody, or cannot be
    /// written, locked or created.
    pub fn open(root: &Path) -> Result<Self, RootUnusable> {
        let unusable = |problem: String| RootUnusable {
            root: root.to_owned(),
            problem,
        };
        prepare(root)
            .map(|root| Self {
                root,
                turn: Arc::default(),
            })
            .map_err(|trouble| unusable(trouble.to_string()))
    }

    /// Runs `change` while nothing else changes the store. It runs to its end even if the caller
    /// no longer waits.
    async fn exclusively<T: Send + 'static>(
        &self,
        operation: &'static str,
        locator: &str,
        change: impl FnOnce(&Path, &Place) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, StoreError> {
        let error = |trouble: &Trouble| failure(operation, locator, trouble);
        let place = Place::parse(locator).map_err(|trouble| error(&trouble))?;
        let root = self.root.clone();
        let turn = Arc::clone(&self.turn).lock_owned().await;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let _lock = lock(&root.join(LOCK))?;
            change(&root, &place)
        })
        .await
        .unwrap_or(Err(Trouble::Interrupted))
        .map_err(|trouble| error(&trouble))
    }
}

#[async_trait]
impl SecretStore for Directory {
    /// The file appears whole or not at all. What a put that died has left is deleted by the next
    /// put or delete of the same locator.
    async fn put(
        &self,
        locator: &str,
        attempt: Uuid,
        value: &SecretString,
        tags: &BTreeMap<String, String>,
    ) -> Result<Stored, StoreError> {
        let secret = value.clone();
        let note = Note {
            attempt: attempt.to_string(),
            tags: tags.clone(),
        };
        self.exclusively("put", locator, move |root, place| {
            put(root, place, &note, &secret)
        })
        .await?;
        Ok(Stored {
            store: StoreKind::Directory,
            locator: self.root.join(locator).to_string_lossy().into_owned(),
            region: None,
            version: attempt.to_string(),
        })
    }

    /// Directories that are empty then are removed, too.
    async fn delete(&self, locator: &str) -> Result<(), StoreError> {
        self.exclusively("delete", locator, delete).await
    }

    async fn describe(&self, locator: &str) -> Result<Option<Described>, StoreError> {
        self.exclusively("describe", locator, describe).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed, StoreError>> {
        /// The walk waits when this many are not taken yet.
        const AHEAD: usize = 100;
        let (found, listed) = mpsc::channel(AHEAD);
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        tokio::task::spawn_blocking(move || {
            if let Err(trouble) = walk::walk(&root, &prefix, &found) {
                // Whoever listened may have gone.
                let _ = found.blocking_send(Err(failure("list", &prefix, &trouble)));
            }
        });
        let next = async |mut listed: mpsc::Receiver<_>| Some((listed.recv().await?, listed));
        stream::unfold(listed, next).boxed()
    }
}

fn failure(operation: &'static str, locator: &str, trouble: &Trouble) -> StoreError {
    let kind = trouble.kind();
    metrics::store_failed(kind.as_str());
    StoreError {
        operation,
        locator: locator.to_owned(),
        problem: trouble.to_string(),
        kind,
    }
}

/// Reads a secret's file, as a client does.
///
/// # Errors
/// What the operating system said, and who may read it.
pub fn read(path: &str) -> Result<SecretString, StoreError> {
    fs::read_to_string(path)
        .map(SecretString::from)
        .map_err(|error| StoreError {
            operation: "read",
            locator: path.to_owned(),
            problem: format!(
                "{error}; such files are on the worker's host or volume and only for the worker's \
                 own user: run this there as that user, or use a store that services can read, such \
                 as aws-secrets-manager"
            ),
            kind: FailureKind::Refused,
        })
}

/// A locator, found to be harmless as a path.
struct Place {
    parents: Vec<String>,
    leaf: String,
}

impl Place {
    fn parse(locator: &str) -> Result<Self, Trouble> {
        let mut parents: Vec<String> = locator.split('/').map(str::to_owned).collect();
        if !parents.iter().all(|segment| is_harmless(segment)) {
            return Err(Trouble::Locator);
        }
        let leaf = parents.pop().ok_or(Trouble::Locator)?;
        Ok(Self { parents, leaf })
    }
}

/// Whether `segment` can be a part of a locator.
fn is_harmless(segment: &str) -> bool {
    (1..=SEGMENT_BYTES_MAX).contains(&segment.len())
        && !segment.starts_with('.')
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_=.-".contains(&byte))
}

/// The files of one secret, beside each other.
struct Files {
    /// What clients read.
    secret: PathBuf,
    /// The secret while it is written.
    draft: PathBuf,
    /// The [`Note`] of the attempt that wrote the secret.
    attempt: PathBuf,
}

impl Files {
    fn new(parent: &Path, leaf: &str) -> Self {
        Self {
            secret: parent.join(leaf),
            draft: parent.join(format!(".{leaf}.new")),
            attempt: parent.join(format!(".{leaf}.attempt")),
        }
    }
}

/// Creates and checks the root; its real path.
fn prepare(root: &Path) -> Result<PathBuf, Trouble> {
    create_directory(root, true)?;
    let root = io("find", root, root.canonicalize())?;
    let mode = io("examine", &root, root.metadata())?.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Trouble::Open { path: root, mode });
    }
    let _lock = lock(&root.join(LOCK))?;
    // The lock may have been there before the file system became read-only.
    let probe = root.join(".probe");
    remove_file(&probe)?;
    write_new(&probe, b"")?;
    remove_file(&probe)?;
    Ok(root)
}

fn put(root: &Path, place: &Place, note: &Note, value: &SecretString) -> Result<(), Trouble> {
    let parent = make_parents(root, place)?;
    let files = Files::new(&parent, &place.leaf);
    match kind_of(&files.secret)? {
        Kind::File => {
            check_same(&files, note, value)?;
            // The first put may have died before this.
            sync(&parent)
        }
        Kind::Missing => {
            let written = write(&files, &parent, note, value);
            if written.is_err() {
                // Best effort: the caller hears of what failed first, and will delete anyway.
                let _ = delete(root, place);
            }
            written
        }
        Kind::Directory | Kind::Other => Err(Trouble::InTheWay {
            path: files.secret,
            expected: "file",
        }),
    }
}

/// Nobody else is writing here, so whatever has these names was left by a put that died.
fn write(files: &Files, parent: &Path, note: &Note, value: &SecretString) -> Result<(), Trouble> {
    remove_file(&files.draft)?;
    remove_file(&files.attempt)?;
    write_new(&files.attempt, note.to_text().as_bytes())?;
    write_new(&files.draft, value.expose_secret().as_bytes())?;
    io(
        "create",
        &files.secret,
        fs::rename(&files.draft, &files.secret),
    )?;
    sync(parent)
}

fn check_same(files: &Files, note: &Note, value: &SecretString) -> Result<(), Trouble> {
    let putter = Note::read(&files.attempt)?.attempt;
    let before = Zeroizing::new(io("read", &files.secret, fs::read(&files.secret))?);
    if putter == note.attempt && *before == value.expose_secret().as_bytes() {
        Ok(())
    } else {
        Err(Trouble::Taken)
    }
}

fn delete(root: &Path, place: &Place) -> Result<(), Trouble> {
    let mut parent = root.to_owned();
    for segment in &place.parents {
        let below = parent.join(segment);
        match kind_of(&below)? {
            Kind::Directory => parent = below,
            Kind::Missing => return prune(root, &parent),
            Kind::File | Kind::Other => return Err(not_a_directory(below)),
        }
    }
    let files = Files::new(&parent, &place.leaf);
    // What holds the password goes first.
    remove_file(&files.secret)?;
    remove_file(&files.draft)?;
    remove_file(&files.attempt)?;
    prune(root, &parent)
}

fn describe(root: &Path, place: &Place) -> Result<Option<Described>, Trouble> {
    let Some(parent) = find_directory(root, &place.parents)? else {
        return Ok(None);
    };
    let files = Files::new(&parent, &place.leaf);
    if kind_of(&files.secret)? != Kind::File {
        return Ok(None);
    }
    let changed = io("examine", &files.secret, fs::metadata(&files.secret))?.modified();
    Ok(Some(Described {
        changed_at: changed.ok().and_then(|at| Timestamp::try_from(at).ok()),
        tags: Note::read(&files.attempt)?.tags,
    }))
}

/// Removes empty directories from `directory` up to the root, and makes what was removed durable.
fn prune(root: &Path, directory: &Path) -> Result<(), Trouble> {
    let mut directory = directory;
    // What is not empty stays; any other reason to stay does no harm either.
    while directory != root && fs::remove_dir(directory).is_ok() {
        directory = directory.parent().unwrap_or(root);
    }
    sync(directory)
}

/// Creates the directories of a secret; the one that holds it.
fn make_parents(root: &Path, place: &Place) -> Result<PathBuf, Trouble> {
    let mut parent = root.to_owned();
    for segment in &place.parents {
        let below = parent.join(segment);
        match kind_of(&below)? {
            Kind::Directory => {}
            Kind::Missing => {
                create_directory(&below, false)?;
                sync(&parent)?;
            }
            Kind::File | Kind::Other => return Err(not_a_directory(below)),
        }
        parent = below;
    }
    Ok(parent)
}

/// The directory below the root that these segments lead to, if it is there.
fn find_directory(root: &Path, segments: &[String]) -> Result<Option<PathBuf>, Trouble> {
    let mut directory = root.to_owned();
    for segment in segments {
        directory.push(segment);
        match kind_of(&directory)? {
            Kind::Directory => {}
            Kind::Missing => return Ok(None),
            Kind::File | Kind::Other => return Err(not_a_directory(directory)),
        }
    }
    Ok(Some(directory))
}

fn not_a_directory(path: PathBuf) -> Trouble {
    Trouble::InTheWay {
        path,
        expected: "directory",
    }
}
