//! A microVM whose changes are kept on this machine, in a session as the embedded sandbox has them: what is made of them
//! is the same for both.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use forge_domain::{
    BackgroundCommands, BoxedError, ChangeSet, ChangeTracking, Changes, ChangesError, Describe,
    Description, Digest, Entry, EnvironmentError, EnvironmentKind, HistorySource, LeftOut,
    Lifecycle, NotReturned, OutputOffset, ReturnKeeper, Returned, ReturnedOrigin, SourceEntry,
    SourceError, SourceListing, SourcePath, SourceStamp, TakenIn, WorkspaceLocation,
    WorkspaceSource,
};
use forge_infra_sandbox::{
    OpenSession, Receiver, SessionChoice, SessionEnd, SessionError, SessionLayers, SessionMedium,
    SessionOrigin, SessionStore, UsedSession,
};
use forge_infra_tensorlake::{ConfigError, TensorlakeConfig, TensorlakeEnvironment};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::ProjectOptions;
use crate::leftover::{EndedMicrovm, LeftoverMicrovms, LeftoverWork};
use crate::microvm_commits::{SessionHistory, keep_commits};
use crate::microvm_record::MicrovmRecord;

/// How long, at the end, what was changed may take on its way back.
const RETURN_LIMIT: Duration = Duration::from_secs(60);

/// A microVM, and where what is changed in it is kept. Clones share both.
#[derive(Debug, Clone)]
pub struct Microvm {
    pub(crate) guest: TensorlakeEnvironment,
    kept: Option<Arc<Kept>>,
    /// Whether the project's history goes along, and commits come back.
    has_history: bool,
    /// What the project's rules ignore of what is in it, when that was last looked at.
    ignored_files: Arc<AtomicU64>,
    /// What could not be brought back when that was last tried.
    stays: Arc<Mutex<Option<String>>>,
    /// On the microVMs that others have left behind.
    leftover: Option<Arc<LeftoverWork>>,
}

/// What is kept on this machine.
#[derive(Debug)]
pub(crate) struct Kept {
    store: SessionStore,
    choice: SessionChoice,
    state_directory: PathBuf,
    workspace: PathBuf,
    session: Mutex<Option<Arc<OpenSession>>>,
    used: Mutex<Option<UsedSession>>,
    closed: OnceCell<Result<(), String>>,
    /// What was changed is waited for no longer.
    given_up: CancellationToken,
}

/// What lists the workspace for the guest. A session is open by then, and notes that the host is looked at, before anything is
/// read: what the host changes from then on is told apart from what was sent. What the session holds goes along.
#[derive(Debug)]
struct SessionSource {
    source: Arc<dyn WorkspaceSource>,
    kept: Arc<Kept>,
    held: Mutex<Option<Held>>,
}

/// What a session that is gone on with holds already: it takes the place of the host's.
#[derive(Debug)]
struct Held {
    layers: SessionLayers,
    /// `None` for what is gone.
    paths: BTreeMap<PathBuf, Option<SourcePath>>,
    /// The directories that those are in.
    above: BTreeMap<PathBuf, SourcePath>,
    digests: BTreeMap<PathBuf, Digest>,
}

/// What takes what comes back into the session.
#[derive(Debug)]
pub(crate) struct SessionKeeper(pub(crate) Receiver);

impl Microvm {
    /// Wires the environment; nothing is sent or made. Without a source, or a place for sessions, nothing is kept of what
    /// is changed.
    pub(crate) fn new(
        config: &TensorlakeConfig,
        workspace: &WorkspaceLocation,
        state_directory: Option<&Path>,
        project: Option<&ProjectOptions>,
    ) -> Result<Self, ConfigError> {
        let mut config = config.clone();
        if let (Some(project), None) = (project, &config.source) {
            config.source = Some(Arc::new(project.source(&workspace.root)));
        }
        if let (Some(project), Some(state), None) = (project, state_directory, &config.history) {
            config.history = project.history_source(&workspace.root, state);
        }
        let mut kept = None;
        if let (Some(source), Some(state)) = (config.source.clone(), state_directory) {
            let made = Arc::new(Kept {
                store: SessionStore::new(state),
                state_directory: state.to_path_buf(),
                choice: project.map(|project| project.session.clone()).unwrap_or_default(),
                workspace: workspace.root.clone(),
                session: Mutex::default(),
                used: Mutex::default(),
                closed: OnceCell::new(),
                given_up: CancellationToken::new(),
            });
            let record = MicrovmRecord {
                kept: Arc::clone(&made),
                server: config.api_url.clone(),
                namespace: config.namespace.clone(),
            };
            config.record = Some(Arc::new(record));
            config.history = config.history.map(|host| {
                Arc::new(SessionHistory { host, kept: Arc::clone(&made) }) as Arc<dyn HistorySource>
            });
            let source = SessionSource { source, kept: Arc::clone(&made), held: Mutex::default() };
            config.source = Some(Arc::new(source));
            kept = Some(made);
        }
        let has_history = config.history.is_some();
        let guest = TensorlakeEnvironment::new(config, workspace.clone())?;
        let ignored_files = Arc::default();
        let stays = Arc::default();
        Ok(Self { guest, kept, has_history, ignored_files, stays, leftover: None })
    }

    /// Begins to fetch from the microVMs that other runs have left behind, and to delete them. To be called in a runtime.
    pub(crate) fn begin_leftover(&mut self, config: &TensorlakeConfig) {
        let Some(kept) = &self.kept else { return };
        // The configuration was taken before.
        if let Ok(leftovers) = LeftoverMicrovms::new(kept.store.clone(), config) {
            let named = match &kept.choice {
                SessionChoice::Named(id) => Some(id.clone()),
                SessionChoice::Continue | SessionChoice::Fresh => None,
            };
            self.leftover = Some(Arc::new(LeftoverWork::begin(leftovers.sparing(named))));
        }
    }

    /// What became of microVMs that other runs had left behind, each told once.
    pub(crate) fn take_ended(&self) -> Vec<EndedMicrovm> {
        self.leftover.as_ref().map(|work| work.take_ended()).unwrap_or_default()
    }

    /// What of the project stayed behind, once it was brought in.
    pub(crate) async fn left_out(&self) -> Vec<LeftOut> {
        self.guest.left_out().await
    }

    /// How many files the project's rules ignore of those in it, when it was last looked at.
    pub(crate) fn ignored_files(&self) -> u64 {
        self.ignored_files.load(Ordering::Relaxed)
    }

    /// What is to be said of the project's history, once the project was brought in.
    pub(crate) async fn history_note(&self) -> Option<String> {
        self.guest.history_note().await
    }

    /// Waits no longer for what was changed, at the end: it stays in the microVM, which stays on record.
    pub(crate) fn give_up_changes(&self) {
        if let Some(kept) = &self.kept {
            kept.given_up.cancel();
        }
    }

    /// The session on this machine, once there is one.
    pub(crate) fn session(&self) -> Option<UsedSession> {
        guard(&self.kept.as_ref()?.used).clone()
    }

    /// Where sessions are kept.
    pub(crate) fn state_directory(&self) -> Option<&Path> {
        Some(&self.kept.as_ref()?.state_directory)
    }

    /// Brings back what was changed until now, and gives the session with it. `None` where the microVM was not used yet.
    pub(crate) async fn brought_back(
        &self,
    ) -> Result<Option<(Arc<OpenSession>, SessionLayers)>, ChangesError> {
        let Some(kept) = &self.kept else { return self.guest.changes().await.map(|_| None) };
        // Refused where it is closed.
        self.guest.list_background().await?;
        let Some(session) = kept.session() else { return Ok(None) };
        self.bring_back(&session).await?;
        let layers = {
            let session = Arc::clone(&session);
            blocking(move || session.layers_unmounted()).await?
        };
        Ok(Some((session, layers)))
    }

    async fn bring_back(&self, session: &Arc<OpenSession>) -> Result<(), EnvironmentError> {
        let receiver = session.receive().map_err(store_error)?;
        let not_returned = self.guest.bring_back(SessionKeeper(receiver)).await?;
        for (path, reason) in not_returned.iter().flat_map(|not| &not.left) {
            warn!(path = %path.display(), %reason, "A change stays in the microVM.");
        }
        let mut stays = not_returned.as_ref().and_then(NotReturned::missing);
        if self.has_history
            && let Err(error) = keep_commits(&self.guest, session).await
        {
            // Files come back all the same, and turns go on.
            warn!(%error, "Commits stay in the microVM.");
            stays = Some(format!("commits ({})", reason(&error)));
        }
        *guard(&self.stays) = stays;
        if let Some(NotReturned { ignored_files, .. }) = not_returned {
            self.ignored_files.store(ignored_files, Ordering::Relaxed);
            if !session.is_counted() {
                // Nothing had changed, but it may hold something from before.
                let session = Arc::clone(session);
                blocking(move || session.receive()?.finish()).await?;
            }
        }
        Ok(())
    }

    /// The same at the end, when no command is to go on.
    async fn bring_back_at_the_end(
        &self,
        session: &Arc<OpenSession>,
    ) -> Result<(), EnvironmentError> {
        self.end_background().await?;
        self.guest.look_again();
        self.bring_back(session).await?;
        match guard(&self.stays).take() {
            Some(stays) => Err(failed(format!("not all of it can be kept here: {stays}"))),
            None => Ok(()),
        }
    }

    async fn end_background(&self) -> Result<(), EnvironmentError> {
        let commands = self.guest.list_background().await?;
        for running in commands.into_iter().filter(|command| command.ending.is_none()) {
            // One that has ended meanwhile is as good.
            drop(self.guest.stop(&running.id, OutputOffset::default()).await);
        }
        Ok(())
    }

    async fn end(&self, kept: &Kept) -> Result<(), String> {
        let returned = match kept.session() {
            None => Ok(()),
            Some(session) => {
                let work = self.bring_back_at_the_end(&session);
                let work = tokio::time::timeout(RETURN_LIMIT, work);
                match kept.given_up.run_until_cancelled(work).await {
                    Some(Ok(Ok(()))) => Ok(()),
                    Some(Ok(Err(error))) => Err(reason(&error)),
                    Some(Err(_)) => Err(format!("it took longer than {RETURN_LIMIT:?}")),
                    None => Err("it was interrupted".to_owned()),
                }
            }
        };
        let returned = returned.map_err(|reason| {
            self.guest.keep_running();
            let id = self.guest.id().unwrap_or_default();
            let way = match kept.session() {
                Some(session) => format!(" (forge session stop {} tries it again)", session.id()),
                None => String::new(),
            };
            format!(
                "what was changed in the microVM could not be brought back, so {id} was not \
                 deleted, and stays on record{way}: {reason}"
            )
        });
        let closed = if kept.given_up.is_cancelled() {
            Some(self.guest.close().await)
        } else {
            // One that is being made has to be named before it can be deleted.
            kept.given_up.run_until_cancelled(self.guest.close()).await
        };
        let closed = match closed {
            Some(closed) => closed.map_err(|error| reason(&error)),
            None => Err("it was interrupted; what is on record is ended later".to_owned()),
        };
        let ended = kept.end();
        returned.and(closed).and(ended)
    }
}

impl Kept {
    pub(crate) fn session(&self) -> Option<Arc<OpenSession>> {
        guard(&self.session).clone()
    }

    /// Opens the session, unless it is open. It is had before the microVM is asked for.
    pub(crate) fn open(&self) -> Result<Arc<OpenSession>, SessionError> {
        let mut session = guard(&self.session);
        if let Some(session) = &*session {
            return Ok(Arc::clone(session));
        }
        let open = self.store.open_for_microvm(&self.workspace, &self.choice)?;
        let origin = match open.is_continued() {
            true => SessionOrigin::Continued,
            false => SessionOrigin::New,
        };
        *guard(&self.used) = Some(UsedSession {
            id: open.id().clone(),
            origin,
            medium: SessionMedium::Disk,
            kept: None,
        });
        let open = Arc::new(open);
        *session = Some(Arc::clone(&open));
        Ok(open)
    }

    /// Gives the session back; one that holds nothing is gone.
    fn end(&self) -> Result<(), String> {
        let Some(session) = guard(&self.session).take() else { return Ok(()) };
        // Somebody who still looks at it gives it back later.
        let Ok(session) = Arc::try_unwrap(session) else { return Ok(()) };
        match session.end() {
            Ok(SessionEnd::Kept(summary)) => {
                if let Some(used) = &mut *guard(&self.used) {
                    used.kept = summary;
                }
                Ok(())
            }
            Ok(SessionEnd::Removed) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl SessionSource {
    fn failed(&self, source: io::Error) -> SourceError {
        SourceError::Io { path: self.kept.workspace.clone(), source }
    }
}

impl WorkspaceSource for SessionSource {
    fn list(&self) -> Result<SourceListing, SourceError> {
        if let Some(session) = self.kept.session() {
            session.looks_at_the_host().map_err(|error| self.failed(error))?;
        }
        let mut listing = self.source.list()?;
        if let Some(held) = &mut *guard(&self.held) {
            held.release(&*self.source);
            held.put_into(&mut listing);
        }
        Ok(listing)
    }

    fn begin(&self) -> Result<SourceListing, SourceError> {
        let failed = |source| self.failed(source);
        let session = self.kept.open().map_err(|error| failed(io::Error::other(error)))?;
        session.sees_the_host_anew().map_err(failed)?;
        session.looks_at_the_host().map_err(failed)?;
        let mut listing = self.source.list()?;
        let held = if session.holds_anything().map_err(failed)? {
            let layers = session.layers_unmounted();
            let layers = layers.map_err(|error| failed(io::Error::other(error)))?;
            let held = Held::of(layers).map_err(failed)?;
            held.put_into(&mut listing);
            Some(held)
        } else {
            None
        };
        *guard(&self.held) = held;
        Ok(listing)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        match &*guard(&self.held) {
            Some(held) if held.paths.contains_key(path) => Ok(Box::new(held.layers.open(path)?)),
            _ => self.source.open(path),
        }
    }

    fn look(&self, path: &Path) -> io::Result<Option<SourcePath>> {
        let held = guard(&self.held);
        match held.as_ref().and_then(|held| held.paths.get(path)) {
            // It is this session's alone, and nothing runs in it here.
            Some(found) => Ok(found.clone()),
            None => self.source.look(path),
        }
    }
}

impl Held {
    fn of(layers: SessionLayers) -> io::Result<Self> {
        let mut held = Self {
            layers,
            paths: BTreeMap::new(),
            above: BTreeMap::new(),
            digests: BTreeMap::new(),
        };
        for change in held.layers.changes()?.changes {
            let path = change.path;
            let entry = match held.layers.entry(&path)? {
                Some(Entry::File { size_bytes, digest, mode }) => {
                    held.digests.insert(path.clone(), digest);
                    Some(SourceEntry::File { size_bytes, mode: mode & 0o777 })
                }
                Some(Entry::Symlink { target }) => Some(SourceEntry::Symlink { target }),
                Some(Entry::Directory { mode }) => {
                    Some(SourceEntry::Directory { mode: mode & 0o777 })
                }
                Some(Entry::Special) | None => None,
            };
            if entry.is_some() {
                let above = path.ancestors().skip(1);
                for above in above.filter(|above| !above.as_os_str().is_empty()) {
                    let mode = held.layers.directory_mode(above).unwrap_or(0o755) & 0o777;
                    let directory = held_path(above, SourceEntry::Directory { mode }, None);
                    held.above.insert(above.to_path_buf(), directory);
                }
            }
            let one = entry.map(|entry| held_path(&path, entry, held.digests.get(&path)));
            held.paths.insert(path, one);
        }
        Ok(held)
    }

    /// What the host has by now as well, as after an apply, is the host's from here on.
    fn release(&mut self, source: &dyn WorkspaceSource) {
        let is_on_the_host = |path: &Path, held: Option<&SourcePath>| {
            let Ok(host) = source.look(path) else { return false };
            match (held.map(|held| &held.entry), host.map(|host| host.entry)) {
                (None, None) => true,
                (Some(held @ SourceEntry::File { .. }), Some(host)) if *held == host => {
                    let read = || Some(read_digest(source.open(path).ok()?));
                    read().flatten().as_ref() == self.digests.get(path)
                }
                (Some(held), Some(host)) => *held == host,
                _ => false,
            }
        };
        self.paths.retain(|path, held| !is_on_the_host(path, held.as_ref()));
    }

    /// In the place of what the host has.
    fn put_into(&self, listing: &mut SourceListing) {
        let paths = std::mem::take(&mut listing.paths).into_iter();
        let mut all: BTreeMap<PathBuf, SourcePath> =
            paths.map(|one| (one.path.clone(), one)).collect();
        let is_directory = |one: &SourcePath| matches!(one.entry, SourceEntry::Directory { .. });
        for (path, one) in &self.paths {
            let stays = one.as_ref().is_some_and(is_directory);
            all.retain(|other, _| !other.starts_with(path) || (stays && other != path));
            let Some(one) = one else { continue };
            for above in path.ancestors().skip(1) {
                if let Some(directory) = self.above.get(above)
                    && !all.get(above).is_some_and(is_directory)
                {
                    all.insert(above.to_path_buf(), directory.clone());
                }
            }
            all.insert(path.clone(), one.clone());
        }
        listing.paths = all.into_values().collect();
        listing.paths.sort_by_cached_key(|one| one.path.as_os_str().as_encoded_bytes().to_vec());
        let size = |one: &SourcePath| match one.entry {
            SourceEntry::File { size_bytes, .. } => size_bytes,
            _ => 0,
        };
        listing.total_bytes = listing.paths.iter().map(size).sum();
    }
}

fn read_digest(mut file: Box<dyn io::Read + Send>) -> Option<Digest> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut file, &mut hasher).ok()?;
    Some(Digest::new(hasher.finalize().into()))
}

/// Its stamp tells what it is, whenever it is looked at: of a file, what it holds.
fn held_path(path: &Path, entry: SourceEntry, digest: Option<&Digest>) -> SourcePath {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"held ");
    match &entry {
        SourceEntry::File { mode, .. } => {
            hasher.update(format!("file {mode:o} ").as_bytes());
            hasher.update(digest.map(Digest::to_string).unwrap_or_default().as_bytes());
        }
        SourceEntry::Symlink { target } => {
            hasher.update(b"symlink ");
            hasher.update(target.as_os_str().as_encoded_bytes());
        }
        SourceEntry::Directory { mode } => {
            hasher.update(format!("directory {mode:o}").as_bytes());
        }
    }
    let mut number = [0; 16];
    number.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    let stamp = SourceStamp::new(u128::from_le_bytes(number));
    SourcePath { path: path.to_path_buf(), entry, modified_seconds: now.as_secs(), stamp }
}

impl ReturnKeeper for SessionKeeper {
    fn put(
        &mut self,
        path: &Path,
        what: Returned<'_>,
        origin: ReturnedOrigin,
    ) -> Result<(), BoxedError> {
        self.0.put(path, what, origin)?;
        Ok(())
    }

    fn finish(&mut self, _not_returned: &NotReturned) -> Result<(), BoxedError> {
        // Of what is ignored in the microVM, the session holds nothing.
        self.0.finish()?;
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Changes for Microvm {
    async fn changes(&self) -> Result<ChangeSet, ChangesError> {
        let Some((_session, layers)) = self.brought_back().await? else {
            return Ok(ChangeSet::default());
        };
        let changes = blocking(move || Ok(layers.changes())).await?;
        let changes = changes.map_err(|error| failed(error.to_string()))?;
        Ok(changes.into_domain())
    }

    async fn take_in(&self) -> Result<TakenIn, ChangesError> {
        let Some((session, _)) = self.brought_back().await? else {
            return Ok(TakenIn::default());
        };
        let taken_in = self.guest.take_in().await?;
        blocking(move || Ok(session.sees_the_host_anew()))
            .await?
            .map_err(|error| failed(error.to_string()))?;
        Ok(taken_in)
    }

    async fn discard_changes(&self) -> Result<(), ChangesError> {
        let Some(kept) = &self.kept else { return self.guest.discard_changes().await };
        self.end_background().await?;
        let Some(session) = kept.session() else { return Ok(()) };
        self.guest.bring_in_anew().await?;
        Ok(blocking(move || session.discard()).await?)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Describe for Microvm {
    async fn describe(&self) -> Result<Description, EnvironmentError> {
        let mut description = self.guest.describe().await?;
        if self.kept.is_some() {
            description.capabilities.change_tracking = ChangeTracking::Tracked;
        }
        Ok(description)
    }

    fn kind(&self) -> EnvironmentKind {
        self.guest.kind()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Lifecycle for Microvm {
    async fn prepare(&self) -> Result<(), EnvironmentError> {
        self.guest.prepare().await
    }

    async fn checkpoint(&self) -> Result<(), EnvironmentError> {
        self.guest.checkpoint().await?;
        match self.kept.as_ref().and_then(|kept| kept.session()) {
            Some(session) => self.bring_back(&session).await,
            None => Ok(()),
        }
    }

    async fn close(&self) -> Result<(), EnvironmentError> {
        match &self.kept {
            None => self.guest.close().await,
            Some(kept) => kept.closed.get_or_init(|| self.end(kept)).await.clone().map_err(failed),
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SessionError> + Send + 'static,
) -> Result<T, EnvironmentError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(store_error),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(failed(error.to_string())),
    }
}

pub(crate) fn store_error(error: SessionError) -> EnvironmentError {
    failed(reason(&error))
}

pub(crate) fn failed(reason: String) -> EnvironmentError {
    EnvironmentError::Unavailable { environment: EnvironmentKind::Tensorlake, reason, source: None }
}

/// An error with what led to it.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
