//! The modes of directories that are closed even to their owner: while something is put into one or taken out of it,
//! or it is moved itself, it is open, and when all is done it gets the mode that it is to have.

use std::io;
use std::path::Path;

use forge_domain::{ApplyError, ReviewedPath};
use rustix::io::Errno;

use crate::calls::Identity;
use crate::errors::failed;
use crate::journal::{Action, Record, WrittenEntry};
use crate::tree::{HostTree, name_of};

/// What a directory's owner may do with it so that we can.
pub(crate) const OPEN: u32 = 0o700;

impl HostTree {
    /// Opens the directories that are to change, those above first.
    pub(crate) fn open_up(&self, records: &[Record]) -> Result<(), ApplyError> {
        let closed = |record: &&Record| mode(record.before.as_ref()).is_some_and(is_closed);
        let mut directories: Vec<&Record> = records.iter().filter(closed).collect();
        directories.sort_by_key(|record| record.path.to_path());
        for record in directories {
            let was = mode(record.before.as_ref()).unwrap_or_default();
            self.change(record, &|is| (is == was).then_some(is | OPEN))?;
        }
        Ok(())
    }

    /// Gives directories the modes that they are to have, those beneath first.
    pub(crate) fn set_modes(&self, records: &[Record]) -> Result<(), ApplyError> {
        let mut directories: Vec<&Record> = records.iter().collect();
        directories.sort_by_key(|record| record.path.to_path());
        for record in directories.into_iter().rev() {
            let (before, after) = (mode(record.before.as_ref()), mode(record.after.as_ref()));
            let wanted = match record.action {
                Action::Mode => after,
                Action::RemoveIfEmpty if record.skipped => before.filter(|mode| is_closed(*mode)),
                Action::Create | Action::Replace => after.filter(|mode| is_closed(*mode)),
                Action::Remove | Action::RemoveIfEmpty => None,
            };
            if let Some(wanted) = wanted {
                self.change(record, &|_| Some(wanted))?;
            }
        }
        Ok(())
    }

    /// Before everything is taken back: opens what we have closed, and what was closed before, those above first.
    pub(crate) fn open_up_again(&self, records: &[Record]) -> Result<(), ApplyError> {
        let mut directories: Vec<&Record> = records.iter().collect();
        directories.sort_by_key(|record| record.path.to_path());
        for record in directories {
            let (before, after) = (mode(record.before.as_ref()), mode(record.after.as_ref()));
            let known = [before, after].into_iter().flatten().filter(|mode| is_closed(*mode));
            let known: Vec<u32> = known.collect();
            if !known.is_empty() {
                self.change_back(record, &|is| known.contains(&is).then_some(is | OPEN))?;
            }
        }
        Ok(())
    }

    /// After everything was taken back: the modes that directories had, those beneath first. One that somebody has
    /// changed since keeps what it has.
    pub(crate) fn restore_modes(&self, records: &[Record]) -> Result<(), ApplyError> {
        let mut directories: Vec<&Record> = records.iter().collect();
        directories.sort_by_key(|record| record.path.to_path());
        for record in directories.into_iter().rev() {
            let Some(was) = mode(record.before.as_ref()) else { continue };
            let after = mode(record.after.as_ref()).unwrap_or(was);
            if is_closed(was) || after != was {
                let ours = [after, after | OPEN, was | OPEN];
                self.change_back(record, &|is| (is != was && ours.contains(&is)).then_some(was))?;
            }
        }
        Ok(())
    }

    /// Sets the mode of a directory to what becomes of the one that it has. What is none, or none of ours, is left.
    fn change(
        &self,
        record: &Record,
        wanted: &dyn Fn(u32) -> Option<u32>,
    ) -> Result<(), ApplyError> {
        let path = record.path.reviewed().map_err(failed("reading", &self.path))?;
        self.change_at(record, &path, wanted).map_err(failed("changing the mode of", &path))
    }

    /// The same while everything is taken back: what we may not even open, we have not changed.
    fn change_back(
        &self,
        record: &Record,
        wanted: &dyn Fn(u32) -> Option<u32>,
    ) -> Result<(), ApplyError> {
        match self.change(record, wanted) {
            Err(ApplyError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn change_at(
        &self,
        record: &Record,
        path: &ReviewedPath,
        wanted: &dyn Fn(u32) -> Option<u32>,
    ) -> io::Result<()> {
        let Some(parent) = self.parent(path)? else { return Ok(()) };
        let directory = match self.calls.open_directory(&parent, Path::new(name_of(path))) {
            Ok(directory) => directory,
            Err(error) => {
                return match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    _ => Err(error),
                };
            }
        };
        let stat = self.calls.stat_of(&directory)?;
        let is_placed = record.new == Some(Identity::of(&stat));
        // What was put there is ours only where it is what we have put there.
        let is_ours = is_placed || mode(record.before.as_ref()).is_some();
        match wanted(stat.st_mode & 0o7777) {
            Some(mode) if is_ours && mode != stat.st_mode & 0o7777 => {
                self.calls.set_mode(&directory, mode)
            }
            _ => Ok(()),
        }
    }
}

fn mode(entry: Option<&WrittenEntry>) -> Option<u32> {
    match entry {
        Some(WrittenEntry::Directory { mode }) => Some(*mode),
        _ => None,
    }
}

/// Whether even the owner cannot do everything with it.
fn is_closed(mode: u32) -> bool {
    mode & OPEN != OPEN
}
