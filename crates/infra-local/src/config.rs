//! What the environment is made from.

use std::path::PathBuf;

use derive_setters::Setters;
use forge_domain::{EnvironmentVariable, WorkspaceLocation};

/// How a [`LocalEnvironment`](crate::LocalEnvironment) is made.
#[derive(Debug, Clone, Setters)]
#[setters(into)]
pub struct LocalConfig {
    /// The workspace; both paths absolute and with symlinks resolved, as
    /// [`LocalHost`](crate::LocalHost) gives them.
    #[setters(skip)]
    pub workspace: WorkspaceLocation,
    /// Every variable that commands get. Default: none, not even `PATH`; this crate reads nothing
    /// from the process's own environment.
    pub environment: Vec<EnvironmentVariable>,
    /// The shell for [`Program::Shell`](forge_domain::Program::Shell), called with `-c`. Default:
    /// `/bin/sh`.
    pub shell: PathBuf,
    /// Where the scratch directory is made, when it is first needed. Default: `/tmp`.
    pub scratch_parent: PathBuf,
}

impl LocalConfig {
    /// Everything default but the workspace.
    #[must_use]
    pub fn new(workspace: WorkspaceLocation) -> Self {
        Self {
            workspace,
            environment: Vec::new(),
            shell: PathBuf::from("/bin/sh"),
            scratch_parent: PathBuf::from("/tmp"),
        }
    }
}
