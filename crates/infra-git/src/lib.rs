//! Repositories of the host, by the user's own git, in which everything is switched off that could run another program.
//!
//! [`HostRepository`] implements the port [`CommitTarget`](forge_domain::CommitTarget): commits of a session come in by a
//! bundle, are checked in a repository of ours beside it, and are named by refs beneath `refs/forge/`. [`GitProgram`] is the
//! only place from which git is started on the host.

mod bring;
mod history;
mod identity;
mod program;
mod quarantine;
mod repository;
mod run;

#[cfg(test)]
mod tests;

pub use history::HostHistory;
pub use identity::git_identity;
pub use program::{GitProgram, SETTINGS};
pub use repository::HostRepository;
