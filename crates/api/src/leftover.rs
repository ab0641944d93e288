//! MicroVMs that are on record in a state directory and whose forge has ended: how they stand, what was changed in them, their
//! end.
//!
//! Only what this state directory has on record is ever asked for, and only on the server that it was made on: a key goes to
//! no other one. Whoever works on a session's microVMs holds its lock, so that no two do, and nobody does while the forge
//! that made them lives.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use forge_domain::{SessionId, WorkspaceLocation};
use forge_infra_sandbox::{
    MicrovmUse, OpenSession, SessionError, SessionState, SessionStore, StoredMicrovm, StoredSummary,
};
use forge_infra_tensorlake::{ConfigError, SandboxStanding, Sandboxes, TensorlakeConfig};
use tokio::task::{AbortHandle, JoinSet};
use tracing::warn;

use crate::microvm::{SessionKeeper, blocking, reason};
use crate::microvm_commits::keep_commits;

/// How long the server may take to say how a microVM stands, its attempts included.
const LOOK_LIMIT: Duration = Duration::from_secs(15);
/// How long what was changed may take on its way back, a resumption included.
const FETCH_LIMIT: Duration = Duration::from_secs(60);
/// The same where somebody asks for that session.
const ASKED_FETCH_LIMIT: Duration = Duration::from_secs(600);
/// So long after it was asked for, a microVM that its server does not know may still come to be.
const CREATION_LIMIT: Duration = Duration::from_secs(600);

/// How a microVM stands, as far as its server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MicrovmStanding {
    /// It runs, or is about to.
    Running,
    /// It stands still, and can be resumed.
    Suspended,
    /// The server knows none such, or says that it has ended.
    Gone,
    /// It could not be asked, for this reason.
    Unknown(String),
}

/// Which microVMs of a session to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichMicrovms {
    /// Those that nobody asked to be kept.
    Abandoned,
    /// All.
    All,
}

/// What became of a microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MicrovmEnd {
    /// It was deleted; before that, what was changed in it was fetched, and the session holds this now. `None` where there
    /// was nothing to fetch.
    Deleted(Option<StoredSummary>),
    /// It was gone.
    WasGone,
    /// It stays, on the server and on record, for this reason.
    Left(String),
}

/// A microVM, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedMicrovm {
    /// Whose it was.
    pub session: SessionId,
    /// As it was on record.
    pub microvm: StoredMicrovm,
    /// What became of it.
    pub end: MicrovmEnd,
}

/// The microVMs of a state directory that one server may have. Clones share nothing but the configuration.
#[derive(Debug, Clone)]
pub struct LeftoverMicrovms {
    store: SessionStore,
    sandboxes: Sandboxes,
    server: String,
    namespace: String,
    /// The session that somebody wants to go on with: whether it can is not to hang on who comes first.
    spared: Option<SessionId>,
}

impl LeftoverMicrovms {
    /// Checks the configuration, of which the key and the server are used. Sends nothing.
    ///
    /// # Errors
    /// The address or the key cannot be used.
    pub fn new(store: SessionStore, config: &TensorlakeConfig) -> Result<Self, ConfigError> {
        let config = TensorlakeConfig { source: None, record: None, ..config.clone() };
        let (server, namespace) = (config.api_url.clone(), config.namespace.clone());
        Ok(Self { store, sandboxes: Sandboxes::new(config)?, server, namespace, spared: None })
    }

    /// Leaves this session alone where all are ended.
    pub(crate) fn sparing(self, spared: Option<SessionId>) -> Self {
        Self { spared, ..self }
    }

    /// Whether a microVM is one of the server that is asked here.
    #[must_use]
    pub fn is_of_this_server(&self, microvm: &StoredMicrovm) -> bool {
        is_of_server(microvm, &self.server, &self.namespace)
    }

    /// Asks how a microVM stands. Bounded by the limit.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn standing(&self, microvm: &StoredMicrovm, limit: Duration) -> MicrovmStanding {
        if !self.is_of_this_server(microvm) {
            return MicrovmStanding::Unknown("it is on another server".to_owned());
        }
        let look = self.sandboxes.look(microvm.id_or_name());
        match tokio::time::timeout(limit, look).await {
            Ok(Ok(Some(found))) => match found.standing {
                SandboxStanding::Running => MicrovmStanding::Running,
                SandboxStanding::Suspended => MicrovmStanding::Suspended,
                SandboxStanding::Gone => MicrovmStanding::Gone,
            },
            Ok(Ok(None)) => MicrovmStanding::Gone,
            Ok(Err(error)) => MicrovmStanding::Unknown(reason(&error)),
            Err(_) => MicrovmStanding::Unknown(silent(limit)),
        }
    }

    /// Fetches from the microVMs of a session that nobody uses, and deletes them. For each, bounded by a minute and a half.
    ///
    /// # Errors
    /// The session is not there, or is in use.
    ///
    /// # Cancel safety
    /// What is not on record as gone is dealt with by the next call.
    pub async fn end(
        &self,
        id: &SessionId,
        which: WhichMicrovms,
    ) -> Result<Vec<EndedMicrovm>, SessionError> {
        let (store, session) = (self.store.clone(), id.clone());
        let open = Arc::new(run(move || store.lock_for_microvms(&session)).await?);
        let mut all = Vec::new();
        for microvm in open.microvms() {
            if microvm.r#use == MicrovmUse::Kept && which == WhichMicrovms::Abandoned {
                continue;
            }
            let end = match self.end_one(&open, &microvm, which).await {
                Ok(end) => end,
                Err(reason) => MicrovmEnd::Left(reason),
            };
            all.push(EndedMicrovm { session: id.clone(), microvm, end });
        }
        // Somebody who still takes something in gives it back later.
        if let Ok(open) = Arc::try_unwrap(open) {
            run(move || open.end()).await?;
        }
        Ok(all)
    }

    /// The same for every session whose forge has ended. Those that are in use are passed over.
    ///
    /// # Errors
    /// The state directory cannot be read.
    ///
    /// # Cancel safety
    /// As [`LeftoverMicrovms::end`].
    pub async fn end_all(&self) -> Result<Vec<EndedMicrovm>, SessionError> {
        let store = self.store.clone();
        let sessions = run(move || store.list()).await?.sessions;
        let mut work = JoinSet::new();
        for session in sessions {
            let is_spared = self.spared.as_ref() == Some(&session.id);
            if session.state == SessionState::Idle && session.awaits_a_microvm() && !is_spared {
                let this = self.clone();
                work.spawn(async move {
                    let ended = this.end(&session.id, WhichMicrovms::Abandoned).await;
                    (session.id, ended)
                });
            }
        }
        let mut all = Vec::new();
        while let Some(ended) = work.join_next().await {
            match ended {
                Ok((_, Ok(ended))) => all.extend(ended),
                Ok((_, Err(SessionError::Busy { .. } | SessionError::NotFound { .. }))) => {}
                Ok((id, Err(error))) => {
                    warn!(session_id = %id, %error, "The microVM of a session was not looked at.");
                }
                Err(error) => warn!(%error, "A microVM was not looked at."),
            }
        }
        all.sort_by(|left, right| left.session.cmp(&right.session));
        Ok(all)
    }

    async fn end_one(
        &self,
        open: &Arc<OpenSession>,
        microvm: &StoredMicrovm,
        which: WhichMicrovms,
    ) -> Result<MicrovmEnd, String> {
        if !self.is_of_this_server(microvm) {
            return Err(format!("it is on another server, {}", microvm.server));
        }
        let look = async {
            match &microvm.id {
                Some(id) => self.sandboxes.look(id).await,
                None => self.sandboxes.wait_for(&microvm.name).await,
            }
        };
        let found = tokio::time::timeout(LOOK_LIMIT, look).await;
        let found = found.map_err(|_| silent(LOOK_LIMIT))?.map_err(|error| reason(&error))?;
        let name = microvm.name.clone();
        let forget = {
            let (open, name) = (Arc::clone(open), name.clone());
            async move { blocking(move || open.forget_microvm(&name)).await }
        };
        let found = match found {
            None if microvm.id.is_none() && may_come_to_be(microvm) => {
                return Err(
                    "its server does not know it, and it was asked for only now: it may still \
                            come to be"
                        .to_owned(),
                );
            }
            Some(found) if found.standing != SandboxStanding::Gone => found,
            None | Some(_) => {
                forget.await.map_err(|error| reason(&error))?;
                return Ok(MicrovmEnd::WasGone);
            }
        };
        if microvm.id.is_none() {
            let (open, id) = (Arc::clone(open), found.id.clone());
            let noted = blocking(move || open.identify_microvm(&name, &id)).await;
            noted.map_err(|error| reason(&error))?;
        }
        let summary = match microvm.r#use {
            MicrovmUse::Kept => None,
            MicrovmUse::Session => {
                let limit = match which {
                    WhichMicrovms::Abandoned => FETCH_LIMIT,
                    WhichMicrovms::All => ASKED_FETCH_LIMIT,
                };
                let fetch = tokio::time::timeout(limit, self.fetch(open, &found.id)).await;
                let fetched = fetch.unwrap_or_else(|_| Err(silent(limit)));
                fetched.map_err(|reason| {
                    format!("what was changed in it cannot be fetched: {reason}")
                })?
            }
        };
        self.sandboxes.delete(&found.id).await.map_err(|error| reason(&error))?;
        forget.await.map_err(|error| reason(&error))?;
        Ok(MicrovmEnd::Deleted(summary))
    }

    /// Fetches what was changed. Where the project never was in the microVM, that is nothing.
    async fn fetch(
        &self,
        open: &Arc<OpenSession>,
        id: &str,
    ) -> Result<Option<StoredSummary>, String> {
        let read = {
            let open = Arc::clone(open);
            blocking(move || {
                let Some(state) = open.microvm_state()? else { return Ok(None) };
                Ok(Some((state, kept_paths(&open)?)))
            })
        };
        let Some((state, kept)) = read.await.map_err(|error| reason(&error))? else {
            return Ok(None);
        };
        let root = open.workspace();
        let workspace = WorkspaceLocation { root: root.clone(), working_directory: root };
        let guest = self.sandboxes.adopt(id, workspace, &state, kept).await;
        let guest = guest.map_err(|error| reason(&error))?;
        let receiver = open.receive().map_err(|error| reason(&error))?;
        let not_returned = guest.bring_back(SessionKeeper(receiver)).await;
        let not_returned = not_returned.map_err(|error| reason(&error))?.unwrap_or_default();
        for (path, reason) in &not_returned.left {
            warn!(path = %path.display(), %reason, "A change could not be fetched.");
        }
        let way = |stays: String| {
            let id = open.id();
            format!(
                "{stays}; when the rest is applied, forge discard {id} gives that up, and stop deletes it"
            )
        };
        keep_commits(&guest, open)
            .await
            .map_err(|error| way(format!("commits stay in it: {}", reason(&error))))?;
        if let Some(missing) = not_returned.missing() {
            return Err(way(format!("not all of it can be kept here: {missing}")));
        }
        let open = Arc::clone(open);
        // Also where nothing had changed: nobody has counted yet.
        let counted = blocking(move || open.receive()?.finish()).await;
        counted.map(Some).map_err(|error| reason(&error))
    }
}

/// What the session has of its changes by now.
fn kept_paths(open: &Arc<OpenSession>) -> Result<Vec<PathBuf>, SessionError> {
    let failed = |source| SessionError::Io {
        operation: "reading the changes in",
        path: open.workspace(),
        source,
    };
    let changes = open.layers_unmounted()?.changes().map_err(failed)?.changes;
    let there = changes.into_iter().filter(|change| change.after.is_some());
    Ok(there.map(|change| change.path).collect())
}

/// Whether a microVM is one of this server, which may be written with a slash at its end or without.
pub(crate) fn is_of_server(microvm: &StoredMicrovm, server: &str, namespace: &str) -> bool {
    let plain = |url: &str| url.trim_end_matches('/').to_owned();
    plain(&microvm.server) == plain(server) && microvm.namespace == namespace
}

fn may_come_to_be(microvm: &StoredMicrovm) -> bool {
    // A clock that was put back says nothing.
    SystemTime::now().duration_since(microvm.asked_for()).is_ok_and(|age| age < CREATION_LIMIT)
}

fn silent(limit: Duration) -> String {
    format!("it took longer than {limit:?}")
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SessionError> + Send + 'static,
) -> Result<T, SessionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(SessionError::Io {
            operation: "working in",
            path: PathBuf::from("the state directory"),
            source: std::io::Error::other(error),
        }),
    }
}

/// The work on what was left behind, beside everything else. It ends when this is dropped: what is not done by then is done
/// by another forge.
#[derive(Debug)]
pub(crate) struct LeftoverWork {
    task: AbortHandle,
    ended: Arc<Mutex<Vec<EndedMicrovm>>>,
}

impl LeftoverWork {
    /// Begins; to be called in a runtime.
    pub(crate) fn begin(leftovers: LeftoverMicrovms) -> Self {
        let ended = Arc::<Mutex<Vec<EndedMicrovm>>>::default();
        let theirs = Arc::clone(&ended);
        let task = tokio::spawn(async move {
            match leftovers.end_all().await {
                Ok(all) => guard(&theirs).extend(all),
                Err(error) => warn!(%error, "MicroVMs that were left behind were not looked for."),
            }
        });
        Self { task: task.abort_handle(), ended }
    }

    /// What was done since the last call.
    pub(crate) fn take_ended(&self) -> Vec<EndedMicrovm> {
        std::mem::take(&mut *guard(&self.ended))
    }
}

impl Drop for LeftoverWork {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
