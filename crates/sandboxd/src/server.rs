//! The server itself.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::ServerConfig;
use crate::connections::{self, ConnectionLimits};
use crate::key::ApiKey;
use crate::process::OutputPlace;
use crate::registry::Registry;
use crate::routes;
use crate::state::{StateDirectory, StateError, StateLock};
use crate::terminal::Patience;

/// How long open connections are given when everything has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why there is no server.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Its directory cannot be used.
    #[error("the server's directory is not to be had")]
    State(#[from] StateError),
    /// It cannot listen.
    #[error("listening on {address} failed")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// A running server.
///
/// Dropping it begins what [`Server::close`] does and waits for, where the runtime goes on; what is left
/// is removed by the next server in the same directory. No process of a sandbox outlives this program.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    ending: CancellationToken,
    running: Mutex<Option<Running>>,
}

/// What ends last.
#[derive(Debug)]
struct Running {
    task: JoinHandle<()>,
    lock: StateLock,
}

/// What every request can reach.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) key: ApiKey,
    pub(crate) address: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) output: OutputPlace,
    pub(crate) patience: Patience,
    pub(crate) max_file_bytes: u64,
    pub(crate) max_body_bytes: usize,
    pub(crate) stall_limit: Duration,
}

impl Server {
    /// Takes the directory, removes what a former server left there, and listens.
    ///
    /// # Errors
    /// [`ServerError`]; nothing is left behind then.
    ///
    /// # Cancel safety
    /// Dropping the future listens to nothing.
    pub async fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let path = config.state_directory.clone();
        let taking = tokio::task::spawn_blocking(move || StateDirectory::take(&path)).await;
        let (state, lock) = match taking {
            Ok(state) => state?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let failed = |source| ServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let output =
            OutputPlace { directory: state.path.clone(), kept_bytes: config.kept_output_bytes };
        let shared = Arc::new(Shared {
            key: config.key,
            address,
            registry: Registry::new(config.sandbox, state),
            output,
            patience: Patience {
                ping_interval: config.ping_interval,
                silence_limit: config.silence_limit,
                alone_limit: config.alone_limit,
            },
            max_file_bytes: config.max_file_bytes,
            max_body_bytes: config.max_body_bytes,
            stall_limit: config.stall_limit,
        });
        let app = routes::router(Arc::clone(&shared), config.run);
        let ending = CancellationToken::new();
        let limits = ConnectionLimits {
            max_connections: config.max_connections,
            header_limit: config.header_limit,
        };
        let task = tokio::spawn(connections::serve(listener, app, limits, ending.clone()));
        let running = Mutex::new(Some(Running { task, lock }));
        info!(%address, "The server listens.");
        Ok(Self { address, shared, ending, running })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends every sandbox, then the server. A second call does nothing. Bounded by what ending a sandbox is, some ten seconds.
    ///
    /// # Cancel safety
    /// Sandboxes whose end has begun end all the same.
    pub async fn close(&self) {
        self.ending.cancel();
        self.shared.registry.close().await;
        if let Some(Running { task, lock }) = self.take_running() {
            let stop = task.abort_handle();
            if tokio::time::timeout(FAREWELL, task).await.is_err() {
                stop.abort();
            }
            drop(lock);
        }
    }

    fn take_running(&self) -> Option<Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.cancel();
        // Nothing is left where it was closed.
        let (Some(running), Ok(runtime)) =
            (self.take_running(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        runtime.spawn(async move {
            shared.registry.close().await;
            drop(running);
        });
    }
}
