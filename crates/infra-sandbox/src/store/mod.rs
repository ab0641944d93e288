//! Sessions on the disk: `sessions/<id>/{meta.json,lock,upper,work,base}` under the state directory.
//!
//! Where its commands run in a microVM, `microvm` holds what tells what is changed there, and `commits` what was committed.
//!
//! Where the state directory's file system cannot hold a layer, `upper.tar` and `git-upper.tar` hold what
//! the layers hold, which are in memory while the session is used.
//!
//! A session is used by one process at a time, which holds a lock (flock(2)) on its `lock` file; the
//! kernel gives it back however that process ends. What is made is made aside and renamed into place,
//! what is removed is renamed away first, so that no half of a session is ever taken for one. What
//! cannot be read is set aside and never deleted by itself.

mod base;
mod blobs;
mod commits;
mod error;
mod id;
mod kept;
mod lock;
mod make;
mod meta;
mod microvm;
mod moment;
mod open;
mod prune;
mod read;
mod receive;
mod sessions;

#[cfg(test)]
mod tests;

pub use base::DealtWith;
pub(crate) use base::Followed;
pub use commits::WaitingCommits;
pub use error::SessionError;
pub use kept::KeptCommits;
pub use meta::StoredSummary;
pub use microvm::{MicrovmUse, StoredMicrovm};
pub(crate) use open::LayerPlace;
pub use open::{OpenSession, SessionEnd};
pub(crate) use prune::remove_directory;
pub use prune::{PruneOptions, PruneReport, Pruned};
pub use read::SessionLayers;
pub(crate) use read::{Compared, Outdated};
pub use receive::Receiver;
pub use sessions::{
    DamagedSession, Listing, SessionChoice, SessionState, SessionStore, SessionSummary,
};
