//! What is new, in a directory of the tree.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use forge_domain::{
    Applied, AppliedId, ApplyContents, ApplyError, Content, Entry, Placed, ReviewedPath, Step,
};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::calls::{Identity, kind};
use crate::errors::failed;
use crate::journal::{Action, Journal, Phase, Record, WrittenEntry, WrittenPath};
use crate::modes::OPEN;
use crate::tree::{HostTree, Journals, PENDING, STAGING, Seen, name_of, new_id};

impl HostTree {
    /// Carries out all steps or none. The journals are locked and nothing is pending.
    pub(crate) fn carry_out(
        &self,
        journals: &Journals,
        session: &str,
        undoes: Option<&str>,
        steps: &[Step],
        contents: &dyn ApplyContents,
    ) -> Result<Applied, ApplyError> {
        let seen = self.check(steps)?;
        let id = new_id();
        let mut journal = Journal::new(&id, session, undoes);
        let begun = self.begin(journals, &journal);
        let directory = begun.map_err(failed("writing to", &journals.path))?;
        let done = self.stage(&id, steps, &seen, contents).and_then(|records| {
            journal.records = records;
            journal.phase = Phase::Placing;
            // A loss of power must not leave a name without its contents.
            let synced = self.calls.sync_all(&self.root);
            synced.map_err(failed("writing to", &self.path))?;
            let written = journal.write(&self.calls, &directory);
            written.map_err(failed("writing to", &journals.path))?;
            self.place_all(&mut journal, &seen)?;
            let synced = self.calls.sync_all(&self.root);
            synced.map_err(failed("writing to", &self.path))
        });
        if let Err(error) = done {
            self.take_back_begun(journals, &directory, &mut journal)?;
            return Err(error);
        }
        journal.phase = Phase::Placed;
        if let Err(error) = journal.write(&self.calls, &directory) {
            // What is on the disk says how it goes on, here and for whoever comes after a kill.
            match Journal::read(&self.calls, &directory) {
                Ok(written) if written.phase == Phase::Placed => {}
                Ok(_) => {
                    self.take_back_begun(journals, &directory, &mut journal)?;
                    return Err(failed("writing to", &journals.path)(error));
                }
                Err(_) => {
                    let (operation, path) = ("writing to", journals.path.clone());
                    return Err(ApplyError::Incomplete { operation, path, source: error });
                }
            }
        }
        // From here on it has happened; what fails is done by the next call.
        if let Err(error) = self.tidy(journals, &directory, &mut journal) {
            tracing::warn!(%error, "An apply was carried out and has left something to be tidied up.");
        }
        let paths = journal.changed();
        let id = AppliedId::parse(&id).ok_or(ApplyError::NothingApplied)?;
        Ok(Applied { id, paths })
    }

    /// Whether everything is as it was planned with.
    fn check(&self, steps: &[Step]) -> Result<Vec<Option<Seen>>, ApplyError> {
        self.forget();
        let mut changed = Vec::new();
        let mut all = Vec::with_capacity(steps.len());
        for step in steps {
            let seen = match self.see(&step.path) {
                Ok(seen) => seen,
                // Made unreadable meanwhile.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    changed.push(step.path.clone());
                    all.push(None);
                    continue;
                }
                Err(error) => return Err(failed("reading", &step.path)(error)),
            };
            if seen.as_ref().map(|seen| &seen.entry) != step.before.as_ref() {
                changed.push(step.path.clone());
            }
            all.push(seen);
        }
        if changed.is_empty() { Ok(all) } else { Err(ApplyError::Changed { paths: changed }) }
    }

    /// Writes down that something begins.
    fn begin(&self, journals: &Journals, journal: &Journal) -> io::Result<OwnedFd> {
        self.calls.make_directory(&journals.directory, &journal.id)?;
        let directory = journals.open(&self.calls, &journal.id)?;
        self.calls.make_directory(&directory, "old")?;
        journal.write(&self.calls, &directory)?;
        drop(self.calls.create(journals.unnoted(&self.calls)?, &journal.id)?);
        self.calls.write(&journals.directory, PENDING, journal.id.as_bytes())?;
        Ok(directory)
    }

    fn stage(
        &self,
        id: &str,
        steps: &[Step],
        seen: &[Option<Seen>],
        contents: &dyn ApplyContents,
    ) -> Result<Vec<Record>, ApplyError> {
        let name = format!("{STAGING}{id}");
        let made = self.calls.make_directory(&self.root, &name);
        made.map_err(failed("making a directory in", &self.path))?;
        let staging = self.calls.open_directory(&self.root, Path::new(&name));
        let staging = staging.map_err(failed("opening", self.path.join(&name)))?;
        let steps = steps.iter().zip(seen).enumerate();
        let mut owners = Owners::default();
        steps
            .map(|(number, (step, seen))| {
                self.stage_one(&staging, number, step, seen.as_ref(), contents, &mut owners)
            })
            .collect()
    }

    fn stage_one(
        &self,
        staging: &OwnedFd,
        number: usize,
        step: &Step,
        seen: Option<&Seen>,
        contents: &dyn ApplyContents,
        owners: &mut Owners,
    ) -> Result<Record, ApplyError> {
        let fail = |error| failed("writing", &step.path)(error);
        let name = new_name(number);
        let was_directory = matches!(step.before, Some(Entry::Directory { .. }));
        let (action, after, new) = match &step.after {
            Placed::Nothing => (Action::Remove, None, None),
            Placed::NothingIfEmpty => (Action::RemoveIfEmpty, None, None),
            Placed::Directory { mode } if was_directory => {
                (Action::Mode, Some(Entry::Directory { mode: *mode }), None)
            }
            Placed::Directory { mode } => {
                self.calls.make_directory(staging, &name).map_err(fail)?;
                let made = self.calls.open_directory(staging, Path::new(&name)).map_err(fail)?;
                let new = self.own(&made, step, None, owners).map_err(fail)?;
                // Until everything is in it, it is open for us.
                self.calls.set_mode(&made, *mode | OPEN).map_err(fail)?;
                (placing(step), Some(Entry::Directory { mode: *mode }), Some(new))
            }
            Placed::Symlink { target } => {
                self.calls.make_link(target, staging, &name).map_err(fail)?;
                let owner = self.owner_of_parent(&step.path, owners).map_err(fail)?;
                allowed(self.calls.set_link_owner(staging, &name, owner)).map_err(fail)?;
                let new = self.calls.stat(staging, name.as_ref()).map_err(fail)?;
                let new = new.as_ref().map(Identity::of);
                (placing(step), Some(Entry::Symlink { target: target.clone() }), new)
            }
            Placed::File { mode, content } => {
                let mut file = self.calls.create(staging, &name).map_err(fail)?;
                let (digest, size_bytes) = match content {
                    Content::Session { digest } => {
                        let mut from = contents.open(&step.path).map_err(|source| {
                            failed("reading the session's", &step.path)(source)
                        })?;
                        let copied = self.calls.copy(&mut from, &mut file).map_err(fail)?;
                        if copied.0 != *digest {
                            return Err(ApplyError::SessionChanged { path: step.path.clone() });
                        }
                        copied
                    }
                    Content::Merged { bytes, .. } => {
                        self.calls.copy(&mut bytes.as_slice(), &mut file).map_err(fail)?
                    }
                };
                let new = self.own(&file, step, seen, owners).map_err(fail)?;
                self.calls.set_mode(&file, *mode).map_err(fail)?;
                (placing(step), Some(Entry::File { size_bytes, digest, mode: *mode }), Some(new))
            }
        };
        Ok(Record {
            path: WrittenPath::of(step.path.as_path()),
            action,
            before: step.before.as_ref().map(WrittenEntry::of),
            after: after.as_ref().map(WrittenEntry::of),
            new,
            merged: match &step.after {
                Placed::File { content: Content::Merged { session, .. }, .. } => {
                    Some(session.to_string())
                }
                _ => None,
            },
            skipped: false,
            undone: false,
        })
    }

    /// Gives a new file the owner of the one that it replaces, or of the directory that it will be in, and says
    /// what the new one is known by.
    fn own(
        &self,
        new: impl AsFd,
        step: &Step,
        seen: Option<&Seen>,
        owners: &mut Owners,
    ) -> io::Result<Identity> {
        let replaced = seen.filter(|seen| kind(&seen.stat) == FileType::RegularFile);
        let owner = match replaced {
            Some(seen) => (seen.stat.st_uid, seen.stat.st_gid),
            None => self.owner_of_parent(&step.path, owners)?,
        };
        let stat = self.calls.stat_of(&new)?;
        if owner != (stat.st_uid, stat.st_gid) {
            let owned = self.calls.set_owner(&new, owner.0, owner.1);
            match replaced {
                // Who may not give it away keeps what he makes, and does not take what is another's.
                None => allowed(owned)?,
                Some(_) => owned?,
            }
        }
        if replaced.is_some()
            && let Some(parent) = self.parent(&step.path)?
        {
            match self.calls.open(&parent, Path::new(name_of(&step.path)), OFlags::RDONLY) {
                Ok(old) => self.calls.copy_attributes(&old, &new)?,
                // It is something else by now, which is found out when it is put in its place.
                Err(error) if is_replaced(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Identity::of(&stat))
    }

    /// Who owns the nearest directory above a path that is there.
    fn owner_of_parent(&self, path: &ReviewedPath, owners: &mut Owners) -> io::Result<(u32, u32)> {
        let above = path.as_path().parent().unwrap_or(Path::new(""));
        if let Some((path, owner)) = &owners.0
            && path == above
        {
            return Ok(*owner);
        }
        let owner = self.find_owner(path)?;
        owners.0 = Some((above.to_path_buf(), owner));
        Ok(owner)
    }

    fn find_owner(&self, path: &ReviewedPath) -> io::Result<(u32, u32)> {
        for parent in path.parents() {
            match self.calls.open_directory(&self.root, parent.as_path()) {
                Ok(directory) => {
                    let stat = self.calls.stat_of(&directory)?;
                    return Ok((stat.st_uid, stat.st_gid));
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                Err(_) => {}
            }
        }
        let stat = self.calls.stat_of(&self.root)?;
        Ok((stat.st_uid, stat.st_gid))
    }

    pub(crate) fn staging(&self, id: &str) -> io::Result<Option<OwnedFd>> {
        match self.calls.open_directory(&self.root, Path::new(&format!("{STAGING}{id}"))) {
            Ok(staging) => Ok(Some(staging)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file that was kept, to be read.
    pub(crate) fn open_kept(&self, directory: &OwnedFd, number: usize) -> io::Result<File> {
        let path = Path::new("old").join(number.to_string());
        Ok(self.calls.open(directory, &path, OFlags::RDONLY)?.into())
    }
}

/// Who owns the directory that was asked for last.
#[derive(Default)]
struct Owners(Option<(PathBuf, (u32, u32))>);

/// What is new for a step.
pub(crate) fn new_name(number: usize) -> String {
    format!("new-{number}")
}

/// What was taken away by a step.
pub(crate) fn old_name(number: usize) -> String {
    format!("old-{number}")
}

fn placing(step: &Step) -> Action {
    if step.before.is_some() { Action::Replace } else { Action::Create }
}

fn is_replaced(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn allowed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => Ok(()),
        other => other,
    }
}
