//! Reading what a session changed, whether it is in use or not.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use forge_domain::SessionId;
use rustix::fs::{Mode, OFlags};

use super::error::SessionError;
use super::open::OpenSession;
use super::sessions::SessionStore;
use crate::changes::{
    DetailedChange, DetailedChangeSet, IgnoredFiles, LineChanges, change_set, change_set_with,
    contents, line_changes,
};
use crate::layers::Layers;
use crate::plan::HOME;
use crate::session::{Helper, Session};
use crate::spec::{Keeping, LimitsSpec, NetworkSpec, Root, SessionSpec, Upper, View};

/// A byte of an archive takes at most so many in memory, where a small file takes a page.
const MEMORY_PER_BYTE: u64 = 8;
const MIN_MEMORY: u64 = 64 * 1024 * 1024;

/// The two layers of a session, held to be read.
#[derive(Debug)]
pub struct SessionLayers {
    upper: OwnedFd,
    lower: OwnedFd,
}

impl SessionStore {
    /// Opens the layers of a session to be read. Nothing is locked: what runs in the session goes on. Of a
    /// session whose layers are in memory, this is what was written down last; it is unpacked by a
    /// helper, which blocks.
    ///
    /// # Errors
    /// It is not there, its workspace is not there any more, or it cannot be unpacked.
    pub fn layers(&self, id: &SessionId) -> Result<SessionLayers, SessionError> {
        let workspace = self.find(id)?.workspace;
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
            opened.map_err(SessionError::io("opening", path))
        };
        let upper = match OpenSession::archive_in(&self.path_of(id)) {
            None => open(&self.upper_of(id))?,
            Some(archive) => self
                .unpacked(&archive, &workspace)
                .map_err(SessionError::io("unpacking", &archive))?,
        };
        Ok(SessionLayers { upper, lower: open(&workspace)? })
    }

    /// What an archive holds, as a layer in memory that lasts as long as this descriptor.
    fn unpacked(&self, archive: &Path, workspace: &Path) -> io::Result<OwnedFd> {
        let file = File::open(archive)?;
        let max_bytes = file.metadata()?.len().saturating_mul(MEMORY_PER_BYTE).max(MIN_MEMORY);
        let keeping = Keeping::Kept { before: Some(archive.into()) };
        let spec = SessionSpec {
            view: View {
                root: Root::Listed {
                    workspace: workspace.into(),
                    upper: Upper::Memory { max_bytes, keeping },
                },
                shown: Vec::new(),
                links: Vec::new(),
                masks: Vec::new(),
                home: HOME.into(),
                scratch_bytes: 1024 * 1024,
            },
            network: NetworkSpec::None,
            limits: LimitsSpec {
                processes: 512,
                open_files: 1024,
                file_bytes: None,
                memory_bytes: None,
                milli_cpus: None,
            },
            layers: Layers::ALL,
        };
        let session = Helper::spawn(self.helper_program())
            .and_then(|helper| Session::start(helper, &spec, file.as_fd()))
            .map_err(io::Error::other)?;
        let upper = session.upper.try_clone();
        session.end();
        upper
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

    /// What was changed, with what becomes of ignored files.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn changes_with(&self, ignored: IgnoredFiles) -> io::Result<DetailedChangeSet> {
        change_set_with(self.upper.as_fd(), self.lower.as_fd(), ignored)
    }

    /// What a regular file or a symlink holds on the host: of a symlink, its target.
    ///
    /// # Errors
    /// `FileTooLarge`: it is larger than so many bytes. `Unsupported`: it is something else. Or it is not
    /// there, or cannot be read.
    pub fn before(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        contents(self.lower.as_fd(), path, max_bytes)
    }

    /// The same in the session, of a path that is changed in it.
    ///
    /// # Errors
    /// As [`SessionLayers::before`].
    pub fn after(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        contents(self.upper.as_fd(), path, max_bytes)
    }

    /// What a change does to the lines of its file.
    #[must_use]
    pub fn line_changes(&self, change: &DetailedChange) -> LineChanges {
        let sides = (change.before.is_some(), change.after.is_some());
        line_changes(self.upper.as_fd(), self.lower.as_fd(), &change.path, sides)
    }
}
