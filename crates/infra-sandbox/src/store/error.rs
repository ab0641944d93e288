//! What can be wrong with sessions.

use std::io;
use std::path::{Path, PathBuf};

use forge_domain::SessionId;
use thiserror::Error;

/// Why a session cannot be used.
#[derive(Debug, Error)]
pub enum SessionError {
    /// There is none of this name.
    #[error("there is no session {text:?}")]
    NotFound {
        /// As it was asked for.
        text: String,
    },
    /// More than one begins like this.
    #[error("{} sessions begin with {text:?}", .matches.len())]
    Ambiguous {
        /// As it was asked for.
        text: String,
        /// Those that do.
        matches: Vec<SessionId>,
    },
    /// Another process uses it.
    #[error("session {id} is in use{}", .pid.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Busy {
        /// Which.
        id: SessionId,
        /// Who uses it, where that is known.
        pid: Option<i32>,
    },
    /// It belongs to another workspace.
    #[error("session {id} belongs to {}, not to {}", workspace.display(), asked.display())]
    OtherWorkspace {
        /// Which.
        id: SessionId,
        /// Its workspace.
        workspace: PathBuf,
        /// The one that it was asked for.
        asked: PathBuf,
    },
    /// What was changed in it is still in a microVM, whose process was ended.
    #[error("what session {id} changed is still in its microVM")]
    Elsewhere {
        /// Which.
        id: SessionId,
    },
    /// A newer forge has made it.
    #[error("session {id} was made by a newer forge")]
    Newer {
        /// Which.
        id: SessionId,
    },
    /// What is known of it cannot be read.
    #[error("session {id} is damaged: {reason}")]
    Damaged {
        /// Which.
        id: SessionId,
        /// What is wrong.
        reason: String,
    },
    /// What it holds is in memory while it is used, which only the sandbox can.
    #[error(
        "session {id} can only be gone on with in the sandbox: what it holds is kept in an archive"
    )]
    InMemory {
        /// Which.
        id: SessionId,
    },
    /// Commits were made in it that are no part of the sandbox's git.
    #[error("session {id} has commits of a microVM, and can only be gone on with in one")]
    CommitsInMicrovm {
        /// Which.
        id: SessionId,
    },
    /// Commits were made in it that are no part of a microVM's git.
    #[error("session {id} has commits of the sandbox, and can only be gone on with there")]
    CommitsInSandbox {
        /// Which.
        id: SessionId,
    },
    /// Others could change what is in the state directory.
    #[error("the state directory {} is not safe: {reason}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The operating system refused.
    #[error("{operation} {} failed", path.display())]
    Io {
        /// What was being done, as `making`.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

impl SessionError {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_path_buf(), source }
    }
}
