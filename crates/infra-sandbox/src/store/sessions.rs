//! Finding, making and choosing sessions.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forge_domain::SessionId;
use tracing::warn;

use super::error::SessionError;
use super::kept::KeptCommits;
use super::lock::{self, NotLocked};
use super::make::move_to_new;
use super::meta::{Meta, StoredSummary, Unusable};
use super::microvm::{MicrovmUse, StoredMicrovm};
use super::open::{
    OpenSession, Origin, has_archives, holds_anything, layers_may_hold_commits, may_hold_commits,
};
use crate::hook::HelperProgram;

/// How the names of directories begin that are being made, are being removed, or were set aside.
pub(super) const NEW: &str = ".new-";
pub(super) const GONE: &str = ".gone-";
pub(super) const DAMAGED: &str = "damaged-";

/// The shortest beginning of an id that is taken for it.
const MIN_PREFIX: usize = 4;

/// Which session to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SessionChoice {
    /// The newest of the workspace that nobody uses, that holds anything and awaits no microVM, else a new one.
    #[default]
    Continue,
    /// A new one.
    Fresh,
    /// This one.
    Named(SessionId),
}

/// Where a session's commands are to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Sandbox,
    Microvm,
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
    /// What it held when it was last closed; `None` while it is used, and where nobody counted at the
    /// end, as after a kill.
    pub summary: Option<StoredSummary>,
    /// The microVMs that its commands ran in, as far as they are not known to be gone.
    pub microvms: Vec<StoredMicrovm>,
}

impl SessionSummary {
    /// Whether there is a microVM with changes that may be nowhere else.
    #[must_use]
    pub fn awaits_a_microvm(&self) -> bool {
        self.microvms.iter().any(|microvm| microvm.r#use == MicrovmUse::Session)
    }
}

/// A session that nothing can be made of. It was set aside, unless a process still uses it or its
/// description could not be read this time; what it holds is never removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedSession {
    /// Where it is now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// All sessions of a state directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The newest first.
    pub sessions: Vec<SessionSummary>,
    /// Those of a newer forge, which this one leaves alone.
    pub newer: Vec<SessionId>,
    /// Those that cannot be used.
    pub damaged: Vec<DamagedSession>,
}

/// The sessions of a state directory. Nothing is made before the first session is.
#[derive(Debug, Clone)]
pub struct SessionStore {
    state: PathBuf,
    helper: HelperProgram,
}

impl SessionStore {
    /// The sessions under this directory, which need not be there.
    #[must_use]
    pub fn new(state_directory: impl Into<PathBuf>) -> Self {
        Self { state: state_directory.into(), helper: HelperProgram::default() }
    }

    /// Says which program unpacks a layer that is kept in an archive. Default: this one.
    #[must_use]
    pub fn helper(self, helper: HelperProgram) -> Self {
        Self { helper, ..self }
    }

    pub(super) fn helper_program(&self) -> &HelperProgram {
        &self.helper
    }

    pub(super) fn state(&self) -> &Path {
        &self.state
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
        self.open_in(workspace, choice, Place::Sandbox)
    }

    /// The same for a session whose commands are to run in a microVM.
    ///
    /// # Errors
    /// As [`SessionStore::open`].
    pub fn open_for_microvm(
        &self,
        workspace: &Path,
        choice: &SessionChoice,
    ) -> Result<OpenSession, SessionError> {
        self.open_in(workspace, choice, Place::Microvm)
    }

    fn open_in(
        &self,
        workspace: &Path,
        choice: &SessionChoice,
        place: Place,
    ) -> Result<OpenSession, SessionError> {
        self.prepare()?;
        self.sweep_old(SystemTime::now());
        match choice {
            SessionChoice::Named(id) => self.open_named(workspace, id, place),
            SessionChoice::Fresh => self.open_new(workspace),
            SessionChoice::Continue => {
                let candidates = self.candidates(workspace)?.into_iter();
                // Of one with a microVM there are changes that are not here yet.
                for session in candidates.filter(|session| !session.awaits_a_microvm()) {
                    match self.open_existing(&session.id, place) {
                        Ok(open) if open.holds_anything().unwrap_or(false) => return Ok(open),
                        // It may hold something there.
                        Ok(open) if place == Place::Microvm && !open.microvms().is_empty() => {
                            return Ok(open);
                        }
                        // Left behind by a kill before anything was written.
                        Ok(open) => drop(open.end()),
                        Err(
                            SessionError::Busy { .. }
                            | SessionError::NotFound { .. }
                            | SessionError::Elsewhere { .. }
                            | SessionError::InMemory { .. }
                            | SessionError::CommitsInMicrovm { .. }
                            | SessionError::CommitsInSandbox { .. },
                        ) => {}
                        Err(error) => warn!(%error, "A session was passed over."),
                    }
                }
                self.open_new(workspace)
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
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(DAMAGED) {
                let reason = match Meta::read(&path) {
                    Ok(_) => "it was set aside".to_owned(),
                    Err(unusable) => unusable.to_string(),
                };
                listing.damaged.push(DamagedSession { path, reason });
                continue;
            }
            let Some(id) = SessionId::parse(name).ok().filter(is_usable) else { continue };
            match Meta::read(&path) {
                Ok(meta) => {
                    let state = lock::state(&path);
                    listing.sessions.push(self.summary(id, &meta, state));
                }
                Err(Unusable::Newer) => listing.newer.push(id),
                Err(Unusable::Damaged(reason)) => {
                    let path = self.set_aside(&id, &reason);
                    listing.damaged.push(DamagedSession { path, reason });
                }
                Err(unusable @ Unusable::Io(_)) => {
                    listing.damaged.push(DamagedSession { path, reason: unusable.to_string() });
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
        let meta = self.meta(id)?;
        Ok(self.summary(id.clone(), &meta, lock::state(&self.path_of(id))))
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

    /// Whether a session may hold commits, which no count of files knows of.
    #[must_use]
    pub fn may_hold_commits(&self, id: &SessionId) -> bool {
        may_hold_commits(&self.path_of(id))
    }

    /// Where what a session changed in its workspace is, unless it is in an archive.
    pub(super) fn upper_of(&self, id: &SessionId) -> PathBuf {
        self.path_of(id).join("upper")
    }

    /// Locks a session that nobody uses.
    ///
    /// # Errors
    /// It is not there, is damaged, or is in use.
    pub fn lock(&self, id: &SessionId) -> Result<OpenSession, SessionError> {
        let (lock, meta) = self.acquire(id)?;
        let open = OpenSession::new(self.clone(), id.clone(), lock, meta, Origin::Existing);
        // A disk that is full does not keep anybody from removing what fills it.
        if let Err(error) = open.begin() {
            warn!(session_id = %id, %error, "The session's owner could not be noted.");
        }
        Ok(open)
    }

    /// The lock of a session, and what is written about it as long as the lock is held.
    pub(super) fn acquire(&self, id: &SessionId) -> Result<(File, Meta), SessionError> {
        self.check()?;
        // Before the lock, so that nothing is made in what is no session of ours.
        self.meta(id)?;
        let directory = self.path_of(id);
        let lock = lock::take(&directory).map_err(|not| match not {
            NotLocked::Busy(pid) => SessionError::Busy { id: id.clone(), pid },
            NotLocked::Missing => SessionError::NotFound { text: id.to_string() },
            NotLocked::Io(error) => SessionError::io("locking", &directory)(error),
        })?;
        Ok((lock, self.meta(id)?))
    }

    fn open_existing(&self, id: &SessionId, place: Place) -> Result<OpenSession, SessionError> {
        let (lock, meta) = self.acquire(id)?;
        if meta.awaits_a_microvm() {
            return Err(SessionError::Elsewhere { id: id.clone() });
        }
        let (directory, id_of) = (self.path_of(id), || id.clone());
        // Commits of the one are none of the other's git: what the one names would be taken for what the other has moved.
        match place {
            Place::Sandbox if KeptCommits::are_there(&directory) => {
                return Err(SessionError::CommitsInMicrovm { id: id_of() });
            }
            // The layers of such a session are there only while it is used in the sandbox.
            Place::Microvm if has_archives(&directory) => {
                return Err(SessionError::InMemory { id: id_of() });
            }
            Place::Microvm if layers_may_hold_commits(&directory) => {
                return Err(SessionError::CommitsInSandbox { id: id_of() });
            }
            Place::Sandbox | Place::Microvm => {}
        }
        self.begin(OpenSession::new(self.clone(), id.clone(), lock, meta, Origin::Existing))
    }

    fn open_new(&self, workspace: &Path) -> Result<OpenSession, SessionError> {
        let (id, meta, lock) = self.make(workspace)?;
        let open = OpenSession::new(self.clone(), id.clone(), lock, meta, Origin::New);
        self.begin(open).inspect_err(|_| drop(self.remove_locked(&id)))
    }

    fn begin(&self, open: OpenSession) -> Result<OpenSession, SessionError> {
        open.begin().map_err(SessionError::io("writing to", &self.path_of(open.id())))?;
        Ok(open)
    }

    fn open_named(
        &self,
        workspace: &Path,
        id: &SessionId,
        place: Place,
    ) -> Result<OpenSession, SessionError> {
        let meta = self.meta(id)?;
        if meta.workspace.as_path() != workspace {
            let (workspace, asked) =
                (meta.workspace.as_path().to_path_buf(), workspace.to_path_buf());
            return Err(SessionError::OtherWorkspace { id: id.clone(), workspace, asked });
        }
        self.open_existing(id, place)
    }

    fn candidates(&self, workspace: &Path) -> Result<Vec<SessionSummary>, SessionError> {
        let mut sessions = self.list()?.sessions;
        sessions.retain(|session| session.workspace == workspace);
        Ok(sessions)
    }

    fn meta(&self, id: &SessionId) -> Result<Meta, SessionError> {
        if !is_usable(id) {
            return Err(SessionError::NotFound { text: id.to_string() });
        }
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

    pub(super) fn summary(
        &self,
        id: SessionId,
        meta: &Meta,
        state: SessionState,
    ) -> SessionSummary {
        let time = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let (marked, used) = lock::marked(&self.path_of(&id));
        let last_used = time(meta.last_used);
        SessionSummary {
            id,
            workspace: meta.workspace.as_path().to_path_buf(),
            created: time(meta.created),
            last_used: used.map_or(last_used, |used| used.max(last_used)),
            state,
            summary: meta.summary.filter(|_| !marked),
            microvms: meta.microvms.clone(),
        }
    }

    /// Moves a session that cannot be read out of the way, unless somebody uses it, and says where it is
    /// then.
    fn set_aside(&self, id: &SessionId, reason: &str) -> PathBuf {
        let (from, to) = (self.path_of(id), self.directory().join(format!("{DAMAGED}{id}")));
        let Ok(_lock) = lock::take(&from) else { return from };
        match move_to_new(&from, &to) {
            Ok(()) => {
                warn!(session_id = %id, reason, path = %to.display(), "A damaged session was set aside.");
                to
            }
            Err(_) => from,
        }
    }
}

/// Whether an id can be one of a session: some texts that are ids otherwise have a meaning here.
fn is_usable(id: &SessionId) -> bool {
    !id.as_str().starts_with('.') && !id.as_str().starts_with(DAMAGED)
}
