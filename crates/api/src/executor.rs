//! The chosen environment, which is one itself.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    BackgroundCommands, BackgroundError, BackgroundId, BackgroundStatus, BackgroundSummary,
    ByteRange, ChangeSet, Changes, ChangesError, CommandError, CommandExit, CommandIo,
    CommandRequest, Commands, Describe, Description, DirectoryEntry, EnvironmentError,
    EnvironmentKind, FileContents, FileError, FileStat, Files, LeftOut, Lifecycle, OutputOffset,
    Removal, Search, SearchError, SearchOutcome, SearchQuery, TakenIn, TerminalIo, TerminalSize,
    Terminals, WorkspaceLocation, WriteOptions,
};
use forge_infra_local::{LocalConfig, LocalEnvironment};
#[cfg(target_os = "linux")]
use forge_infra_sandbox::{SandboxConfig, SandboxEnvironment, UsedSession};
use forge_infra_tensorlake::ConfigError;

#[cfg(target_os = "linux")]
use crate::EndedMicrovm;
use crate::microvm::Microvm;
use crate::{ExecutorConfig, LocalOptions, ProjectOptions};

/// The environment that was chosen. Clones share it. It keeps every promise of the ports, since it
/// only passes calls on.
#[derive(Debug, Clone)]
pub enum Executor {
    /// The embedded sandbox.
    #[cfg(target_os = "linux")]
    Sandbox(SandboxEnvironment),
    /// This host, without isolation.
    Local(LocalEnvironment),
    /// A Tensorlake microVM.
    Tensorlake(Microvm),
}

impl Executor {
    /// Makes the environment for a workspace; nothing starts before its first use.
    ///
    /// # Errors
    /// The configuration of the environment cannot be used.
    pub(crate) fn new(
        config: &ExecutorConfig,
        workspace: &WorkspaceLocation,
        state_directory: Option<&Path>,
        project: Option<&ProjectOptions>,
    ) -> Result<Self, ConfigError> {
        Ok(match config {
            #[cfg(target_os = "linux")]
            ExecutorConfig::Sandbox(config) => Self::Sandbox(SandboxEnvironment::new(
                SandboxConfig::clone(config),
                workspace.clone(),
            )),
            ExecutorConfig::Local(options) => Self::Local(local(options, workspace)),
            ExecutorConfig::Tensorlake(config) => {
                Self::Tensorlake(Microvm::new(config, workspace, state_directory, project)?)
            }
        })
    }

    /// What of the project stayed behind on this machine, where the environment is elsewhere and was used.
    pub async fn left_out(&self) -> Vec<LeftOut> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(_) => Vec::new(),
            Self::Local(_) => Vec::new(),
            Self::Tensorlake(microvm) => microvm.left_out().await,
        }
    }

    /// What is to be said of the project's git history, where the environment is elsewhere and was used: that it stayed
    /// behind and why, or that it is not whole there.
    pub async fn history_note(&self) -> Option<String> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(_) => None,
            Self::Local(_) => None,
            Self::Tensorlake(microvm) => microvm.history_note().await,
        }
    }

    /// How many files a microVM has that the project's rules ignore: they end with it.
    #[must_use]
    pub fn ignored_in_microvm(&self) -> u64 {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(_) => 0,
            Self::Local(_) => 0,
            Self::Tensorlake(microvm) => microvm.ignored_files(),
        }
    }

    /// Whether a microVM that was to be kept was suspended at the end, and does not run on.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(_) => false,
            Self::Local(_) => false,
            Self::Tensorlake(microvm) => microvm.guest.is_suspended(),
        }
    }

    /// The id of the environment where it is not on this machine, once it has one.
    #[must_use]
    pub fn remote_id(&self) -> Option<String> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(_) => None,
            Self::Local(_) => None,
            Self::Tensorlake(microvm) => microvm.guest.id(),
        }
    }
}

#[cfg(target_os = "linux")]
impl Executor {
    /// The session on this machine that is used, once there is one.
    #[must_use]
    pub fn session(&self) -> Option<UsedSession> {
        match self {
            Self::Sandbox(environment) => environment.session(),
            Self::Local(_) => None,
            Self::Tensorlake(microvm) => microvm.session(),
        }
    }

    /// Has a close wait no longer for what was changed where the environment is elsewhere: it stays there, and that it does
    /// is what the close fails with. Nothing where nothing is waited for.
    pub fn give_up_changes(&self) {
        match self {
            Self::Sandbox(_) | Self::Local(_) => {}
            Self::Tensorlake(microvm) => microvm.give_up_changes(),
        }
    }

    /// What became of the microVMs that other runs had left behind, which is seen to beside everything else; each is told
    /// once.
    #[must_use]
    pub fn take_ended_microvms(&self) -> Vec<EndedMicrovm> {
        match self {
            Self::Sandbox(_) | Self::Local(_) => Vec::new(),
            Self::Tensorlake(microvm) => microvm.take_ended(),
        }
    }

    /// Begins to see to the microVMs that other runs of this state directory have left behind. To be called in a runtime.
    pub(crate) fn begin_leftover(&mut self, config: &ExecutorConfig) {
        if let (Self::Tensorlake(microvm), ExecutorConfig::Tensorlake(config)) = (self, config) {
            microvm.begin_leftover(config);
        }
    }
}

fn local(options: &LocalOptions, workspace: &WorkspaceLocation) -> LocalEnvironment {
    let LocalOptions { environment, shell, scratch_parent } = options;
    let mut config = LocalConfig::new(workspace.clone()).environment(environment.clone());
    if let Some(shell) = shell {
        config = config.shell(shell);
    }
    if let Some(parent) = scratch_parent {
        config = config.scratch_parent(parent);
    }
    LocalEnvironment::new(config)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Commands for Executor {
    async fn run(
        &self,
        request: CommandRequest,
        io: CommandIo,
    ) -> Result<CommandExit, CommandError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.run(request, io).await,
            Self::Local(environment) => environment.run(request, io).await,
            Self::Tensorlake(microvm) => microvm.guest.run(request, io).await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Terminals for Executor {
    async fn run_on_terminal(
        &self,
        request: CommandRequest,
        size: TerminalSize,
        io: TerminalIo,
    ) -> Result<CommandExit, CommandError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.run_on_terminal(request, size, io).await,
            Self::Local(environment) => environment.run_on_terminal(request, size, io).await,
            Self::Tensorlake(microvm) => microvm.guest.run_on_terminal(request, size, io).await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl BackgroundCommands for Executor {
    async fn start(&self, request: CommandRequest) -> Result<BackgroundId, CommandError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.start(request).await,
            Self::Local(environment) => environment.start(request).await,
            Self::Tensorlake(microvm) => microvm.guest.start(request).await,
        }
    }

    async fn poll(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
        wait: Duration,
    ) -> Result<BackgroundStatus, BackgroundError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.poll(id, since, wait).await,
            Self::Local(environment) => environment.poll(id, since, wait).await,
            Self::Tensorlake(microvm) => microvm.guest.poll(id, since, wait).await,
        }
    }

    async fn stop(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
    ) -> Result<BackgroundStatus, BackgroundError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.stop(id, since).await,
            Self::Local(environment) => environment.stop(id, since).await,
            Self::Tensorlake(microvm) => microvm.guest.stop(id, since).await,
        }
    }

    async fn list_background(&self) -> Result<Vec<BackgroundSummary>, EnvironmentError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.list_background().await,
            Self::Local(environment) => environment.list_background().await,
            Self::Tensorlake(microvm) => microvm.guest.list_background().await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Files for Executor {
    async fn read(&self, path: &Path, range: ByteRange) -> Result<FileContents, FileError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.read(path, range).await,
            Self::Local(environment) => environment.read(path, range).await,
            Self::Tensorlake(microvm) => microvm.guest.read(path, range).await,
        }
    }

    async fn write(
        &self,
        path: &Path,
        contents: Bytes,
        options: WriteOptions,
    ) -> Result<(), FileError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.write(path, contents, options).await,
            Self::Local(environment) => environment.write(path, contents, options).await,
            Self::Tensorlake(microvm) => microvm.guest.write(path, contents, options).await,
        }
    }

    async fn remove(&self, path: &Path, removal: Removal) -> Result<(), FileError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.remove(path, removal).await,
            Self::Local(environment) => environment.remove(path, removal).await,
            Self::Tensorlake(microvm) => microvm.guest.remove(path, removal).await,
        }
    }

    async fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>, FileError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.list(path).await,
            Self::Local(environment) => environment.list(path).await,
            Self::Tensorlake(microvm) => microvm.guest.list(path).await,
        }
    }

    async fn stat(&self, path: &Path) -> Result<FileStat, FileError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.stat(path).await,
            Self::Local(environment) => environment.stat(path).await,
            Self::Tensorlake(microvm) => microvm.guest.stat(path).await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Search for Executor {
    async fn search(&self, query: SearchQuery) -> Result<SearchOutcome, SearchError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.search(query).await,
            Self::Local(environment) => environment.search(query).await,
            Self::Tensorlake(microvm) => microvm.guest.search(query).await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Describe for Executor {
    async fn describe(&self) -> Result<Description, EnvironmentError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.describe().await,
            Self::Local(environment) => environment.describe().await,
            #[cfg(target_os = "linux")]
            Self::Tensorlake(microvm) => microvm.describe().await,
            #[cfg(not(target_os = "linux"))]
            Self::Tensorlake(microvm) => microvm.guest.describe().await,
        }
    }

    fn kind(&self) -> EnvironmentKind {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.kind(),
            Self::Local(environment) => environment.kind(),
            Self::Tensorlake(microvm) => microvm.guest.kind(),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Changes for Executor {
    async fn changes(&self) -> Result<ChangeSet, ChangesError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.changes().await,
            Self::Local(environment) => environment.changes().await,
            Self::Tensorlake(microvm) => microvm.changes().await,
        }
    }

    async fn take_in(&self) -> Result<TakenIn, ChangesError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.take_in().await,
            Self::Local(environment) => environment.take_in().await,
            Self::Tensorlake(microvm) => microvm.take_in().await,
        }
    }

    async fn discard_changes(&self) -> Result<(), ChangesError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.discard_changes().await,
            Self::Local(environment) => environment.discard_changes().await,
            Self::Tensorlake(microvm) => microvm.discard_changes().await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Lifecycle for Executor {
    async fn prepare(&self) -> Result<(), EnvironmentError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.prepare().await,
            Self::Local(environment) => environment.prepare().await,
            Self::Tensorlake(microvm) => microvm.prepare().await,
        }
    }

    async fn checkpoint(&self) -> Result<(), EnvironmentError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.checkpoint().await,
            Self::Local(environment) => environment.checkpoint().await,
            Self::Tensorlake(microvm) => microvm.checkpoint().await,
        }
    }

    async fn close(&self) -> Result<(), EnvironmentError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => environment.close().await,
            Self::Local(environment) => environment.close().await,
            Self::Tensorlake(microvm) => microvm.close().await,
        }
    }
}
