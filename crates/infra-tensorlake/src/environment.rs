//! One sandbox, shared by clones: made by the first use, deleted exactly once.
//!
//! The id is owned from the moment in which the server names it, before the wait for the sandbox to run: a
//! creation goes on in a task of its own, so that a caller who gives up does not lose the answer.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use forge_domain::{EnvironmentError, Lifecycle as LifecyclePort, Notice, WorkspaceLocation};
use futures_core::future::BoxFuture;
use reqwest::Method;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, RwLock};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::address::Lifecycle;
use crate::background::BackgroundTable;
use crate::bring_back::BringBack;
use crate::bring_in::{BringIn, PROJECT_MARK};
use crate::client::Client;
use crate::config::{ConfigError, TensorlakeConfig};
use crate::creation::{Creation, Creator};
use crate::description::Facts;
use crate::failure::{RequestError, closed, unavailable};
use crate::lifecycle::{
    Beginning, Ready, SandboxName, Standing, delete, look, resume, suspend, wait_until_running,
};
use crate::place::guest_location;
use crate::progress::{Progress, Telling};
use crate::record::Record;
use crate::retry::Repeatable;
use crate::scripts::Guest;
use crate::wire::{HealthResponse, SandboxResponse};

/// How long a deletion may take, its attempts included.
const DELETE_LIMIT: Duration = Duration::from_secs(10);
/// How long a creation that is under way is waited for at the end.
const CREATION_LIMIT: Duration = Duration::from_secs(10);
/// How long the commands of a sandbox that is kept may take to end.
const COMMANDS_LIMIT: Duration = Duration::from_secs(15);

/// A Tensorlake microVM as an environment. Clones share one; nothing is made before the first use.
///
/// [`close`](LifecyclePort::close) deletes it and says what went wrong. The drop of the last clone deletes
/// it too, from a thread of its own, without blocking and whether or not a runtime lives, and only the log
/// learns how that went. A process that ends before that thread has done leaves the sandbox to the lifetime
/// that it was made with.
#[derive(Clone)]
pub struct TensorlakeEnvironment {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) config: TensorlakeConfig,
    /// Where the project is on the host.
    pub(crate) host: PathBuf,
    /// Where it is in the guest.
    pub(crate) workspace: WorkspaceLocation,
    /// Where the environment keeps its own files in the guest.
    pub(crate) scratch: PathBuf,
    pub(crate) closing: CancellationToken,
    /// Held by commands that run, so that an end that keeps the sandbox can wait for them.
    pub(crate) calls: Arc<RwLock<()>>,
    /// How often something was begun that may change the guest's files.
    begun: AtomicU64,
    pub(crate) background: Mutex<BackgroundTable>,
    /// What the guest said of itself when it was first used.
    pub(crate) facts: OnceLock<Facts>,
    /// The secrets that stayed behind, once the project was brought in.
    pub(crate) secrets: Mutex<Option<Vec<String>>>,
    pub(crate) bring_in: BringIn,
    pub(crate) bring_back: BringBack,
    /// The file that says that the project is in the workspace, where one is to be.
    mark: Option<PathBuf>,
    /// What remembers the sandbox.
    pub(crate) record: Record,
    origin: Origin,
    /// Whether the sandbox is left running though that was not asked for.
    keep_after_all: AtomicBool,
    /// Whether it was suspended at the end.
    suspended: AtomicBool,
    lifecycle: Lifecycle,
    state: AsyncMutex<State>,
    owned: Arc<Owned>,
    closed: OnceCell<Result<(), String>>,
}

#[derive(Default)]
struct State {
    ready: Option<Ready>,
    /// A creation that is under way, also where the caller who began it has given up.
    creation: Option<Creation>,
    /// The last answer about the owned sandbox, from which the wait goes on.
    pending: Option<SandboxResponse>,
    /// Why the sandbox was made anew, until a command's result has said so.
    renewed: Option<String>,
}

/// Where a sandbox comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The environment makes it, and another one where it is gone.
    Made,
    /// Another process has made it, and left it behind.
    Adopted,
}

/// The sandbox that is ours to delete. Whoever takes it deletes it; nobody else does.
#[derive(Debug, Default)]
pub(crate) struct Owned(Mutex<Option<OwnedSandbox>>);

#[derive(Debug, Clone)]
pub(crate) struct OwnedSandbox {
    pub(crate) id: String,
    /// By which it is remembered.
    pub(crate) name: SandboxName,
}

impl Owned {
    pub(crate) fn set(&self, id: String, name: SandboxName) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(OwnedSandbox { id, name });
    }

    fn get(&self) -> Option<OwnedSandbox> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn id(&self) -> Option<String> {
        self.get().map(|owned| owned.id)
    }

    pub(crate) fn take(&self) -> Option<OwnedSandbox> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl TensorlakeEnvironment {
    /// Checks the configuration. Sends nothing. The workspace is made in the guest, at the same path or at its
    /// [`guest_path`](crate::guest_path), and is empty there but for the [project](TensorlakeConfig::source).
    ///
    /// # Errors
    /// [`ConfigError`]: an address, the key or a directory cannot be used.
    pub fn new(
        config: TensorlakeConfig,
        workspace: WorkspaceLocation,
    ) -> Result<Self, ConfigError> {
        let scratch = config.scratch_parent.join(format!("forge-{}", random_name()));
        Self::with(config, workspace, scratch, Origin::Made)
    }

    /// A sandbox that another process has made and left behind. It is never deleted by the environment, and no other one
    /// is made where it is gone.
    ///
    /// # Errors
    /// It cannot be had.
    pub(crate) async fn adopted(
        config: TensorlakeConfig,
        workspace: WorkspaceLocation,
        scratch: PathBuf,
        id: &str,
    ) -> Result<Self, EnvironmentError> {
        let made = Self::with(config, workspace, scratch, Origin::Adopted);
        let adopted = made.map_err(|error| unavailable(error.to_string()))?;
        adopted.keep_running();
        let inner = &adopted.inner;
        inner.owned.set(id.to_owned(), SandboxName::None);
        match look(&inner.client, &inner.lifecycle, id).await? {
            Standing::Gone(reason) => return Err(unavailable(reason)),
            Standing::Suspended => resume(&inner.client, &inner.lifecycle, id).await?,
            Standing::Running => {}
        }
        let ready = inner.wait(id, SandboxResponse::default(), Beginning::Resumption).await?;
        inner.state.lock().await.ready = Some(ready);
        Ok(adopted)
    }

    fn with(
        config: TensorlakeConfig,
        workspace: WorkspaceLocation,
        scratch: PathBuf,
        origin: Origin,
    ) -> Result<Self, ConfigError> {
        config.check(&workspace)?;
        let host = workspace.root.clone();
        let workspace = guest_location(&workspace);
        let lifecycle = config.lifecycle()?;
        let client = Client::new(&config, &lifecycle)?;
        let record = Record::new(config.record.clone());
        let mark = config.source.is_some().then(|| scratch.join(PROJECT_MARK));
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                config,
                host,
                workspace,
                scratch,
                closing: CancellationToken::new(),
                calls: Arc::default(),
                begun: AtomicU64::new(0),
                background: Mutex::default(),
                facts: OnceLock::new(),
                secrets: Mutex::default(),
                bring_in: BringIn::default(),
                bring_back: BringBack::default(),
                mark,
                record,
                origin,
                keep_after_all: AtomicBool::new(false),
                suspended: AtomicBool::new(false),
                lifecycle,
                state: AsyncMutex::default(),
                owned: Arc::default(),
                closed: OnceCell::new(),
            }),
        })
    }

    /// Asks the sandbox itself whether it works; makes it if there is none.
    ///
    /// # Errors
    /// It cannot be had, cannot be reached, or does not say that it works.
    ///
    /// # Cancel safety
    /// As [`prepare`](LifecyclePort::prepare).
    pub async fn health(&self) -> Result<(), EnvironmentError> {
        let client = &self.inner.client;
        let (id, health) = self
            .inner
            .on_sandbox("a look at the sandbox's health", |ready| {
                Box::pin(async move {
                    let request = ready.request(client, Method::GET, "/api/v1/health");
                    let response = client.send(request, Repeatable::Yes, &[]).await?;
                    let health: HealthResponse = client.json(response).await?;
                    Ok((ready.id.clone(), health))
                })
            })
            .await?;
        if health.healthy {
            Ok(())
        } else {
            Err(unavailable(format!("the sandbox {id} says that it does not work")))
        }
    }

    /// Leaves the sandbox running at the end, as [`TensorlakeConfig::keep`] does: for when there is something in it that
    /// would be lost.
    pub fn keep_running(&self) {
        self.inner.keep_after_all.store(true, Ordering::Relaxed);
    }

    /// Whether the sandbox was suspended at the end: it was to be kept, has a name, and the server took that.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.inner.suspended.load(Ordering::Relaxed)
    }

    /// The id of the sandbox, once the server has named it and until it is deleted. Of one that was kept
    /// ([`TensorlakeConfig::keep`]), also after the close.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        self.inner.owned.id()
    }
}

impl fmt::Debug for TensorlakeEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorlakeEnvironment").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn project_mark(&self) -> Option<&Path> {
        self.mark.as_deref()
    }

    /// Whether a project that is whole in the sandbox has a mark there.
    pub(crate) fn is_marked(&self) -> bool {
        self.mark.is_some() || self.origin == Origin::Adopted
    }

    /// The name by which the sandbox is remembered.
    pub(crate) fn owned_name(&self) -> SandboxName {
        self.owned.get().map_or(SandboxName::None, |owned| owned.name)
    }

    /// To be called before something that may change the guest's files, and after what nothing else tells to be under way.
    pub(crate) fn may_change_files(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing has changed the guest's files between two calls that say the same; `None` while something may.
    pub(crate) fn standstill(&self) -> Option<u64> {
        let begun = self.begun.load(Ordering::Relaxed);
        self.calls.try_write().ok().map(|_| begun)
    }

    fn is_kept(&self) -> bool {
        self.config.keep || self.keep_after_all.load(Ordering::Relaxed)
    }

    /// The running sandbox, made if there is none. Twenty calls at the same moment make one.
    pub(crate) async fn ready(&self) -> Result<Ready, EnvironmentError> {
        let mut state = self.state.lock().await;
        if self.closing.is_cancelled() {
            return Err(crate::failure::closed());
        }
        if let Some(ready) = &state.ready {
            return Ok(ready.clone());
        }
        let _telling = Telling::begin(self.config.progress.as_ref(), Progress::Starting);
        let id = match self.owned.id().filter(|_| state.creation.is_none()) {
            Some(id) => id,
            None if self.origin == Origin::Adopted => {
                return Err(unavailable("the sandbox is gone".to_owned()));
            }
            None => {
                let creation = state.creation.get_or_insert_with(|| self.create());
                let created = tokio::select! {
                    created = creation => created,
                    () = self.closing.cancelled() => return Err(closed()),
                };
                state.creation = None;
                let made = created.unwrap_or_else(|_| Err(cut_off()))?;
                state.renewed = made.gone.or(state.renewed.take());
                if let Some(had) = made.state {
                    self.bring_in.resume(had);
                }
                if let Some(ready) = made.ready {
                    state.ready = Some(ready.clone());
                    return Ok(ready);
                }
                state.pending = Some(made.response);
                made.id
            }
        };
        let pending = state.pending.take().unwrap_or_default();
        let wait = self.wait(&id, pending, Beginning::Creation);
        let outcome = tokio::select! {
            outcome = wait => outcome,
            () = self.closing.cancelled() => Err(closed()),
        };
        match outcome {
            Ok(ready) => {
                state.ready = Some(ready.clone());
                Ok(ready)
            }
            Err(error) => {
                // What did not come to run is of no use: it is deleted now, and the next call makes
                // another one.
                if !error.is_retryable() {
                    self.delete_owned().await.unwrap_or_else(|error| {
                        warn!(sandbox_id = %id, %error, "A sandbox could not be deleted.");
                    });
                }
                Err(error)
            }
        }
    }

    /// Makes a call on the sandbox. Where that says that the sandbox is not there, it is looked at, and
    /// resumed or made anew, and the call is made once more: it did nothing yet.
    pub(crate) async fn on_sandbox<'a, T>(
        &self,
        operation: &str,
        mut call: impl FnMut(Ready) -> BoxFuture<'a, Result<T, RequestError>> + Send,
    ) -> Result<T, EnvironmentError> {
        let ready = self.ready().await?;
        let error = match call(ready.clone()).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if self.closing.is_cancelled() {
            return Err(closed());
        }
        if !error.may_be_gone() || !self.renew(&ready).await? {
            return Err(error.in_environment(operation));
        }
        let ready = self.ready().await?;
        call(ready).await.map_err(|error| error.in_environment(operation))
    }

    /// Looks at a sandbox that seems not to be there. Says whether anything is different now.
    async fn renew(&self, ready: &Ready) -> Result<bool, EnvironmentError> {
        let mut state = self.state.lock().await;
        if state.ready.as_ref().is_none_or(|now| now.id != ready.id) {
            // Somebody else was here first.
            return Ok(true);
        }
        let reason = match look(&self.client, &self.lifecycle, &ready.id).await? {
            Standing::Running => return Ok(false),
            Standing::Suspended => {
                let _telling = Telling::begin(self.config.progress.as_ref(), Progress::Starting);
                resume(&self.client, &self.lifecycle, &ready.id).await?;
                let wait = self.wait(&ready.id, SandboxResponse::default(), Beginning::Resumption);
                state.ready = Some(wait.await?);
                info!(sandbox_id = %ready.id, "The sandbox was suspended and is resumed.");
                return Ok(true);
            }
            Standing::Gone(reason) => reason,
        };
        warn!(sandbox_id = %ready.id, %reason, "The sandbox is gone; another one is made.");
        // It exists no longer, so there is nothing to delete.
        if let Some(owned) = self.owned.take() {
            self.record.forget(&owned.name).await;
        }
        state.ready = None;
        state.renewed = Some(reason);
        Ok(true)
    }

    /// What has to be said about the sandbox along with the next result, once.
    pub(crate) async fn take_notices(&self) -> Vec<Notice> {
        let reason = self.state.lock().await.renewed.take();
        reason.map(|reason| Notice::EnvironmentRecreated { reason }).into_iter().collect()
    }

    /// The means to speak to this sandbox.
    pub(crate) fn guest(&self, ready: Ready) -> Guest {
        Guest {
            client: self.client.clone(),
            ready,
            scratch: self.scratch.clone(),
            closing: self.closing.clone(),
            keep: self.is_kept(),
        }
    }

    /// For a connection that becomes a socket.
    pub(crate) fn socket_client(&self) -> Result<Client, EnvironmentError> {
        let client = Client::for_sockets(&self.config, &self.lifecycle);
        client.map_err(|error| unavailable(error.to_string()))
    }

    async fn wait(
        &self,
        id: &str,
        pending: SandboxResponse,
        beginning: Beginning,
    ) -> Result<Ready, EnvironmentError> {
        let (client, lifecycle) = (&self.client, &self.lifecycle);
        wait_until_running(client, lifecycle, &self.config, id, pending, beginning).await
    }

    fn create(&self) -> Creation {
        let creator = Creator {
            client: self.client.clone(),
            lifecycle: self.lifecycle.clone(),
            config: self.config.clone(),
            owned: Arc::downgrade(&self.owned),
            record: self.record.clone(),
            closing: self.closing.clone(),
        };
        creator.begin()
    }

    /// Waits for a creation that nobody waits for any more: its id has to be known to be deleted.
    async fn end_creation(&self, creation: Option<Creation>) -> Result<(), String> {
        let Some(creation) = creation else { return Ok(()) };
        let lifetime = self.config.lifetime;
        let created = tokio::time::timeout(CREATION_LIMIT, creation).await;
        created.map(drop).map_err(|_| {
            let begun = "a sandbox was being made, and the server did not say which";
            if self.record.is_kept() {
                format!("{begun}: it is looked for by its name later")
            } else {
                format!("{begun}: it ends by itself after {lifetime:?}")
            }
        })
    }

    /// A sandbox that is kept keeps no command running.
    async fn end_commands(&self) -> Result<(), String> {
        let ended = tokio::time::timeout(COMMANDS_LIMIT, self.calls.write()).await;
        if self.config.keep
            && let Some(owned) = self.owned.get()
            && !self.keep_after_all.load(Ordering::Relaxed)
        {
            let state = self.whole_state().await;
            self.record.keep(&owned.name, state).await;
            self.suspend(&owned).await;
        }
        ended.map(drop).map_err(|_| "commands in the sandbox could not be ended".to_owned())
    }

    /// One that is kept stands still until it is gone on with. Where that cannot be, it goes on running.
    async fn suspend(&self, owned: &OwnedSandbox) {
        if owned.name.as_str().is_none() {
            return;
        }
        let suspension = suspend(&self.client, &self.lifecycle, &owned.id);
        match tokio::time::timeout(DELETE_LIMIT, suspension).await {
            Ok(Ok(())) => self.suspended.store(true, Ordering::Relaxed),
            Ok(Err(error)) => {
                warn!(sandbox_id = %owned.id, %error, "The sandbox could not be suspended.");
            }
            Err(_) => warn!(sandbox_id = %owned.id, "The sandbox was not suspended in time."),
        }
    }

    async fn delete_owned(&self) -> Result<(), String> {
        let Some(OwnedSandbox { id, name }) = self.owned.take() else { return Ok(()) };
        match tokio::time::timeout(DELETE_LIMIT, delete(&self.client, &self.lifecycle, &id)).await {
            Ok(Ok(())) => {
                self.record.forget(&name).await;
                Ok(())
            }
            Ok(Err(error)) => Err(format!("the sandbox {id} could not be deleted: {error}")),
            Err(_) => Err(format!("the sandbox {id} was not deleted within {DELETE_LIMIT:?}")),
        }
    }
}

/// Deletes a sandbox, bounded by ten seconds.
pub(crate) async fn delete_within_limit(
    client: &Client,
    lifecycle: &Lifecycle,
    id: &str,
) -> Result<(), EnvironmentError> {
    match tokio::time::timeout(DELETE_LIMIT, delete(client, lifecycle, id)).await {
        Ok(deleted) => deleted.map_err(|error| error.in_environment("the deletion of the sandbox")),
        Err(_) => Err(unavailable(format!("it was not deleted within {DELETE_LIMIT:?}"))),
    }
}

#[async_trait]
impl LifecyclePort for TensorlakeEnvironment {
    async fn prepare(&self) -> Result<(), EnvironmentError> {
        self.inner.first_use().await
    }

    async fn checkpoint(&self) -> Result<(), EnvironmentError> {
        // What there is, is in the microVM, which outlives this process.
        if self.inner.closing.is_cancelled() { Err(closed()) } else { Ok(()) }
    }

    async fn close(&self) -> Result<(), EnvironmentError> {
        let inner = &self.inner;
        let outcome = inner
            .closed
            .get_or_init(|| async {
                inner.closing.cancel();
                let mut state = inner.state.lock().await;
                inner.end_creation(state.creation.take()).await?;
                if inner.is_kept() {
                    inner.end_commands().await
                } else {
                    inner.delete_owned().await
                }
            })
            .await;
        outcome.clone().map_err(unavailable)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Background commands hold what they need of the sandbox and not the environment.
        self.closing.cancel();
        if self.is_kept() {
            return;
        }
        let Some(owned) = self.owned.take() else { return };
        let id = owned.id.clone();
        warn!(sandbox_id = %id, "A sandbox was not closed; it is deleted now.");
        // A connection of before belongs to a runtime that may be gone, or may never be polled again.
        match Client::new(&self.config, &self.lifecycle) {
            Ok(client) => {
                let reaping = reap(client, self.lifecycle.clone(), self.record.clone(), owned);
                reap_in_a_thread(reaping);
            }
            Err(error) => warn!(sandbox_id = %id, %error, "A sandbox could not be deleted."),
        }
    }
}

fn cut_off() -> EnvironmentError {
    unavailable("the creation of a sandbox was cut off".to_owned())
}

pub(crate) async fn reap(
    client: Client,
    lifecycle: Lifecycle,
    record: Record,
    sandbox: OwnedSandbox,
) {
    let OwnedSandbox { id, name } = sandbox;
    match tokio::time::timeout(DELETE_LIMIT, delete(&client, &lifecycle, &id)).await {
        Ok(Ok(())) => record.forget(&name).await,
        Ok(Err(error)) => warn!(sandbox_id = %id, %error, "A sandbox could not be deleted."),
        Err(_) => warn!(sandbox_id = %id, "A sandbox was not deleted in time."),
    }
}

/// Deletions that go on in threads of their own.
static REAPERS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Waits until the sandboxes are deleted that were dropped without being closed, and says how many were not
/// within the limit. For the end of a program, which the threads that delete do not outlive.
pub fn wait_for_reapers(limit: Duration) -> usize {
    let (count, changed) = &REAPERS;
    let count = count.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = changed.wait_timeout_while(count, limit, |count| *count > 0);
    *waited.unwrap_or_else(PoisonError::into_inner).0
}

/// Counts one deletion for as long as it lives.
struct Reaper;

impl Reaper {
    fn new() -> Self {
        *REAPERS.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        *REAPERS.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        REAPERS.1.notify_all();
    }
}

/// The thread lives for as long as the deletion may take.
fn reap_in_a_thread(reaping: impl Future<Output = ()> + Send + 'static) {
    let reaper = Reaper::new();
    let work = move || {
        let _reaper = reaper;
        delete_on_a_runtime(reaping);
    };
    if let Err(error) = std::thread::Builder::new().name("forge-reaper".to_owned()).spawn(work) {
        warn!(%error, "A sandbox could not be deleted: there is no thread.");
    }
}

fn delete_on_a_runtime(reaping: impl Future<Output = ()>) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(reaping),
        Err(error) => warn!(%error, "A sandbox could not be deleted: there is no runtime."),
    }
}

/// A name that nobody can guess: commands of a sandbox could forge what is marked with it otherwise.
pub(crate) fn random_name() -> String {
    let mut bytes = [0_u8; 16];
    match rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes) {
        Ok(()) => u128::from_ne_bytes(bytes),
        // Never seen on a system that has a random device.
        Err(_) => u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)),
    }
    .to_string()
}
