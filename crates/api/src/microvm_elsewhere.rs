//! A microVM where sessions cannot be kept: what is changed in it stays there.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use forge_domain::{
    ChangeSet, Changes, ChangesError, EnvironmentError, LeftOut, Lifecycle, TakenIn,
    WorkspaceLocation,
};
use forge_infra_tensorlake::{ConfigError, TensorlakeConfig, TensorlakeEnvironment};

use crate::ProjectOptions;

/// A microVM. Clones share it.
#[derive(Debug, Clone)]
pub struct Microvm {
    pub(crate) guest: TensorlakeEnvironment,
}

impl Microvm {
    /// What of the project stayed behind, once it was brought in.
    pub(crate) async fn left_out(&self) -> Vec<LeftOut> {
        self.guest.left_out().await
    }

    /// Nothing is counted here.
    pub(crate) fn ignored_files(&self) -> u64 {
        0
    }

    /// What is to be said of the project's history, once the project was brought in.
    pub(crate) async fn history_note(&self) -> Option<String> {
        self.guest.history_note().await
    }

    pub(crate) fn new(
        config: &TensorlakeConfig,
        workspace: &WorkspaceLocation,
        state_directory: Option<&Path>,
        project: Option<&ProjectOptions>,
    ) -> Result<Self, ConfigError> {
        let mut config = config.clone();
        if let (Some(project), None) = (project, &config.source) {
            config.source = Some(Arc::new(project.source(&workspace.root)));
        }
        if let (Some(project), Some(state), None) = (project, state_directory, &config.history) {
            config.history = project.history_source(&workspace.root, state);
        }
        Ok(Self { guest: TensorlakeEnvironment::new(config, workspace.clone())? })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Changes for Microvm {
    async fn changes(&self) -> Result<ChangeSet, ChangesError> {
        self.guest.changes().await
    }

    async fn take_in(&self) -> Result<TakenIn, ChangesError> {
        self.guest.take_in().await
    }

    async fn discard_changes(&self) -> Result<(), ChangesError> {
        self.guest.discard_changes().await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Lifecycle for Microvm {
    async fn prepare(&self) -> Result<(), EnvironmentError> {
        self.guest.prepare().await
    }

    async fn checkpoint(&self) -> Result<(), EnvironmentError> {
        self.guest.checkpoint().await
    }

    async fn close(&self) -> Result<(), EnvironmentError> {
        self.guest.close().await
    }
}
