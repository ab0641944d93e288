//! A session that is in use.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use forge_domain::SessionId;
use tracing::warn;

use super::error::SessionError;
use super::meta::{Durability, Meta, StoredSummary, seconds};
use super::prune::remove_directory;
use super::sessions::SessionStore;
use crate::spec::Upper;

/// The layers that hold what a session has written: the workspace's, and that of a git directory
/// outside of it.
const LAYERS: [(&str, &str); 2] = [("upper", "work"), ("git-upper", "git-work")];

/// A session that this process uses. The lock is given back when it is dropped, or when the process
/// ends.
#[derive(Debug)]
pub struct OpenSession {
    store: SessionStore,
    id: SessionId,
    directory: PathBuf,
    meta: std::sync::Mutex<Meta>,
    continued: bool,
    _lock: File,
}

/// What became of a session whose use has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// It held nothing and is gone.
    Removed,
    /// It holds this and can be gone on with.
    Kept(StoredSummary),
}

impl OpenSession {
    pub(super) fn take(
        store: SessionStore,
        id: SessionId,
        mut lock: File,
        mut meta: Meta,
    ) -> Result<Self, SessionError> {
        let directory = store.path_of(&id);
        // For people, and for `session stop`; a disk that is full does not keep anybody from working.
        let noted = lock
            .rewind()
            .and_then(|()| lock.set_len(0))
            .and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()));
        if let Err(error) = noted {
            warn!(session_id = %id, %error, "The session's owner could not be noted.");
        }
        let continued = holds_anything(&directory).unwrap_or(false);
        meta.last_used = seconds(SystemTime::now());
        meta.forge = env!("CARGO_PKG_VERSION").to_owned();
        meta.write(&directory, Durability::May)
            .map_err(SessionError::io("writing to", &directory))?;
        Ok(Self { store, id, directory, meta: meta.into(), continued, _lock: lock })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Whether it held something when it was opened.
    #[must_use]
    pub fn is_continued(&self) -> bool {
        self.continued
    }

    /// Whether it holds anything, ignored files included.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn holds_anything(&self) -> io::Result<bool> {
        holds_anything(&self.directory)
    }

    /// Notes what it holds.
    ///
    /// # Errors
    /// It cannot be written down; what was there before is.
    pub fn set_summary(&self, summary: StoredSummary) -> Result<(), SessionError> {
        let mut meta = self.meta.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = meta.summary.replace(summary);
        meta.last_used = seconds(SystemTime::now());
        let durability =
            if before == Some(summary) { Durability::May } else { Durability::Survives };
        meta.write(&self.directory, durability)
            .map_err(SessionError::io("writing to", &self.directory))
    }

    /// Drops everything that it holds. It must not be mounted.
    ///
    /// # Errors
    /// Something could not be removed; a part may be gone by then.
    pub fn discard(&self) -> Result<(), SessionError> {
        for (upper, work) in LAYERS {
            for name in [upper, work] {
                let path = self.directory.join(name);
                let Ok(before) = fs::metadata(&path) else { continue };
                let emptied = remove_directory(&self.directory, name.as_ref())
                    .and_then(|()| remake(&path, &before));
                emptied.map_err(SessionError::io("emptying", &path))?;
            }
        }
        self.set_summary(StoredSummary::default())
    }

    /// Ends its use: one that holds nothing is removed.
    ///
    /// # Errors
    /// It could not be removed; nothing of it was lost that it held.
    pub fn end(self) -> Result<SessionEnd, SessionError> {
        if self.holds_anything().unwrap_or(true) {
            let meta = self.meta.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            return Ok(SessionEnd::Kept(meta.summary.unwrap_or_default()));
        }
        self.remove()?;
        Ok(SessionEnd::Removed)
    }

    /// Removes it with everything that it holds.
    ///
    /// # Errors
    /// Something could not be removed; what is left is no session any more.
    pub fn remove(self) -> Result<(), SessionError> {
        self.store.remove_locked(&self.id)
    }

    pub(crate) fn upper_layer(&self) -> Upper {
        self.layer(LAYERS[0])
    }

    /// The layer for a git directory outside of the workspace, made if it is not there.
    pub(crate) fn outside_layer(&self) -> io::Result<Upper> {
        for name in [LAYERS[1].0, LAYERS[1].1] {
            match fs::create_dir(self.directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(self.layer(LAYERS[1]))
    }

    fn layer(&self, (upper, work): (&str, &str)) -> Upper {
        Upper::Directories {
            upper: self.directory.join(upper).into(),
            work: self.directory.join(work).into(),
        }
    }
}

fn remake(path: &Path, like: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    fs::DirBuilder::new().mode(0o700).create(path)?;
    let made = fs::metadata(path)?;
    if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
        let _not_root = std::os::unix::fs::chown(path, Some(like.uid()), Some(like.gid()));
    }
    fs::set_permissions(path, like.permissions())
}

/// Whether there is any entry in one of the layers.
pub(super) fn holds_anything(directory: &Path) -> io::Result<bool> {
    for (upper, _) in LAYERS {
        match fs::read_dir(directory.join(upper)) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Closed by what ran in it: so it holds something.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
