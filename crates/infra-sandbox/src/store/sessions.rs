//! Finding, making and choosing sessions.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forge_domain::SessionId;
use rustix::fs::{FlockOperation, flock};
use tracing::warn;

use super::error::SessionError;
use super::id;
use super::meta::{Durability, Meta, StoredSummary, Unusable};
use super::open::{OpenSession, holds_anything};
use super::prune::remove_directory;

/// How the names of directories begin that are being made, are being removed, or were set aside.
pub(super) const NEW: &str = ".new-";
pub(super) const GONE: &str = ".gone-";
pub(super) const DAMAGED: &str = "damaged-";

/// The shortest beginning of an id that is taken for it.
const MIN_PREFIX: usize = 4;

/// Which session to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SessionChoice {
    /// The newest of the workspace that nobody uses and that holds anything, else a new one.
    #[default]
    Continue,
    /// A new one.
    Fresh,
    /// This one.
    Named(SessionId),
}

/// Whether a session is being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Nobody uses it.
    Idle,
    /// A process uses it; which, where it is known.
    Running(Option<i32>),
}

/// A session as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSummary {
    /// Its id.
    pub id: SessionId,
    /// The workspace that it is of.
    pub workspace: PathBuf,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last opened or closed.
    pub last_used: SystemTime,
    /// Whether it is being used.
    pub state: SessionState,
    /// What it held when it was last closed; `None` where it never was, as after a kill.
    pub summary: Option<StoredSummary>,
}

/// A session that was set aside since nothing could be made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedSession {
    /// Where it is now.
    pub path: PathBuf,
}

/// All sessions of a state directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The newest first.
    pub sessions: Vec<SessionSummary>,
    /// Those of a newer forge, which this one leaves alone.
    pub newer: Vec<SessionId>,
    /// Those that were set aside.
    pub damaged: Vec<DamagedSession>,
}

/// The sessions of a state directory. Nothing is made before the first session is.
#[derive(Debug, Clone)]
pub struct SessionStore {
    state: PathBuf,
}

impl SessionStore {
    /// The sessions under this directory, which need not be there.
    #[must_use]
    pub fn new(state_directory: impl Into<PathBuf>) -> Self {
        Self { state: state_directory.into() }
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.state.join("sessions")
    }

    pub(super) fn path_of(&self, id: &SessionId) -> PathBuf {
        self.directory().join(id.as_str())
    }

    /// Chooses a session for a workspace, whose path is absolute and holds no symlinks, and locks it.
    ///
    /// # Errors
    /// The one that was named is not to be had, or none can be made.
    pub fn open(
        &self,
        workspace: &Path,
        choice: &SessionChoice,
    ) -> Result<OpenSession, SessionError> {
        self.prepare()?;
        match choice {
            SessionChoice::Named(id) => self.open_named(workspace, id),
            SessionChoice::Fresh => self.make(workspace),
            SessionChoice::Continue => {
                for session in self.candidates(workspace)? {
                    match self.lock(&session.id) {
                        Ok(open) if open.holds_anything().unwrap_or(false) => return Ok(open),
                        // Left behind by a kill before anything was written.
                        Ok(open) => drop(open.end()),
                        Err(SessionError::Busy { .. } | SessionError::NotFound { .. }) => {}
                        Err(error) => warn!(%error, "A session was passed over."),
                    }
                }
                self.make(workspace)
            }
        }
    }

    /// All sessions.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn list(&self) -> Result<Listing, SessionError> {
        let directory = self.directory();
        let mut listing = Listing::default();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
            Err(error) => return Err(SessionError::io("reading", &directory)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(SessionError::io("reading", &directory))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(DAMAGED) {
                listing.damaged.push(DamagedSession { path: entry.path() });
                continue;
            }
            let Ok(id) = SessionId::parse(name) else { continue };
            if name.starts_with('.') {
                continue;
            }
            match Meta::read(&entry.path()) {
                Ok(meta) => listing.sessions.push(self.summary(id, &meta)),
                Err(Unusable::Newer) => listing.newer.push(id),
                Err(Unusable::Damaged(reason)) => {
                    listing.damaged.push(DamagedSession { path: self.set_aside(&id, &reason) });
                }
                Err(Unusable::Io(error)) => {
                    return Err(SessionError::io("reading", &entry.path())(error));
                }
                Err(Unusable::Missing) => {}
            }
        }
        listing
            .sessions
            .sort_by(|left, right| (right.last_used, &right.id).cmp(&(left.last_used, &left.id)));
        Ok(listing)
    }

    /// Finds the session whose id this is, or begins like this with at least four characters.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn resolve(&self, text: &str) -> Result<SessionId, SessionError> {
        let sessions = self.list()?.sessions;
        if let Some(session) = sessions.iter().find(|session| session.id.as_str() == text) {
            return Ok(session.id.clone());
        }
        let matches: Vec<SessionId> = sessions
            .into_iter()
            .map(|session| session.id)
            .filter(|id| text.len() >= MIN_PREFIX && id.as_str().starts_with(text))
            .collect();
        match <[SessionId; 1]>::try_from(matches) {
            Ok([id]) => Ok(id),
            Err(matches) if matches.is_empty() => {
                Err(SessionError::NotFound { text: text.to_owned() })
            }
            Err(matches) => Err(SessionError::Ambiguous { text: text.to_owned(), matches }),
        }
    }

    /// One session.
    ///
    /// # Errors
    /// It is not there, is damaged, or was made by a newer forge.
    pub fn find(&self, id: &SessionId) -> Result<SessionSummary, SessionError> {
        Ok(self.summary(id.clone(), &self.meta(id)?))
    }

    /// The newest session of a workspace that holds anything, used or not.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn newest(&self, workspace: &Path) -> Result<Option<SessionSummary>, SessionError> {
        let candidates = self.candidates(workspace)?;
        Ok(candidates
            .into_iter()
            .find(|session| holds_anything(&self.path_of(&session.id)).unwrap_or(false)))
    }

    /// Where the layers of a session are, to be read: upper.
    #[must_use]
    pub fn upper_of(&self, id: &SessionId) -> PathBuf {
        self.path_of(id).join("upper")
    }

    /// Locks a session that nobody uses.
    ///
    /// # Errors
    /// It is not there, is damaged, or is in use.
    pub fn lock(&self, id: &SessionId) -> Result<OpenSession, SessionError> {
        let directory = self.path_of(id);
        let path = directory.join("lock");
        let lock = match File::options().read(true).write(true).open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SessionError::NotFound { text: id.to_string() });
            }
            Err(error) => return Err(SessionError::io("opening", &path)(error)),
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(SessionError::Busy { id: id.clone(), pid: owner(&directory) });
        }
        // It may have been removed between the opening and the lock.
        let same = |left: fs::Metadata, right: fs::Metadata| {
            (left.dev(), left.ino()) == (right.dev(), right.ino())
        };
        let there = lock.metadata().and_then(|held| Ok(same(held, fs::metadata(&path)?)));
        if !there.unwrap_or(false) {
            return Err(SessionError::NotFound { text: id.to_string() });
        }
        let meta = self.meta(id)?;
        OpenSession::take(self.clone(), id.clone(), lock, meta)
    }

    fn open_named(&self, workspace: &Path, id: &SessionId) -> Result<OpenSession, SessionError> {
        let meta = self.meta(id)?;
        if meta.workspace.as_path() != workspace {
            let workspace = meta.workspace.as_path().to_path_buf();
            return Err(SessionError::OtherWorkspace { id: id.clone(), workspace });
        }
        self.lock(id)
    }

    fn candidates(&self, workspace: &Path) -> Result<Vec<SessionSummary>, SessionError> {
        let mut sessions = self.list()?.sessions;
        sessions.retain(|session| session.workspace == workspace);
        Ok(sessions)
    }

    fn meta(&self, id: &SessionId) -> Result<Meta, SessionError> {
        let directory = self.path_of(id);
        Meta::read(&directory).map_err(|unusable| match unusable {
            Unusable::Newer => SessionError::Newer { id: id.clone() },
            Unusable::Missing => SessionError::NotFound { text: id.to_string() },
            Unusable::Damaged(reason) => {
                self.set_aside(id, &reason);
                SessionError::Damaged { id: id.clone(), reason }
            }
            Unusable::Io(error) => SessionError::io("reading", &directory)(error),
        })
    }

    fn summary(&self, id: SessionId, meta: &Meta) -> SessionSummary {
        let time = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        SessionSummary {
            state: self.state_of(&id),
            id,
            workspace: meta.workspace.as_path().to_path_buf(),
            created: time(meta.created),
            last_used: time(meta.last_used),
            summary: meta.summary,
        }
    }

    fn state_of(&self, id: &SessionId) -> SessionState {
        let directory = self.path_of(id);
        let Ok(lock) = File::open(directory.join("lock")) else { return SessionState::Idle };
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => SessionState::Idle,
            Err(_) => SessionState::Running(owner(&directory)),
        }
    }

    /// Moves a session that cannot be read out of the way, and says where it is then.
    fn set_aside(&self, id: &SessionId, reason: &str) -> PathBuf {
        let (from, to) = (self.path_of(id), self.directory().join(format!("{DAMAGED}{id}")));
        match fs::rename(&from, &to) {
            Ok(()) => {
                warn!(session_id = %id, reason, path = %to.display(), "A damaged session was set aside.");
                to
            }
            Err(_) => from,
        }
    }

    /// Makes the state directory and checks that nobody else can write to it.
    fn prepare(&self) -> Result<(), SessionError> {
        let directory = self.directory();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(SessionError::io("making", &directory))?;
        for path in [&self.state, &directory] {
            let metadata = fs::metadata(path).map_err(SessionError::io("looking at", path))?;
            let unsafe_since = |reason| Err(SessionError::Unsafe { path: path.clone(), reason });
            if metadata.uid() != rustix::process::geteuid().as_raw() {
                return unsafe_since("it belongs to another user");
            }
            if metadata.mode() & 0o022 != 0 {
                return unsafe_since("others can write to it");
            }
        }
        // The layers hold files with modes that the session chose: nobody else may get to them.
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&directory, mode).map_err(SessionError::io("protecting", &directory))
    }

    /// Makes a session aside and moves it into place.
    fn make(&self, workspace: &Path) -> Result<OpenSession, SessionError> {
        let now = SystemTime::now();
        let root = fs::metadata(workspace).map_err(SessionError::io("looking at", workspace))?;
        loop {
            let Ok(id) = id::new(now, random()) else { continue };
            let (aside, place) = (self.directory().join(format!("{NEW}{id}")), self.path_of(&id));
            if place.exists() {
                continue;
            }
            match DirBuilder::new().mode(0o700).create(&aside) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(SessionError::io("making", &aside))?,
            }
            let made = fill(&aside, &root, workspace, now)
                .and_then(|lock| fs::rename(&aside, &place).map(|()| lock));
            let (lock, meta) = match made {
                Ok(lock) => (lock, Meta::new(workspace, now)),
                Err(error) => {
                    drop(remove_directory(
                        &self.directory(),
                        aside.file_name().unwrap_or(OsStr::new("")),
                    ));
                    return Err(SessionError::io("making", &place)(error));
                }
            };
            return OpenSession::take(self.clone(), id, lock, meta);
        }
    }
}

/// The parts of a new session, and its lock, held.
fn fill(
    directory: &Path,
    workspace: &fs::Metadata,
    path: &Path,
    now: SystemTime,
) -> io::Result<File> {
    for name in ["upper", "work", "base"] {
        DirBuilder::new().mode(0o700).create(directory.join(name))?;
    }
    // The overlay shows these of the upper layer's root.
    let upper = directory.join("upper");
    if workspace.uid() != rustix::process::geteuid().as_raw() {
        // Only root can; for others the workspace belongs to them or shows their own id.
        let _not_root =
            std::os::unix::fs::chown(&upper, Some(workspace.uid()), Some(workspace.gid()));
    }
    fs::set_permissions(&upper, fs::Permissions::from_mode(workspace.mode() & 0o777))?;
    Meta::new(path, now).write(directory, Durability::May)?;
    let lock = File::create_new(directory.join("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Who wrote its number into the lock.
fn owner(directory: &Path) -> Option<i32> {
    let mut text = String::new();
    let file = File::open(directory.join("lock")).ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Not for secrets: two sessions of one second have to differ.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    u32::try_from(hasher.finish() & u64::from(u32::MAX)).unwrap_or(0)
}
