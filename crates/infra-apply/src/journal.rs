//! What is written down about an apply.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use forge_domain::{AppliedPath, Digest, Entry, ReviewedPath};
use serde::{Deserialize, Serialize};

use crate::calls::{Calls, Identity};

/// The version of what this forge writes. It reads no higher one.
const VERSION: u32 = 1;

pub(crate) const FILE: &str = "journal.json";

/// How far an apply has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Nothing of the tree is changed yet, except that there may be a directory with what is new.
    Staging,
    /// Paths are being changed: to be taken back.
    Placing,
    /// All paths are changed: to be finished.
    Placed,
    /// Nothing is left to be done.
    Done,
    /// It was taken back.
    TakenBack,
}

/// What one step does to its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Action {
    Create,
    Replace,
    Remove,
    RemoveIfEmpty,
    /// The permission bits of a directory.
    Mode,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) path: WrittenPath,
    pub(crate) action: Action,
    pub(crate) before: Option<WrittenEntry>,
    pub(crate) after: Option<WrittenEntry>,
    /// What was staged for it.
    pub(crate) new: Option<Identity>,
    /// The digest of what the session had, where that was merged with what was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) merged: Option<String>,
    /// It was a directory that turned out not to be empty, and stays.
    #[serde(default)]
    pub(crate) skipped: bool,
    /// It was taken back by an undo.
    #[serde(default)]
    pub(crate) undone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) session: String,
    /// The apply that this one takes back.
    #[serde(default)]
    pub(crate) undoes: Option<String>,
    pub(crate) phase: Phase,
    pub(crate) records: Vec<Record>,
}

impl Journal {
    pub(crate) fn new(id: &str, session: &str, undoes: Option<&str>) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            session: session.to_owned(),
            undoes: undoes.map(str::to_owned),
            phase: Phase::Staging,
            records: Vec::new(),
        }
    }

    /// What is another than it was.
    pub(crate) fn changed(&self) -> Vec<AppliedPath> {
        let entry = |written: &Option<WrittenEntry>| written.as_ref().and_then(WrittenEntry::entry);
        let changed = self.records.iter().filter(|record| !record.skipped);
        let path = |record: &Record| {
            let (before, after) = (entry(&record.before), entry(&record.after));
            let merged = record.merged.as_deref().and_then(Digest::parse);
            Some(AppliedPath { path: record.path.reviewed().ok()?, before, after, merged })
        };
        changed.filter_map(path).collect()
    }

    pub(crate) fn write(&self, calls: &Calls, directory: impl AsFd) -> io::Result<()> {
        calls.write(directory, FILE, &serde_json::to_vec(self)?)
    }

    pub(crate) fn read(calls: &Calls, directory: impl AsFd) -> io::Result<Self> {
        let journal: Self = serde_json::from_slice(&calls.read(directory, FILE)?)?;
        if journal.version > VERSION {
            return Err(io::Error::other("a newer forge has written it"));
        }
        Ok(journal)
    }
}

/// A path as text where it is UTF-8, for people who look into the file; else as its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum WrittenPath {
    #[serde(rename = "text")]
    Text(String),
    #[serde(rename = "bytes")]
    Bytes(Vec<u8>),
}

impl WrittenPath {
    pub(crate) fn of(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }

    pub(crate) fn to_path(&self) -> PathBuf {
        match self {
            Self::Text(text) => text.into(),
            Self::Bytes(bytes) => OsString::from_vec(bytes.clone()).into(),
        }
    }

    pub(crate) fn reviewed(&self) -> io::Result<ReviewedPath> {
        ReviewedPath::parse(&self.to_path()).map_err(io::Error::other)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WrittenEntry {
    File { size_bytes: u64, digest: String, mode: u32 },
    Symlink { target: WrittenPath },
    Directory { mode: u32 },
    Special,
}

impl WrittenEntry {
    pub(crate) fn of(entry: &Entry) -> Self {
        match entry {
            Entry::File { size_bytes, digest, mode } => {
                Self::File { size_bytes: *size_bytes, digest: digest.to_string(), mode: *mode }
            }
            Entry::Symlink { target } => Self::Symlink { target: WrittenPath::of(target) },
            Entry::Directory { mode } => Self::Directory { mode: *mode },
            Entry::Special => Self::Special,
        }
    }

    /// `None` where the digest is none.
    pub(crate) fn entry(&self) -> Option<Entry> {
        Some(match self {
            Self::File { size_bytes, digest, mode } => {
                Entry::File { size_bytes: *size_bytes, digest: Digest::parse(digest)?, mode: *mode }
            }
            Self::Symlink { target } => Entry::Symlink { target: target.to_path() },
            Self::Directory { mode } => Entry::Directory { mode: *mode },
            Self::Special => Entry::Special,
        })
    }
}
