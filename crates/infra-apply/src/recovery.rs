//! Taking back what was begun, and finishing what was placed.
//!
//! Both can be interrupted and done again: what is to be done is read from where things are, by their inodes.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use forge_domain::{AppliedId, ApplyError, Entry, Unnoted};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::calls::{Identity, kind};
use crate::errors::failed;
use crate::journal::{Action, Journal, Phase, Record, WrittenEntry, WrittenPath};
use crate::place::is;
use crate::stage::{new_name, old_name};
use crate::tree::{HostTree, Journals, PENDING, STAGING, name_of};

/// How many applies can be undone.
const KEPT: usize = 50;

impl HostTree {
    /// Finishes or takes back what is pending, and says whether there was anything.
    pub(crate) fn recover_in(&self, journals: &Journals) -> Result<bool, ApplyError> {
        let fail = |error| failed("reading the journal in", &journals.path)(error);
        let id = match self.calls.read(&journals.directory, PENDING) {
            Ok(id) => String::from_utf8_lossy(&id).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(fail(error)),
        };
        let directory = journals.open(&self.calls, &id).map_err(fail)?;
        let mut journal = Journal::read(&self.calls, &directory).map_err(fail)?;
        match journal.phase {
            Phase::Staging | Phase::Placing => {
                self.take_back_begun(journals, &directory, &mut journal)?;
            }
            Phase::Placed | Phase::Done | Phase::TakenBack => {
                self.tidy(journals, &directory, &mut journal)
                    .map_err(failed("finishing an apply to", &self.path))?;
            }
        }
        Ok(true)
    }

    /// Takes everything back that was begun. What somebody has changed since stays as it is, and what was there
    /// before is kept beside the journal.
    pub(crate) fn take_back_begun(
        &self,
        journals: &Journals,
        directory: &OwnedFd,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let incomplete = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ApplyError::Incomplete { operation: "restoring", path, source }
        };
        let not_restored = |error| match error {
            ApplyError::Io { operation, path, source } => {
                ApplyError::Incomplete { operation, path, source }
            }
            other => other,
        };
        let staging = self.staging(&journal.id).map_err(incomplete(&self.path))?;
        if let Some(staging) = &staging {
            self.open_up_again(&journal.records).map_err(not_restored)?;
            for (number, record) in journal.records.iter().enumerate().rev() {
                let path = record.path.to_path();
                self.restore(staging, number, record).map_err(incomplete(&path))?;
            }
            self.restore_modes(&journal.records).map_err(not_restored)?;
            self.sweep(staging, directory, journal).map_err(incomplete(&self.path))?;
        }
        journal.phase = Phase::TakenBack;
        self.end(journals, directory, journal).map_err(incomplete(&journals.path))
    }

    fn restore(&self, staging: &OwnedFd, number: usize, record: &Record) -> io::Result<()> {
        let (new, old) = (new_name(number), old_name(number));
        let path = record.path.reviewed()?;
        let Some(parent) = self.parent(&path)? else { return Ok(()) };
        let here = (&parent, name_of(&path));
        match record.action {
            Action::Create | Action::Replace => {
                let there = self.calls.stat(here.0, here.1)?;
                if there.as_ref().map(Identity::of) != record.new || !self.is_ours(here, record)? {
                    return Ok(());
                }
                match record.action {
                    Action::Create => self.calls.rename(here, (staging, new.as_ref())),
                    _ => self.calls.exchange((staging, new.as_ref()), here),
                }
            }
            Action::Remove | Action::RemoveIfEmpty => {
                match self.calls.rename((staging, old.as_ref()), here) {
                    // It was not taken away, or somebody has put something else there.
                    Err(error) if is(&error, Errno::NOENT) || is(&error, Errno::EXIST) => Ok(()),
                    other => other,
                }
            }
            // When everything is back in it.
            Action::Mode => Ok(()),
        }
    }

    /// Whether a file that we have placed still holds what we have put into it; of a directory, nothing.
    fn is_ours(&self, here: (&OwnedFd, &std::ffi::OsStr), record: &Record) -> io::Result<bool> {
        let seen = match self.see_in(here.0, here.1) {
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(true),
            Err(error) => return Err(error),
        };
        let Some(seen) = seen else { return Ok(false) };
        let after = record.after.as_ref().and_then(WrittenEntry::entry);
        Ok(match (&seen.entry, after) {
            (Entry::File { digest, .. }, Some(Entry::File { digest: ours, .. })) => *digest == ours,
            (Entry::Directory { .. }, Some(_)) => {
                match self.calls.open_directory(here.0, Path::new(here.1)) {
                    Ok(directory) => self.calls.is_empty(&directory)?,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
                    Err(error) => return Err(error),
                }
            }
            (entry, after) => Some(entry) == after.as_ref(),
        })
    }

    /// Finishes an apply whose paths are all in their places: what was there before is kept for an undo.
    pub(crate) fn tidy(
        &self,
        journals: &Journals,
        directory: &OwnedFd,
        journal: &mut Journal,
    ) -> io::Result<()> {
        if let Some(staging) = self.staging(&journal.id)? {
            self.sweep(&staging, directory, journal)?;
        }
        if let Some(undone) = &journal.undoes {
            let paths = journal.records.iter().filter(|record| !record.skipped);
            self.mark_undone(journals, undone, &paths.map(|record| &record.path).collect())?;
        }
        journal.phase = match journal.phase {
            Phase::TakenBack => Phase::TakenBack,
            _ => Phase::Done,
        };
        self.end(journals, directory, journal)?;
        self.forget_old(journals);
        Ok(())
    }

    /// Notes in the journal of an apply which of its paths were taken back.
    pub(crate) fn mark_undone(
        &self,
        journals: &Journals,
        id: &str,
        undone: &HashSet<&WrittenPath>,
    ) -> io::Result<()> {
        let directory = journals.open(&self.calls, id)?;
        let mut journal = Journal::read(&self.calls, &directory)?;
        for record in &mut journal.records {
            record.undone |= undone.contains(&record.path);
        }
        journal.write(&self.calls, &directory)
    }

    /// Empties the directory in the tree and removes it: what is new is dropped, what is old is kept.
    fn sweep(&self, staging: &OwnedFd, directory: &OwnedFd, journal: &Journal) -> io::Result<()> {
        for name in self.calls.names(staging)? {
            let Some((side, number)) = name.split_once('-') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            let Some(stat) = self.calls.stat(staging, name.as_ref())? else { continue };
            let record = journal.records.get(number);
            let is_new = side == "new"
                && record.is_none_or(|record| record.new == Some(Identity::of(&stat)));
            match kind(&stat) {
                FileType::Directory => match self.calls.remove_directory(staging, name.as_ref()) {
                    // Somebody has put something into it.
                    Err(error) if is(&error, Errno::NOTEMPTY) => {}
                    other => other?,
                },
                FileType::RegularFile if !is_new => {
                    self.keep(staging, &name, directory, number)?;
                }
                _ => self.calls.remove(staging, name.as_ref())?,
            }
        }
        let name = format!("{STAGING}{}", journal.id);
        match self.calls.remove_directory(&self.root, name.as_ref()) {
            Err(error) if is(&error, Errno::NOTEMPTY) => {
                tracing::warn!(path = %self.path.join(name).display(), "Something is left in the directory of an apply.");
                Ok(())
            }
            other => other,
        }
    }

    /// Moves a file of before to beside the journal.
    fn keep(
        &self,
        staging: &OwnedFd,
        name: &str,
        directory: &OwnedFd,
        number: usize,
    ) -> io::Result<()> {
        let old = self.calls.open_directory(directory, Path::new("old"))?;
        let kept = number.to_string();
        match self.calls.rename((staging, name.as_ref()), (&old, kept.as_ref())) {
            Err(error) if is(&error, Errno::EXIST) => {
                // Copied before, and not removed.
                self.calls.remove(staging, name.as_ref())
            }
            // On another file system, or on one that cannot rename so.
            Err(error) if is(&error, Errno::XDEV) || is(&error, Errno::INVAL) => {
                let from = self.calls.open(staging, Path::new(name), OFlags::RDONLY);
                let mut from = std::fs::File::from(match from {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        // The user's own, and closed: it stays where it is.
                        return Ok(());
                    }
                    other => other?,
                });
                let new = format!("{kept}.new");
                self.calls.remove(&old, new.as_ref())?;
                let mut to = self.calls.create(&old, &new)?;
                self.calls.copy(&mut from, &mut to)?;
                self.calls.sync(&to)?;
                self.calls.replace(&old, &new, &kept)?;
                self.calls.remove(staging, name.as_ref())
            }
            other => other,
        }
    }

    /// Writes down that nothing is pending any more.
    fn end(&self, journals: &Journals, directory: &OwnedFd, journal: &Journal) -> io::Result<()> {
        journal.write(&self.calls, directory)?;
        if journal.phase == Phase::TakenBack {
            let unnoted = journals.unnoted(&self.calls)?;
            self.calls.remove(unnoted, journal.id.as_ref())?;
        }
        self.calls.remove(&journals.directory, PENDING.as_ref())
    }

    /// What was carried out and is not noted, the oldest first. A name that stands for nothing is removed.
    pub(crate) fn unnoted_in(&self, journals: &Journals) -> io::Result<Vec<Unnoted>> {
        let names = journals.unnoted(&self.calls)?;
        let mut all = Vec::new();
        for id in self.calls.names(&names)? {
            let journal = match journals.read(&self.calls, &id) {
                Ok(journal) if journal.phase == Phase::Done => journal,
                // Of a newer forge, say.
                Err(error) if error.kind() != io::ErrorKind::NotFound => continue,
                Ok(_) | Err(_) => {
                    self.calls.remove(&names, id.as_ref())?;
                    continue;
                }
            };
            let undoes = journal.undoes.as_deref().and_then(AppliedId::parse);
            let Some(id) = AppliedId::parse(&id) else { continue };
            let paths = journal.changed();
            all.push(Unnoted { id, session: journal.session, undoes, paths });
        }
        Ok(all)
    }

    /// Removes the oldest applies. What fails is tried again the next time.
    fn forget_old(&self, journals: &Journals) {
        let Ok(ids) = journals.ids(&self.calls) else { return };
        for id in ids.iter().skip(KEPT) {
            let forgotten = (|| {
                let directory = journals.open(&self.calls, id)?;
                let old = self.calls.open_directory(&directory, Path::new("old"))?;
                for name in self.calls.names(&old)? {
                    self.calls.remove(&old, name.as_ref())?;
                }
                self.calls.remove_directory(&directory, "old".as_ref())?;
                for name in self.calls.names(&directory)? {
                    self.calls.remove(&directory, name.as_ref())?;
                }
                self.calls.remove_directory(&journals.directory, id.as_ref())
            })();
            if let Err(error) = forgotten {
                tracing::debug!(%error, "An old apply could not be forgotten.");
            }
        }
    }
}
