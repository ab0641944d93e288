//! What a sandbox is made from.

use std::path::{Component, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use derive_setters::Setters;
use forge_domain::{
    EnvironmentVariable, HistorySource, SandboxRecord, WorkspaceLocation, WorkspaceSource,
};
use secrecy::SecretString;
use thiserror::Error;

use crate::AddressError;
use crate::address::{Base, Lifecycle};
use crate::progress::ProgressListener;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The address of the server.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The key cannot be sent: it is empty or holds what a header cannot.
    #[error("the Tensorlake key is empty or holds characters that no key has")]
    Key,
    /// A directory in the guest is not absolute, or cannot be named there.
    #[error("the {what} {path:?} is no absolute path of a Unix guest")]
    Path {
        /// Which.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A value that is sent as a header cannot be one.
    #[error("the {what} holds characters that it cannot have")]
    Header {
        /// Which.
        what: &'static str,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client(#[source] forge_domain::BoxedError),
}

/// What a sandbox has at the most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resources {
    /// Processors; default 1.
    pub cpus: f64,
    /// Memory in MiB; default 1024.
    pub memory_mb: u64,
    /// Disk in MiB; default: the server's.
    pub disk_mb: Option<u64>,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1.0, memory_mb: 1024, disk_mb: None }
    }
}

/// How sandboxes are made. Everything but the key has a default. `Debug` hides the key.
#[derive(Debug, Clone, Setters)]
#[setters(strip_option, into)]
pub struct TensorlakeConfig {
    /// The API key.
    #[setters(skip)]
    pub key: SecretString,
    /// Variables that every command gets, on top of the guest's own. Default: none.
    pub environment: Vec<EnvironmentVariable>,
    /// The project, which is brought into the sandbox before anything is done in it. Default: none; the workspace is
    /// empty then.
    pub source: Option<Arc<dyn WorkspaceSource>>,
    /// The history of the project's repository, which is brought in with it. Default: none.
    pub history: Option<Arc<dyn HistorySource>>,
    /// Told how far a sandbox is that is waited for. Default: nobody.
    pub progress: Option<ProgressListener>,
    /// What remembers the sandbox, from before it is asked for until it is gone. Default: nothing; then it has no name
    /// unless one is given, so that it ends by itself when it is lost.
    pub record: Option<Arc<dyn SandboxRecord>>,
    /// Where the scratch directory is made in the guest. Default: `/tmp`.
    pub scratch_parent: PathBuf,
    /// Whether the sandbox is left running at the end. Default: no, it is deleted.
    pub keep: bool,
    /// The server. Default: `https://api.tensorlake.ai`. The host that is asked follows from it.
    pub api_url: String,
    /// The namespace in the paths of a server on this machine. Default: `default`.
    pub namespace: String,
    /// The organization that requests are for. Default: the key's.
    pub organization: Option<String>,
    /// The project that requests are for. Default: the key's.
    pub project: Option<String>,
    /// What the sandbox has.
    pub resources: Resources,
    /// The image that it starts from. Default: the server's.
    pub image: Option<String>,
    /// The snapshot that it starts from.
    pub snapshot_id: Option<String>,
    /// Its name; a named sandbox is suspended where an unnamed one is deleted. Default: none, and a random one where it is
    /// remembered.
    pub name: Option<String>,
    /// Whether commands reach the internet. Default: yes.
    pub internet: bool,
    /// After so long the server ends an unnamed sandbox by itself, whatever happens here, and suspends a named one: this
    /// bounds what a lost one can cost. Sent with every creation. Default: one hour.
    pub lifetime: Duration,
    /// How long a sandbox may take to run. Default: five minutes.
    pub start_limit: Duration,
    /// How long a connection may take. Default: ten seconds.
    pub connect_limit: Duration,
    /// How long a server may be silent: before the head of its answer, and within it. A creation may
    /// be held back until the sandbox runs, so it has [`TensorlakeConfig::start_limit`] instead.
    /// Default: one minute.
    pub silence_limit: Duration,
}

impl TensorlakeConfig {
    /// Every default.
    #[must_use]
    pub fn new(key: SecretString) -> Self {
        Self {
            key,
            environment: Vec::new(),
            source: None,
            history: None,
            progress: None,
            record: None,
            scratch_parent: PathBuf::from("/tmp"),
            keep: false,
            api_url: "https://api.tensorlake.ai".to_owned(),
            namespace: "default".to_owned(),
            organization: None,
            project: None,
            resources: Resources::default(),
            image: None,
            snapshot_id: None,
            name: None,
            internet: true,
            lifetime: Duration::from_secs(3600),
            start_limit: Duration::from_secs(300),
            connect_limit: Duration::from_secs(10),
            silence_limit: Duration::from_secs(60),
        }
    }

    /// Whether requests, and the key with them, leave this machine without encryption.
    #[must_use]
    pub fn is_unencrypted(&self) -> bool {
        let base = Base::parse(&self.api_url);
        base.is_ok_and(|base| base.url.starts_with("http:") && !base.is_loopback())
    }

    /// Whether everything is there that a sandbox for this workspace needs.
    pub(crate) fn check(&self, workspace: &WorkspaceLocation) -> Result<(), ConfigError> {
        let paths = [
            ("workspace", &workspace.root),
            ("working directory", &workspace.working_directory),
            ("scratch directory", &self.scratch_parent),
        ];
        for (what, path) in paths {
            let plain = path
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if !path.is_absolute() || !plain || path.as_os_str().as_encoded_bytes().contains(&0) {
                return Err(ConfigError::Path { what, path: path.clone() });
            }
        }
        if !workspace.working_directory.starts_with(&workspace.root) {
            let path = workspace.working_directory.clone();
            return Err(ConfigError::Path { what: "working directory", path });
        }
        Ok(())
    }

    pub(crate) fn lifecycle(&self) -> Result<Lifecycle, AddressError> {
        Lifecycle::derive(&self.api_url, &self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_to_another_machine_is_unencrypted() {
        let config = TensorlakeConfig::new(SecretString::from("k"));
        let cases = [
            ("http://vm.example:80", true),
            ("https://vm.example", false),
            ("http://127.0.0.1:9", false),
            ("http://localhost:9", false),
        ];
        for (url, expected) in cases {
            assert_eq!(config.clone().api_url(url).is_unencrypted(), expected, "{url}");
        }
        assert!(!config.is_unencrypted());
    }

    #[test]
    fn the_key_shows_nowhere() {
        let config = TensorlakeConfig::new(SecretString::from("tl_s3cret"));
        assert!(!format!("{config:?} {config:#?}").contains("s3cret"));
    }
}
