//! The directory store's own promises: modes, paths, crashes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use keycard::clock::uuid_v7;
use keycard::fault::Disposition;
use keycard::store::SecretStore;
use keycard::store::directory::Directory;
use tempfile::TempDir;

use super::{Probe, conformance, locator, put};

struct Files {
    root: PathBuf,
}

#[async_trait]
impl Probe for Files {
    async fn read(&self, locator: &str) -> Option<String> {
        fs::read_to_string(self.root.join(locator)).ok()
    }

    async fn tags(&self, _locator: &str) -> Option<BTreeMap<String, String>> {
        None
    }
}

/// A store below a directory that is not there yet.
fn store() -> (TempDir, PathBuf, Directory) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/secrets");
    let store = Directory::open(&root).unwrap();
    (directory, root, store)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Every file and directory below `root`, without the lock.
fn everything_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            found.extend(everything_below(&path));
        }
        if path.file_name().unwrap() != ".lock" {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn a_directory_conforms() {
    let (_directory, root, store) = store();
    conformance(Box::new(store), &Files { root }).await;
}

/// Two stores are two processes, as far as the lock is concerned. One deletes the only secrets, and
/// with them the directories that the other's puts need.
#[tokio::test(flavor = "multi_thread")]
async fn siblings_put_and_deleted_at_once_lose_nothing() {
    let (_directory, root, first) = store();
    let second = Directory::open(&root).unwrap();
    let come_and_go = async |store: &Directory| {
        for _ in 0..150 {
            let locator = locator("app");
            let stored = put(store, &locator, uuid_v7(), "value").await.unwrap();
            assert_eq!(fs::read_to_string(&stored.locator).unwrap(), "value");
            store.delete(&locator).await.unwrap();
            assert!(!fs::exists(&stored.locator).unwrap());
        }
    };
    tokio::join!(come_and_go(&first), come_and_go(&second));
    assert_eq!(everything_below(&root), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_values_for_one_locator_one_wins() {
    let (_directory, root, first) = store();
    let second = Directory::open(&root).unwrap();
    let (locator, attempt) = (locator("app"), uuid_v7());
    let values: Vec<String> = (0..16).map(|n| format!("value {n}")).collect();
    let puts = values.iter().enumerate().map(|(n, value)| {
        let store = if n % 2 == 0 { &first } else { &second };
        put(store, &locator, attempt, value)
    });
    let results = join_all(puts).await;
    let winners: Vec<usize> = (0..16).filter(|n| results[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    let kept = fs::read_to_string(root.join(&locator)).unwrap();
    assert_eq!(kept, values[winners[0]]);
}

#[tokio::test]
async fn only_the_owner_can_read() {
    let (_directory, root, store) = store();
    put(&store, "keycard/app/role/lease", uuid_v7(), "value")
        .await
        .unwrap();
    assert_eq!(mode(&root), 0o700);
    let found = everything_below(&root);
    assert_eq!(found.len(), 5, "{found:?}");
    for path in found {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
}

#[tokio::test]
async fn hostile_locators_are_refused() {
    let (_directory, root, store) = store();
    let long = "a".repeat(241);
    for hostile in [
        "",
        "/",
        "/absolute",
        "a//b",
        "a/",
        "..",
        ".",
        "../a",
        "a/../b",
        "a/./b",
        "a/.b",
        ".lock",
        "a/b c",
        "a\\b",
        "a/b\0",
        "a/ä",
        "a/b\n",
        &long,
    ] {
        for refused in [
            put(&store, hostile, uuid_v7(), "value").await.map(|_| ()),
            store.delete(hostile).await,
            store.describe(hostile).await.map(|_| ()),
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.disposition(), Disposition::Reject, "{hostile:?}");
        }
    }
    assert_eq!(everything_below(&root), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn symbolic_links_are_not_followed() {
    let (directory, root, store) = store();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("lease"), "precious").unwrap();

    // As a directory on the way.
    symlink(&outside, root.join("app")).unwrap();
    let refused = put(&store, "app/new", uuid_v7(), "value")
        .await
        .unwrap_err();
    assert_eq!(refused.disposition(), Disposition::Retry);
    assert!(refused.problem.contains("in the way"), "{refused}");
    store.delete("app/lease").await.unwrap_err();

    // As the secret itself, its draft and its attempt.
    let precious = outside.join("lease");
    symlink(&precious, root.join("x")).unwrap();
    let refused = put(&store, "x", uuid_v7(), "value").await.unwrap_err();
    assert!(refused.problem.contains("in the way"), "{refused}");
    for name in [".y.new", ".y.attempt"] {
        symlink(&precious, root.join(name)).unwrap();
    }
    put(&store, "y", uuid_v7(), "value").await.unwrap();
    // Deleting removes the link, not what it leads to.
    store.delete("x").await.unwrap();
    store.delete("y").await.unwrap();

    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

/// Every state in which a put can die.
#[tokio::test]
async fn what_a_crash_has_left_goes_with_the_next_put_or_delete() {
    let (_directory, root, store) = store();
    let attempt = uuid_v7();
    let by = attempt.to_string();
    for left in [
        vec![],
        vec![(".lease.attempt", "")],
        vec![(".lease.attempt", &*by)],
        vec![(".lease.attempt", &*by), (".lease.new", "val")],
        vec![(".lease.attempt", &*by), (".lease.new", "value")],
        vec![(".lease.attempt", &*by), ("lease", "value")],
    ] {
        let parent = root.join("app/role");
        let crash = || {
            fs::create_dir_all(&parent).unwrap();
            for (name, content) in &left {
                fs::write(parent.join(name), content).unwrap();
            }
        };

        crash();
        store.delete("app/role/lease").await.unwrap();
        assert_eq!(everything_below(&root), Vec::<PathBuf>::new(), "{left:?}");

        crash();
        let stored = put(&store, "app/role/lease", attempt, "value").await;
        assert_eq!(
            fs::read_to_string(stored.unwrap().locator).unwrap(),
            "value"
        );
        assert!(!parent.join(".lease.new").exists(), "{left:?}");
        store.delete("app/role/lease").await.unwrap();
        assert_eq!(everything_below(&root), Vec::<PathBuf>::new(), "{left:?}");
    }
}

#[tokio::test]
async fn a_root_that_has_gone_is_a_passing_trouble() {
    let (_directory, root, store) = store();
    fs::remove_dir_all(&root).unwrap();
    let refused = put(&store, "app/lease", uuid_v7(), "value")
        .await
        .unwrap_err();
    assert_eq!(refused.disposition(), Disposition::Retry);
    assert!(refused.problem.contains(".lock"), "{refused}");
}

#[tokio::test]
async fn a_root_that_has_gone_is_no_empty_store() {
    let (_directory, root, store) = store();
    fs::remove_dir_all(&root).unwrap();
    let listed = store.list("keycard").try_collect::<Vec<_>>().await;
    assert_eq!(listed.unwrap_err().disposition(), Disposition::Retry);
    let described = store.describe("keycard/app/lease").await;
    assert_eq!(described.unwrap_err().disposition(), Disposition::Retry);
}

/// Links, other people's files, and what a put that died has left.
#[tokio::test]
async fn only_secrets_are_listed() {
    let (directory, root, store) = store();
    let place = locator("app");
    let stored = put(&store, &place, uuid_v7(), "value").await.unwrap();
    let beside = Path::new(&stored.locator).parent().unwrap().to_owned();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("x"), "x").unwrap();
    symlink(&outside, root.join("keycard/linked")).unwrap();
    symlink(outside.join("x"), beside.join("link")).unwrap();
    fs::write(beside.join("READ ME"), "x").unwrap();
    fs::write(beside.join(".lease.new"), "x").unwrap();
    fs::write(beside.join("by-hand"), "x").unwrap();
    let mut listed: Vec<_> = store.list("keycard").try_collect().await.unwrap();
    listed.sort_by(|a, b| a.locator.cmp(&b.locator));
    let by_hand = place.rsplit_once('/').unwrap().0.to_owned() + "/by-hand";
    let names: Vec<&str> = listed.iter().map(|secret| &*secret.locator).collect();
    assert_eq!(names, [&*place, &*by_hand]);
    assert!(listed[1].tags.is_empty());
    assert_eq!(store.describe("keycard/linked/x").await.ok(), None);

    symlink(&outside, root.join("elsewhere")).unwrap();
    let through = store.list("elsewhere").try_collect::<Vec<_>>().await;
    assert!(through.unwrap_err().problem.contains("in the way"));
}

#[test]
fn a_root_that_others_can_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (mode, fits) in [
        (0o700, true),
        (0o755, true),
        (0o770, false),
        (0o702, false),
        (0o1777, false),
    ] {
        fs::set_permissions(root, fs::Permissions::from_mode(mode)).unwrap();
        let opened = Directory::open(root);
        assert_eq!(opened.is_ok(), fits, "{mode:o}: {opened:?}");
    }
    let file = root.join("file");
    fs::write(&file, "").unwrap();
    assert!(Directory::open(&file).is_err());
    let error = Directory::open(root).unwrap_err().to_string();
    assert!(error.contains("1777"), "{error}");
}
