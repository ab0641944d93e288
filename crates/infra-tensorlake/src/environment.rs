//! One sandbox, shared by clones: made by the first use, deleted exactly once.
//!
//! The id is owned from the moment in which the server names it, before the wait for the sandbox to run: a
//! creation goes on in a task of its own, so that a caller who gives up does not lose the answer.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use forge_domain::{EnvironmentError, Lifecycle as LifecyclePort};
use reqwest::Method;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::address::Lifecycle;
use crate::client::Client;
use crate::config::{ConfigError, TensorlakeConfig};
use crate::failure::{RequestError, closed, unavailable};
use crate::lifecycle::{Ready, create, delete, wait_until_running};
use crate::retry::Repeatable;
use crate::wire::{HealthResponse, SandboxResponse};

/// How long a deletion may take, its attempts included.
const DELETE_LIMIT: Duration = Duration::from_secs(10);

/// A Tensorlake sandbox. Clones share one; nothing is made before the first use.
///
/// [`close`](LifecyclePort::close) deletes it and says what went wrong. The drop of the last clone deletes
/// it too, without blocking: in a task where a runtime is at hand, else in a short-lived thread. Beyond
/// that, the server ends it after [`TensorlakeConfig::lifetime`].
#[derive(Clone)]
pub struct TensorlakeSandbox {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    config: TensorlakeConfig,
    closing: CancellationToken,
    lifecycle: Lifecycle,
    state: AsyncMutex<State>,
    owned: Arc<Owned>,
    closed: OnceCell<Result<(), String>>,
}

#[derive(Default)]
struct State {
    ready: Option<Ready>,
    /// The last answer about the owned sandbox, from which the wait goes on.
    pending: Option<SandboxResponse>,
}

/// The id of the sandbox that is ours to delete. Whoever takes it deletes it; nobody else does.
#[derive(Default)]
struct Owned(Mutex<Option<String>>);

impl Owned {
    fn set(&self, id: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl TensorlakeSandbox {
    /// Checks the configuration. Sends nothing.
    ///
    /// # Errors
    /// [`ConfigError`]: an address or the key cannot be used.
    pub fn new(config: TensorlakeConfig) -> Result<Self, ConfigError> {
        let lifecycle = config.lifecycle()?;
        let client = Client::new(&config, &lifecycle)?;
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                config,
                closing: CancellationToken::new(),
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
        let ready = self.inner.ready().await?;
        let client = &self.inner.client;
        let failed = |error: RequestError| error.in_environment("a look at the sandbox's health");
        let request = ready.request(client, Method::GET, "/api/v1/health");
        let response = client.send(request, Repeatable::Yes, &[]).await.map_err(failed)?;
        let health: HealthResponse = client.json(response).await.map_err(failed)?;
        if health.healthy {
            Ok(())
        } else {
            Err(unavailable(format!("the sandbox {} says that it does not work", ready.id)))
        }
    }

    /// The id of the sandbox, once the server has named it.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        self.inner.owned.get()
    }
}

impl fmt::Debug for TensorlakeSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorlakeSandbox").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Inner {
    /// The running sandbox, made if there is none. Twenty calls at the same moment make one.
    async fn ready(&self) -> Result<Ready, EnvironmentError> {
        let mut state = self.state.lock().await;
        if self.closing.is_cancelled() {
            return Err(closed());
        }
        if let Some(ready) = &state.ready {
            return Ok(ready.clone());
        }
        let id = match self.owned.get() {
            Some(id) => id,
            None => {
                let (id, response) = self.create().await?;
                state.pending = Some(response);
                id
            }
        };
        let pending = state.pending.take().unwrap_or_default();
        let wait = wait_until_running(&self.client, &self.lifecycle, &self.config, &id, pending);
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

    /// In a task, which goes on where the caller gives up. A sandbox that is named after that is owned all
    /// the same, or deleted at once where nobody is left to own it.
    async fn create(&self) -> Result<(String, SandboxResponse), EnvironmentError> {
        let (client, lifecycle) = (self.client.clone(), self.lifecycle.clone());
        let (config, owned) = (self.config.clone(), Arc::downgrade(&self.owned));
        let creation = tokio::spawn(async move {
            let created = create(&client, &lifecycle, &config).await?;
            match owned.upgrade() {
                Some(owned) => owned.set(created.id.clone()),
                None => reap(client, lifecycle, created.id.clone()).await,
            }
            Ok((created.id, created.response))
        });
        creation.await.unwrap_or_else(|_| {
            Err(unavailable("the creation of a sandbox was cut off".to_owned()))
        })
    }

    async fn delete_owned(&self) -> Result<(), String> {
        let Some(id) = self.owned.take() else { return Ok(()) };
        let deletion = delete(&self.client, &self.lifecycle, &id);
        match tokio::time::timeout(DELETE_LIMIT, deletion).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the sandbox {id} could not be deleted: {error}")),
            Err(_) => Err(format!("the sandbox {id} was not deleted within {DELETE_LIMIT:?}")),
        }
    }
}

#[async_trait]
impl LifecyclePort for TensorlakeSandbox {
    async fn prepare(&self) -> Result<(), EnvironmentError> {
        self.inner.ready().await.map(drop)
    }

    async fn close(&self) -> Result<(), EnvironmentError> {
        let inner = &self.inner;
        let outcome = inner
            .closed
            .get_or_init(|| async {
                inner.closing.cancel();
                // Waits for a creation that is under way: its id has to be known.
                let _state = inner.state.lock().await;
                inner.delete_owned().await
            })
            .await;
        outcome.clone().map_err(unavailable)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(id) = self.owned.take() else { return };
        warn!(sandbox_id = %id, "A sandbox was not closed; it is deleted now.");
        let reaping = reap(self.client.clone(), self.lifecycle.clone(), id);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(reaping)),
            Err(_) => reap_in_a_thread(reaping),
        }
    }
}

async fn reap(client: Client, lifecycle: Lifecycle, id: String) {
    match tokio::time::timeout(DELETE_LIMIT, delete(&client, &lifecycle, &id)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(sandbox_id = %id, %error, "A sandbox could not be deleted."),
        Err(_) => warn!(sandbox_id = %id, "A sandbox was not deleted in time."),
    }
}

/// Outside of a runtime there is nobody to spawn on. The thread lives for as long as the deletion may take,
/// and nobody waits for it.
fn reap_in_a_thread(reaping: impl Future<Output = ()> + Send + 'static) {
    let work = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(reaping),
        Err(error) => warn!(%error, "A sandbox could not be deleted: there is no runtime."),
    };
    if let Err(error) = std::thread::Builder::new().name("forge-reaper".to_owned()).spawn(work) {
        warn!(%error, "A sandbox could not be deleted: there is no thread.");
    }
}
