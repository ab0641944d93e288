//! Making sessions, and the directories that they are in.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::SystemTime;

use forge_domain::SessionId;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::error::SessionError;
use super::id;
use super::meta::{Durability, Meta};
use super::prune::remove_directory;
use super::sessions::{NEW, SessionStore};

/// The directories of a session; those of an outside git directory are made when they are needed.
const DIRECTORIES: [&str; 3] = ["upper", "work", "base"];

/// So many ids are tried; there are a million for each second.
const ATTEMPTS: u32 = 16;

impl SessionStore {
    /// Makes the state directory, and checks that nobody else can write to it.
    pub(super) fn prepare(&self) -> Result<(), SessionError> {
        let directory = self.directory();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(SessionError::io("making", &directory))?;
        self.check()?;
        // The layers hold files with modes that the session chose: nobody else may get to them.
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&directory, mode).map_err(SessionError::io("protecting", &directory))
    }

    /// Checks that nobody else can write to what there is.
    pub(super) fn check(&self) -> Result<(), SessionError> {
        for path in [self.state(), &self.directory()] {
            let metadata = match fs::metadata(path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(SessionError::io("looking at", path)(error)),
            };
            let unsafe_since =
                |reason| Err(SessionError::Unsafe { path: path.to_path_buf(), reason });
            if metadata.uid() != rustix::process::geteuid().as_raw() {
                return unsafe_since("it belongs to another user");
            }
            if metadata.mode() & 0o022 != 0 {
                return unsafe_since("others can write to it");
            }
        }
        Ok(())
    }

    /// Makes a session aside and moves it into place. Its lock is held.
    pub(super) fn make(&self, workspace: &Path) -> Result<(SessionId, Meta, File), SessionError> {
        let now = SystemTime::now();
        let root = fs::metadata(workspace).map_err(SessionError::io("looking at", workspace))?;
        let failed = |error| SessionError::io("making a session in", &self.directory())(error);
        for _ in 0..ATTEMPTS {
            let Ok(id) = id::new(now, random()) else { continue };
            let meta = Meta::new(workspace, now);
            match self.try_make(&id, &meta, &root) {
                Ok(lock) => return Ok((id, meta, lock)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(Errno::EXIST.into()))
    }

    fn try_make(&self, id: &SessionId, meta: &Meta, root: &fs::Metadata) -> io::Result<File> {
        let name = format!("{NEW}{id}");
        let aside = self.directory().join(&name);
        DirBuilder::new().mode(0o700).create(&aside)?;
        let made = fill(&aside, meta, root).and_then(|lock| {
            move_to_new(&aside, &self.path_of(id))?;
            Ok(lock)
        });
        if made.is_err() {
            // What is left of it is removed by a later start.
            drop(remove_directory(&self.directory(), OsStr::new(&name)));
        }
        made
    }
}

/// The parts of a new session, and its lock, held.
fn fill(directory: &Path, meta: &Meta, root: &fs::Metadata) -> io::Result<File> {
    let lock = File::create_new(directory.join("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    for name in DIRECTORIES {
        DirBuilder::new().mode(0o700).create(directory.join(name))?;
    }
    // The overlay shows these of the upper layer's root.
    liken(&directory.join("upper"), root)?;
    // It holds nothing that could be lost with its description.
    meta.write(directory, Durability::May)?;
    Ok(lock)
}

/// Gives a directory another one's permissions and owner.
pub(super) fn liken(directory: &Path, other: &fs::Metadata) -> io::Result<()> {
    let made = fs::metadata(directory)?;
    if (made.uid(), made.gid()) != (other.uid(), other.gid()) {
        // Only root can; for others, what is not theirs shows as theirs.
        let _not_root = chown(directory, Some(other.uid()), Some(other.gid()));
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(other.mode() & 0o7777))
}

/// Renames a directory to a name that nothing has.
pub(super) fn move_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can. A full directory is never replaced, and a session is one.
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(from, to),
        other => Ok(other?),
    }
}

/// Not for secrets: two sessions of one second have to differ.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    u32::try_from(hasher.finish() & u64::from(u32::MAX)).unwrap_or(0)
}
