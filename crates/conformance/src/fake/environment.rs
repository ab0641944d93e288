//! The fake itself: what its ports share.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forge_domain::{EnvironmentError, EnvironmentKind, EnvironmentVariable, FileError};
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio_util::sync::CancellationToken;

use super::background::BackgroundTable;
use super::levers::Levers;
use super::tree::{Last, Node, SCRATCH, Tree, WORKSPACE};
use crate::Scenario;

/// An environment in memory: no process, no disk, every promise kept to the letter.
///
/// Its workspace is `/project`, its scratch space `/scratch`, and `/elsewhere/file` is a file that
/// must not be reached. It runs [`Scenario`]s, the commands of [`FakeEnvironment::on_command`], and a
/// handful of common ones: `true`, `false`, `exit N`, `echo …`, `pwd`, `cat …`, `printenv NAME`,
/// `sleep S`, without quoting. Clones share one environment.
#[derive(Clone)]
pub struct FakeEnvironment {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) levers: Levers,
    pub(super) variables: Vec<EnvironmentVariable>,
    tree: Mutex<Tree>,
    pub(super) base: Mutex<Tree>,
    commands: Mutex<HashMap<String, Scenario>>,
    history: Mutex<Vec<String>>,
    pub(super) background: Mutex<BackgroundTable>,
    pub(super) closing: CancellationToken,
    /// Cancelled when changes are discarded: what runs ends. Replaced by a new one each time.
    pub(super) discarding: Mutex<CancellationToken>,
    calls: RwLock<()>,
    spills: AtomicU64,
}

impl FakeEnvironment {
    /// An empty workspace.
    #[must_use]
    pub fn new() -> Self {
        Self::with_variables(Vec::new())
    }

    /// An empty workspace whose commands get these variables.
    #[must_use]
    pub fn with_variables(variables: Vec<EnvironmentVariable>) -> Self {
        let tree = Tree::new();
        Self {
            inner: Arc::new(Inner {
                levers: Levers::default(),
                variables,
                base: Mutex::new(tree.clone()),
                tree: Mutex::new(tree),
                commands: Mutex::default(),
                history: Mutex::default(),
                background: Mutex::default(),
                closing: CancellationToken::new(),
                discarding: Mutex::default(),
                calls: RwLock::new(()),
                spills: AtomicU64::new(1),
            }),
        }
    }

    /// What can be made to go wrong.
    #[must_use]
    pub fn levers(&self) -> &Levers {
        &self.inner.levers
    }

    /// From now on this shell text, or an argv joined by spaces, does what the scenario says.
    pub fn on_command(&self, text: impl Into<String>, scenario: Scenario) {
        lock(&self.inner.commands).insert(text.into(), scenario);
    }

    /// Puts a file into the workspace as it was taken in: it is no change of the session.
    pub fn put_file(&self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) {
        let path = Path::new(WORKSPACE).join(path);
        let node = Node::File { bytes: bytes.into(), mode: 0o644 };
        for tree in [&self.inner.base, &self.inner.tree] {
            let mut tree = lock(tree);
            tree.make_directories(&path, path.parent().unwrap()).unwrap();
            tree.put(&path, node.clone());
        }
    }

    /// The contents of a file, relative to the workspace or absolute, if it is there.
    #[must_use]
    pub fn file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        match self.inner.tree().get(&Path::new(WORKSPACE).join(path)) {
            Some(Node::File { bytes, .. }) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// The commands so far, in order of their start; an argv joined by spaces.
    #[must_use]
    pub fn history(&self) -> Vec<String> {
        lock(&self.inner.history).clone()
    }
}

impl Default for FakeEnvironment {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FakeEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeEnvironment")
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(super) fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.tree)
    }

    pub(super) fn closed() -> EnvironmentError {
        EnvironmentError::Closed { environment: EnvironmentKind::Fake }
    }

    /// Begins a call, or refuses it: the environment is closed, or a lever says so.
    pub(super) async fn enter(
        &self,
        operation: &str,
    ) -> Result<RwLockReadGuard<'_, ()>, EnvironmentError> {
        if self.closing.is_cancelled() {
            return Err(Self::closed());
        }
        let guard = self.calls.read().await;
        tokio::select! {
            passed = self.levers.pass(operation) => passed?,
            () = self.closing.cancelled() => return Err(Self::closed()),
        }
        if self.closing.is_cancelled() { Err(Self::closed()) } else { Ok(guard) }
    }

    pub(super) async fn all_calls_ended(&self) {
        drop(self.calls.write().await);
    }

    pub(super) fn record(&self, command: String) {
        lock(&self.history).push(command);
    }

    pub(super) fn scripted(&self, command: &str) -> Option<Scenario> {
        lock(&self.commands).get(command).cloned()
    }

    pub(super) fn next_spill(&self) -> PathBuf {
        let number = self.spills.fetch_add(1, Ordering::Relaxed);
        Path::new(SCRATCH).join(format!("output-{number}.log"))
    }

    /// Where a path leads, if that is inside.
    pub(super) fn resolve(&self, path: &Path, last: Last) -> Result<PathBuf, FileError> {
        if path.as_os_str().is_empty() {
            let reason = "it is empty".to_owned();
            return Err(FileError::InvalidPath { path: path.to_path_buf(), reason });
        }
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            let reason = "it holds a NUL byte".to_owned();
            return Err(FileError::InvalidPath { path: path.to_path_buf(), reason });
        }
        if path.components().any(|part| part.as_os_str().len() > 255) {
            let reason = "a name in it is too long".to_owned();
            return Err(FileError::InvalidPath { path: path.to_path_buf(), reason });
        }
        let resolved = self.tree().resolve(path, &Path::new(WORKSPACE).join(path), last)?;
        if resolved.starts_with(WORKSPACE) || resolved.starts_with(SCRATCH) {
            Ok(resolved)
        } else {
            Err(FileError::Outside { path: path.to_path_buf() })
        }
    }
}
