//! What an environment says of itself. The system prompt is made from it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::EnvironmentError;

/// Which environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EnvironmentKind {
    /// This host, without isolation.
    Local,
    /// The embedded sandbox.
    Sandbox,
    /// A Tensorlake microVM.
    Tensorlake,
    /// The in-memory fake of the conformance suite.
    Fake,
}

impl EnvironmentKind {
    /// Whether what a command does stays away from the host until it is applied.
    #[must_use]
    pub fn is_isolated(self) -> bool {
        match self {
            Self::Sandbox | Self::Tensorlake | Self::Fake => true,
            Self::Local => false,
        }
    }
}

impl fmt::Display for EnvironmentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Sandbox => "sandbox",
            Self::Tensorlake => "tensorlake",
            Self::Fake => "fake",
        })
    }
}

/// Which network commands have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// A loopback of its own, nothing else.
    None,
    /// Whatever the host or the service has.
    Full,
}

/// What lasts, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Persistence {
    /// What is written stays: it is the user's own tree.
    Permanent,
    /// Files last as long as the session, and sessions are continued.
    Session,
    /// Everything is gone when the environment is closed.
    Environment,
}

/// A limit that holds in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Processes at the same time.
    Processes(u64),
    /// Memory of everything together, in bytes.
    MemoryBytes(u64),
    /// The data segment of one process, in bytes.
    ProcessMemoryBytes(u64),
    /// One file, in bytes.
    FileBytes(u64),
    /// Everything written, in bytes.
    DiskBytes(u64),
    /// Open files of one process.
    OpenFiles(u64),
    /// Processors, in thousandths of one.
    MilliCpus(u64),
    /// The whole life of the environment.
    Lifetime(Duration),
}

/// Whether an environment keeps account of what commands change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeTracking {
    /// [`Changes`](crate::Changes) works.
    Tracked,
    /// [`Changes`](crate::Changes) answers `NotTracked`.
    Untracked,
}

/// Where adapters may differ. A conformance clause asks nothing else; every use is listed in the
/// suite's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether changes are tracked.
    pub change_tracking: ChangeTracking,
    /// Whether output is exact under [`Fidelity::Readable`](crate::Fidelity) too. Under
    /// [`Fidelity::Exact`](crate::Fidelity) it always is.
    pub streams_exact_bytes: bool,
    /// Whether processes that left their command's group and session (daemons) end with it too. A
    /// host without namespaces and without `/proc` cannot find them; those that stayed in the group
    /// always end.
    pub finds_detached_children: bool,
}

/// What an environment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Which it is.
    pub kind: EnvironmentKind,
    /// Operating system, version and machine, as `uname -srm` has them: `Linux 6.18.1 x86_64`. Before the first use it may
    /// be the first alone.
    pub operating_system: String,
    /// The shell that takes [`Program::Shell`](crate::Program::Shell), an absolute path.
    pub shell: PathBuf,
    /// The user that commands run as, where it has a name that is known.
    pub user: Option<String>,
    /// The workspace as commands see it.
    pub workspace: PathBuf,
    /// Where commands run unless told otherwise: the workspace or a directory in it.
    pub working_directory: PathBuf,
    /// A directory for temporary files that commands and file tools both reach and that is not in
    /// the workspace.
    pub scratch: PathBuf,
    /// What lasts.
    pub persistence: Persistence,
    /// Which network commands have.
    pub network: Network,
    /// The limits that really hold, no others.
    pub limits: Vec<Limit>,
    /// What else the model has to know, in full sentences.
    pub remarks: Vec<String>,
    /// Where this adapter differs from others.
    pub capabilities: Capabilities,
}

/// Says what the environment is.
#[async_trait]
pub trait Describe: Send + Sync {
    /// Describes the environment, as far as it is known.
    ///
    /// One that takes long to make, as one elsewhere does, is neither made nor waited for. Without a use in between, the same
    /// is said again. What is said holds for the environment's life, but a use may make it more exact: the operating system,
    /// the user and the remarks may be others after the first use than before, nothing else. Whoever needs one description
    /// for a while keeps it.
    ///
    /// # Errors
    /// The environment was closed, or is one that is made to be described and could not be.
    ///
    /// # Cancel safety
    /// As [`Lifecycle::prepare`](crate::Lifecycle::prepare).
    async fn describe(&self) -> Result<Description, EnvironmentError>;

    /// Which environment this is; known without making it.
    fn kind(&self) -> EnvironmentKind;
}
