//! The way back: what was changed in the guest, as the host keeps it.
//!
//! The guest lists its tree, which is compared with the list that it gave right after the project was brought in: what
//! has another inode, size or time of change is fetched in one archive. Nothing that the guest says is trusted: every
//! list has limits, and an archive gives only the files that were asked for, each at most as long as it was listed.

mod archive;
mod commits;
mod compare;
mod listing;
mod run;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use compare::Kept;
pub use listing::{GuestRefs, RepositoryOrigin};
pub(crate) use listing::{GuestTree, LIST_TREE, PRINT_LIST};
pub(crate) use run::{BringBack, Hashed, names, read_tree};
pub(crate) use state::GuestState;
