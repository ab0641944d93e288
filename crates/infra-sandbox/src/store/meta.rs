//! What is written down about a session.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::lock::no_follow;
use super::microvm::StoredMicrovm;
use crate::spec::RawPath;

/// The version of what this forge writes. It reads no higher one.
pub(super) const VERSION: u32 = 1;

/// No session's description is longer.
const MAX_META_BYTES: u64 = 64 * 1024;

/// What a session held when it was last closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSummary {
    /// Changed files that are listed.
    pub changed_files: u64,
    /// Changed files that the project's ignore rules exclude.
    pub ignored_files: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) version: u32,
    pub(super) workspace: WrittenPath,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) last_used: u64,
    /// Which forge used it last.
    pub(super) forge: String,
    /// Absent until it was closed for the first time.
    #[serde(default)]
    pub(super) summary: Option<StoredSummary>,
    /// Where its commands run elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) microvms: Vec<StoredMicrovm>,
}

/// A path as text where it is UTF-8, for people who look into the file; else as its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum WrittenPath {
    #[serde(rename = "text")]
    Text(String),
    #[serde(rename = "bytes")]
    Bytes(RawPath),
}

impl WrittenPath {
    pub(super) fn of(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.into()),
        }
    }

    pub(super) fn as_path(&self) -> &Path {
        match self {
            Self::Text(text) => Path::new(text),
            Self::Bytes(path) => path.as_path(),
        }
    }
}

/// Why a description cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// It was written by a newer forge, and is whole as far as anybody knows.
    Newer,
    /// It makes no sense.
    Damaged(String),
    /// There is no session.
    Missing,
    /// It cannot be read.
    Io(io::Error),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer => f.write_str("a newer forge has made it"),
            Self::Damaged(reason) => f.write_str(reason),
            Self::Missing => f.write_str("it is not there"),
            Self::Io(error) => write!(f, "meta.json cannot be read: {error}"),
        }
    }
}

/// Whether what is written is to survive a loss of power. That takes as long as several commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// It is what the user's changes are found by.
    Survives,
    /// It is worth nothing without what comes later.
    May,
}

/// The part that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Meta {
    pub(super) fn new(workspace: &Path, now: SystemTime) -> Self {
        Self {
            version: VERSION,
            workspace: WrittenPath::of(workspace),
            created: seconds(now),
            last_used: seconds(now),
            forge: env!("CARGO_PKG_VERSION").to_owned(),
            summary: None,
            microvms: Vec::new(),
        }
    }

    pub(super) fn read(directory: &Path) -> Result<Self, Unusable> {
        let path = directory.join("meta.json");
        let file = match File::options().read(true).custom_flags(no_follow()).open(&path) {
            Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => file,
            Ok(_) => return Err(Unusable::Damaged("meta.json is no file".to_owned())),
            // Sessions come and go as a whole.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(match fs::symlink_metadata(directory) {
                    Ok(metadata) if metadata.is_dir() => {
                        Unusable::Damaged("meta.json is not there".to_owned())
                    }
                    _ => Unusable::Missing,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(Unusable::Missing);
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                return Err(Unusable::Damaged("meta.json is no file".to_owned()));
            }
            Err(error) => return Err(Unusable::Io(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_META_BYTES).read_to_end(&mut bytes).map_err(Unusable::Io)?;
        let damaged = |error: serde_json::Error| Unusable::Damaged(error.to_string());
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version > VERSION {
            return Err(Unusable::Newer);
        }
        serde_json::from_slice(&bytes).map_err(damaged)
    }

    /// Writes it so that a reader sees the old one or the new one; with [`Durability::Survives`] so does one
    /// after a loss of power.
    pub(super) fn write(&self, directory: &Path, durability: Durability) -> io::Result<()> {
        let new = directory.join("meta.json.new");
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&bytes)?;
            if durability == Durability::Survives { file.sync_all() } else { Ok(()) }
        });
        let renamed = written.and_then(|()| fs::rename(&new, directory.join("meta.json")));
        if renamed.is_err() {
            drop(fs::remove_file(&new));
        }
        renamed?;
        if durability == Durability::Survives { File::open(directory)?.sync_all() } else { Ok(()) }
    }
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
