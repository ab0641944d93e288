//! A tree of the host, held.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use forge_domain::{
    Applied, AppliedId, ApplyContents, ApplyError, ApplyTarget, Entry, ReviewedPath, Step, Undo,
    Unnoted,
};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::calls::{Calls, Lock, kind};
use crate::errors::failed;
use crate::journal::Journal;

/// Says that an apply is under way: the next one looks at its journal first.
pub(crate) const PENDING: &str = "pending";

/// Holds a name for each apply and undo of which it is not noted that the session knows.
pub(crate) const UNNOTED: &str = "unnoted";

/// How the directory of what is new is called, in the tree.
pub(crate) const STAGING: &str = ".forge-apply-";

/// A tree of the host that reviewed changes are brought to.
#[derive(Debug)]
pub struct HostTree {
    pub(crate) calls: Calls,
    pub(crate) path: PathBuf,
    pub(crate) root: OwnedFd,
    state: PathBuf,
    /// The directory that was looked into last: most paths are beside the one before.
    recent: Mutex<Option<(PathBuf, Option<Arc<OwnedFd>>)>>,
}

/// The directory of a tree's applies in the state directory, locked.
#[derive(Debug)]
pub(crate) struct Journals {
    pub(crate) directory: OwnedFd,
    pub(crate) path: PathBuf,
    _lock: Lock,
}

/// An entry with what was seen of it, to be recognised by.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) entry: Entry,
    pub(crate) stat: Stat,
}

impl Seen {
    /// Whether a file that was moved is the one that was seen, as it was seen. Its time of change is that of
    /// the move.
    pub(crate) fn is(&self, stat: &Stat) -> bool {
        let marks = |stat: &Stat| {
            (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
        };
        if kind(&self.stat) == FileType::Directory {
            return (self.stat.st_dev, self.stat.st_ino) == (stat.st_dev, stat.st_ino);
        }
        marks(&self.stat) == marks(stat) && self.stat.st_mode == stat.st_mode
    }
}

impl HostTree {
    /// Holds a tree. What is written down about applies goes beneath the state directory, which need not be there.
    ///
    /// # Errors
    /// The tree is not there, or is no directory.
    pub fn open(
        root: impl Into<PathBuf>,
        state_directory: impl AsRef<Path>,
    ) -> Result<Self, ApplyError> {
        Self::with_calls(root.into(), state_directory.as_ref(), Calls::default())
    }

    pub(crate) fn with_calls(
        path: PathBuf,
        state_directory: &Path,
        calls: Calls,
    ) -> Result<Self, ApplyError> {
        use std::os::unix::ffi::OsStrExt;
        let root = calls.open_root(&path).map_err(failed("opening", &path))?;
        let name = blake3::hash(path.as_os_str().as_bytes()).to_hex();
        let state = state_directory.join("applies").join(&name.as_str()[..16]);
        Ok(Self { calls, path, root, state, recent: Mutex::new(None) })
    }

    /// Whether an apply was begun that somebody has to finish or take back, or that is under way. Reads one
    /// name.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.state.join(PENDING).exists()
    }

    /// Whether there may be something that a session does not know of. Reads one directory, which is empty else.
    #[must_use]
    pub fn is_unnoted(&self) -> bool {
        std::fs::read_dir(self.state.join(UNNOTED)).is_ok_and(|mut names| names.next().is_some())
    }

    /// What stands at a path, without what is in a file: its size and its hash are zero.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn look_roughly(&self, path: &ReviewedPath) -> io::Result<Option<Entry>> {
        let Some(parent) = self.parent_to_look(path)? else { return Ok(None) };
        let Some(stat) = self.calls.stat(&parent, name_of(path))? else { return Ok(None) };
        if kind(&stat) == FileType::RegularFile {
            let digest = forge_domain::Digest::new([0; 32]);
            let mode = stat.st_mode & 0o7777;
            return Ok(Some(Entry::File { size_bytes: 0, digest, mode }));
        }
        Ok(self.see_in(&parent, name_of(path))?.map(|seen| seen.entry))
    }

    pub(crate) fn journals(&self) -> Result<Journals, ApplyError> {
        let directory =
            self.calls.make_state(&self.state).map_err(failed("making", &self.state))?;
        let lock = self.calls.lock(&directory).map_err(failed("locking", &self.state))?;
        let lock = lock.ok_or(ApplyError::Busy)?;
        Ok(Journals { directory, path: self.state.clone(), _lock: lock })
    }

    /// Opens the directory that a path is in; `None` where there is none.
    pub(crate) fn parent(&self, path: &ReviewedPath) -> io::Result<Option<OwnedFd>> {
        let parent = path.as_path().parent().unwrap_or(Path::new(""));
        match self.calls.open_directory(&self.root, parent) {
            Ok(parent) => Ok(Some(parent)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// The same, to look and to change nothing: it may be the directory that was there a moment ago.
    pub(crate) fn parent_to_look(&self, path: &ReviewedPath) -> io::Result<Option<Arc<OwnedFd>>> {
        let above = path.as_path().parent().unwrap_or(Path::new(""));
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, directory)) = &*recent
            && path == above
        {
            return Ok(directory.clone());
        }
        let directory = self.parent(path)?.map(Arc::new);
        *recent = Some((above.to_path_buf(), directory.clone()));
        Ok(directory)
    }

    /// Looks anew from here on.
    pub(crate) fn forget(&self) {
        *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What stands at a path.
    pub(crate) fn see(&self, path: &ReviewedPath) -> io::Result<Option<Seen>> {
        let Some(parent) = self.parent_to_look(path)? else { return Ok(None) };
        self.see_in(&parent, name_of(path))
    }

    /// The same, in a directory that is held.
    pub(crate) fn see_in(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<Option<Seen>> {
        let Some(stat) = self.calls.stat(parent, name)? else { return Ok(None) };
        let mode = stat.st_mode & 0o7777;
        let entry = match kind(&stat) {
            FileType::Directory => Entry::Directory { mode },
            FileType::Symlink => Entry::Symlink { target: self.calls.read_link(parent, name)? },
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = File::from(self.calls.open(parent, Path::new(name), flags)?);
                let digest = self.calls.digest(&file)?;
                let stat = self.calls.stat_of(&file)?;
                let size_bytes = u64::try_from(stat.st_size).unwrap_or_default();
                return Ok(Some(Seen { entry: Entry::File { size_bytes, digest, mode }, stat }));
            }
            _ => Entry::Special,
        };
        Ok(Some(Seen { entry, stat }))
    }
}

impl Journals {
    /// The directory of one apply.
    pub(crate) fn open(&self, calls: &Calls, id: &str) -> io::Result<OwnedFd> {
        calls.open_directory(&self.directory, Path::new(id))
    }

    /// All applies, the newest first.
    pub(crate) fn ids(&self, calls: &Calls) -> io::Result<Vec<String>> {
        let is_id = |name: &String| {
            !matches!(&**name, "lock" | PENDING | UNNOTED) && !name.ends_with(".new")
        };
        let mut names: Vec<String> =
            calls.names(&self.directory)?.into_iter().filter(is_id).collect();
        names.reverse();
        Ok(names)
    }

    /// Where the names of what is not noted are.
    pub(crate) fn unnoted(&self, calls: &Calls) -> io::Result<OwnedFd> {
        match calls.make_directory(&self.directory, UNNOTED) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        calls.open_directory(&self.directory, Path::new(UNNOTED))
    }

    pub(crate) fn read(&self, calls: &Calls, id: &str) -> io::Result<Journal> {
        Journal::read(calls, self.open(calls, id)?)
    }
}

impl ApplyTarget for HostTree {
    fn recover(&self) -> Result<bool, ApplyError> {
        if !self.is_pending() {
            return Ok(false);
        }
        let journals = self.journals()?;
        self.recover_in(&journals)
    }

    fn look(&self, path: &ReviewedPath) -> Result<Option<Entry>, ApplyError> {
        let seen = self.see(path).map_err(failed("reading", path))?;
        Ok(seen.map(|seen| seen.entry))
    }

    fn apply(
        &self,
        session: &str,
        steps: &[Step],
        contents: &dyn ApplyContents,
    ) -> Result<Applied, ApplyError> {
        let journals = self.journals()?;
        self.recover_in(&journals)?;
        self.carry_out(&journals, session, None, steps, contents)
    }

    fn newest_session(
        &self,
        is_chosen: &dyn Fn(&ReviewedPath) -> bool,
    ) -> Result<Option<String>, ApplyError> {
        let journals = self.journals()?;
        self.recover_in(&journals)?;
        let newest = self.newest(&journals, None, is_chosen)?;
        Ok(newest.map(|newest| newest.journal.session))
    }

    fn unnoted(&self) -> Result<Vec<Unnoted>, ApplyError> {
        let journals = self.journals()?;
        self.recover_in(&journals)?;
        self.unnoted_in(&journals).map_err(failed("reading the journals in", &journals.path))
    }

    fn note(&self, id: &AppliedId) -> Result<(), ApplyError> {
        let journals = self.journals()?;
        let fail = |error| failed("writing to", &journals.path)(error);
        let unnoted = journals.unnoted(&self.calls).map_err(fail)?;
        self.calls.remove(&unnoted, id.as_str().as_ref()).map_err(fail)
    }

    fn undo(
        &self,
        session: Option<&str>,
        is_chosen: &dyn Fn(&ReviewedPath) -> bool,
        is_forced: &dyn Fn(&ReviewedPath) -> bool,
    ) -> Result<Undo, ApplyError> {
        let journals = self.journals()?;
        self.recover_in(&journals)?;
        self.take_back(&journals, session, is_chosen, is_forced)
    }
}

/// The last name of a path.
pub(crate) fn name_of(path: &ReviewedPath) -> &OsStr {
    path.as_path().file_name().unwrap_or_default()
}

/// A name that sorts by time.
pub(crate) fn new_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:015x}-{:x}", now.as_micros(), std::process::id())
}
