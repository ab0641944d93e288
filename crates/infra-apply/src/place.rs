//! Putting what is staged in its place, one rename a path.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use forge_domain::{ApplyError, ReviewedPath};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::calls::kind;
use crate::errors::failed;
use crate::journal::{Action, Journal, Record};
use crate::stage::{new_name, old_name};
use crate::tree::{HostTree, Seen, name_of};

/// What came of a step.
enum Outcome {
    Placed,
    /// It was a directory that is not empty, and stays.
    Skipped,
    /// Something else is there than what was planned with.
    Changed,
}

impl HostTree {
    /// Puts everything in its place. What was placed before an error stays; it is for the caller to take it back.
    pub(crate) fn place_all(
        &self,
        journal: &mut Journal,
        seen: &[Option<Seen>],
    ) -> Result<(), ApplyError> {
        let staging = self.staging(&journal.id).map_err(failed("opening", &self.path))?;
        let staging = staging.ok_or_else(|| {
            failed("opening what was staged in", &self.path)(io::ErrorKind::NotFound.into())
        })?;
        self.open_up(&journal.records)?;
        for (number, (record, seen)) in journal.records.iter_mut().zip(seen).enumerate() {
            let path = record.path.reviewed().map_err(failed("reading", &self.path))?;
            let placed = self.place(&staging, number, record, &path, seen.as_ref());
            match placed.map_err(failed("writing", &path))? {
                Outcome::Placed => {}
                Outcome::Skipped => record.skipped = true,
                Outcome::Changed => return Err(ApplyError::Changed { paths: vec![path] }),
            }
        }
        self.set_modes(&journal.records)
    }

    fn place(
        &self,
        staging: &OwnedFd,
        number: usize,
        record: &Record,
        path: &ReviewedPath,
        seen: Option<&Seen>,
    ) -> io::Result<Outcome> {
        let (new, old) = (new_name(number), old_name(number));
        let Some(parent) = self.parent(path)? else { return Ok(Outcome::Changed) };
        let here = (&parent, name_of(path));
        match record.action {
            Action::Create => match self.calls.rename((staging, new.as_ref()), here) {
                Err(error) if is(&error, Errno::EXIST) => Ok(Outcome::Changed),
                other => other.map(|()| Outcome::Placed),
            },
            Action::Replace => {
                match self.calls.exchange((staging, new.as_ref()), here) {
                    Err(error) if is(&error, Errno::NOENT) => return Ok(Outcome::Changed),
                    other => other?,
                }
                self.verify(staging, &new, seen)
            }
            Action::Remove => {
                match self.calls.rename(here, (staging, old.as_ref())) {
                    Err(error) if is(&error, Errno::NOENT) => return Ok(Outcome::Changed),
                    other => other?,
                }
                self.verify(staging, &old, seen)
            }
            Action::RemoveIfEmpty => {
                let directory = match self.calls.open_directory(here.0, Path::new(here.1)) {
                    Ok(directory) => directory,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        return Ok(Outcome::Skipped);
                    }
                    Err(_) => return Ok(Outcome::Changed),
                };
                if !self.calls.is_empty(&directory)? {
                    return Ok(Outcome::Skipped);
                }
                self.calls.rename(here, (staging, old.as_ref()))?;
                self.verify(staging, &old, seen)
            }
            // When everything is in it.
            Action::Mode => match self.calls.open_directory(here.0, Path::new(here.1)) {
                Ok(_) => Ok(Outcome::Placed),
                Err(_) => Ok(Outcome::Changed),
            },
        }
    }

    /// Whether what was taken away is what had been looked at; of a directory, that it is empty.
    fn verify(&self, staging: &OwnedFd, name: &str, seen: Option<&Seen>) -> io::Result<Outcome> {
        let stat = self.calls.stat(staging, name.as_ref())?;
        let (Some(stat), Some(seen)) = (stat, seen) else { return Ok(Outcome::Changed) };
        if !seen.is(&stat) {
            return Ok(Outcome::Changed);
        }
        if kind(&stat) == FileType::Directory {
            let directory = self.calls.open_directory(staging, Path::new(name))?;
            if !self.calls.is_empty(&directory)? {
                return Ok(Outcome::Changed);
            }
        }
        Ok(Outcome::Placed)
    }
}

pub(crate) fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}
