//! How an environment comes to a sandbox: one that was kept is gone on with, else one is made.
//!
//! It happens in a task of its own, which goes on where the caller gives up: what the server names is owned from that moment on,
//! or deleted at once where nobody is left to own it. What it is found by is written down before it is asked for.

use std::sync::Weak;

use forge_domain::{EnvironmentError, KeptSandbox};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::address::Lifecycle;
use crate::bring_back::GuestState;
use crate::client::Client;
use crate::config::TensorlakeConfig;
use crate::environment::{Owned, OwnedSandbox, delete_within_limit, random_name, reap};
use crate::failure::closed;
use crate::lifecycle::{
    Beginning, NotCreated, Ready, Remains, SandboxName, Standing, create, look, resume,
    wait_until_running,
};
use crate::record::Record;
use crate::wire::SandboxResponse;

/// A creation that is under way.
pub(crate) type Creation = JoinHandle<Result<Made, EnvironmentError>>;

/// A sandbox that is owned, whatever its status.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) id: String,
    /// The last answer about it.
    pub(crate) response: SandboxResponse,
    /// Where it runs already.
    pub(crate) ready: Option<Ready>,
    /// What it has, where it was kept.
    pub(crate) state: Option<GuestState>,
    /// Why the one that was kept could not be gone on with.
    pub(crate) gone: Option<String>,
}

/// What it takes to come to a sandbox.
#[derive(Debug)]
pub(crate) struct Creator {
    pub(crate) client: Client,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) config: TensorlakeConfig,
    pub(crate) owned: Weak<Owned>,
    pub(crate) record: Record,
    pub(crate) closing: CancellationToken,
}

/// What became of going on.
enum Kept {
    Runs(Box<Made>),
    /// It is no more, for this reason, if it is worth telling.
    Gone(Option<String>),
}

impl Creator {
    pub(crate) fn begin(self) -> Creation {
        tokio::spawn(async move {
            let mut gone = None;
            if let Some(kept) = self.record.kept().await? {
                match self.go_on(kept).await? {
                    Kept::Runs(made) => return Ok(*made),
                    Kept::Gone(reason) => gone = reason,
                }
            }
            let made = self.make().await?;
            Ok(Made { gone, ..made })
        })
    }

    async fn make(&self) -> Result<Made, EnvironmentError> {
        let Self { client, lifecycle, config, record, .. } = self;
        let name = match (&config.name, record.is_kept()) {
            (Some(name), _) => SandboxName::Given(name.clone()),
            (None, true) => SandboxName::Chosen(format!("forge-{}", random_name())),
            (None, false) => SandboxName::None,
        };
        record.begin(&name).await?;
        let created = match create(client, lifecycle, config, &name).await {
            Ok(created) => created,
            Err(NotCreated { error, remains }) => {
                if remains == Remains::Nothing || matches!(name, SandboxName::Given(_)) {
                    record.forget(&name).await;
                }
                return Err(error);
            }
        };
        match self.owned.upgrade() {
            Some(owned) => {
                owned.set(created.id.clone(), name.clone());
                record.identify(&name, &created.id).await;
            }
            None => {
                let sandbox = OwnedSandbox { id: created.id.clone(), name };
                reap(client.clone(), lifecycle.clone(), record.clone(), sandbox).await;
            }
        }
        let (id, response) = (created.id, created.response);
        Ok(Made { id, response, ready: None, state: None, gone: None })
    }

    /// Goes on with a sandbox that was kept. Where that cannot be done now but perhaps later, it stays as it is.
    async fn go_on(&self, kept: KeptSandbox) -> Result<Kept, EnvironmentError> {
        let Self { client, lifecycle, record, .. } = self;
        let KeptSandbox { name, id, state } = kept;
        let name = SandboxName::Chosen(name);
        let state = state.and_then(|state| GuestState::read(&state).ok());
        let state = state.filter(|state| state.sandbox == id && state.is_whole());
        let Some(state) = state else {
            // What was changed there was dropped.
            info!(sandbox_id = %id, "The sandbox that was kept is of no use and is deleted.");
            delete_within_limit(client, lifecycle, &id).await?;
            record.forget(&name).await;
            return Ok(Kept::Gone(None));
        };
        match look(client, lifecycle, &id).await? {
            Standing::Gone(reason) => {
                record.forget(&name).await;
                return Ok(Kept::Gone(Some(reason)));
            }
            Standing::Suspended => resume(client, lifecycle, &id).await?,
            Standing::Running => {}
        }
        record.take_up(&name).await?;
        let Some(owned) = self.owned.upgrade() else {
            record.keep(&name, None).await;
            return Err(closed());
        };
        owned.set(id.clone(), name.clone());
        let ready = match self.wait(&id).await {
            Ok(ready) => Some(ready),
            Err(error) => {
                drop(owned.take());
                // Only what has ended is of no use any more; all else may pass.
                if !self.closing.is_cancelled()
                    && let Ok(Standing::Gone(reason)) = look(client, lifecycle, &id).await
                {
                    warn!(sandbox_id = %id, %reason, "The sandbox that was kept does not run any more.");
                    record.forget(&name).await;
                    return Ok(Kept::Gone(Some(reason)));
                }
                record.keep(&name, None).await;
                return Err(error);
            }
        };
        info!(sandbox_id = %id, "The sandbox that was kept is gone on with.");
        let response = SandboxResponse::default();
        Ok(Kept::Runs(Box::new(Made { id, response, ready, state: Some(state), gone: None })))
    }

    async fn wait(&self, id: &str) -> Result<Ready, EnvironmentError> {
        let Self { client, lifecycle, config, .. } = self;
        let pending = SandboxResponse::default();
        let wait =
            wait_until_running(client, lifecycle, config, id, pending, Beginning::Resumption);
        tokio::select! {
            ready = wait => ready,
            () = self.closing.cancelled() => Err(closed()),
        }
    }
}
