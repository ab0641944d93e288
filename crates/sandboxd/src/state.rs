//! The server's directory: one server at a time, and nothing in it that a former one left.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forge_domain::SessionId;
use forge_infra_sandbox::{SessionError, SessionStore};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;
use tracing::{debug, info, warn};

/// How long the helpers of a server that was killed are given to be gone.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(10);
const LEFTOVER_INTERVAL: Duration = Duration::from_millis(50);

/// Why the directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another server has it.
    #[error("another server uses {0:?}")]
    InUse(PathBuf),
    /// It cannot be made, opened or read.
    #[error("{path:?} cannot be used")]
    Io {
        /// The directory, or the file in it.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// What a former server left cannot be read.
    #[error("what is left in {path:?} cannot be read")]
    Sessions {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: SessionError,
    },
}

/// The directory of a server that runs.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    pub(crate) path: PathBuf,
    store: SessionStore,
}

/// Held as long as the server runs: connections may outlive it for a moment.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

impl StateDirectory {
    /// Takes the directory and removes what is left in it. Blocks, for ten seconds and what removing takes
    /// at the most.
    pub(crate) fn take(path: &Path) -> Result<(Self, StateLock), StateError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StateError::Io { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
        let path = path.canonicalize().map_err(failed(path))?;
        let lock_path = path.join("server.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::InUse(path)),
            Err(error) => return Err(failed(&lock_path)(error.into())),
        }
        let store = SessionStore::new(&path);
        let state = Self { path, store };
        state.remove_leftovers()?;
        Ok((state, StateLock { _file: lock }))
    }

    fn remove_leftovers(&self) -> Result<(), StateError> {
        let listed = self.store.list();
        let listing =
            listed.map_err(|source| StateError::Sessions { path: self.path.clone(), source })?;
        let give_up = Instant::now() + LEFTOVER_LIMIT;
        for session in listing.sessions {
            match self.remove_by(&session.id, give_up) {
                Ok(()) => {
                    info!(session_id = %session.id, "A sandbox of a former server was removed.")
                }
                Err(error) => {
                    warn!(session_id = %session.id, %error, "A sandbox of a former server is left.");
                }
            }
        }
        Ok(())
    }

    /// Removes what a sandbox has written. Blocks.
    pub(crate) fn remove(&self, id: &SessionId) -> Result<(), SessionError> {
        self.remove_by(id, Instant::now() + LEFTOVER_LIMIT)
    }

    fn remove_by(&self, id: &SessionId, give_up: Instant) -> Result<(), SessionError> {
        loop {
            match self.store.lock(id).and_then(forge_infra_sandbox::OpenSession::remove) {
                Ok(()) => return Ok(()),
                // One that held nothing is gone by itself.
                Err(SessionError::NotFound { .. }) => return Ok(()),
                Err(SessionError::Busy { .. }) if Instant::now() < give_up => {
                    debug!(session_id = %id, "A sandbox is still being ended.");
                    std::thread::sleep(LEFTOVER_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
