//! The file port: bytes in the environment's own tree, the one that its commands see.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

use crate::EnvironmentError;

/// A range of a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Where it begins. Beyond the end of the file, it is empty.
    pub offset: u64,
    /// How long it is at the most.
    pub max_bytes: u64,
}

impl ByteRange {
    /// The first `max_bytes` of a file.
    #[must_use]
    pub fn first(max_bytes: u64) -> Self {
        Self { offset: 0, max_bytes }
    }
}

/// What was read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContents {
    /// The bytes of the range, exact.
    pub bytes: Bytes,
    /// The size of the whole file when it was read.
    pub total_bytes: u64,
}

/// What to do where a file is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Its contents are replaced; its mode stays.
    #[default]
    Replace,
    /// The write fails with [`FileError::AlreadyExists`].
    Keep,
}

/// How to write a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// What to do where it is there already.
    pub existing: Existing,
    /// The permission bits (`0o000` to `0o777`) that the file gets; `None`: those it has, or `0o666`
    /// less the umask for a new one.
    pub mode: Option<u32>,
}

/// What to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// A file, a symlink itself (never its target), or an empty directory.
    Single,
    /// A directory with everything in it; also what `Single` removes. Symlinks are not followed.
    Tree,
}

/// What kind of thing a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it holds, as it stands there. `None` in listings that do not read it.
        target: Option<PathBuf>,
    },
    /// A fifo, a socket, a device.
    Other,
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes; 0 for what has none.
    pub size_bytes: u64,
    /// Its permission bits, where the environment tells.
    pub mode: Option<u32>,
    /// When it was last modified, where the environment tells.
    pub modified: Option<SystemTime>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Its name, without the directory; any bytes but `/` and NUL.
    pub name: OsString,
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes; 0 for what has none.
    pub size_bytes: u64,
}

/// Why something could not be done with a file.
#[derive(Debug, Error)]
pub enum FileError {
    /// Nothing is there, or a parent is missing.
    #[error("{path:?} does not exist")]
    NotFound {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// Something is there already, and the call asked to keep it.
    #[error("{path:?} exists already")]
    AlreadyExists {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// A directory is there where a file was expected.
    #[error("{path:?} is a directory")]
    IsDirectory {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// Something else is there, or above, where a directory was expected.
    #[error("{path:?} is not a directory")]
    NotDirectory {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// The directory holds something, and only an empty one was to be removed.
    #[error("the directory {path:?} is not empty")]
    NotEmpty {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// A fifo, a socket or a device: reading it could block for ever.
    #[error("{path:?} is neither a file nor a directory")]
    Special {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// The path leads out of the workspace and the scratch space, itself or through a symlink, or
    /// names one of their roots where that cannot be meant.
    #[error("{path:?} is outside of the workspace")]
    Outside {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// The environment's user may not do this.
    #[error("permission denied for {path:?}")]
    PermissionDenied {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// There is no room left.
    #[error("no space is left for {path:?}")]
    NoSpace {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// The path cannot name a file: it is empty, holds NUL, or is too long.
    #[error("{path:?} cannot name a file: {reason}")]
    InvalidPath {
        /// The path as it was asked for.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused for another reason.
    #[error("{operation} of {path:?} failed")]
    Io {
        /// The path as it was asked for.
        path: PathBuf,
        /// What was being done: `read`, `write`, `remove`, `list`, `stat`.
        operation: &'static str,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

/// Reads and changes files within the workspace and the environment's scratch space.
///
/// Paths are absolute or relative to the environment's working directory; `.` and `..` are resolved.
/// A path that leads elsewhere, also through a symlink, fails with [`FileError::Outside`]. What a
/// command wrote is seen here at once, and the other way round.
///
/// Bounded by the environment's own limits for a request; local calls by the file system.
#[async_trait]
pub trait Files: Send + Sync {
    /// Reads a range of a regular file, following symlinks that stay inside.
    ///
    /// # Errors
    /// [`FileError`]; a directory is [`FileError::IsDirectory`], a fifo [`FileError::Special`].
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn read(&self, path: &Path, range: ByteRange) -> Result<FileContents, FileError>;

    /// Writes a whole file, all or nothing: a reader sees the old contents or the new, and a failure
    /// leaves the old ones. Missing parents are made. A symlink that stays inside is followed.
    ///
    /// # Errors
    /// [`FileError`]; nothing was changed then, but for parents that were made.
    ///
    /// # Cancel safety
    /// A dropped future has written everything or nothing.
    async fn write(
        &self,
        path: &Path,
        contents: Bytes,
        options: WriteOptions,
    ) -> Result<(), FileError>;

    /// Removes a file or directory. The workspace and the scratch space themselves are
    /// [`FileError::Outside`] of what can be removed.
    ///
    /// # Errors
    /// [`FileError`]; of a tree, a part may be gone by then.
    ///
    /// # Cancel safety
    /// A dropped removal of a tree may have removed a part of it.
    async fn remove(&self, path: &Path, removal: Removal) -> Result<(), FileError>;

    /// Lists a directory in byte order of the names, hidden ones included, without `.` and `..`.
    ///
    /// # Errors
    /// [`FileError`]; what is not a directory is [`FileError::NotDirectory`].
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>, FileError>;

    /// Says what a path names, without following a symlink in its last part.
    ///
    /// # Errors
    /// [`FileError`].
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn stat(&self, path: &Path) -> Result<FileStat, FileError>;
}
