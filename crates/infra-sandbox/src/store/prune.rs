//! Removing sessions.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use forge_domain::SessionId;
use rustix::fs::{FlockOperation, flock};

use super::error::SessionError;
use super::meta::{StoredSummary, seconds};
use super::open::holds_anything;
use super::sessions::{GONE, NEW, SessionState, SessionStore, SessionSummary};
use crate::removal::remove_tree;

/// How long a session with nothing but ignored files is kept unused.
const IGNORED_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is being made aside, or removed, takes no longer than this.
const HALVES_KEPT: Duration = Duration::from_secs(60 * 60);

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
    /// How many leftovers of sessions that were being made or removed are gone.
    pub halves: usize,
    /// Those that could not be removed.
    pub failed: Vec<(SessionId, SessionError)>,
}

impl SessionStore {
    /// Removes the sessions that nobody misses: those that hold nothing, those with ignored files only
    /// that were not used for seven days or whose workspace is gone, and halves that a crash left. One
    /// that is in use is left alone, and so is one with a microVM on record; one that holds changes or may hold
    /// commits is, too, unless the options name its workspace.
    ///
    /// # Errors
    /// The state directory cannot be read; what could not be removed is in the report.
    pub fn prune(
        &self,
        options: &PruneOptions,
        now: SystemTime,
    ) -> Result<PruneReport, SessionError> {
        self.check()?;
        let mut report = PruneReport::default();
        for session in self.list()?.sessions {
            if session.state != SessionState::Idle {
                continue;
            }
            let id = session.id.clone();
            match self.prune_one(session, options, now, &mut report) {
                Ok(()) | Err(SessionError::Busy { .. } | SessionError::NotFound { .. }) => {}
                Err(error) => report.failed.push((id, error)),
            }
        }
        report.halves = self.sweep(now, Age::Any);
        Ok(report)
    }

    fn prune_one(
        &self,
        session: SessionSummary,
        options: &PruneOptions,
        now: SystemTime,
        report: &mut PruneReport,
    ) -> Result<(), SessionError> {
        // Held until the end. It may have been used since it was listed, so it is looked at again.
        let (_lock, meta) = self.acquire(&session.id)?;
        let session = self.summary(session.id, &meta, SessionState::Idle);
        match self.reason(&session, options, now) {
            Some(reason) => {
                self.remove_locked(&session.id)?;
                report.removed.push(Pruned { session, reason });
            }
            None if self.has_changes(&session) => report.with_changes.push(session),
            None => {}
        }
        Ok(())
    }

    fn has_changes(&self, session: &SessionSummary) -> bool {
        match session.summary {
            Some(StoredSummary { changed_files: 0, .. }) => {
                self.may_lose_commits(&session.id, &session.workspace)
            }
            // Where nobody counted, there may be any.
            Some(_) | None => true,
        }
    }

    /// Counts once more before something is removed that held no changes when it was closed.
    fn still_has_none(&self, id: &SessionId) -> bool {
        let counted = self.layers(id).ok().and_then(|layers| layers.changes().ok());
        counted.is_some_and(|changes| changes.changes.is_empty())
    }

    fn reason(
        &self,
        session: &SessionSummary,
        options: &PruneOptions,
        now: SystemTime,
    ) -> Option<&'static str> {
        if !session.microvms.is_empty() {
            // What finds them must not be lost.
            return None;
        }
        if !holds_anything(&self.path_of(&session.id)).unwrap_or(true) {
            return Some("it held nothing");
        }
        if options.with_changes_of.as_ref() == Some(&session.workspace) {
            return Some("it was asked for");
        }
        if self.has_changes(session) {
            return None;
        }
        match fs::symlink_metadata(&session.workspace) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some("it held ignored files only and its workspace is gone");
            }
            _ => {}
        }
        let unused = now.duration_since(session.last_used).unwrap_or_default();
        (unused >= IGNORED_KEPT && self.still_has_none(&session.id))
            .then_some("it held ignored files only and was not used for seven days")
    }

    /// Removes what a crash left of sessions, if it is old enough that nobody can be at work on it.
    pub(super) fn sweep_old(&self, now: SystemTime) {
        self.sweep(now, Age::Old);
    }

    /// Removes what a crash left of sessions that were being made or removed, and says how many.
    fn sweep(&self, now: SystemTime, age: Age) -> usize {
        let directory = self.directory();
        let Ok(entries) = fs::read_dir(&directory) else { return 0 };
        let mut removed = 0;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let bytes = name.as_encoded_bytes();
            // A renaming counts here, other than for the time of the contents.
            let changed = |metadata: fs::Metadata| u64::try_from(metadata.ctime()).unwrap_or(0);
            let old = || {
                let changed = entry.metadata().map(changed);
                changed.is_ok_and(|at| seconds(now).saturating_sub(at) >= HALVES_KEPT.as_secs())
            };
            let is_left = if bytes.starts_with(GONE.as_bytes()) {
                !is_locked(&entry.path()) && (age == Age::Any || old())
            } else {
                bytes.starts_with(NEW.as_bytes()) && old()
            };
            // What cannot be removed now is tried again the next time.
            if is_left && remove_directory(&directory, &name).is_ok() {
                removed += 1;
            }
        }
        removed
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

/// Which leftovers of a removal are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Those that nobody has locked.
    Any,
    /// Only those that are old, too.
    Old,
}

/// Whether somebody is at work on what is being removed.
fn is_locked(directory: &Path) -> bool {
    File::open(directory.join("lock"))
        .is_ok_and(|lock| flock(lock, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Removes a file, where there is one.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory of ours with everything that a session has put into it.
pub(crate) fn remove_directory(parent: &Path, name: &OsStr) -> io::Result<()> {
    let parent = OwnedFd::from(File::open(parent)?);
    match remove_tree(&parent, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
