//! The values of a review: what stands at a path in a session, on the host, and where both began.

mod apply;
mod commits;
mod entry;
mod path;

pub use apply::{
    Applied, AppliedId, AppliedPath, ApplyContents, ApplyError, ApplyTarget, Content, Placed, Step,
    Undo,
};
pub use commits::{
    BranchName, BroughtRefs, CommitTarget, CommitsError, GitObjectId, RefRefusal, RepositoryRefs,
    SessionRef, SessionRefName, session_refs,
};
pub use entry::{Base, Digest, Entry};
pub use path::{PathRefusal, ReviewedPath};
