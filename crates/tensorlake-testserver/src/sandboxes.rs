//! Sandboxes: a name, a status, processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::namespace::Namespace;
use crate::processes::{Process, SERVER_MARK, kill_marked};
use crate::terminals::Terminal;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It runs once it has been asked for so many times more.
    Pending(u32),
    Running,
    Suspended,
    Terminated,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending(_) => "pending",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Terminated => "terminated",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    mark: String,
    pub(crate) home: PathBuf,
    pub(crate) namespace: Option<Namespace>,
    status: Mutex<Status>,
    processes: Mutex<BTreeMap<u32, Arc<Process>>>,
    terminals: Mutex<BTreeMap<String, Arc<Terminal>>>,
}

impl Sandbox {
    pub(crate) fn new(
        id: String,
        status: Status,
        home: PathBuf,
        namespace: Option<Namespace>,
    ) -> Self {
        let mark = format!("{id}-{:016x}", fastrand::u64(..));
        Self {
            id,
            mark,
            home,
            namespace,
            status: Mutex::new(status),
            processes: Mutex::default(),
            terminals: Mutex::default(),
        }
    }

    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    pub(crate) fn status(&self) -> Status {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_status(&self, status: Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// One more look at a sandbox that starts.
    pub(crate) fn looked_at(&self) {
        match self.status() {
            Status::Pending(0) => self.set_status(Status::Running),
            Status::Pending(left) => self.set_status(Status::Pending(left - 1)),
            Status::Running | Status::Suspended | Status::Terminated => {}
        }
    }

    pub(crate) fn info(&self, url: &str) -> Value {
        json!({
            "id": self.id, "sandbox_id": self.id, "namespace": "default",
            "status": self.status().name(), "sandbox_url": url,
            "resources": {"cpus": 1.0, "memory_mb": 1024, "disk_mb": 1024},
        })
    }

    pub(crate) fn processes(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Process>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn terminals(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Terminal>>> {
        self.terminals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything in it.
    pub(crate) fn terminate(&self) {
        self.set_status(Status::Terminated);
        for process in self.processes().values() {
            if process.is_running() {
                process.reap();
            }
        }
        kill_marked(SERVER_MARK, &self.mark);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.terminate();
    }
}
