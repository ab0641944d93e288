//! The environment itself: what its ports share.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forge_command_io::BackgroundCommand;
use forge_domain::{BackgroundId, EnvironmentError, EnvironmentKind};
use tempfile::TempDir;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard};
use tokio_util::sync::CancellationToken;

use crate::config::LocalConfig;

/// The host as an environment. Clones share one; nothing is made before the first use.
///
/// Dropping the last clone kills the background commands and removes the scratch directory; `close`
/// does the same in an orderly way, and is what says what went wrong.
#[derive(Clone)]
pub struct LocalEnvironment {
    pub(crate) inner: Arc<Inner>,
}

impl LocalEnvironment {
    /// Takes the configuration. Neither checks nor makes anything.
    #[must_use]
    pub fn new(config: LocalConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                scratch: Scratch::default(),
                background: Mutex::default(),
                closing: CancellationToken::new(),
                calls: RwLock::new(()),
                closed: OnceCell::new(),
            }),
        }
    }
}

impl fmt::Debug for LocalEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEnvironment")
            .field("workspace", &self.inner.config.workspace)
            .finish_non_exhaustive()
    }
}

/// Background commands in order of their start; the numbers in their ids rise.
pub(crate) type BackgroundTable = BTreeMap<u64, (BackgroundId, Arc<BackgroundCommand>)>;

pub(crate) struct Inner {
    pub(crate) config: LocalConfig,
    scratch: Scratch,
    background: Mutex<BackgroundTable>,
    /// Cancelled when the environment is being closed: every running command ends.
    pub(crate) closing: CancellationToken,
    /// Every call holds a read lock while it works, so `close` can wait for all of them.
    calls: RwLock<()>,
    pub(crate) closed: OnceCell<Result<(), String>>,
}

impl Inner {
    pub(crate) fn closed_error() -> EnvironmentError {
        EnvironmentError::Closed { environment: EnvironmentKind::Local }
    }

    /// Begins a call, or refuses it since the environment is closed. To be held until its end.
    pub(crate) async fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, EnvironmentError> {
        if self.closing.is_cancelled() {
            return Err(Self::closed_error());
        }
        let guard = self.calls.read().await;
        if self.closing.is_cancelled() { Err(Self::closed_error()) } else { Ok(guard) }
    }

    /// Waits until no call is under way. Only of use after `closing` was cancelled.
    pub(crate) async fn all_calls_ended(&self) {
        drop(self.calls.write().await);
    }

    pub(crate) fn background(&self) -> MutexGuard<'_, BackgroundTable> {
        // The table is changed by single inserts: a panic elsewhere leaves it whole.
        self.background.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scratch directory, made if it is not there yet.
    pub(crate) fn scratch(&self) -> io::Result<PathBuf> {
        self.scratch.path(&self.config.scratch_parent)
    }

    /// A new file in the scratch directory for output that is too much to keep.
    pub(crate) fn spill_file(&self) -> io::Result<(File, PathBuf)> {
        tempfile::Builder::new()
            .prefix("output-")
            .suffix(".log")
            .tempfile_in(self.scratch()?)?
            .keep()
            .map_err(|error| error.error)
    }

    pub(crate) fn remove_scratch(&self) -> io::Result<()> {
        self.scratch.remove()
    }

    pub(crate) fn scratch_error(source: io::Error) -> EnvironmentError {
        EnvironmentError::Unavailable {
            environment: EnvironmentKind::Local,
            reason: "no scratch directory could be made".to_owned(),
            source: Some(Box::new(source)),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (_, command) in self.background().values() {
            command.kill();
        }
    }
}

/// A directory of mode 0700 that is made once, when it is first needed.
#[derive(Default)]
struct Scratch {
    directory: Mutex<Option<TempDir>>,
}

impl Scratch {
    fn path(&self, parent: &std::path::Path) -> io::Result<PathBuf> {
        let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = &*directory {
            return Ok(directory.path().to_path_buf());
        }
        let parent = parent.canonicalize()?;
        let made = tempfile::Builder::new().prefix("forge-").tempdir_in(parent)?;
        let path = made.path().to_path_buf();
        *directory = Some(made);
        Ok(path)
    }

    fn remove(&self) -> io::Result<()> {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner).take();
        directory.map_or(Ok(()), TempDir::close)
    }
}
