//! The port to the host's workspace as it goes into an environment that is not on this machine.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::review::{CommitsError, GitObjectId, SessionRef};

/// What stands at a path that goes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEntry {
    /// A regular file.
    File {
        /// Its size when it was looked at.
        size_bytes: u64,
        /// Its permission bits, without setuid, setgid and sticky.
        mode: u32,
    },
    /// A symlink.
    Symlink {
        /// Where it points, as it is written.
        target: PathBuf,
    },
    /// A directory.
    Directory {
        /// Its permission bits, without setuid, setgid and sticky.
        mode: u32,
    },
}

/// Says whether a path is still what it was: of two equal stamps it is, as far as the file system tells (inode, size, and
/// the times of the last write and the last change of the inode).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceStamp(u128);

impl SourceStamp {
    /// Takes a number in which all that tells two versions apart has gone.
    #[must_use]
    pub fn new(number: u128) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u128 {
        self.0
    }
}

/// One path that goes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePath {
    /// Relative to the workspace root; never empty.
    pub path: PathBuf,
    /// What stands there.
    pub entry: SourceEntry,
    /// When it was last written to, in seconds since 1970.
    pub modified_seconds: u64,
    /// Which version of it.
    pub stamp: SourceStamp,
}

/// Why a path stays behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOutReason {
    /// The project's ignore rules exclude it, and git does not track it, or its `.forgeignore` excludes it.
    Ignored,
    /// It holds a secret, by its name or by what is in it, and was not included by name.
    Secret,
    /// It is larger than a file may be.
    TooLarge,
    /// The user cannot read it.
    Unreadable,
    /// It is the git directory of a repository inside of this one.
    NestedRepository,
    /// It is a socket, a device or a fifo.
    Special,
    /// It is git's index, and it is not understood what that tracks: what a rule ignores stays behind though git tracks it.
    IndexNotUnderstood,
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignored => "ignored",
            Self::Secret => "secret",
            Self::TooLarge => "too large",
            Self::Unreadable => "unreadable",
            Self::NestedRepository => "nested repository",
            Self::Special => "socket, device or fifo",
            Self::IndexNotUnderstood => {
                "not understood, so what git tracks and a rule ignores stays behind"
            }
        })
    }
}

/// A path that stays behind; of a directory, with everything in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Relative to the workspace root.
    pub path: PathBuf,
    /// Why.
    pub reason: LeftOutReason,
}

/// What a workspace is at one moment, without what is in its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceListing {
    /// What goes along, in byte order of the paths, each directory before what is in it. `.git` at the root is not
    /// among it.
    pub paths: Vec<SourcePath>,
    /// What stays behind, in the same order.
    pub left_out: Vec<LeftOut>,
    /// What the files are together.
    pub total_bytes: u64,
}

/// Why a workspace cannot be taken along.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The directory itself cannot be read.
    #[error("{path:?} cannot be read")]
    Io {
        /// Which.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Its files are too many bytes together.
    #[error(
        "the project's files are {total_bytes} bytes together, and {limit_bytes} are allowed; the largest: {largest:?}"
    )]
    TooLarge {
        /// How many.
        total_bytes: u64,
        /// How many may be.
        limit_bytes: u64,
        /// The directories or files at the root that are the largest, the largest first.
        largest: Vec<PathBuf>,
    },
}

/// The history of a workspace's repository, to be put together anew elsewhere.
pub struct History {
    /// A bundle with its branches and tags, and its length; `None` where there are no commits.
    pub bundle: Option<(Box<dyn io::Read + Send>, u64)>,
    /// How objects are named: `sha1` or `sha256`.
    pub object_format: String,
    /// The branch that is checked out, without `refs/heads/`; `None` where none is.
    pub branch: Option<String>,
    /// The commit that is checked out.
    pub head: Option<GitObjectId>,
    /// Lines that name the commits whose parents are not there.
    pub shallow: Vec<u8>,
    /// What `.git/info/exclude` holds.
    pub exclude: Vec<u8>,
    /// Settings that neither execute anything nor hold a secret.
    pub settings: Vec<(String, String)>,
    /// The paths of the commit that is checked out.
    pub tracked: Vec<PathBuf>,
    /// Where the whole is larger than may be sent and only the newest commit is: how much may be.
    pub cut_at_bytes: Option<u64>,
    /// What the session committed in an environment before this one, and the host's refs do not name.
    pub session: Option<SessionCommits>,
}

/// Commits that a session made.
pub struct SessionCommits {
    /// What its refs name, `HEAD` among them. They take the place of the host's.
    pub refs: Vec<SessionRef>,
    /// The branch that is checked out, without `refs/heads/`.
    pub branch: Option<String>,
    /// What the bundle builds upon.
    pub needs: Vec<GitObjectId>,
    /// A bundle of what the host does not have, and its length; `None` where it has everything.
    pub bundle: Option<(Box<dyn io::Read + Send>, u64)>,
}

impl fmt::Debug for SessionCommits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCommits")
            .field("refs", &self.refs)
            .field("branch", &self.branch)
            .field("bundle_bytes", &self.bundle.as_ref().map(|(_, length)| length))
            .finish()
    }
}

impl History {
    /// That of a repository without commits, which the host does not have.
    #[must_use]
    pub fn of_the_session(session: SessionCommits) -> Self {
        let is_long = session.refs.iter().any(|one| one.id.as_str().len() > 40);
        Self {
            bundle: None,
            object_format: if is_long { "sha256" } else { "sha1" }.to_owned(),
            branch: None,
            head: None,
            shallow: Vec::new(),
            exclude: Vec::new(),
            settings: Vec::new(),
            tracked: Vec::new(),
            cut_at_bytes: None,
            session: Some(session),
        }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("bundle_bytes", &self.bundle.as_ref().map(|(_, length)| length))
            .field("branch", &self.branch)
            .field("head", &self.head)
            .field("cut_at_bytes", &self.cut_at_bytes)
            .field("session", &self.session.as_ref().map(|session| &session.refs))
            .finish_non_exhaustive()
    }
}

/// Why a history cannot be taken along. The workspace can be used without.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// There is no repository.
    #[error("the project is no git repository")]
    NoRepository,
    /// The workspace is only a part of a repository.
    #[error("the project is only a part of the git repository {root:?}")]
    Within {
        /// Where that is.
        root: PathBuf,
    },
    /// The newest commit alone is more than may be sent.
    #[error("its newest commit alone takes more than {limit_bytes} bytes")]
    TooLarge {
        /// How much may be sent.
        limit_bytes: u64,
    },
    /// git of the host failed, or is not there.
    #[error(transparent)]
    Git(#[from] CommitsError),
}

/// Reads the history of the host's workspace. It changes nothing there, runs nothing that the repository names, and its
/// calls block.
pub trait HistorySource: Send + Sync + fmt::Debug {
    /// The history as it is now, and these commits with theirs, as far as they are still there.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn take(&self, also: &[GitObjectId]) -> Result<History, HistoryError>;
}

/// Reads the host's workspace for an environment that has none of its own. It changes nothing, and its calls block.
pub trait WorkspaceSource: Send + Sync + fmt::Debug {
    /// Lists what goes along now: tracked files and others that are not ignored, as they are on the disk, with modes,
    /// symlinks and empty directories.
    ///
    /// # Errors
    /// [`SourceError`]. A single path that cannot be read is left out and said.
    fn list(&self) -> Result<SourceListing, SourceError>;

    /// The same for an environment that has nothing of it yet. Where there is more to bring in than the host's workspace
    /// has, as what waits in a session, it is among this, and in the place of the host's.
    ///
    /// # Errors
    /// As [`WorkspaceSource::list`].
    fn begin(&self) -> Result<SourceListing, SourceError> {
        self.list()
    }

    /// Opens a file that was listed, by its path relative to the root; no symlink on the way is followed.
    ///
    /// # Errors
    /// It is not there any more, is no regular file, or cannot be read.
    fn open(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>>;

    /// What a path is now; `None` where nothing is there, or where it would not go along any more.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn look(&self, path: &Path) -> io::Result<Option<SourcePath>>;
}
