//! The port to the host's tree, for what was reviewed.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::{Digest, Entry, ReviewedPath};

/// Where the contents of a file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// From the session, which must hold exactly this.
    Session {
        /// What was reviewed.
        digest: Digest,
    },
    /// A merge of the session's with the host's.
    Merged {
        /// These.
        bytes: Vec<u8>,
        /// What the session has.
        session: Digest,
    },
}

/// What is to stand at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// Nothing.
    Nothing,
    /// Nothing, if it is an empty directory by then; else what is there stays.
    NothingIfEmpty,
    /// A directory with these permission bits; what is in one that is there stays.
    Directory {
        /// Only the lowest nine.
        mode: u32,
    },
    /// A symlink.
    Symlink {
        /// Where it points.
        target: PathBuf,
    },
    /// A file.
    File {
        /// Only the lowest nine permission bits.
        mode: u32,
        /// What it holds.
        content: Content,
    },
}

/// One change to the host's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub path: ReviewedPath,
    /// What was there when this was planned; nothing is done if it is anything else by then.
    pub before: Option<Entry>,
    /// What is to be there.
    pub after: Placed,
}

/// The name of an apply that was carried out. Later ones are greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppliedId(String);

impl AppliedId {
    /// Takes a name of letters, digits and hyphens; `None` where it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_name = !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        is_name.then(|| Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A path of the host that is another now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedPath {
    /// Which.
    pub path: ReviewedPath,
    /// What stood there.
    pub before: Option<Entry>,
    /// What stands there now.
    pub after: Option<Entry>,
    /// What the session had, where that was merged with what stood there.
    pub merged: Option<Digest>,
}

impl AppliedPath {
    /// Whether directories are all that there was or is.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        let mut entries = [&self.before, &self.after].into_iter().flatten();
        entries.all(|entry| matches!(entry, Entry::Directory { .. }))
    }
}

/// What an apply did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// By this it can be undone.
    pub id: AppliedId,
    /// The paths that are others now, in the order of the steps.
    pub paths: Vec<AppliedPath>,
}

/// What an undo did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    /// Its own name; `None` where nothing was taken back.
    pub id: Option<AppliedId>,
    /// What was taken back.
    pub of: AppliedId,
    /// The paths that are as they were before the apply.
    pub restored: Vec<AppliedPath>,
    /// The paths that somebody has changed since, which were left.
    pub changed: Vec<ReviewedPath>,
}

/// Something that was carried out, of which it is not noted that its session knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnoted {
    /// Its name.
    pub id: AppliedId,
    /// For which session.
    pub session: String,
    /// The apply that it takes back, where it is an undo.
    pub undoes: Option<AppliedId>,
    /// The paths that it changed.
    pub paths: Vec<AppliedPath>,
}

/// Why nothing was applied. The tree is as it was, unless it says otherwise.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// These are not any more what they were when the apply was planned.
    #[error("the workspace was changed meanwhile")]
    Changed {
        /// Which.
        paths: Vec<ReviewedPath>,
    },
    /// Another process applies to this tree.
    #[error("another forge applies changes to this workspace")]
    Busy,
    /// There is no apply that could be undone.
    #[error("nothing was applied that could be undone")]
    NothingApplied,
    /// What a session holds is not any more what was planned with.
    #[error("the session was changed meanwhile: {path}")]
    SessionChanged {
        /// Where.
        path: ReviewedPath,
    },
    /// The operating system refused; everything was taken back.
    #[error("{operation} {path} failed")]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The operating system refused, and what had been done could not be taken back either. What is missing
    /// is kept, and the next start tries again.
    #[error("an apply could not be taken back in full: {operation} {path} failed")]
    Incomplete {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Gives the contents of files as the session has them.
pub trait ApplyContents {
    /// Opens a regular file of the session.
    ///
    /// # Errors
    /// It is not there, is something else, or cannot be read.
    fn open(&self, path: &ReviewedPath) -> io::Result<Box<dyn io::Read + '_>>;
}

/// A tree of the host that reviewed changes are brought to. Every call blocks.
///
/// However a call ends, and if the process is killed in it, the tree is afterwards wholly as it was or wholly
/// as it was to become, at the latest after [`recover`](Self::recover). Nothing outside of the paths of the
/// steps is changed, no symlink is followed, and what stood at a path is kept until the apply is forgotten.
pub trait ApplyTarget {
    /// Finishes or takes back what a killed process has begun, and says whether there was anything.
    ///
    /// # Errors
    /// [`ApplyError::Busy`], or it cannot be done now.
    fn recover(&self) -> Result<bool, ApplyError>;

    /// What stands at a path; `None` where nothing does, or where something above it is no directory.
    ///
    /// # Errors
    /// It cannot be read.
    fn look(&self, path: &ReviewedPath) -> Result<Option<Entry>, ApplyError>;

    /// Carries out all steps, in their order, or none.
    ///
    /// A file that is modified keeps its owner and group; a new one gets those of its directory.
    ///
    /// # Errors
    /// Nothing was changed, except with [`ApplyError::Incomplete`].
    fn apply(
        &self,
        session: &str,
        steps: &[Step],
        contents: &dyn ApplyContents,
    ) -> Result<Applied, ApplyError>;

    /// The session of the apply that an undo without a session would take back, for these paths.
    ///
    /// # Errors
    /// What is written down about applies cannot be read.
    fn newest_session(
        &self,
        is_chosen: &dyn Fn(&ReviewedPath) -> bool,
    ) -> Result<Option<String>, ApplyError>;

    /// Every apply and undo that was carried out and not [noted](Self::note) yet, the oldest first: the process
    /// that did it was killed before it could tell the session.
    ///
    /// # Errors
    /// What is written down about applies cannot be read.
    fn unnoted(&self) -> Result<Vec<Unnoted>, ApplyError>;

    /// Writes down that the session knows of an apply or an undo.
    ///
    /// # Errors
    /// It cannot be written down; then it is told once more.
    fn note(&self, id: &AppliedId) -> Result<(), ApplyError>;

    /// Takes the newest apply of a session back which was not taken back yet, or these paths of it. A path that
    /// was changed since is left, unless it is forced.
    ///
    /// # Errors
    /// [`ApplyError::NothingApplied`], or as [`apply`](Self::apply).
    fn undo(
        &self,
        session: Option<&str>,
        is_chosen: &dyn Fn(&ReviewedPath) -> bool,
        is_forced: &dyn Fn(&ReviewedPath) -> bool,
    ) -> Result<Undo, ApplyError>;
}
