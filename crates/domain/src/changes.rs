//! The port to what a session changed.

use std::path::PathBuf;

use async_trait::async_trait;
use thiserror::Error;

use crate::{EnvironmentError, EnvironmentKind};

/// How a path differs from the workspace as it was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It was not there.
    Created,
    /// Its contents, or a symlink's target, are others.
    Modified,
    /// It is gone.
    Deleted,
    /// Only its permission bits are others.
    ModeChanged,
    /// It is another kind of thing: a directory for a file, a symlink for a file.
    TypeChanged,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative to the workspace root.
    pub path: PathBuf,
    /// How it differs.
    pub kind: ChangeKind,
}

/// What a session changed, without `.git`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeSet {
    /// The changes in byte order of their paths. Of a created or deleted directory, its files.
    pub changes: Vec<Change>,
    /// How many changed files the project's ignore rules exclude; they are not listed.
    pub ignored_files: u64,
}

/// What became of what the host's workspace had changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TakenIn {
    /// How many paths were brought up to date that the session had left as they were brought to the host.
    pub updated_paths: u64,
    /// What the host has changed since, and the session too: it goes on with its own version. In byte order; each is
    /// named once for each version of the host's.
    pub conflicts: Vec<PathBuf>,
    /// Commands run meanwhile, and what they have open is still as it was.
    pub is_partial: bool,
}

/// Why there is no change set.
#[derive(Debug, Error)]
pub enum ChangesError {
    /// This environment writes straight to the tree and keeps no account of it.
    #[error(
        "the {environment} environment does not track changes: what commands write is there at once"
    )]
    NotTracked {
        /// Which.
        environment: EnvironmentKind,
    },
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

/// Says and drops what the session changed, where
/// [`Capabilities::change_tracking`](crate::Capabilities) says that it is tracked.
#[async_trait]
pub trait Changes: Send + Sync {
    /// The change set so far. Two calls without a write between them give the same.
    ///
    /// # Errors
    /// [`ChangesError::NotTracked`] where the capability is absent; or the environment failed.
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn changes(&self) -> Result<ChangeSet, ChangesError>;

    /// Brings what was changed in the host's workspace since the environment was made, or since the last call, into the
    /// environment. What the session has changed itself stays as it is there, and is said where both have
    /// changed it. To be called between turns, when no command runs but background ones.
    ///
    /// An environment that was not used yet is not made by this.
    ///
    /// # Errors
    /// As [`Changes::changes`]. What was brought in so far stays.
    ///
    /// # Cancel safety
    /// A dropped future may have brought in a part; the next call brings in the rest.
    async fn take_in(&self) -> Result<TakenIn, ChangesError>;

    /// Drops every change, ignored files included: the workspace is as it was taken in. Commands
    /// that run meanwhile are ended first.
    ///
    /// # Errors
    /// As [`Changes::changes`].
    ///
    /// # Cancel safety
    /// A dropped future has discarded everything, or nothing.
    async fn discard_changes(&self) -> Result<(), ChangesError>;
}
