//! The port to the host's workspace as it goes into an environment that is not on this machine.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What stands at a path that goes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEntry {
    /// A regular file.
    File {
        /// Its size when it was looked at.
        size_bytes: u64,
        /// Its permission bits, without setuid, setgid and sticky.
        mode: u32,
    },
    /// A symlink.
    Symlink {
        /// Where it points, as it is written.
        target: PathBuf,
    },
    /// A directory.
    Directory {
        /// Its permission bits, without setuid, setgid and sticky.
        mode: u32,
    },
}

/// Says whether a path is still what it was: of two equal stamps it is, as far as the file system tells (inode, size, and
/// the times of the last write and the last change of the inode).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceStamp(u128);

impl SourceStamp {
    /// Takes a number in which all that tells two versions apart has gone.
    #[must_use]
    pub fn new(number: u128) -> Self {
        Self(number)
    }
}

/// One path that goes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePath {
    /// Relative to the workspace root; never empty.
    pub path: PathBuf,
    /// What stands there.
    pub entry: SourceEntry,
    /// When it was last written to, in seconds since 1970.
    pub modified_seconds: u64,
    /// Which version of it.
    pub stamp: SourceStamp,
}

/// Why a path stays behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOutReason {
    /// The project's ignore rules exclude it, and git does not track it, or its `.forgeignore` excludes it.
    Ignored,
    /// It holds a secret, by its name or by what is in it, and was not included by name.
    Secret,
    /// It is larger than a file may be.
    TooLarge,
    /// The user cannot read it.
    Unreadable,
    /// It is the git directory of a repository inside of this one.
    NestedRepository,
    /// It is a socket, a device or a fifo.
    Special,
    /// It is git's index, and it is not understood what that tracks: what a rule ignores stays behind though git tracks it.
    IndexNotUnderstood,
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignored => "ignored",
            Self::Secret => "secret",
            Self::TooLarge => "too large",
            Self::Unreadable => "unreadable",
            Self::NestedRepository => "nested repository",
            Self::Special => "socket, device or fifo",
            Self::IndexNotUnderstood => {
                "not understood, so what git tracks and a rule ignores stays behind"
            }
        })
    }
}

/// A path that stays behind; of a directory, with everything in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Relative to the workspace root.
    pub path: PathBuf,
    /// Why.
    pub reason: LeftOutReason,
}

/// What a workspace is at one moment, without what is in its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceListing {
    /// What goes along, in byte order of the paths, each directory before what is in it. `.git` at the root is not
    /// among it.
    pub paths: Vec<SourcePath>,
    /// What stays behind, in the same order.
    pub left_out: Vec<LeftOut>,
    /// What the files are together.
    pub total_bytes: u64,
}

/// Why a workspace cannot be taken along.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The directory itself cannot be read.
    #[error("{path:?} cannot be read")]
    Io {
        /// Which.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Its files are too many bytes together.
    #[error(
        "the project's files are {total_bytes} bytes together, and {limit_bytes} are allowed; the largest: {largest:?}"
    )]
    TooLarge {
        /// How many.
        total_bytes: u64,
        /// How many may be.
        limit_bytes: u64,
        /// The directories or files at the root that are the largest, the largest first.
        largest: Vec<PathBuf>,
    },
}

/// Reads the host's workspace for an environment that has none of its own. It changes nothing, and its calls block.
pub trait WorkspaceSource: Send + Sync + fmt::Debug {
    /// Lists what goes along now: tracked files and others that are not ignored, as they are on the disk, with modes,
    /// symlinks and empty directories.
    ///
    /// # Errors
    /// [`SourceError`]. A single path that cannot be read is left out and said.
    fn list(&self) -> Result<SourceListing, SourceError>;

    /// The same for an environment that has nothing of it yet. Where there is more to bring in than the host's workspace
    /// has, as what waits in a session, it is among this, and in the place of the host's.
    ///
    /// # Errors
    /// As [`WorkspaceSource::list`].
    fn begin(&self) -> Result<SourceListing, SourceError> {
        self.list()
    }

    /// Opens a file that was listed, by its path relative to the root; no symlink on the way is followed.
    ///
    /// # Errors
    /// It is not there any more, is no regular file, or cannot be read.
    fn open(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>>;

    /// What a path is now; `None` where nothing is there, or where it would not go along any more.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn look(&self, path: &Path) -> io::Result<Option<SourcePath>>;
}
