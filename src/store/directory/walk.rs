//! Walking over the secrets below a prefix, while others write and delete there.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use tokio::sync::mpsc::Sender;

use super::disk::{Kind, Trouble, io, kind_of};
use super::note::Note;
use super::{Files, find_directory, is_harmless, not_a_directory};
use crate::store::{Listed, StoreError};

/// Sends every secret below `<root>/<prefix>/`. What comes or goes meanwhile may be missed; symbolic
/// links and names that no locator has are passed over. Ends early when nobody listens any more.
pub(super) fn walk(
    root: &Path,
    prefix: &str,
    found: &Sender<Result<Listed, StoreError>>,
) -> Result<(), Trouble> {
    // A volume that is not mounted is no empty store.
    if kind_of(root)? != Kind::Directory {
        return Err(not_a_directory(root.to_owned()));
    }
    let segments: Vec<String> = prefix.split('/').map(str::to_owned).collect();
    if find_directory(root, &segments)?.is_none() {
        return Ok(());
    }
    // Directories still to be read, as locators.
    let mut directories = vec![prefix.to_owned()];
    while let Some(directory) = directories.pop() {
        let path = root.join(&directory);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            read => io("read", &path, read)?,
        };
        for entry in entries {
            let name = io("read", &path, entry)?.file_name();
            let Some(name) = name.to_str().filter(|name| is_harmless(name)) else {
                continue;
            };
            let locator = format!("{directory}/{name}");
            match kind_of(&path.join(name))? {
                Kind::Directory => directories.push(locator),
                Kind::File => {
                    let tags = Note::read(&Files::new(&path, name).attempt)?.tags;
                    if found.blocking_send(Ok(Listed { locator, tags })).is_err() {
                        return Ok(());
                    }
                }
                Kind::Missing | Kind::Other => {}
            }
        }
    }
    Ok(())
}
