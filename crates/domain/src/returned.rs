//! The port to what keeps, on the host, the changes of an environment that is not on this machine.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::BoxedError;

/// What the environment has at a path that was changed in it.
pub enum Returned<'a> {
    /// A regular file.
    File {
        /// Its permission bits.
        mode: u32,
        /// What it holds.
        contents: &'a mut dyn Read,
    },
    /// A symlink.
    Symlink {
        /// Where it points, as it is written.
        target: &'a Path,
    },
    /// A directory, of which nothing but itself is said.
    Directory {
        /// Its permission bits.
        mode: u32,
    },
    /// Nothing, nor anything beneath it.
    Nothing,
}

impl fmt::Debug for Returned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File { .. } => "File",
            Self::Symlink { .. } => "Symlink",
            Self::Directory { .. } => "Directory",
            Self::Nothing => "Nothing",
        })
    }
}

/// Where a changed path comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnedOrigin {
    /// It was in the workspace when that went there.
    Workspace,
    /// The session has made it.
    Session,
}

/// Why a path is not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StaysThere {
    /// It cannot be read there.
    Unreadable,
    /// It is a socket, a device or a fifo: nothing that could be kept.
    Special,
    /// It is too large.
    TooLarge,
}

impl fmt::Display for StaysThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "it cannot be read there",
            Self::Special => "it is a socket, a device or a fifo",
            Self::TooLarge => "it is too large",
        })
    }
}

/// What of the changes was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotReturned {
    /// Changed files that the project's ignore rules exclude.
    pub ignored_files: u64,
    /// Paths that could not be handed over, with the reason, in byte order.
    pub left: Vec<(PathBuf, StaysThere)>,
}

impl NotReturned {
    /// What is missing of what could have been kept, in words; `None` where nothing is.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let missing = self.left.iter().filter(|(_, reason)| *reason != StaysThere::Special);
        let missing: Vec<_> = missing.collect();
        let (first, reason) = missing.first()?;
        let first = format!("{} ({reason})", first.display());
        Some(match missing.len() {
            1 => first,
            count => format!("{first} and {} more", count - 1),
        })
    }
}

/// Keeps the changes of an environment that is not on this machine. Its calls block.
pub trait ReturnKeeper: Send + fmt::Debug {
    /// Keeps what a path is there, in place of whatever was kept of it. A path that is not handed over stays as it was
    /// kept before.
    ///
    /// # Errors
    /// The path is none that a change may have, or it cannot be kept: then what was kept of it before is still there.
    fn put(
        &mut self,
        path: &Path,
        what: Returned<'_>,
        origin: ReturnedOrigin,
    ) -> Result<(), BoxedError>;

    /// Everything was handed over: it is kept from now on whatever happens to this process.
    ///
    /// # Errors
    /// It cannot be written down.
    fn finish(&mut self, not_returned: &NotReturned) -> Result<(), BoxedError>;
}
