//! Brings reviewed changes to a tree of the host: all of them or none, whatever happens meanwhile, and back.
//!
//! [`HostTree`] implements the port [`ApplyTarget`](forge_domain::ApplyTarget). What is new is staged in a
//! directory of the tree itself, so that a full disk shows before anything is changed; then each path is put in its
//! place by one rename(2), which exchanges it with what was there. A journal in the state directory says what was
//! begun. Every path is resolved by the kernel beneath the tree's root and through no symlink.
//!
//! Every call to the file system is in one module, `calls`, in which tests interrupt each in turn.

#![cfg(target_os = "linux")]

mod calls;
mod errors;
mod journal;
mod modes;
mod place;
mod recovery;
mod stage;
mod tree;
mod undo;

#[cfg(test)]
mod tests;

pub use tree::HostTree;
