//! Forge as a library: an environment, a language model and an agent, put together.
//!
//! This is the composition root. It chooses adapters and wires them, and owns no rule of its own;
//! it reads no environment variable and writes to no terminal. Everything that a caller needs is
//! re-exported here, the contracts of `forge-domain` included, so that no adapter crate has to be
//! named.
//!
//! ```no_run
//! use forge_api::{CommandIo, CommandRequest, Commands, ExecutorConfig, ForgeAPI, ForgeConfig};
//! use forge_api::{LocalOptions, Program};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let variables = LocalOptions::inherit(std::env::vars_os());
//! let forge = ForgeAPI::init(ForgeConfig::new(".", ExecutorConfig::Local(variables))).await?;
//! let request = CommandRequest::new(Program::shell("cargo --version"));
//! let exit = forge.executor().run(request, CommandIo::detached()).await?;
//! println!("{:?}", exit.ending);
//! forge.close().await?;
//! # Ok(())
//! # }
//! ```

mod commits;
mod config;
mod executor;
mod forge;
#[cfg(target_os = "linux")]
mod leftover;
#[cfg_attr(not(target_os = "linux"), path = "microvm_elsewhere.rs")]
mod microvm;
#[cfg(target_os = "linux")]
mod microvm_commits;
#[cfg(target_os = "linux")]
mod microvm_record;
#[cfg(target_os = "linux")]
mod review;
mod setup;
mod turn;

/// What an [`OutputSink`] is given.
pub use bytes::Bytes;
#[cfg(target_os = "linux")]
pub use commits::bring_kept_commits;
pub use commits::{BringError, BroughtCommits, bring_commits};
pub use config::{
    ApproveAll, ExecutorConfig, ForgeConfig, HistoryOptions, LocalOptions, ProjectOptions,
};
pub use executor::Executor;
pub use forge::{ForgeAPI, InitError};
pub use forge_app::{
    AgentConfig, AgentEvent, AskPolicy, Conversation, EventSink, Setup, ToolOutcome, TurnError,
    TurnOutcome, TurnReport, difference, limit_text,
};
#[cfg(target_os = "linux")]
pub use leftover::{EndedMicrovm, LeftoverMicrovms, MicrovmEnd, MicrovmStanding, WhichMicrovms};
pub use microvm::Microvm;
// The contracts are part of this interface, all of them and by intention.
/// Deciding over what a session changed; pure.
pub use forge_app::review as planning;
pub use forge_domain::*;
#[cfg(target_os = "linux")]
pub use forge_infra_apply::HostTree;
pub use forge_infra_git::{HostRepository, git_identity};
pub use forge_infra_local::LocalHost;
pub use forge_infra_model::{ModelConfig, ModelConfigError, Provider};
#[cfg(target_os = "linux")]
pub use forge_infra_sandbox::{
    AddedAccess, AddedDirectory, Check, CheckOutcome, DamagedSession, DetailedChange,
    DetailedChangeSet, FileFacts, HelperProgram, IgnoredFiles, KeptCommits, LineChanges, Listing,
    MicrovmUse, OpenSession, ProbeReport, ProcessView, PruneOptions, PruneReport, Pruned,
    SandboxConfig, SandboxEnvironment, SandboxLimits, SandboxView, SessionChoice, SessionEnd,
    SessionError, SessionLayers, SessionMedium, SessionOrigin, SessionState, SessionStore,
    SessionSummary, StoredMicrovm, StoredSummary, TOOLCHAIN_VARIABLES, UsedSession, WaitingCommits,
    apparmor_profile, load_apparmor_profile, probe, sandbox_hook,
};
pub use forge_infra_tensorlake::{
    AddressError, ConfigError as TensorlakeConfigError, Progress, ProgressListener, Resources,
    TensorlakeConfig, TensorlakeEnvironment, guest_path, wait_for_reapers,
};
/// A Tensorlake-compatible server over the embedded sandbox.
#[cfg(target_os = "linux")]
pub use forge_sandboxd::{ApiKey, RunRoute, Server, ServerConfig, ServerError, StateError};
#[cfg(target_os = "linux")]
pub use review::{ApplyReport, Review, ReviewError, recover_applies, undo_apply};
/// What holds a key in a [`ModelConfig`] or [`TensorlakeConfig`].
pub use secrecy::SecretString;
pub use turn::{Turn, TurnCanceller};
