//! Forge, put together.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use forge_app::{Agent, Conversation, Setup, TurnError};
use forge_domain::{
    EnvironmentError, Host, HostError, LanguageModel, Lifecycle, ModelId, WorkspaceLocation,
};
use forge_infra_local::LocalHost;
use forge_infra_model::{GenaiModel, ModelConfig, ModelConfigError};
#[cfg(target_os = "linux")]
use forge_infra_sandbox::SessionStore;
use forge_infra_tensorlake::{ConfigError as TensorlakeConfigError, TensorlakeConfig};
use thiserror::Error;

use crate::{Executor, ExecutorConfig, ForgeConfig, LocalOptions, Turn};

/// So much of each `AGENTS.md` is read.
const MAX_INSTRUCTIONS_BYTES: usize = 64 * 1024;

/// Why Forge could not be put together.
#[derive(Debug, Error)]
pub enum InitError {
    /// The directory cannot be used.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The Tensorlake environment cannot be used as it is configured.
    #[error(transparent)]
    Tensorlake(#[from] TensorlakeConfigError),
    /// The configuration leads to no model; without a key, the message says where to get one.
    #[error(transparent)]
    Model(#[from] ModelConfigError),
}

/// An environment for a project and, where one was configured, an agent in it. Clones share both.
///
/// Nothing is started before it is used. End it with [`ForgeAPI::close`]; where the last clone is
/// dropped without, the environment's own drop ends what runs, and nobody learns what went wrong.
#[derive(Debug, Clone)]
pub struct ForgeAPI {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    workspace: WorkspaceLocation,
    executor: Executor,
    agent: Option<Arc<Agent>>,
    model_id: Option<ModelId>,
}

impl ForgeAPI {
    /// Finds the workspace, reads the project's instructions and wires the adapters. Where the environment is a Tensorlake
    /// microVM and sessions are kept, those that earlier runs have left behind are fetched from and deleted, beside everything
    /// else and for as long as the environment is there.
    ///
    /// # Errors
    /// [`InitError`]; nothing was started or left behind.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn init(config: ForgeConfig) -> Result<Self, InitError> {
        let ForgeConfig {
            directory,
            executor,
            model,
            language_model,
            agent,
            approver,
            home,
            state_directory,
            project,
        } = config;
        let host = LocalHost { home, state_directory: state_directory.clone() };
        let workspace = host.locate_workspace(&directory).await?;
        #[cfg(target_os = "linux")]
        match &executor {
            ExecutorConfig::Sandbox(config) => {
                let store =
                    SessionStore::new(&config.state_directory).helper(config.helper.clone());
                recover(&workspace.root, store, config.state_directory.clone()).await;
            }
            ExecutorConfig::Tensorlake(_) => {
                if let Some(state) = &state_directory {
                    recover(&workspace.root, SessionStore::new(state), state.clone()).await;
                }
            }
            ExecutorConfig::Local(_) => {}
        }
        let chosen = executor;
        #[cfg_attr(not(target_os = "linux"), expect(unused_mut, reason = "nothing is left behind"))]
        let mut executor =
            Executor::new(&chosen, &workspace, state_directory.as_deref(), project.as_ref())?;
        let model: Option<Arc<dyn LanguageModel>> = match (language_model, model) {
            (Some(model), _) => Some(model),
            (None, Some(config)) => Some(Arc::new(GenaiModel::new(config)?)),
            (None, None) => None,
        };
        // Before the first clone.
        #[cfg(target_os = "linux")]
        executor.begin_leftover(&chosen);
        let model_id = model.as_ref().map(|model| model.id().clone());
        let agent = match model {
            None => None,
            Some(model) => {
                let instructions =
                    host.read_instructions(&workspace, MAX_INSTRUCTIONS_BYTES).await?;
                let environment = Arc::new(executor.clone());
                Some(Arc::new(Agent::new(environment, model, approver, instructions, agent)))
            }
        };
        Ok(Self { inner: Arc::new(Inner { workspace, executor, agent, model_id }) })
    }

    /// Takes this host as the environment, without isolation: what commands do is done. Commands get
    /// these variables, usually those of the process, less the keys in
    /// [`KEY_VARIABLES`](crate::KEY_VARIABLES); a `HOME` among them is refused as a workspace. Nobody is
    /// asked before commands; for that and more, see [`ForgeAPI::init`].
    ///
    /// # Errors
    /// As [`ForgeAPI::init`].
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn init_local(
        directory: impl Into<PathBuf>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        model: ModelConfig,
    ) -> Result<Self, InitError> {
        let variables: Vec<(OsString, OsString)> = variables.into_iter().collect();
        let home = variables.iter().find(|(name, _)| name == "HOME").map(|(_, value)| value);
        let home = home.filter(|home| !home.is_empty()).map(PathBuf::from);
        let options = LocalOptions::inherit(variables);
        let mut config = ForgeConfig::new(directory, ExecutorConfig::Local(options)).model(model);
        config.home = home;
        Self::init(config).await
    }

    /// Takes the embedded sandbox as the environment. The session is made or continued by the first use;
    /// what commands write stays in it and never reaches the project by itself. The program has to call
    /// [`sandbox_hook`](crate::sandbox_hook) first thing in `main`, or name another one that does in the
    /// configuration. Nobody is asked before commands; for that and more, see [`ForgeAPI::init`].
    ///
    /// # Errors
    /// As [`ForgeAPI::init`].
    ///
    /// # Cancel safety
    /// Changes nothing.
    #[cfg(target_os = "linux")]
    pub async fn init_with_sandbox(
        directory: impl Into<PathBuf>,
        sandbox: forge_infra_sandbox::SandboxConfig,
        model: ModelConfig,
    ) -> Result<Self, InitError> {
        let mut config =
            ForgeConfig::new(directory, ExecutorConfig::Sandbox(Box::new(sandbox.clone())));
        config.home = sandbox.home;
        config.state_directory = Some(sandbox.state_directory);
        Self::init(config.model(model)).await
    }

    /// Takes a Tensorlake microVM as the environment. It is made by the first use, and the project is brought into it.
    /// Without [`ForgeConfig::state_directory`], what commands write there ends with it. Nobody is asked before commands;
    /// for that and more, see [`ForgeAPI::init`].
    ///
    /// # Errors
    /// As [`ForgeAPI::init`].
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn init_with_tensorlake(
        directory: impl Into<PathBuf>,
        tensorlake: TensorlakeConfig,
        model: ModelConfig,
    ) -> Result<Self, InitError> {
        let executor = ExecutorConfig::Tensorlake(Box::new(tensorlake));
        Self::init(ForgeConfig::new(directory, executor).model(model)).await
    }

    /// The environment; it implements the ports.
    #[must_use]
    pub fn executor(&self) -> &Executor {
        &self.inner.executor
    }

    /// Where the project is.
    #[must_use]
    pub fn workspace(&self) -> &WorkspaceLocation {
        &self.inner.workspace
    }

    /// Which model answers prompts; `None` where none was configured.
    #[must_use]
    pub fn model_id(&self) -> Option<&ModelId> {
        self.inner.model_id.as_ref()
    }

    /// A new conversation.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        Conversation::new()
    }

    /// Has the environment set up by this before a tool acts there, in each turn that begins from now on. The first one
    /// holds. Without a model, nothing is ever set up.
    pub fn set_up_by(&self, setup: Arc<dyn Setup>) {
        if let Some(agent) = &self.inner.agent {
            agent.set_up_by(setup);
        }
    }

    /// Lets the model work on a prompt. Nothing happens before the turn is polled. Without a model
    /// the turn ends at once with [`TurnError::NoModel`].
    ///
    /// Turns of different conversations may run at the same time, in the same environment.
    pub fn prompt(&self, conversation: Conversation, text: impl Into<String>) -> Turn {
        let text = text.into();
        let Some(agent) = self.inner.agent.clone() else {
            return Turn::failed(conversation, TurnError::NoModel);
        };
        Turn::new(move |mut events, cancel| async move {
            let mut conversation = conversation;
            let report = agent.run_turn(&mut conversation, text, &mut events, &cancel).await;
            (conversation, report)
        })
    }

    /// Ends the environment: running and background commands, scratch space. Idempotent; turns that
    /// still run fail.
    ///
    /// Bounded by ten seconds beyond the grace periods of the commands that run.
    ///
    /// # Errors
    /// Something could not be ended; the message says what is left.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the closing from being finished by another call.
    pub async fn close(&self) -> Result<(), EnvironmentError> {
        self.inner.executor.close().await
    }
}

/// Takes an apply back, or finishes it, that was killed in the middle.
#[cfg(target_os = "linux")]
async fn recover(workspace: &std::path::Path, store: SessionStore, state: PathBuf) {
    use forge_domain::ApplyError;

    use crate::ReviewError;
    let workspace = workspace.to_path_buf();
    let recovered =
        tokio::task::spawn_blocking(move || crate::recover_applies(&store, &workspace, &state));
    match recovered.await {
        Ok(Err(ReviewError::Apply(ApplyError::Busy)) | Ok(false)) | Err(_) => {}
        Ok(Ok(true)) => tracing::warn!("An apply that was interrupted was recovered from."),
        Ok(Err(error)) => {
            tracing::warn!(%error, "An apply that was interrupted could not be recovered from.");
        }
    }
}
