//! A microVM whose changes are kept on this machine, in a session as the embedded sandbox has them: what is made of them
//! is the same for both.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use forge_domain::{
    BackgroundCommands, BoxedError, ChangeSet, Changes, ChangesError, EnvironmentError,
    EnvironmentKind, Lifecycle, NotReturned, OutputOffset, ReturnKeeper, Returned, ReturnedOrigin,
    SourceError, SourceListing, SourcePath, TakenIn, WorkspaceLocation, WorkspaceSource,
};
use forge_infra_sandbox::{
    OpenSession, Receiver, SessionChoice, SessionEnd, SessionError, SessionLayers, SessionMedium,
    SessionOrigin, SessionStore, UsedSession,
};
use forge_infra_tensorlake::{ConfigError, TensorlakeConfig, TensorlakeEnvironment};
use tokio::sync::OnceCell;
use tracing::warn;

/// How long, at the end, what was changed may take on its way back.
const RETURN_LIMIT: Duration = Duration::from_secs(60);

/// A microVM, and where what is changed in it is kept. Clones share both.
#[derive(Debug, Clone)]
pub struct Microvm {
    pub(crate) guest: TensorlakeEnvironment,
    kept: Option<Arc<Kept>>,
}

/// What is kept on this machine.
#[derive(Debug)]
struct Kept {
    store: SessionStore,
    choice: SessionChoice,
    state_directory: PathBuf,
    workspace: PathBuf,
    session: Mutex<Option<Arc<OpenSession>>>,
    used: Mutex<Option<UsedSession>>,
    closed: OnceCell<Result<(), String>>,
}

/// What lists the workspace for the guest: a session is opened by the first listing, before anything is read, so that
/// what the host changes from then on is told apart from what was sent.
#[derive(Debug)]
struct SessionSource {
    source: Arc<dyn WorkspaceSource>,
    kept: Arc<Kept>,
}

/// What takes what comes back into the session.
#[derive(Debug)]
struct SessionKeeper(Receiver);

impl Microvm {
    /// Wires the environment; nothing is sent or made. Without a source, or a place for sessions, nothing is kept of what
    /// is changed.
    pub(crate) fn new(
        config: &TensorlakeConfig,
        workspace: &WorkspaceLocation,
        state_directory: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut config = config.clone();
        let mut kept = None;
        if let (Some(source), Some(state)) = (config.source.take(), state_directory) {
            let made = Arc::new(Kept {
                store: SessionStore::new(state),
                state_directory: state.to_path_buf(),
                choice: SessionChoice::Fresh,
                workspace: workspace.root.clone(),
                session: Mutex::default(),
                used: Mutex::default(),
                closed: OnceCell::new(),
            });
            let source = SessionSource { source, kept: Arc::clone(&made) };
            config.source = Some(Arc::new(source));
            kept = Some(made);
        }
        Ok(Self { guest: TensorlakeEnvironment::new(config, workspace.clone())?, kept })
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
        let environment = EnvironmentKind::Tensorlake;
        let kept = self.kept.as_ref().ok_or(ChangesError::NotTracked { environment })?;
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
        if let Some(NotReturned { left, .. }) =
            self.guest.bring_back(SessionKeeper(receiver)).await?
        {
            for (path, reason) in left {
                warn!(path = %path.display(), reason, "A change stays in the microVM.");
            }
        }
        Ok(())
    }

    /// The same at the end, when no command is to go on.
    async fn bring_back_at_the_end(
        &self,
        session: &Arc<OpenSession>,
    ) -> Result<(), EnvironmentError> {
        let commands = self.guest.list_background().await?;
        for running in commands.into_iter().filter(|command| command.ending.is_none()) {
            // One that has ended meanwhile is as good.
            drop(self.guest.stop(&running.id, OutputOffset::default()).await);
        }
        self.bring_back(session).await
    }

    async fn end(&self, kept: &Kept) -> Result<(), String> {
        let returned = match kept.session() {
            None => Ok(()),
            Some(session) => {
                let work = self.bring_back_at_the_end(&session);
                match tokio::time::timeout(RETURN_LIMIT, work).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(reason(&error)),
                    Err(_) => Err(format!("it took longer than {RETURN_LIMIT:?}")),
                }
            }
        };
        let returned = returned.map_err(|reason| {
            self.guest.keep_running();
            let id = self.guest.id().unwrap_or_default();
            format!(
                "what was changed in the microVM could not be brought back, so {id} was left \
                 running: {reason}"
            )
        });
        let closed = self.guest.close().await.map_err(|error| reason(&error));
        let ended = kept.end();
        returned.and(closed).and(ended)
    }
}

impl Kept {
    fn session(&self) -> Option<Arc<OpenSession>> {
        guard(&self.session).clone()
    }

    fn open(&self) -> Result<(), SessionError> {
        let mut session = guard(&self.session);
        if session.is_some() {
            return Ok(());
        }
        let open = self.store.open(&self.workspace, &self.choice)?;
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
        *session = Some(Arc::new(open));
        Ok(())
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

impl WorkspaceSource for SessionSource {
    fn list(&self) -> Result<SourceListing, SourceError> {
        self.kept.open().map_err(|error| SourceError::Io {
            path: self.kept.workspace.clone(),
            source: io::Error::other(error),
        })?;
        self.source.list()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        self.source.open(path)
    }

    fn look(&self, path: &Path) -> io::Result<Option<SourcePath>> {
        self.source.look(path)
    }
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

    fn finish(&mut self, not_returned: &NotReturned) -> Result<(), BoxedError> {
        self.0.finish(not_returned.ignored_files)?;
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
        self.guest.discard_changes().await
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SessionError> + Send + 'static,
) -> Result<T, EnvironmentError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(store_error),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn store_error(error: SessionError) -> EnvironmentError {
    failed(reason(&error))
}

fn failed(reason: String) -> EnvironmentError {
    EnvironmentError::Unavailable { environment: EnvironmentKind::Tensorlake, reason, source: None }
}

/// An error with what led to it.
fn reason(error: &dyn std::error::Error) -> String {
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
