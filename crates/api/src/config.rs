//! How Forge is put together.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use derive_setters::Setters;
use forge_app::AgentConfig;
use forge_domain::{
    Approval, ApprovalRequest, Approver, EnvironmentVariable, HistorySource, KEY_VARIABLES,
    LanguageModel, VariableName,
};
use forge_infra_model::ModelConfig;
#[cfg(target_os = "linux")]
use forge_infra_sandbox::SandboxConfig;
use forge_infra_tensorlake::TensorlakeConfig;

/// What Forge is made from. The directory and the environment have no default.
#[derive(Debug, Clone, Setters)]
#[setters(strip_option, into)]
pub struct ForgeConfig {
    /// A directory in the project, absolute or relative to the process's own. The workspace is the
    /// nearest git root at or above it.
    #[setters(skip)]
    pub directory: PathBuf,
    /// The environment that commands and tools act in.
    #[setters(skip)]
    pub executor: ExecutorConfig,
    /// Which model answers prompts, with which keys. Default: none; then there are commands and
    /// files, and no prompts.
    pub model: Option<ModelConfig>,
    /// A language model of the caller's own, taken in place of [`ForgeConfig::model`]. Default: none.
    #[setters(skip)]
    pub language_model: Option<Arc<dyn LanguageModel>>,
    /// How the agent works.
    pub agent: AgentConfig,
    /// Who is asked before what [`AgentConfig::ask`] names. Default: [`ApproveAll`].
    #[setters(skip)]
    pub approver: Arc<dyn Approver>,
    /// The user's home directory, which is refused as a workspace. Default: none is known.
    pub home: Option<PathBuf>,
    /// Where Forge keeps its own state; a workspace that holds it is refused. Default: none is known; then nothing is
    /// kept of what is changed in a microVM.
    pub state_directory: Option<PathBuf>,
    /// What of the project goes into a microVM. Default: everything that it should; `None` leaves the workspace empty
    /// there, and nothing comes back.
    #[setters(skip)]
    pub project: Option<ProjectOptions>,
}

impl ForgeConfig {
    /// Everything default but the directory and the environment: no model, nobody is asked.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, executor: ExecutorConfig) -> Self {
        Self {
            directory: directory.into(),
            executor,
            model: None,
            language_model: None,
            agent: AgentConfig::default(),
            approver: Arc::new(ApproveAll),
            home: None,
            state_directory: None,
            project: Some(ProjectOptions::default()),
        }
    }

    /// Asks this one before what [`AgentConfig::ask`] names.
    #[must_use]
    pub fn approver(mut self, approver: Arc<dyn Approver>) -> Self {
        self.approver = approver;
        self
    }

    /// Uses a language model of the caller's own, whatever [`ForgeConfig::model`] says.
    #[must_use]
    pub fn language_model(mut self, model: Arc<dyn LanguageModel>) -> Self {
        self.language_model = Some(model);
        self
    }
}

/// What of a project goes into an environment that is not on this machine, and where what is changed there is kept.
#[derive(Debug, Clone, PartialEq, Eq, Setters)]
#[setters(into)]
pub struct ProjectOptions {
    /// Files with secrets that go along all the same, relative to the workspace; with a directory, everything in it.
    /// Default: none.
    pub include: Vec<PathBuf>,
    /// Larger files stay behind. Default: 100 MiB.
    pub max_file_bytes: u64,
    /// All files together may not be more. Default: 2 GiB.
    pub max_total_bytes: u64,
    /// How the history of the project's repository goes along. Default: not at all.
    pub history: Option<HistoryOptions>,
    /// The session that keeps what is changed. What it holds already goes along. Default: as in the sandbox.
    #[cfg(target_os = "linux")]
    pub session: forge_infra_sandbox::SessionChoice,
}

impl Default for ProjectOptions {
    fn default() -> Self {
        Self {
            include: Vec::new(),
            max_file_bytes: 100 * 1024 * 1024,
            max_total_bytes: 2 * 1024 * 1024 * 1024,
            history: None,
            #[cfg(target_os = "linux")]
            session: forge_infra_sandbox::SessionChoice::default(),
        }
    }
}

/// How the history of a project's repository goes into an environment that is not on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryOptions {
    /// Where git is looked for, as `PATH` has it.
    pub search_path: OsString,
    /// A larger bundle does not go along; then only the newest commit does.
    pub max_bytes: u64,
}

impl HistoryOptions {
    /// Bundles of 512 MiB at the most.
    #[must_use]
    pub fn new(search_path: impl Into<OsString>) -> Self {
        Self { search_path: search_path.into(), max_bytes: 512 * 1024 * 1024 }
    }
}

impl ProjectOptions {
    pub(crate) fn source(&self, root: &std::path::Path) -> forge_infra_workspace::HostSource {
        forge_infra_workspace::HostSource::new(root)
            .include(self.include.clone())
            .max_file_bytes(self.max_file_bytes)
            .max_total_bytes(self.max_total_bytes)
    }

    /// The history, written down in the state directory on its way.
    pub(crate) fn history_source(
        &self,
        root: &std::path::Path,
        state_directory: &std::path::Path,
    ) -> Option<Arc<dyn HistorySource>> {
        let HistoryOptions { search_path, max_bytes } = self.history.as_ref()?;
        let directory = state_directory.join("history");
        let history = forge_infra_git::HostHistory::new(root, search_path, &directory, *max_bytes);
        Some(Arc::new(history))
    }
}

/// Which environment, and how it is made. There is no default, and Forge never takes another one
/// than it was told to.
#[derive(Debug, Clone)]
pub enum ExecutorConfig {
    /// The embedded sandbox. Commands get the configuration's variables and nothing of this process's.
    #[cfg(target_os = "linux")]
    Sandbox(Box<SandboxConfig>),
    /// This host, without isolation.
    Local(LocalOptions),
    /// A Tensorlake microVM. Commands get the configuration's variables and nothing of this process's.
    Tensorlake(Box<TensorlakeConfig>),
}

/// How the host is used as an environment.
#[derive(Debug, Clone, PartialEq, Eq, Setters)]
#[setters(strip_option, into)]
pub struct LocalOptions {
    /// Every variable that commands get; nothing is added.
    #[setters(skip)]
    pub environment: Vec<EnvironmentVariable>,
    /// The shell that runs texts, called with `-c`. Default: `/bin/sh`.
    pub shell: Option<PathBuf>,
    /// Where the scratch directory is made. Default: `/tmp`.
    pub scratch_parent: Option<PathBuf>,
}

impl LocalOptions {
    /// Gives commands exactly these variables.
    #[must_use]
    pub fn new(environment: Vec<EnvironmentVariable>) -> Self {
        Self { environment, shell: None, scratch_parent: None }
    }

    /// Gives commands these variables, usually those of the process, less the keys in
    /// [`KEY_VARIABLES`] and what no Unix can pass on.
    #[must_use]
    pub fn inherit(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let is_key = |name: &OsString| KEY_VARIABLES.iter().any(|key| name == key);
        let variable = |(name, value): (OsString, OsString)| {
            if is_key(&name) {
                return None;
            }
            EnvironmentVariable::new(VariableName::parse(name).ok()?, value).ok()
        };
        Self::new(variables.into_iter().filter_map(variable).collect())
    }
}

/// Allows everything: for programs that decide by the choice of the environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApproveAll;

#[async_trait]
impl Approver for ApproveAll {
    async fn ask(&self, _request: &ApprovalRequest) -> Approval {
        Approval::Once
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn keys_are_not_inherited_and_everything_else_is() {
        let variables = ["PATH", "OPENAI_API_KEY", "TENSORLAKE_API_KEY", "LANG", "=C:"]
            .map(|name| (OsString::from(name), OsString::from("value")));
        let actual: Vec<String> = LocalOptions::inherit(variables)
            .environment
            .iter()
            .map(|variable| variable.name().to_string())
            .collect();
        assert_eq!(actual, ["PATH", "LANG"]);
    }
}
