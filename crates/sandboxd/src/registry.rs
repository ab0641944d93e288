//! All sandboxes of a server, by their ids and names.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use forge_infra_sandbox::SandboxConfig;

use crate::failure::Failure;
use crate::sandbox::{Reason, Sandbox, Wish};
use crate::state::StateDirectory;

/// So many sandboxes that have ended are remembered.
const REMEMBERED: usize = 256;

const ID_LENGTH: usize = 20;

/// The sandboxes, those that have ended included, as far as they are remembered.
#[derive(Debug)]
pub(crate) struct Registry {
    template: SandboxConfig,
    pub(crate) state: Arc<StateDirectory>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    all: BTreeMap<String, Arc<Sandbox>>,
    /// The ids in order of creation.
    order: VecDeque<String>,
    is_closed: bool,
}

impl Registry {
    pub(crate) fn new(template: SandboxConfig, state: StateDirectory) -> Self {
        Self { template, state: Arc::new(state), table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Changed by single steps: a panic elsewhere leaves it whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a sandbox that is pending and begins to start it.
    pub(crate) fn create(&self, wish: Wish) -> Result<Arc<Sandbox>, Failure> {
        let mut table = self.table();
        if table.is_closed {
            let text = "the server is being ended";
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "SERVER_ENDS", text));
        }
        if let Some(name) = &wish.name {
            table.check_free(name)?;
        }
        let sandbox = Sandbox::new(wish, &self.template, &self.state);
        table.order.push_back(sandbox.id.clone());
        table.all.insert(sandbox.id.clone(), Arc::clone(&sandbox));
        table.forget_oldest();
        drop(table);
        sandbox.begin();
        Ok(sandbox)
    }

    /// The sandbox of this id, or the living one of this name.
    pub(crate) fn find(&self, id_or_name: &str) -> Option<Arc<Sandbox>> {
        let table = self.table();
        table.all.get(id_or_name).cloned().or_else(|| table.named(id_or_name).cloned())
    }

    /// Gives a sandbox a name.
    pub(crate) fn rename(&self, sandbox: &Sandbox, name: &str) -> Result<(), Failure> {
        check_name(name)?;
        let table = self.table();
        match table.named(name) {
            Some(holder) if holder.id == sandbox.id => {}
            _ => table.check_free(name)?,
        }
        sandbox.set_name(name);
        Ok(())
    }

    /// Those that have not ended, in order of creation.
    pub(crate) fn alive(&self, namespace: &str) -> Vec<Arc<Sandbox>> {
        let table = self.table();
        let all = table.order.iter().filter_map(|id| table.all.get(id));
        all.filter(|sandbox| !sandbox.status().is_over() && sandbox.namespace() == namespace)
            .cloned()
            .collect()
    }

    /// Ends all of them, and lets nobody make another.
    pub(crate) async fn close(&self) {
        let all: Vec<_> = {
            let mut table = self.table();
            table.is_closed = true;
            table.all.values().cloned().collect()
        };
        let ends = all.iter().map(|sandbox| sandbox.terminate(Reason::ServerEnds));
        futures_util::future::join_all(ends).await;
    }
}

impl Table {
    fn named(&self, name: &str) -> Option<&Arc<Sandbox>> {
        // A host is not told apart by capitals, and a name may come as one.
        let is_it = |sandbox: &&Arc<Sandbox>| {
            !sandbox.status().is_over()
                && sandbox.name().is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        self.all.values().find(is_it)
    }

    fn check_free(&self, name: &str) -> Result<(), Failure> {
        if self.named(name).is_none() && !self.all.contains_key(name) {
            return Ok(());
        }
        let text = format!("a sandbox named {name:?} exists already");
        Err(Failure::new(StatusCode::CONFLICT, "NAME_TAKEN", text))
    }

    fn forget_oldest(&mut self) {
        let over: Vec<String> = self
            .order
            .iter()
            .filter(|id| self.all.get(*id).is_some_and(|sandbox| sandbox.status().is_over()))
            .cloned()
            .collect();
        for id in over.iter().take(over.len().saturating_sub(REMEMBERED)) {
            self.all.remove(id);
            self.order.retain(|other| other != id);
        }
    }
}

/// Twenty letters and digits.
pub(crate) fn new_id() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let letter = |_| char::from(LETTERS[fastrand::usize(..LETTERS.len())]);
    (0..ID_LENGTH).map(letter).collect()
}

/// A name stands in paths and hosts.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && name.len() <= 128 && name.bytes().all(is_part) {
        return Ok(());
    }
    Err(Failure::bad(format!(
        "the name {name:?} is not one of letters, digits, '-', '_' and '.', at most 128 of them, the \
         first a letter or a digit"
    )))
}
