//! Taking an apply back that was carried out.

use std::io;
use std::os::fd::OwnedFd;

use forge_domain::{
    AppliedId, ApplyContents, ApplyError, Content, Entry, Placed, ReviewedPath, Step, Undo,
};

use crate::errors::failed;
use crate::journal::{Action, Journal, Phase, Record, WrittenEntry};
use crate::tree::{HostTree, Journals};

/// What was kept of an apply.
struct Kept<'a> {
    tree: &'a HostTree,
    directory: &'a OwnedFd,
    journal: &'a Journal,
}

impl ApplyContents for Kept<'_> {
    fn open(&self, path: &ReviewedPath) -> io::Result<Box<dyn io::Read + '_>> {
        let mut records = self.journal.records.iter();
        let number = records.position(|record| record.path.to_path() == path.as_path());
        let number = number.ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(self.tree.open_kept(self.directory, number)?))
    }
}

impl HostTree {
    /// Takes the newest apply back of which something is left to be taken back.
    pub(crate) fn take_back(
        &self,
        journals: &Journals,
        session: Option<&str>,
        is_chosen: &dyn Fn(&ReviewedPath) -> bool,
        is_forced: &dyn Fn(&ReviewedPath) -> bool,
    ) -> Result<Undo, ApplyError> {
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
            if left.is_empty() {
                continue;
            }
            let directory = journals.open(&self.calls, &id).map_err(fail)?;
            return self.take_back_these(journals, &directory, &journal, left, is_forced);
        }
        Err(ApplyError::NothingApplied)
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
        let mut undo = Undo { of, restored: Vec::new(), changed: Vec::new() };
        let mut steps = Vec::new();
        for (number, path) in left {
            let record = &journal.records[number];
            let there = self.see(&path).map_err(failed("reading", &path))?.map(|seen| seen.entry);
            let ours = record.after.as_ref().and_then(WrittenEntry::entry);
            let is_ours = match (&there, &ours) {
                // Something may have been put into a directory since: it goes only if it is empty.
                (Some(Entry::Directory { .. }), Some(Entry::Directory { .. })) => true,
                _ => there == ours,
            };
            if !is_ours && !is_forced(&path) {
                undo.changed.push(path);
                continue;
            }
            if let Some(step) = reversed(record, &path, there) {
                steps.push(step);
            }
        }
        // What was made last goes first; what was taken away last comes back first.
        steps.reverse();
        steps.sort_by_key(|step| !matches!(step.after, Placed::Nothing | Placed::NothingIfEmpty));
        if steps.is_empty() {
            return if undo.changed.is_empty() {
                Err(ApplyError::NothingApplied)
            } else {
                Ok(undo)
            };
        }
        let kept = Kept { tree: self, directory, journal };
        let id = &journal.id;
        let done = self.carry_out(journals, &journal.session, Some(id), &steps, &kept)?;
        undo.restored = done.paths;
        Ok(undo)
    }
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
