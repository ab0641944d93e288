//! The terminals of a sandbox.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;

use super::session::Terminal;
use crate::failure::Failure;

/// Terminals of a sandbox at the same time.
const MAX_TERMINALS: usize = 64;

/// The terminals of a sandbox, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Terminals(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    all: BTreeMap<String, Arc<Terminal>>,
    /// The sandbox ends, and there will be no other.
    is_released: bool,
}

impl Terminals {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Changed by single steps: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Terminal>> {
        self.table().all.get(id).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<Terminal>> {
        self.table().all.values().cloned().collect()
    }

    /// Ends one, and forgets it at once.
    pub(crate) fn delete(&self, id: &str) -> bool {
        let terminal = self.table().all.remove(id);
        if let Some(terminal) = &terminal {
            terminal.end();
        }
        terminal.is_some()
    }

    /// Lets no command wait for a client any more, and no other terminal begin.
    pub(crate) fn release(&self) {
        let all = {
            let mut table = self.table();
            table.is_released = true;
            std::mem::take(&mut table.all)
        };
        for terminal in all.into_values() {
            terminal.release();
        }
    }

    pub(super) fn insert(&self, terminal: &Arc<Terminal>) -> Result<(), Failure> {
        let mut table = self.table();
        if table.is_released {
            let text = "the sandbox is terminated";
            let code = "SANDBOX_NOT_RUNNING";
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, code, text));
        }
        if table.all.len() >= MAX_TERMINALS {
            // One that has ended is there for late clients only.
            let ended = table
                .all
                .values()
                .filter_map(|terminal| terminal.ended_ms().zip(Some(&terminal.id)));
            let Some((_, oldest)) = ended.min().map(|(at, id)| (at, id.clone())) else {
                let text = format!("the sandbox has {MAX_TERMINALS} terminals already");
                return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_SESSIONS", text));
            };
            if let Some(oldest) = table.all.remove(&oldest) {
                oldest.end();
            }
        }
        table.all.insert(terminal.id.clone(), Arc::clone(terminal));
        Ok(())
    }
}
