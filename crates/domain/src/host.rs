//! What has to happen on the user's machine, whatever the environment.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use thiserror::Error;

/// Where the project is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceLocation {
    /// The nearest git root at or above the working directory, else the working directory; absolute,
    /// symlinks resolved.
    pub root: PathBuf,
    /// The working directory: the root or a directory in it; absolute, symlinks resolved.
    pub working_directory: PathBuf,
}

/// Instructions for agents that the project keeps for itself (`AGENTS.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instructions {
    /// Where they stand, relative to the workspace root.
    pub path: PathBuf,
    /// The text, invalid UTF-8 replaced, cut at the limit that was asked for.
    pub text: String,
    /// Whether it was cut.
    pub truncated: bool,
}

/// Why something could not be found out about the host.
#[derive(Debug, Error)]
pub enum HostError {
    /// The directory is missing.
    #[error("the directory {path:?} does not exist")]
    NotFound {
        /// The directory as it was given.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{path:?} is not a directory")]
    NotDirectory {
        /// The path as it was given.
        path: PathBuf,
    },
    /// It is a place that must not become a workspace: `/`, the home directory, or one that holds
    /// Forge's own state.
    #[error("{path:?} cannot be a workspace: it is {what}")]
    Unsuitable {
        /// The directory.
        path: PathBuf,
        /// What it is: `the root directory`, `your home directory`, …
        what: &'static str,
    },
    /// The operating system refused.
    #[error("{path:?} cannot be read")]
    Io {
        /// The path.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// Reads the user's machine where that must not go through an environment. It changes nothing.
#[async_trait]
pub trait Host: Send + Sync {
    /// Finds the workspace from a directory (relative ones from the process's own).
    ///
    /// # Errors
    /// [`HostError`]; an unsuitable place is refused, never widened or narrowed to another.
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn locate_workspace(&self, start: &Path) -> Result<WorkspaceLocation, HostError>;

    /// Reads `AGENTS.md` from the workspace root down to the working directory, outermost first.
    /// A symlink is followed only within the workspace; what is no regular file is passed over.
    /// At most `max_bytes` of each are read.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn read_instructions(
        &self,
        workspace: &WorkspaceLocation,
        max_bytes: usize,
    ) -> Result<Vec<Instructions>, HostError>;
}
