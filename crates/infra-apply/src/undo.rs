//! Taking an apply back that was carried out.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use forge_domain::{
    AppliedId, AppliedPath, ApplyContents, ApplyError, Content, Entry, Placed, ReviewedPath, Step,
    Undo,
};

use crate::errors::failed;
use crate::journal::{Action, Journal, Phase, Record, WrittenEntry};
use crate::tree::{HostTree, Journals};

/// What was kept of an apply.
struct Kept<'a> {
    tree: &'a HostTree,
    directory: &'a OwnedFd,
    numbers: HashMap<PathBuf, usize>,
}

impl ApplyContents for Kept<'_> {
    fn open(&self, path: &ReviewedPath) -> io::Result<Box<dyn io::Read + '_>> {
        let number = *self.numbers.get(path.as_path()).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(self.tree.open_kept(self.directory, number)?))
    }
}

/// An apply of which something is left to be taken back.
pub(crate) struct Newest {
    id: String,
    pub(crate) journal: Journal,
    /// The numbers and paths of what is left and was chosen.
    left: Vec<(usize, ReviewedPath)>,
}

impl HostTree {
    /// The newest apply of a session, or of any, of which something is left to be taken back.
    pub(crate) fn newest(
        &self,
        journals: &Journals,
        session: Option<&str>,
        is_chosen: &dyn Fn(&ReviewedPath) -> bool,
    ) -> Result<Option<Newest>, ApplyError> {
        let fail = |error| failed("reading the journals in", &journals.path)(error);
        for id in journals.ids(&self.calls).map_err(fail)? {
            let Ok(journal) = journals.read(&self.calls, &id) else { continue };
            let is_meant = journal.phase == Phase::Done
                && journal.undoes.is_none()
                && session.is_none_or(|session| session == journal.session);
            let mut left = Vec::new();
            for (number, record) in journal.records.iter().enumerate() {
                let path = record.path.reviewed().map_err(fail)?;
                if is_meant && !record.undone && !record.skipped && is_chosen(&path) {
                    left.push((number, path));
                }
            }
            if !left.is_empty() {
                return Ok(Some(Newest { id, journal, left }));
            }
        }
        Ok(None)
    }

    /// Takes the newest apply back of which something is left to be taken back.
    pub(crate) fn take_back(
        &self,
        journals: &Journals,
        session: Option<&str>,
        is_chosen: &dyn Fn(&ReviewedPath) -> bool,
        is_forced: &dyn Fn(&ReviewedPath) -> bool,
    ) -> Result<Undo, ApplyError> {
        let newest = self.newest(journals, session, is_chosen)?;
        let Newest { id, journal, left } = newest.ok_or(ApplyError::NothingApplied)?;
        let directory = journals.open(&self.calls, &id);
        let directory = directory.map_err(failed("reading the journals in", &journals.path))?;
        self.take_back_these(journals, &directory, &journal, left, is_forced)
    }

    fn take_back_these(
        &self,
        journals: &Journals,
        directory: &OwnedFd,
        journal: &Journal,
        left: Vec<(usize, ReviewedPath)>,
        is_forced: &dyn Fn(&ReviewedPath) -> bool,
    ) -> Result<Undo, ApplyError> {
        let of = AppliedId::parse(&journal.id).ok_or(ApplyError::NothingApplied)?;
        let mut undo = Undo { id: None, of, restored: Vec::new(), changed: Vec::new() };
        let (mut steps, mut as_before) = (Vec::new(), HashSet::new());
        for (number, path) in left {
            let record = &journal.records[number];
            let there = self.see(&path).map_err(failed("reading", &path))?.map(|seen| seen.entry);
            let ours = record.after.as_ref().and_then(WrittenEntry::entry);
            let before = record.before.as_ref().and_then(WrittenEntry::entry);
            let is_ours = match (&there, &ours) {
                // Somebody has done it by hand.
                _ if there == before => true,
                // Something may have been put into a directory since: it goes only if it is empty.
                (Some(Entry::Directory { .. }), Some(Entry::Directory { .. })) => true,
                _ => there == ours,
            };
            if !is_ours && !is_forced(&path) {
                undo.changed.push(path);
                continue;
            }
            match reversed(record, &path, there.clone()) {
                Some(step) => steps.push(step),
                None => {
                    as_before.insert(record.path.clone());
                    undo.restored.push(AppliedPath {
                        path,
                        before: there.clone(),
                        after: there,
                        merged: None,
                    });
                }
            }
        }
        self.leave_orphans(&mut steps, &mut undo.changed)?;
        order(&mut steps);
        let numbers = journal.records.iter().enumerate();
        let numbers = numbers.map(|(number, record)| (record.path.to_path(), number)).collect();
        let kept = Kept { tree: self, directory, numbers };
        let id = &journal.id;
        // A directory in which somebody has put something, say: it is left, too, and each time one less is tried.
        while !steps.is_empty() {
            match self.carry_out(journals, &journal.session, Some(id), &steps, &kept) {
                Ok(done) => {
                    undo.id = Some(done.id);
                    undo.restored.extend(done.paths);
                    break;
                }
                Err(ApplyError::Changed { paths }) => {
                    let before = steps.len();
                    steps.retain(|step| !paths.contains(&step.path));
                    if steps.len() == before {
                        return Err(ApplyError::Changed { paths });
                    }
                    undo.changed.extend(paths);
                    self.leave_orphans(&mut steps, &mut undo.changed)?;
                    order(&mut steps);
                }
                Err(error) => return Err(error),
            }
        }
        if !as_before.is_empty() {
            let marked = self.mark_undone(journals, id, &as_before.iter().collect());
            marked.map_err(failed("writing to", &journals.path))?;
        }
        undo.changed.sort();
        undo.changed.dedup();
        Ok(undo)
    }

    /// Leaves what would be put back into a directory that is not there and does not come back either.
    fn leave_orphans(
        &self,
        steps: &mut Vec<Step>,
        left: &mut Vec<ReviewedPath>,
    ) -> Result<(), ApplyError> {
        self.forget();
        let mut there: HashMap<ReviewedPath, bool> = HashMap::new();
        for step in steps.iter() {
            let is_directory = matches!(step.after, Placed::Directory { .. });
            there.insert(step.path.clone(), is_directory);
        }
        let mut kept = Vec::with_capacity(steps.len());
        steps.sort_by(|one, other| one.path.cmp(&other.path));
        for step in std::mem::take(steps) {
            let is_put = !matches!(step.after, Placed::Nothing | Placed::NothingIfEmpty);
            let above = step.path.parents().next().filter(|_| is_put);
            let has_parent = match above {
                None => true,
                Some(above) => match there.get(&above) {
                    Some(is_directory) => *is_directory,
                    None => {
                        let seen = self.look_roughly(&above).map_err(failed("reading", &above))?;
                        let is_directory = matches!(seen, Some(Entry::Directory { .. }));
                        there.insert(above, is_directory);
                        is_directory
                    }
                },
            };
            if has_parent {
                kept.push(step);
            } else {
                there.insert(step.path.clone(), false);
                left.push(step.path);
            }
        }
        *steps = kept;
        Ok(())
    }
}

/// What is beneath a directory goes before it; what is in one comes back after it.
fn order(steps: &mut [Step]) {
    let goes = |step: &Step| matches!(step.after, Placed::Nothing | Placed::NothingIfEmpty);
    steps.sort_by(|one, other| match (goes(one), goes(other)) {
        (true, true) => other.path.cmp(&one.path),
        (false, false) => one.path.cmp(&other.path),
        (one, other) => other.cmp(&one),
    });
}

/// The step that takes another one back; `None` where nothing is to be done.
fn reversed(record: &Record, path: &ReviewedPath, there: Option<Entry>) -> Option<Step> {
    let before = record.before.as_ref().and_then(WrittenEntry::entry);
    if there == before {
        return None;
    }
    let after = match (&before, &there, record.action) {
        (None, Some(Entry::Directory { .. }), _) => Placed::NothingIfEmpty,
        (None, _, _) => Placed::Nothing,
        (
            Some(Entry::Directory { mode }),
            _,
            Action::RemoveIfEmpty
            | Action::Mode
            | Action::Replace
            | Action::Remove
            | Action::Create,
        ) => Placed::Directory { mode: *mode },
        (Some(Entry::Symlink { target }), ..) => Placed::Symlink { target: target.clone() },
        (Some(Entry::File { digest, mode, .. }), ..) => {
            Placed::File { mode: *mode, content: Content::Session { digest: *digest } }
        }
        (Some(Entry::Special), ..) => return None,
    };
    Some(Step { path: path.clone(), before: there, after })
}
