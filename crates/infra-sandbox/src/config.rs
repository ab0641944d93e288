//! What the environment is made from.

use std::ffi::OsString;
use std::path::PathBuf;

use derive_setters::Setters;
use forge_domain::{EnvironmentVariable, Network, WorkspaceLocation};

use crate::hook::HelperProgram;
use crate::layers::Layers;
use crate::store::SessionChoice;

/// How a [`SandboxEnvironment`](crate::SandboxEnvironment) is made.
#[derive(Debug, Clone, Setters)]
#[setters(into)]
pub struct SandboxConfig {
    /// Given with the environment.
    #[setters(skip)]
    pub(crate) workspace: WorkspaceLocation,
    /// Where sessions are kept; made with mode 0700 if it is not there.
    #[setters(skip)]
    pub state_directory: PathBuf,
    /// Which session is used. Default: the newest of the workspace that is free and holds anything,
    /// else a new one.
    pub session: SessionChoice,
    /// What commands may write and keep. Default: [`SandboxView::Workspace`].
    pub view: SandboxView,
    /// Whether commands see each other's processes. Default: [`ProcessView::Separate`].
    pub processes: ProcessView,
    /// Where what the session writes is while it is used. Default: [`SessionMedium::Disk`].
    pub medium: SessionMedium,
    /// Variables for commands, on top of the sandbox's own few. Default: none.
    pub environment: Vec<EnvironmentVariable>,
    /// The user's variables that tell where toolchains are, by the names in
    /// [`TOOLCHAIN_VARIABLES`](crate::TOOLCHAIN_VARIABLES). Default: none; then only what the system's
    /// directories hold is there.
    pub toolchain_variables: Vec<(OsString, OsString)>,
    /// The user's home directory, where toolchains are looked for. Default: none is known.
    #[setters(strip_option)]
    pub home: Option<PathBuf>,
    /// Which network commands have. Default: [`Network::None`].
    pub network: Network,
    /// What commands may use up. Default: [`SandboxLimits::default`].
    pub limits: SandboxLimits,
    /// Files of the project that would be hidden as secrets and are to be seen, absolute or relative to
    /// the working directory. Default: none.
    pub include: Vec<PathBuf>,
    /// Directories of the host that are shown as well. Default: none.
    pub added: Vec<AddedDirectory>,
    /// The shell for [`Program::Shell`](forge_domain::Program::Shell), called with `-c`. Default:
    /// `/bin/sh`.
    pub shell: PathBuf,
    /// Which program is executed to hold the session. Default: this one.
    pub helper: HelperProgram,
    /// Which layers are on. Default: all; a build without the feature `switchable-layers` has no other.
    pub layers: Layers,
}

impl SandboxConfig {
    /// Everything default but the state directory.
    #[must_use]
    pub fn new(state_directory: impl Into<PathBuf>) -> Self {
        Self {
            workspace: WorkspaceLocation {
                root: PathBuf::new(),
                working_directory: PathBuf::new(),
            },
            state_directory: state_directory.into(),
            session: SessionChoice::Continue,
            view: SandboxView::Workspace,
            processes: ProcessView::Separate,
            medium: SessionMedium::Disk,
            environment: Vec::new(),
            toolchain_variables: Vec::new(),
            home: None,
            network: Network::None,
            limits: SandboxLimits::default(),
            include: Vec::new(),
            added: Vec::new(),
            shell: PathBuf::from("/bin/sh"),
            helper: HelperProgram::default(),
            layers: Layers::ALL,
        }
    }
}

/// What commands see, and what of it they may write and keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SandboxView {
    /// The workspace behind a layer of the session's, the system's directories and toolchains
    /// read-only, and nothing else.
    #[default]
    Workspace,
    /// The system's directories and toolchains behind layers of the session's, and nothing else of the
    /// host, in a root that is the session's: every path can be written, and nothing of the host is.
    /// The workspace is `/`; there is no change set, and no secret of a project is looked for. What the
    /// kernel shows (`/proc`, `/dev`) and what is hidden cannot be written.
    WholeRoot,
}

/// Which processes a command sees, signals, and shares memory with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProcessView {
    /// Its own: each command has process ids of its own, and nothing of it outlives it.
    #[default]
    Separate,
    /// All of the session, as on a machine of its own: ids are the session's, and one command can look
    /// for and signal what another started. What a command leaves behind is still ended with it.
    Shared,
}

/// Where what a session writes is while it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionMedium {
    /// In the state directory; where its file system cannot hold a layer, in memory.
    #[default]
    Disk,
    /// In memory. It is written to the state directory at each
    /// [checkpoint](forge_domain::Lifecycle::checkpoint) and by
    /// [`close`](forge_domain::Lifecycle::close), and what came after is lost where neither happens.
    Memory,
}

/// A directory of the host that commands see besides the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedDirectory {
    /// The directory: absolute, symlinks resolved. It is seen at the same path.
    pub source: PathBuf,
    /// Whether commands may write to it. What they write is there at once, without review.
    pub access: AddedAccess,
}

/// What commands may do in an added directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddedAccess {
    /// Read and execute.
    ReadOnly,
    /// Everything, on the host's own files.
    ReadWrite,
}

/// What commands may use up. Which of these hold depends on the kernel and on who is running: the
/// environment's description names those that do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Setters)]
#[setters(strip_option)]
pub struct SandboxLimits {
    /// Processes of the session at the same time. Default: 2048.
    pub processes: u64,
    /// Open files of one process. Default: 65536, or what the host allows.
    pub open_files: u64,
    /// One file, in bytes. Default: 16 GiB.
    pub file_bytes: Option<u64>,
    /// Memory of the session as a whole, in bytes. Default: seven eighths of the machine's.
    pub memory_bytes: Option<u64>,
    /// Processors, in thousandths of one. Default: all that there are.
    pub milli_cpus: Option<u64>,
    /// Everything that the session writes to the disk, in bytes. Looked at every second. Default:
    /// 32 GiB.
    pub disk_bytes: u64,
}

const GIB: u64 = 1024 * 1024 * 1024;

impl Default for SandboxLimits {
    fn default() -> Self {
        let memory = rustix::system::sysinfo();
        let total = memory.totalram * u64::from(memory.mem_unit);
        Self {
            processes: 2048,
            open_files: 65_536,
            file_bytes: Some(16 * GIB),
            memory_bytes: (total > 0).then_some(total / 8 * 7),
            milli_cpus: None,
            disk_bytes: 32 * GIB,
        }
    }
}
