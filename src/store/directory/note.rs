//! What a directory knows of a secret besides its value.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::disk::{Kind, Trouble, io, kind_of};

/// What is kept beside a secret: in the first line the attempt that wrote it, in the second its
/// tags as JSON.
#[derive(Default)]
pub(super) struct Note {
    pub(super) attempt: String,
    pub(super) tags: BTreeMap<String, String>,
}

impl Note {
    /// The note in this file; of one that is missing, was written by hand or by an earlier keycard,
    /// what there is.
    pub(super) fn read(path: &Path) -> Result<Self, Trouble> {
        if kind_of(path)? != Kind::File {
            return Ok(Self::default());
        }
        let text = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            read => io("read", path, read)?,
        };
        let text = String::from_utf8_lossy(&text);
        let (attempt, tags) = text.split_once('\n').unwrap_or((&text, ""));
        Ok(Self {
            attempt: attempt.to_owned(),
            tags: serde_json::from_str(tags).unwrap_or_default(),
        })
    }

    pub(super) fn to_text(&self) -> String {
        format!("{}\n{}\n", self.attempt, serde_json::json!(self.tags))
    }
}
