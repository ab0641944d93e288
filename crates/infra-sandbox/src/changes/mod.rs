//! What a session changed, read from its upper layer.
//!
//! The layer was written by commands, so it is read as what somebody hostile has made: everything is
//! opened by descriptor beneath its root, no symlink is followed, nothing is executed or trusted. What
//! the overlay itself notes is matched by its exact names, which the kernel does not let a command
//! forge.

mod compare;
mod entry;
mod ignored;
mod layer;
mod lines;
mod walk;

#[cfg(test)]
mod tests;

pub(crate) use entry::{ORIGIN as ORIGIN_MARK, Recent, entry, is_bare, is_copied_up, open, stat};
pub use ignored::IgnoredFiles;
pub(crate) use layer::{Directory, OPAQUE as OPAQUE_MARK};
pub use lines::LineChanges;
pub(crate) use lines::contents;
pub(crate) use lines::line_changes;
pub use walk::{DetailedChange, DetailedChangeSet, FileFacts};
pub(crate) use walk::{change_set, change_set_with};
