//! Reading what a session changed, whether it is in use or not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use forge_domain::SessionId;
use rustix::fs::{Mode, OFlags};

use super::error::SessionError;
use super::sessions::SessionStore;
use crate::changes::{DetailedChange, DetailedChangeSet, LineChanges, change_set, line_changes};

/// The two layers of a session, held to be read.
#[derive(Debug)]
pub struct SessionLayers {
    upper: OwnedFd,
    lower: OwnedFd,
}

impl SessionStore {
    /// Opens the layers of a session to be read. Nothing is locked: what runs in the session goes on.
    ///
    /// # Errors
    /// It is not there, or its workspace is not there any more.
    pub fn layers(&self, id: &SessionId) -> Result<SessionLayers, SessionError> {
        let workspace = self.find(id)?.workspace;
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
            opened.map_err(SessionError::io("opening", path))
        };
        Ok(SessionLayers { upper: open(&self.upper_of(id))?, lower: open(&workspace)? })
    }
}

impl SessionLayers {
    /// What was changed.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn changes(&self) -> io::Result<DetailedChangeSet> {
        change_set(self.upper.as_fd(), self.lower.as_fd())
    }

    /// What a change does to the lines of its file.
    #[must_use]
    pub fn line_changes(&self, change: &DetailedChange) -> LineChanges {
        let sides = (change.before.is_some(), change.after.is_some());
        line_changes(self.upper.as_fd(), self.lower.as_fd(), &change.path, sides)
    }
}
