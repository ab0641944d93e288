//! The values of a review: what stands at a path in a session, on the host, and where both began.

mod apply;
mod entry;
mod path;

pub use apply::{
    Applied, AppliedId, AppliedPath, ApplyContents, ApplyError, ApplyTarget, Content, Placed, Step,
    Undo, Unnoted,
};
pub use entry::{Base, Digest, Entry};
pub use path::{PathRefusal, ReviewedPath};
