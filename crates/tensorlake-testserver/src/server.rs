//! The server itself.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::serve::ListenerExt as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::api;
use crate::sandboxes::{Sandbox, Status};

/// Which daemon is in the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Daemon {
    /// The newer one: `run` with a time limit, a group for each process, leftovers reaped, bytes that are no
    /// UTF-8 replaced.
    #[default]
    WithRun,
    /// The open one: no `run`, no groups, nothing reaped, and a reader that gives up at what is no UTF-8.
    Open,
}

/// What a creation is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Creation {
    /// 200, running.
    #[default]
    Running,
    /// 202, pending; it runs after two looks.
    Pending,
    /// 504 with the id of a sandbox that stays in the queue.
    TimedOut,
}

/// How a server is started.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Default: [`Daemon::WithRun`].
    pub daemon: Daemon,
    /// Default: [`Creation::Running`].
    pub creation: Creation,
    /// The port. Default 0: a free one.
    pub port: u16,
    /// Each request waits for so long, as on a slow network. Default: none.
    pub latency: Duration,
    /// The key that requests need. Default: any.
    pub key: Option<String>,
    /// A project's directory that processes must not see; see the crate's documentation. Default: none.
    pub workspace: Option<PathBuf>,
    /// The only directory in which processes find programs. Default: the usual ones.
    pub tools: Option<PathBuf>,
    /// The largest body. Default: 2 MiB, as the open daemon has it.
    pub max_body_bytes: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            daemon: Daemon::default(),
            creation: Creation::default(),
            port: 0,
            latency: Duration::ZERO,
            key: None,
            workspace: None,
            tools: None,
            max_body_bytes: 2 * 1024 * 1024,
        }
    }
}

/// A request as it came, without its headers and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRequest {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The address that it came from: one for each connection.
    pub peer: SocketAddr,
}

/// A running server. Dropping it ends its sandboxes and everything in them.
#[derive(Debug)]
pub struct TestServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: ServerOptions,
    pub(crate) url: String,
    pub(crate) directory: TempDir,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    requests: Mutex<Vec<RecordedRequest>>,
}

impl TestServer {
    /// Starts one.
    ///
    /// # Errors
    /// It cannot listen, or has no directory of its own.
    pub async fn start(options: ServerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            options,
            url: format!("http://{address}"),
            directory: tempfile::Builder::new().prefix("testserver-").tempdir()?,
            sandboxes: Mutex::default(),
            requests: Mutex::default(),
        });
        let app =
            api::router(Arc::clone(&shared)).into_make_service_with_connect_info::<SocketAddr>();
        let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
        // It never ends by itself; whose connections fail sees it.
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { address, shared, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A directory of the server's own, for whatever its processes are to see.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.shared.directory.path()
    }

    /// All requests so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.requests().clone()
    }

    /// How many requests with this method have a path that ends like this.
    #[must_use]
    pub fn count(&self, method: &str, path_end: &str) -> usize {
        let requests = self.shared.requests();
        let counts = |r: &&RecordedRequest| r.method == method && r.path.ends_with(path_end);
        requests.iter().filter(counts).count()
    }

    /// The ids of the sandboxes that run.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        let sandboxes = self.shared.sandboxes();
        let runs = |sandbox: &&Arc<Sandbox>| sandbox.status() != Status::Terminated;
        sandboxes.values().filter(runs).map(|sandbox| sandbox.id.clone()).collect()
    }

    /// Ends a sandbox, as its time-out would.
    pub fn terminate(&self, id: &str) {
        if let Some(sandbox) = self.shared.sandbox(id) {
            sandbox.terminate();
        }
    }

    /// Forgets a sandbox: it is not found any more.
    pub fn forget(&self, id: &str) {
        self.terminate(id);
        self.shared.sandboxes().remove(id);
    }

    /// Cuts every socket to a terminal, without a word.
    pub fn cut_terminals(&self) {
        for sandbox in self.shared.sandboxes().values() {
            for terminal in sandbox.terminals().values() {
                terminal.cut();
            }
        }
    }

    /// Suspends a sandbox: it answers nothing until it is resumed.
    pub fn suspend(&self, id: &str) {
        if let Some(sandbox) = self.shared.sandbox(id) {
            sandbox.set_status(Status::Suspended);
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
        let sandboxes = std::mem::take(&mut *self.shared.sandboxes());
        for sandbox in sandboxes.values() {
            sandbox.terminate();
        }
    }
}

impl Shared {
    pub(crate) fn sandboxes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Sandbox>>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sandbox(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.sandboxes().get(id).cloned()
    }

    pub(crate) fn requests(&self) -> MutexGuard<'_, Vec<RecordedRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
