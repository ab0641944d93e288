//! The embedded Linux sandbox as an environment: no account, no daemon, no root.
//!
//! [`SandboxEnvironment`] implements the ports of `forge-domain`. A [helper process](sandbox_hook) holds
//! a session in namespaces of its own: it sees an allow-list of the host, read-only, and the workspace
//! as a copy-on-write view whose changes are kept by a [`SessionStore`] and never reach the host by
//! themselves. Every command runs in a pid and mount namespace of its own, without capabilities, under
//! Landlock and a filter of system calls.
//!
//! The design, its order of set-up, what was measured and the known gaps: `docs/sandbox.md`.

#![cfg(target_os = "linux")]

mod archive;
mod beneath;
mod changes;
mod channel;
mod config;
mod descent;
mod description;
mod diagnosis;
mod environment;
mod files;
mod helper;
mod hook;
mod layers;
mod mount_points;
#[cfg(test)]
mod mounted;
mod paths;
mod plan;
mod ports;
mod probe;
mod quota;
#[cfg(test)]
mod races;
mod removal;
mod run;
#[cfg(test)]
mod sample;
mod search;
mod secrets;
mod session;
mod spec;
mod store;
mod streaming;
mod system;
mod taking_in;
mod toolchains;
mod whole;

pub use changes::{DetailedChange, DetailedChangeSet, FileFacts, IgnoredFiles, LineChanges};
pub use config::{
    AddedAccess, AddedDirectory, ProcessView, SandboxConfig, SandboxLimits, SandboxView,
    SessionMedium,
};
pub use environment::{SandboxEnvironment, SessionOrigin, UsedSession};
pub use hook::{HelperProgram, sandbox_hook};
pub use layers::Layers;
pub use ports::{StartedCommand, StartedInput, StartedOnTerminal};
pub use probe::{Check, CheckOutcome, ProbeReport, apparmor_profile, load_apparmor_profile, probe};
pub use store::{
    DamagedSession, DealtWith, KeptCommits, Listing, MicrovmUse, OpenSession, PruneOptions,
    PruneReport, Pruned, Receiver, SessionChoice, SessionEnd, SessionError, SessionLayers,
    SessionState, SessionStore, SessionSummary, StoredMicrovm, StoredSummary, WaitingCommits,
};
pub use toolchains::TOOLCHAIN_VARIABLES;
