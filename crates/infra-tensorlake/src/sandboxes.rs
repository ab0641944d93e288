//! Sandboxes that another process has made and left behind: how they stand, what was changed in them, their end.

use std::path::PathBuf;

use forge_domain::{EnvironmentError, WorkspaceLocation};

use crate::address::Lifecycle;
use crate::bring_back::GuestState;
use crate::client::Client;
use crate::environment::{TensorlakeEnvironment, delete_within_limit};
use crate::failure::unavailable;
use crate::lifecycle::{Standing, find, known, standing};
use crate::wire::SandboxResponse;
use crate::{ConfigError, TensorlakeConfig};

/// How a sandbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxStanding {
    /// It runs, or is about to.
    Running,
    /// It stands still, and can be resumed.
    Suspended,
    /// It has ended.
    Gone,
}

/// A sandbox that the server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSandbox {
    /// The server's id for it.
    pub id: String,
    /// How it stands.
    pub standing: SandboxStanding,
}

/// The sandboxes of one server. Nothing is made there.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    config: TensorlakeConfig,
    client: Client,
    lifecycle: Lifecycle,
}

impl Sandboxes {
    /// Checks the configuration. Sends nothing.
    ///
    /// # Errors
    /// [`ConfigError`]: the address or the key cannot be used.
    pub fn new(config: TensorlakeConfig) -> Result<Self, ConfigError> {
        let lifecycle = config.lifecycle()?;
        let client = Client::new(&config, &lifecycle)?;
        Ok(Self { config, client, lifecycle })
    }

    /// Asks for a sandbox by its id or its name. `None` where the server knows none.
    ///
    /// # Errors
    /// The server cannot be asked.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn look(&self, id_or_name: &str) -> Result<Option<FoundSandbox>, EnvironmentError> {
        let response = known(&self.client, &self.lifecycle, id_or_name).await?;
        Ok(self.found(id_or_name, response))
    }

    /// The same for one that was asked for a moment ago, whose creation may still be on its way: it is waited for, for five
    /// seconds.
    ///
    /// # Errors
    /// As [`Sandboxes::look`].
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn wait_for(&self, name: &str) -> Result<Option<FoundSandbox>, EnvironmentError> {
        let response = find(&self.client, &self.lifecycle, name).await?;
        Ok(self.found(name, response))
    }

    fn found(&self, asked: &str, response: Option<SandboxResponse>) -> Option<FoundSandbox> {
        let response = response?;
        let standing = match standing(&self.client, asked, &response) {
            Standing::Running => SandboxStanding::Running,
            Standing::Suspended => SandboxStanding::Suspended,
            Standing::Gone(_) => SandboxStanding::Gone,
        };
        let id = response.own_id().unwrap_or_else(|| asked.to_owned());
        Some(FoundSandbox { id, standing })
    }

    /// Takes a sandbox over as an environment, resumed where it was suspended, so that what was changed in it can be
    /// [brought back](TensorlakeEnvironment::bring_back). `state` is what a
    /// [`SandboxRecord`](forge_domain::SandboxRecord) was filled with, and `kept` what of the changes is kept on the host by
    /// now. The environment never ends the sandbox.
    ///
    /// # Errors
    /// It does not come to run, or the state is that of another one.
    ///
    /// # Cancel safety
    /// It may be resumed, and nothing else.
    pub async fn adopt(
        &self,
        id: &str,
        workspace: WorkspaceLocation,
        state: &[u8],
        kept: impl IntoIterator<Item = PathBuf>,
    ) -> Result<TensorlakeEnvironment, EnvironmentError> {
        let state = GuestState::read(state).map_err(|error| unavailable(error.to_string()))?;
        if state.sandbox != id {
            return Err(unavailable(format!("what is on record is not of the sandbox {id}")));
        }
        let (config, scratch) = (self.config.clone(), state.scratch.clone());
        let adopted = TensorlakeEnvironment::adopted(config, workspace, scratch, id).await?;
        *adopted.inner.bring_back.known() = Some(state.into_known(kept));
        Ok(adopted)
    }

    /// Deletes a sandbox. One that is gone already is deleted. Bounded by ten seconds.
    ///
    /// # Errors
    /// The server refuses, or cannot be asked.
    ///
    /// # Cancel safety
    /// It may be deleted or not.
    pub async fn delete(&self, id: &str) -> Result<(), EnvironmentError> {
        delete_within_limit(&self.client, &self.lifecycle, id).await
    }
}
