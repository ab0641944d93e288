//! The environment itself: what its ports share.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forge_command_io::BackgroundCommand;
use forge_domain::{
    BackgroundId, ChangesError, Description, Digest, EnvironmentError, EnvironmentKind, SessionId,
    TakenIn, WorkspaceLocation,
};
use rustix::fs::{Mode, OFlags};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::changes::{DetailedChangeSet, change_set};
use crate::config::{SandboxConfig, SandboxView, SessionMedium};
use crate::description::describe;
use crate::diagnosis::{Cause, Machine, explain};
use crate::helper;
use crate::paths::{Tree, Trees};
use crate::plan::{Plan, plan, scratch_bytes};
use crate::quota::Quota;
use crate::session::{Helper, Session, StartError};
use crate::spec::SessionRequest;
use crate::store::{
    LayerPlace, OpenSession, SessionEnd, SessionError, SessionLayers, SessionStore, StoredSummary,
};
use crate::taking_in::{self, Said};

/// The embedded sandbox as an environment. Clones share one; nothing is made before the first use.
///
/// Dropping the last clone ends every process of the session; what it has written stays, as after
/// `close`, which is what says what went wrong.
#[derive(Clone)]
pub struct SandboxEnvironment {
    pub(crate) inner: Arc<Inner>,
}

impl SandboxEnvironment {
    /// Takes the configuration and the workspace, whose paths are absolute and hold no symlinks.
    /// Neither checks nor makes anything.
    #[must_use]
    pub fn new(config: SandboxConfig, workspace: WorkspaceLocation) -> Self {
        let config = SandboxConfig { workspace, ..config };
        Self {
            inner: Arc::new(Inner {
                config,
                standing: tokio::sync::Mutex::new(None),
                session: Mutex::new(None),
                background: Mutex::default(),
                closing: CancellationToken::new(),
                calls: RwLock::new(()),
                closed: OnceCell::new(),
            }),
        }
    }

    /// Where its sessions are kept.
    #[must_use]
    pub fn state_directory(&self) -> &Path {
        &self.inner.config.state_directory
    }

    /// Does something with the session and its layers while nothing in it runs: calls are waited for, and background
    /// commands stand still. `None` where nothing was used yet. The work is done on a thread for what blocks.
    ///
    /// # Errors
    /// The environment is closed or has no change set; or what runs in it does not stand still within seconds.
    ///
    /// # Cancel safety
    /// Once the work has begun, it is done, and background commands go on after it.
    pub async fn at_rest<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OpenSession, SessionLayers) -> T + Send + 'static,
    ) -> Result<Option<T>, ChangesError> {
        let inner = &self.inner;
        drop(inner.enter().await?);
        if !inner.is_tracked() {
            return Err(ChangesError::NotTracked { environment: EnvironmentKind::Sandbox });
        }
        let _calls = inner.calls.write().await;
        let Some(standing) = inner.standing.lock().await.clone() else { return Ok(None) };
        let (workspace, others) = (inner.config.workspace.root.clone(), inner.others());
        let done = blocking(move || standing.at_rest(&workspace, others, work)).await?;
        Ok(done.map_err(store_error)?)
    }

    /// Makes everything in the session stand still, until [`thaw`](Self::thaw). A command that is started meanwhile
    /// waits for that. Time limits of commands go on. Where nothing was used yet, there is nothing to stop.
    ///
    /// # Errors
    /// Something does not stand still within seconds: everything goes on then.
    ///
    /// # Cancel safety
    /// A dropped future has stopped everything, or nothing.
    pub async fn freeze(&self) -> Result<(), EnvironmentError> {
        self.ask(SessionRequest::Freeze).await
    }

    /// Lets everything go on that [`freeze`](Self::freeze) stopped.
    ///
    /// # Errors
    /// The session is gone.
    ///
    /// # Cancel safety
    /// Call it again to be sure.
    pub async fn thaw(&self) -> Result<(), EnvironmentError> {
        self.ask(SessionRequest::Thaw).await
    }

    async fn ask(&self, request: SessionRequest) -> Result<(), EnvironmentError> {
        let Some(standing) = self.inner.standing.lock().await.clone() else { return Ok(()) };
        let asked = blocking(move || standing.session.ask(request)).await?;
        asked.map_err(|source| EnvironmentError::ContactLost {
            environment: EnvironmentKind::Sandbox,
            operation: "stopping what runs, or letting it go on".to_owned(),
            source: Some(Box::new(source)),
        })
    }

    /// Whether the session has had this setup, by what [`note_setup`](Self::note_setup) noted. Makes the session where it
    /// is not there yet.
    ///
    /// # Errors
    /// The environment is closed, or cannot be made.
    pub async fn has_setup(&self, setup: Digest) -> Result<bool, EnvironmentError> {
        let _call = self.inner.enter().await?;
        let standing = self.inner.standing().await?;
        let stored = standing.stored();
        Ok(stored.as_ref().is_some_and(|session| session.has_setup(setup)))
    }

    /// Notes that the session has had this setup, until what it holds is discarded.
    ///
    /// # Errors
    /// The environment is closed, or it cannot be written down.
    pub async fn note_setup(&self, setup: Digest) -> Result<(), EnvironmentError> {
        let _call = self.inner.enter().await?;
        let standing = self.inner.standing().await?;
        let stored = standing.stored();
        let noted = stored.as_ref().map_or(Ok(()), |session| session.note_setup(setup));
        noted.map_err(|source| EnvironmentError::Unavailable {
            environment: EnvironmentKind::Sandbox,
            reason: "what was set up cannot be written down".to_owned(),
            source: Some(Box::new(source)),
        })
    }

    /// The session that is used, once there is one, and whether it is continued.
    #[must_use]
    pub fn session(&self) -> Option<UsedSession> {
        self.inner.used().clone()
    }
}

impl fmt::Debug for SandboxEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxEnvironment")
            .field("workspace", &self.inner.config.workspace)
            .finish_non_exhaustive()
    }
}

/// What is known of the session that an environment uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedSession {
    /// Its id.
    pub id: SessionId,
    /// Whether it held something before.
    pub origin: SessionOrigin,
    /// Where what it writes is while it is used.
    pub medium: SessionMedium,
    /// What it held when the environment was closed; `None` before, where it holds nothing and is
    /// gone, and where it could not be counted.
    pub kept: Option<StoredSummary>,
}

/// Where a session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionOrigin {
    /// It was made for this use.
    New,
    /// It was there and is gone on with.
    Continued,
}

/// Background commands in order of their start; the numbers in their ids rise.
pub(crate) type BackgroundTable = BTreeMap<u64, (BackgroundId, Arc<BackgroundCommand>)>;

pub(crate) struct Inner {
    pub(crate) config: SandboxConfig,
    standing: tokio::sync::Mutex<Option<Arc<Standing>>>,
    session: Mutex<Option<UsedSession>>,
    background: Mutex<BackgroundTable>,
    /// Cancelled when the environment is being closed: every running command ends.
    pub(crate) closing: CancellationToken,
    /// Every call holds a read lock while it works, so `close` can wait for all of them.
    pub(crate) calls: RwLock<()>,
    pub(crate) closed: OnceCell<Result<(), String>>,
}

/// A session that stands, and what acts on it.
pub(crate) struct Standing {
    pub(crate) session: Arc<Session>,
    pub(crate) trees: Trees,
    /// `NAME=VALUE` each.
    pub(crate) environment: Vec<OsString>,
    pub(crate) description: Description,
    pub(crate) quota: Quota,
    pub(crate) medium: SessionMedium,
    /// Cancelled when this session ends, before the environment perhaps.
    pub(crate) ending: CancellationToken,
    /// Given back to the store at the end.
    stored: Mutex<Option<OpenSession>>,
    /// What was said of the host's changes.
    said: Mutex<Said>,
    _end: DropGuard,
}

impl Inner {
    pub(crate) fn closed_error() -> EnvironmentError {
        EnvironmentError::Closed { environment: EnvironmentKind::Sandbox }
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

    /// Whether there is a change set.
    pub(crate) fn is_tracked(&self) -> bool {
        self.config.view == SandboxView::Workspace
    }

    fn used(&self) -> MutexGuard<'_, Option<UsedSession>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session, made if it is not there yet.
    pub(crate) async fn standing(self: &Arc<Self>) -> Result<Arc<Standing>, EnvironmentError> {
        let mut slot = self.standing.lock().await;
        if let Some(standing) = &*slot {
            return Ok(Arc::clone(standing));
        }
        if self.closing.is_cancelled() {
            return Err(Self::closed_error());
        }
        let config = self.config.clone();
        // Continued where it was before, should it have been taken down in between.
        let before = self.used().as_ref().map(|used| used.id.clone());
        let made = blocking(move || Standing::make(&config, before)).await??;
        let (standing, origin) = made.start();
        let medium = standing.medium;
        let standing = Arc::new(standing);
        {
            let mut used = self.used();
            let id = standing.id();
            if let (None, Some(id)) = (&*used, id) {
                *used = Some(UsedSession { id, origin, medium, kept: None });
            }
        }
        *slot = Some(Arc::clone(&standing));
        Ok(standing)
    }

    /// Takes the session down, so that the next use makes it anew; does something to it in between.
    pub(crate) async fn without_session<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&OpenSession) -> Result<T, SessionError> + Send + 'static,
    ) -> Result<T, EnvironmentError> {
        let standing = self.standing().await?;
        let mut slot = self.standing.lock().await;
        *slot = None;
        standing.ending.cancel();
        for (_, command) in self.background().values() {
            command.cancel();
        }
        blocking(move || {
            standing.session.end();
            // Taken, so that a call that still holds what stood does not hold the lock.
            let Some(session) = standing.stored().take() else { return Err(Self::closed_error()) };
            let done = work(&session).map_err(store_error);
            session.release();
            done
        })
        .await?
    }

    /// Writes down what is in memory only.
    pub(crate) async fn checkpoint(self: &Arc<Self>) -> Result<(), EnvironmentError> {
        let Some(standing) = self.standing.lock().await.clone() else { return Ok(()) };
        let tracked = self.is_tracked().then(|| self.config.workspace.root.clone());
        blocking(move || {
            if let Some(workspace) = tracked {
                // Said there; the end tries again.
                let _is_recorded = standing.record_bases(&workspace);
            }
            standing.save()
        })
        .await?
        .map_err(store_error)
    }

    /// Whether background commands run.
    pub(crate) fn others(&self) -> Others {
        match self.background().values().any(|(_, command)| command.ending().is_none()) {
            true => Others::Running,
            false => Others::None,
        }
    }

    /// What the session changed so far.
    pub(crate) async fn changes(self: &Arc<Self>) -> Result<DetailedChangeSet, EnvironmentError> {
        let standing = self.standing().await?;
        blocking(move || standing.changes()).await?.map_err(store_error)
    }

    /// Brings in what the host has changed, where the session stands.
    pub(crate) async fn take_in(
        self: &Arc<Self>,
        others: Others,
    ) -> Result<TakenIn, EnvironmentError> {
        let Some(standing) = self.standing.lock().await.clone() else {
            return Ok(TakenIn::default());
        };
        let workspace = self.config.workspace.root.clone();
        blocking(move || standing.take_in(&workspace, others)).await?.map_err(store_error)
    }

    /// Ends the session for good and gives it back to the store.
    pub(crate) async fn end_session(self: &Arc<Self>) -> Result<(), String> {
        let Some(standing) = self.standing.lock().await.take() else { return Ok(()) };
        standing.ending.cancel();
        let tracked = self.is_tracked().then(|| self.config.workspace.root.clone());
        let ended = blocking(move || {
            standing.session.end();
            if let (Some(workspace), SessionMedium::Memory) = (&tracked, standing.medium) {
                let _is_recorded = standing.record_bases(workspace);
            }
            let saved = standing.save();
            let session = standing.stored().take()?;
            let ended = give_back(session, &standing.session, tracked.as_deref());
            Some(saved.and(ended))
        });
        match ended.await {
            Ok(Some(Ok(SessionEnd::Kept(summary)))) => {
                if let Some(used) = &mut *self.used() {
                    used.kept = summary;
                }
                Ok(())
            }
            Ok(None | Some(Ok(SessionEnd::Removed))) => Ok(()),
            Ok(Some(Err(error))) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Ends the use of a session, and counts before what it holds of a workspace whose changes are tracked.
fn give_back(
    stored: OpenSession,
    session: &Session,
    workspace: Option<&Path>,
) -> Result<SessionEnd, SessionError> {
    if let Some(workspace) = workspace
        && stored.holds_anything().unwrap_or(true)
    {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lower = rustix::fs::open(workspace, flags, Mode::empty());
        let counted = lower.map_err(std::io::Error::from).and_then(|lower| {
            let changes = change_set(session.upper.as_fd(), lower.as_fd())?;
            Ok((lower, changes))
        });
        match counted {
            Ok((lower, changes)) => {
                // Without this, the use counts as one that nobody has accounted for.
                match stored.record_bases(session.upper.as_fd(), lower.as_fd(), &changes) {
                    Ok(()) => {
                        let waiting = stored.layers_in_use(session.upper.as_fd())?.waiting(changes);
                        stored.set_summary(waiting.summary())?;
                    }
                    Err(error) => warn!(%error, "What changed files were could not be noted."),
                }
            }
            Err(error) => debug!(%error, "The session's changes could not be counted."),
        }
    }
    stored.end()
}

pub(crate) fn store_error(error: SessionError) -> EnvironmentError {
    EnvironmentError::Unavailable {
        environment: EnvironmentKind::Sandbox,
        reason: "its session cannot be used".to_owned(),
        source: Some(Box::new(error)),
    }
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, EnvironmentError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is being shut down, and the environment with it.
        Err(_) => Err(Inner::closed_error()),
    }
}

/// Why no session stands.
enum NotStarted {
    Planned(EnvironmentError),
    Refused(StartError),
}

impl From<StartError> for NotStarted {
    fn from(error: StartError) -> Self {
        Self::Refused(error)
    }
}

/// Whether commands run meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    None,
    Running,
}

/// A session that stands and is not looked after yet: that takes a runtime.
struct Made {
    session: Arc<Session>,
    stored: OpenSession,
    trees: Trees,
    environment: Vec<OsString>,
    description: Description,
    medium: SessionMedium,
    max_disk_bytes: u64,
    limited: bool,
}

impl Standing {
    fn make(config: &SandboxConfig, before: Option<SessionId>) -> Result<Made, EnvironmentError> {
        let helper =
            Helper::spawn(&config.helper).map_err(|error| explain(error, config.medium))?;
        let store = SessionStore::new(&config.state_directory);
        let choice =
            before.map_or_else(|| config.session.clone(), crate::store::SessionChoice::Named);
        let stored = store.open(&config.workspace.root, &choice).map_err(store_error)?;
        let start = |helper, place| -> Result<(Plan, Session), NotStarted> {
            let plan = plan(config, &stored, place).map_err(NotStarted::Planned)?;
            let lock = stored.share_lock();
            let session = Session::start(helper, &plan.spec, lock)?;
            Ok((plan, session))
        };
        let memory = LayerPlace::Memory { max_bytes: scratch_bytes(config) };
        let in_memory = config.medium == SessionMedium::Memory || stored.has_archives();
        let mut medium = if in_memory { SessionMedium::Memory } else { SessionMedium::Disk };
        let mut started = start(helper, if in_memory { memory } else { LayerPlace::Disk });
        if let Err(NotStarted::Refused(StartError::Setup(failure, source))) = &started
            && medium == SessionMedium::Disk
            && config.view == SandboxView::Workspace
            && Cause::of(failure.stage, source, &Machine::read()) == Cause::FileSystem
        {
            debug!(error = %source, "The state directory cannot hold a layer: it is in memory.");
            medium = SessionMedium::Memory;
            started = Helper::spawn(&config.helper)
                .map_err(NotStarted::Refused)
                .and_then(|helper| start(helper, memory));
        }
        let (Plan { environment, hidden, .. }, session) = match started {
            Ok(started) => started,
            Err(not) => {
                // One that was made for this leaves nothing behind.
                drop(stored.end());
                return Err(match not {
                    NotStarted::Planned(error) => error,
                    NotStarted::Refused(error) => explain(error, medium),
                });
            }
        };
        let tree = |path: PathBuf, directory: &std::os::fd::OwnedFd| {
            let directory = Arc::new(
                directory.try_clone().map_err(|error| explain(StartError::Spawn(error), medium))?,
            );
            Ok::<_, EnvironmentError>(Tree { path, directory })
        };
        let trees = Trees {
            workspace: tree(config.workspace.root.clone(), &session.workspace)?,
            scratch: tree(helper::SCRATCH.into(), &session.scratch)?,
            working_directory: config.workspace.working_directory.clone(),
            extra: Vec::new(),
        };
        let description = describe(config, session.facts, &hidden, medium);
        if config.view == SandboxView::Workspace && stored.is_continued() {
            // What it says of conflicts is said again by the first taking in.
            let up_to_date = stored.layers_in_use(session.upper.as_fd()).and_then(|layers| {
                taking_in::take_in(&stored, &layers, &session.workspace, &mut Said::new())
            });
            if let Err(error) = up_to_date {
                warn!(%error, "What was changed on the host meanwhile may not be seen.");
            }
        }
        Ok(Made {
            session: Arc::new(session),
            stored,
            trees,
            environment,
            description,
            medium,
            max_disk_bytes: config.limits.disk_bytes,
            limited: config.layers.limits,
        })
    }

    fn id(&self) -> Option<SessionId> {
        self.stored().as_ref().map(|session| session.id().clone())
    }

    /// Writes down what is in memory only.
    fn save(&self) -> Result<(), SessionError> {
        let stored = self.stored();
        match (&*stored, self.medium) {
            (Some(session), SessionMedium::Memory) => {
                let layers = [self.session.upper.as_fd()].into_iter();
                let layers = layers.chain(self.session.kept.iter().map(AsFd::as_fd));
                session.save(&layers.collect::<Vec<_>>())
            }
            _ => Ok(()),
        }
    }

    /// Brings in what the host has changed.
    fn take_in(&self, workspace: &Path, others: Others) -> Result<TakenIn, SessionError> {
        let is_recorded = self.record_bases(workspace);
        let stored = self.stored();
        let Some(session) = &*stored else { return Ok(TakenIn::default()) };
        let io = SessionError::io("asking", Path::new("the sandbox's init"));
        self.session.ask(SessionRequest::Refresh).map_err(io)?;
        let layers = session.layers_in_use(self.session.upper.as_fd())?;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken_in =
            taking_in::take_in(session, &layers, &self.session.workspace, &mut said)?;
        match others {
            // What they have open they see as it was, and a copy that is made of it is of that.
            Others::Running => taken_in.is_partial = true,
            Others::None if is_recorded => {
                let io = SessionError::io("writing to", workspace);
                session.sees_the_host_anew().map_err(io)?;
            }
            Others::None => {}
        }
        Ok(taken_in)
    }

    /// What the session changed and what waits of it.
    fn changes(&self) -> Result<DetailedChangeSet, SessionError> {
        let stored = self.stored();
        let Some(session) = &*stored else { return Ok(DetailedChangeSet::default()) };
        let layers = session.layers_in_use(self.session.upper.as_fd())?;
        let io = SessionError::io("reading", Path::new("the session's layer"));
        layers.changes().map_err(io)
    }

    /// Does something with the session and its layers while nothing in it runs.
    fn at_rest<T>(
        &self,
        workspace: &Path,
        others: Others,
        work: impl FnOnce(&OpenSession, SessionLayers) -> T,
    ) -> Result<Option<T>, SessionError> {
        let io = || SessionError::io("asking", Path::new("the sandbox's init"));
        if others == Others::Running {
            self.session.ask(SessionRequest::Freeze).map_err(io())?;
        }
        let done = (|| {
            self.record_bases(workspace);
            let stored = self.stored();
            let Some(session) = &*stored else { return Ok(None) };
            let layers = session.layers_in_use(self.session.upper.as_fd())?;
            Ok(Some(work(session, layers)))
        })();
        if others == Others::Running {
            self.session.ask(SessionRequest::Thaw).map_err(io())?;
        }
        done
    }

    /// Notes what the changed files were, and says whether that could be done. What cannot be noted now is noted
    /// at the end, if it can be seen then.
    fn record_bases(&self, workspace: &Path) -> bool {
        let Some(session) = &*self.stored() else { return false };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let recorded = (|| -> std::io::Result<()> {
            let lower = rustix::fs::open(workspace, flags, Mode::empty())?;
            let upper = self.session.upper.as_fd();
            let changes = change_set(upper, lower.as_fd())?;
            session.record_bases(upper, lower.as_fd(), &changes)
        })();
        if let Err(error) = &recorded {
            debug!(%error, "What changed files were could not be noted yet.");
        }
        recorded.is_ok()
    }

    fn stored(&self) -> MutexGuard<'_, Option<OpenSession>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    fn start(self) -> (Standing, SessionOrigin) {
        let Self { session, stored, trees, environment, description, .. } = self;
        let Self { medium, max_disk_bytes, limited, .. } = self;
        let origin = match stored.is_continued() {
            true => SessionOrigin::Continued,
            false => SessionOrigin::New,
        };
        let ending = CancellationToken::new();
        let upper = limited.then(|| Arc::clone(&session.upper));
        let quota = Quota::watch(upper, max_disk_bytes);
        let standing = Standing {
            session,
            trees,
            environment,
            description,
            quota,
            medium,
            _end: ending.clone().drop_guard(),
            ending,
            stored: Mutex::new(Some(stored)),
            said: Mutex::default(),
        };
        (standing, origin)
    }
}
