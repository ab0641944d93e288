//! Removing sessions.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use forge_domain::SessionId;
use rustix::fs::{FlockOperation, flock};

use super::error::SessionError;
use super::meta::StoredSummary;
use super::open::holds_anything;
use super::sessions::{GONE, NEW, SessionState, SessionStore, SessionSummary};
use crate::removal::remove_tree;

/// How long a session with nothing but ignored files is kept unused.
const IGNORED_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is being made aside takes no longer than this.
const HALF_MADE_KEPT: Duration = Duration::from_secs(60 * 60);

/// What to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Remove the sessions of this workspace that hold changes, too; the changes are lost.
    pub with_changes_of: Option<PathBuf>,
}

/// A session that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// Which.
    pub session: SessionSummary,
    /// Why, for a person: `it held nothing`.
    pub reason: &'static str,
}

/// What was done.
#[derive(Debug, Default)]
pub struct PruneReport {
    /// Those that are gone.
    pub removed: Vec<Pruned>,
    /// Those that stay since they hold changes.
    pub with_changes: Vec<SessionSummary>,
    /// Those that could not be removed.
    pub failed: Vec<(SessionId, SessionError)>,
}

impl SessionStore {
    /// Removes the sessions that nobody misses: those that hold nothing, those with ignored files only
    /// that were not used for seven days, and halves that a crash left. One that is in use is left alone.
    ///
    /// # Errors
    /// The state directory cannot be read; what could not be removed is in the report.
    pub fn prune(
        &self,
        options: &PruneOptions,
        now: SystemTime,
    ) -> Result<PruneReport, SessionError> {
        let mut report = PruneReport::default();
        for session in self.list()?.sessions {
            if session.state != SessionState::Idle {
                continue;
            }
            let Some(reason) = self.reason(&session, options, now) else {
                if self.has_changes(&session) {
                    report.with_changes.push(session);
                }
                continue;
            };
            match self.lock(&session.id).and_then(super::OpenSession::remove) {
                Ok(()) => report.removed.push(Pruned { session, reason }),
                Err(SessionError::Busy { .. } | SessionError::NotFound { .. }) => {}
                Err(error) => report.failed.push((session.id, error)),
            }
        }
        self.sweep(now);
        Ok(report)
    }

    fn has_changes(&self, session: &SessionSummary) -> bool {
        match session.summary {
            Some(StoredSummary { changed_files, .. }) => changed_files > 0,
            // Never closed: what it holds was not counted.
            None => true,
        }
    }

    fn reason(
        &self,
        session: &SessionSummary,
        options: &PruneOptions,
        now: SystemTime,
    ) -> Option<&'static str> {
        if !holds_anything(&self.path_of(&session.id)).unwrap_or(true) {
            return Some("it held nothing");
        }
        if options.with_changes_of.as_ref() == Some(&session.workspace) {
            return Some("it was asked for");
        }
        let unused = now.duration_since(session.last_used).unwrap_or_default();
        if !self.has_changes(session) && unused >= IGNORED_KEPT {
            return Some("it held ignored files only and was not used for seven days");
        }
        None
    }

    /// Removes what a crash left of sessions that were being made or removed.
    fn sweep(&self, now: SystemTime) {
        let directory = self.directory();
        let Ok(entries) = fs::read_dir(&directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let bytes = name.as_encoded_bytes();
            let old = || {
                let modified = entry.metadata().and_then(|metadata| metadata.modified());
                modified
                    .is_ok_and(|at| now.duration_since(at).unwrap_or_default() >= HALF_MADE_KEPT)
            };
            let is_gone = bytes.starts_with(GONE.as_bytes());
            if is_gone && !is_locked(&entry.path()) || bytes.starts_with(NEW.as_bytes()) && old() {
                // What cannot be removed now is tried again by the next prune.
                drop(remove_directory(&directory, &name));
            }
        }
    }

    /// Removes a session whose lock the caller holds.
    pub(super) fn remove_locked(&self, id: &SessionId) -> Result<(), SessionError> {
        let directory = self.directory();
        let gone = format!("{GONE}{id}");
        let path = self.path_of(id);
        fs::rename(&path, directory.join(&gone)).map_err(SessionError::io("removing", &path))?;
        remove_directory(&directory, gone.as_ref()).map_err(SessionError::io("removing", &path))
    }
}

/// Whether somebody is at work on what is being removed.
fn is_locked(directory: &Path) -> bool {
    File::open(directory.join("lock"))
        .is_ok_and(|lock| flock(lock, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Removes a directory of ours with everything that a session has put into it.
pub(crate) fn remove_directory(parent: &Path, name: &OsStr) -> io::Result<()> {
    let parent = OwnedFd::from(File::open(parent)?);
    match remove_tree(&parent, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
