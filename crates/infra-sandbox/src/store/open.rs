//! A session that is in use.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use forge_domain::{AppliedId, Digest, SessionId};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use tracing::warn;

use super::base::{Bases, DealtWith, Dropped, Followed};
use super::commits::BROUGHT;
use super::error::SessionError;
use super::kept::{KEPT, KeptCommits};
use super::lock;
use super::make::liken;
use super::meta::{Durability, Meta, StoredSummary, seconds};
use super::moment::{Moment, Moments};
use super::prune::{remove_directory, remove_file};
use super::read::SessionLayers;
use super::sessions::SessionStore;
use crate::archive::{holds, pack};
use crate::beneath;
use crate::changes::{DetailedChangeSet, change_set};
use crate::spec::{Keeping, Upper};

/// The layers that hold what a session has written: the workspace's, and that of a git directory
/// outside of it.
const LAYERS: [(&str, &str); 2] = [("upper", "work"), ("git-upper", "git-work")];

/// What they hold, where they are kept in memory while they are used.
pub(super) const ARCHIVES: [&str; 2] = ["upper.tar", "git-upper.tar"];

/// What discarding empties: first what counts.
const EMPTIED: [&str; 5] = ["upper", "git-upper", "base", "work", "git-work"];

/// Says which setup a session has had.
const SETUP: &str = "setup";

/// What of a git directory holds commits. The index is not in it: looking at the status writes it.
const COMMITS: [&str; 5] = ["objects", "refs", "packed-refs", "reftable", "modules"];

/// A session that this process uses. The lock is given back when it is dropped, or when the process
/// ends; while its layers may be mounted, whoever has them mounted holds it too.
#[derive(Debug)]
pub struct OpenSession {
    store: SessionStore,
    id: SessionId,
    directory: PathBuf,
    meta: Mutex<Meta>,
    continued: bool,
    /// What it held when that was last counted in this use.
    counted: Mutex<Option<StoredSummary>>,
    lock: File,
    /// Whether somebody else is to hold the lock beyond this value.
    shared: AtomicBool,
    /// Since when it has been used without an account of what its changed files were, and when it took in the host's.
    moments: Mutex<Option<Moments>>,
    /// When the host was last looked at for a microVM.
    looked: Mutex<Option<Moment>>,
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        if !self.shared.load(Ordering::Relaxed) {
            lock::release(&self.lock);
        }
    }
}

/// Where a session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    New,
    Existing,
}

/// What became of a session whose use has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// It held nothing and is gone.
    Removed,
    /// It holds this and can be gone on with; `None` where nobody counted.
    Kept(Option<StoredSummary>),
}

impl OpenSession {
    /// The archive of the workspace's layer, where its layers are in archives.
    pub(super) fn archive_in(directory: &Path) -> Option<PathBuf> {
        Some(directory.join(ARCHIVES[0])).filter(|path| path.exists())
    }

    pub(super) fn new(
        store: SessionStore,
        id: SessionId,
        lock: File,
        meta: Meta,
        origin: Origin,
    ) -> Self {
        let directory = store.path_of(&id);
        let continued = match origin {
            Origin::New => false,
            Origin::Existing => holds_anything(&directory).unwrap_or(true),
        };
        let (meta, counted) = (meta.into(), Mutex::new(None));
        let shared = AtomicBool::new(false);
        let (moments, looked) = (Mutex::new(None), Mutex::new(None));
        Self { store, id, directory, meta, continued, counted, lock, shared, moments, looked }
    }

    /// Notes that it is used, and makes what a crash may have left unmade.
    pub(super) fn begin(&self) -> io::Result<()> {
        // Where the last use ended without an account, that is made up for before this one begins.
        let unaccounted = match self.continued && self.lock.metadata()?.len() > 0 {
            true => Some(Moment::of(&self.lock)?),
            false => None,
        };
        let left = unaccounted.filter(|since| {
            let recorded = self.record_from_the_disk(*since);
            recorded
                .inspect_err(|error| warn!(%error, "What changed files were is not known."))
                .is_err()
        });
        lock::mark(&self.lock)?;
        let first = left.map_or_else(|| Moment::of(&self.lock), Ok)?;
        *guard(&self.moments) = Some(Moments::new(first));
        for name in [LAYERS[0].0, LAYERS[0].1, "base"] {
            match fs::DirBuilder::new().mode(0o700).create(self.directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        for name in EMPTIED {
            // What a discard has left takes room, and does no other harm.
            drop(remove_directory(&self.directory, aside(name).as_ref()));
        }
        Ok(())
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    pub(super) fn meta(&self) -> MutexGuard<'_, Meta> {
        guard(&self.meta)
    }

    pub(super) fn set_moments(&self, moments: Moments) {
        *guard(&self.moments) = Some(moments);
    }

    pub(super) fn looked(&self) -> Option<Moment> {
        *guard(&self.looked)
    }

    pub(super) fn set_looked(&self, moment: Moment) {
        *guard(&self.looked) = Some(moment);
    }

    /// The workspace that it is of.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        guard(&self.meta).workspace.as_path().to_path_buf()
    }

    /// Whether it held something when it was opened.
    #[must_use]
    pub fn is_continued(&self) -> bool {
        self.continued
    }

    /// Whether what it holds was counted since it was opened.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        guard(&self.counted).is_some()
    }

    /// Whether it holds anything, ignored files included.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn holds_anything(&self) -> io::Result<bool> {
        holds_anything(&self.directory)
    }

    /// Notes what the changed files were, as far as that is not noted yet and still to be seen.
    pub(crate) fn record_bases(
        &self,
        upper: BorrowedFd<'_>,
        lower: BorrowedFd<'_>,
        changes: &DetailedChangeSet,
    ) -> io::Result<()> {
        let Some(moments) = guard(&self.moments).clone() else { return Ok(()) };
        let dropped = Dropped::BeginsAnew;
        Bases::read(&self.directory).record(upper, lower, changes, &moments, dropped)
    }

    /// The same of layers that are not mounted.
    fn record_from_the_disk(&self, since: Moment) -> io::Result<()> {
        if self.has_archives() {
            // An archive is written after what its files were.
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty());
        let upper = open(&self.directory.join(LAYERS[0].0))?;
        let lower = match open(guard(&self.meta).workspace.as_path()) {
            // It is gone, and with it what could be noted.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        let changes = change_set(upper.as_fd(), lower.as_fd())?;
        let moments = Moments::new(since);
        let mut bases = Bases::read(&self.directory);
        bases.record(upper.as_fd(), lower.as_fd(), &changes, &moments, Dropped::Stays)
    }

    /// Notes that the session sees the host from now on as it is now.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn sees_the_host_anew(&self) -> io::Result<()> {
        // By writing to a file, since only that asks the kernel's clock for inodes.
        lock::mark(&self.lock)?;
        let now = Moment::of(&self.lock)?;
        if let Some(moments) = &mut *guard(&self.moments) {
            moments.push(now);
        }
        Ok(())
    }

    /// The same layers, with what is noted of them now.
    #[must_use]
    pub fn reread(&self, layers: SessionLayers) -> SessionLayers {
        layers.with(Bases::read(&self.directory))
    }

    /// Its layers, to be read while it is used: the upper one is given, wherever it is.
    pub(crate) fn layers_in_use(
        &self,
        upper: BorrowedFd<'_>,
    ) -> Result<SessionLayers, SessionError> {
        let workspace = guard(&self.meta).workspace.as_path().to_path_buf();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lower = rustix::fs::open(&workspace, flags, Mode::empty()).map_err(io::Error::from);
        let lower = lower.map_err(SessionError::io("opening", &workspace))?;
        let upper = upper.try_clone_to_owned();
        let upper = upper.map_err(SessionError::io("opening", &self.directory))?;
        Ok(SessionLayers::new(upper, lower, Bases::read(&self.directory)))
    }

    /// Notes that these paths are dealt with: what the session has there now is no news any more, what it makes of
    /// them from here on is. Where an apply did it, an undo of that apply takes this back.
    ///
    /// # Errors
    /// It cannot be written down; then the session's changes count as before.
    pub fn settle(
        &self,
        layers: &SessionLayers,
        paths: Vec<DealtWith>,
        applied: Option<&AppliedId>,
    ) -> Result<(), SessionError> {
        let mut bases = Bases::read(&self.directory);
        let set = layers.keep_contents(&bases, paths.iter().map(|one| (&*one.path, &one.base)));
        let set = set.and_then(|()| bases.settle(paths, applied));
        set.map_err(SessionError::io("writing to", &self.directory.join("base")))
    }

    /// Notes what the host has at paths where the session goes on from that.
    pub(crate) fn follow(
        &self,
        layers: &SessionLayers,
        paths: Vec<Followed>,
    ) -> Result<(), SessionError> {
        let mut bases = Bases::read(&self.directory);
        let set = layers.keep_contents(&bases, paths.iter().map(|one| (&*one.path, &one.base)));
        let set = set.and_then(|()| bases.follow(paths));
        set.map_err(SessionError::io("writing to", &self.directory.join("base")))
    }

    /// The same of an apply by a process that was killed before it could say so, or before it could say that it had.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub fn settle_late(
        &self,
        layers: &SessionLayers,
        paths: Vec<DealtWith>,
        applied: &AppliedId,
    ) -> Result<(), SessionError> {
        let mut bases = Bases::read(&self.directory);
        let set = layers.keep_contents(&bases, paths.iter().map(|one| (&*one.path, &one.base)));
        let set = set.and_then(|()| bases.settle_late(paths, applied));
        set.map_err(SessionError::io("writing to", &self.directory.join("base")))
    }

    /// Notes that an apply was taken back for these paths: what the session has there waits again.
    ///
    /// # Errors
    /// It cannot be written down; then it does not wait.
    pub fn unsettle<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a Path>,
        applied: &AppliedId,
    ) -> Result<(), SessionError> {
        let set = Bases::read(&self.directory).take_back(paths, applied);
        set.map_err(SessionError::io("writing to", &self.directory.join("base")))
    }

    /// Its layers, to be read.
    ///
    /// # Errors
    /// As [`SessionStore::layers`].
    pub fn layers_to_read(&self) -> Result<SessionLayers, SessionError> {
        self.store.layers(&self.id)
    }

    /// Notes what it holds. To be called when nothing writes to it any more.
    ///
    /// # Errors
    /// It cannot be written down; then nobody knows what it holds.
    pub fn set_summary(&self, summary: StoredSummary) -> Result<(), SessionError> {
        let mut meta = guard(&self.meta);
        let mut noted = Ok(());
        // What is on the disk already is not written again: to be sure of it takes as long as several
        // commands. The time of the last use is that of the lock file.
        if meta.summary != Some(summary) {
            meta.summary = Some(summary);
            meta.last_used = seconds(SystemTime::now());
            meta.forge = env!("CARGO_PKG_VERSION").to_owned();
            noted = meta.write(&self.directory, Durability::Survives);
        }
        if noted.is_err() {
            meta.summary = None;
        }
        noted
            .and_then(|()| lock::unmark(&self.lock))
            .map_err(SessionError::io("writing to", &self.directory))?;
        *guard(&self.counted) = Some(summary);
        Ok(())
    }

    /// Whether it is noted that it has had this setup, and no other since.
    pub(crate) fn has_setup(&self, setup: Digest) -> bool {
        let noted = fs::read_to_string(self.directory.join(SETUP));
        noted.is_ok_and(|noted| Digest::parse(noted.trim_end()) == Some(setup))
    }

    /// Notes that it has had this setup, until everything in it is dropped.
    pub(crate) fn note_setup(&self, setup: Digest) -> io::Result<()> {
        let (path, new) = (self.directory.join(SETUP), self.directory.join(aside(SETUP)));
        fs::write(&new, format!("{setup}\n"))?;
        fs::rename(new, path)
    }

    /// Drops everything that it holds, and what its microVM has. It must not be mounted. Of each layer, everything is gone at once
    /// or nothing, whenever the process ends.
    ///
    /// # Errors
    /// A layer could not be replaced by an empty one; or the old ones, which are no part of the session
    /// any more, could not be removed.
    pub fn discard(&self) -> Result<(), SessionError> {
        let workspace = fs::metadata(guard(&self.meta).workspace.as_path()).ok();
        let setup = self.directory.join(SETUP);
        remove_file(&setup).map_err(SessionError::io("removing", &setup))?;
        self.forget_microvm_state()?;
        for name in EMPTIED {
            let like = workspace.as_ref().filter(|_| name == LAYERS[0].0);
            let path = self.directory.join(name);
            self.replace(name, &path, like).map_err(SessionError::io("emptying", &path))?;
        }
        for name in ARCHIVES.into_iter().chain([KEPT, BROUGHT]) {
            let path = self.directory.join(name);
            remove_file(&path).map_err(SessionError::io("emptying", &path))?;
        }
        for name in EMPTIED {
            let path = self.directory.join(aside(name));
            remove_directory(&self.directory, aside(name).as_ref())
                .map_err(SessionError::io("removing", &path))?;
        }
        self.set_summary(StoredSummary::default())
    }

    /// Puts an empty directory in the place of one, which is aside then.
    fn replace(&self, name: &str, path: &Path, like: Option<&fs::Metadata>) -> io::Result<()> {
        let Ok(before) = fs::symlink_metadata(path) else { return Ok(()) };
        let new = self.directory.join(aside(name));
        remove_directory(&self.directory, aside(name).as_ref())?;
        fs::DirBuilder::new().mode(0o700).create(&new)?;
        liken(&new, like.unwrap_or(&before))?;
        match renameat_with(CWD, &new, CWD, path, RenameFlags::EXCHANGE) {
            // Not every file system can.
            Err(Errno::INVAL | Errno::NOSYS) => {
                remove_directory(&self.directory, name.as_ref())?;
                fs::rename(&new, path)
            }
            other => Ok(other?),
        }
    }

    /// Ends its use: one that holds nothing is removed, unless it has a microVM on record.
    ///
    /// # Errors
    /// It could not be removed; nothing of it was lost that it held.
    pub fn end(self) -> Result<SessionEnd, SessionError> {
        if self.holds_anything().unwrap_or(true) || !guard(&self.meta).microvms.is_empty() {
            let summary = *guard(&self.counted);
            self.release();
            return Ok(SessionEnd::Kept(summary));
        }
        self.remove()?;
        Ok(SessionEnd::Removed)
    }

    /// Gives the lock back at once. To be called when nothing of the session is mounted any more.
    pub(crate) fn release(self) {
        self.shared.store(false, Ordering::Relaxed);
    }

    /// Removes it with everything that it holds.
    ///
    /// # Errors
    /// Something could not be removed; what is left is no session any more.
    pub fn remove(self) -> Result<(), SessionError> {
        self.store.remove_locked(&self.id)
    }

    /// The lock, for whoever has to hold it as long as the layers are mounted: it is given back when the
    /// last copy of this descriptor is closed (flock(2)).
    pub(crate) fn share_lock(&self) -> BorrowedFd<'_> {
        self.shared.store(true, Ordering::Relaxed);
        self.lock.as_fd()
    }

    /// Whether its layers are in archives, and so in memory while they are used.
    #[must_use]
    pub fn has_archives(&self) -> bool {
        has_archives(&self.directory)
    }

    /// Writes down what the layers hold that are kept in memory: the workspace's, and that of a git
    /// directory outside of it where there is one. Whoever reads sees what was written before, or this.
    ///
    /// # Errors
    /// What was written before stays, each layer for itself.
    pub(crate) fn save(&self, layers: &[BorrowedFd<'_>]) -> Result<(), SessionError> {
        for (layer, name) in layers.iter().zip(ARCHIVES) {
            let path = self.directory.join(name);
            self.save_one(*layer, &path).map_err(SessionError::io("writing", &path))?;
        }
        Ok(())
    }

    fn save_one(&self, layer: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        let new = path.with_extension("tar.new");
        let written = File::create(&new).and_then(|file| {
            let mut writer = io::BufWriter::with_capacity(256 * 1024, file);
            let entries = pack(layer, &mut writer)?;
            writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            Ok(entries)
        });
        let placed = match written {
            Ok(0) => remove_file(path).and_then(|()| fs::remove_file(&new)),
            Ok(_) => fs::rename(&new, path),
            Err(error) => Err(error),
        };
        if placed.is_err() {
            drop(fs::remove_file(&new));
        }
        placed?;
        File::open(&self.directory)?.sync_all()
    }

    pub(crate) fn upper_layer(&self, place: LayerPlace) -> Upper {
        self.layer(0, place)
    }

    /// Where a session keeps all that it writes, and a directory for the kernel's own use beside it.
    pub(crate) fn layers(&self) -> (PathBuf, PathBuf) {
        (self.directory.join(LAYERS[0].0), self.directory.join(LAYERS[0].1))
    }

    /// The layer for a git directory outside of the workspace, made if it is not there.
    pub(crate) fn outside_layer(&self, place: LayerPlace) -> io::Result<Upper> {
        for name in [LAYERS[1].0, LAYERS[1].1] {
            match fs::create_dir(self.directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(self.layer(1, place))
    }

    fn layer(&self, number: usize, place: LayerPlace) -> Upper {
        match place {
            LayerPlace::Disk => Upper::Directories {
                upper: self.directory.join(LAYERS[number].0).into(),
                work: self.directory.join(LAYERS[number].1).into(),
            },
            LayerPlace::Memory { max_bytes } => {
                let archive = self.directory.join(ARCHIVES[number]);
                let before = archive.exists().then(|| archive.into());
                Upper::Memory { max_bytes, keeping: Keeping::Kept { before } }
            }
        }
    }
}

/// Where the layers of a session are while it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerPlace {
    /// In the session's directory.
    Disk,
    /// In memory, each with at most so many bytes.
    Memory { max_bytes: u64 },
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn aside(name: &str) -> String {
    format!("{name}.aside")
}

pub(super) fn has_archives(directory: &Path) -> bool {
    ARCHIVES.iter().any(|name| directory.join(name).exists())
}

/// Whether there is any entry in one of the layers, or a commit beside them.
pub(super) fn holds_anything(directory: &Path) -> io::Result<bool> {
    if has_archives(directory) || KeptCommits::are_there(directory) {
        return Ok(true);
    }
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

/// Whether there may be commits, which no count of files knows of.
pub(super) fn may_hold_commits(directory: &Path) -> bool {
    KeptCommits::are_there(directory) || layers_may_hold_commits(directory)
}

/// The same of the layers alone.
pub(super) fn layers_may_hold_commits(directory: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let is_there = |layer: &OwnedFd, path: &Path| {
        let opened = beneath::open(layer, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
        match opened.as_ref().map_err(Errno::from_io_error) {
            Err(Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => false,
            // There, or closed by what ran in it.
            Ok(_) | Err(_) => true,
        }
    };
    let in_archive = |name: &str, git: &str| {
        let paths = COMMITS.map(|name| Path::new(git).join(name));
        let paths = paths.each_ref().map(PathBuf::as_path);
        match File::open(directory.join(name)) {
            Ok(archive) => holds(io::BufReader::new(archive), &paths),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    };
    if ARCHIVES.iter().zip([".git", ""]).any(|(name, git)| in_archive(name, git)) {
        return true;
    }
    [("upper", ".git"), ("git-upper", "")].into_iter().any(|(layer, git)| {
        match rustix::fs::open(directory.join(layer), flags, Mode::empty()) {
            Ok(layer) => COMMITS.iter().any(|name| is_there(&layer, &Path::new(git).join(name))),
            Err(Errno::NOENT) => false,
            Err(_) => true,
        }
    })
}
