//! The walk through the upper layer.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use forge_domain::{Change, ChangeKind, ChangeSet};
use rustix::fs::{FileType, Statx};

use super::compare::same_contents;
use super::ignored::{Ignored, IgnoredFiles};
use super::layer::Directory;
use crate::paths::file_type;
use crate::store::StoredSummary;

/// What a path is on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// The type and the permission bits, as stat(2) has them.
    pub mode: u32,
    /// The size in bytes; of a symlink, of its target's name.
    pub size_bytes: u64,
}

/// One changed path with what it was and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetailedChange {
    /// Relative to the workspace root.
    pub path: PathBuf,
    /// How it differs.
    pub kind: ChangeKind,
    /// On the host; `None` where it is created.
    pub before: Option<FileFacts>,
    /// In the session; `None` where it is deleted.
    pub after: Option<FileFacts>,
}

/// What a session changed, without `.git`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DetailedChangeSet {
    /// In byte order of the paths.
    pub changes: Vec<DetailedChange>,
    /// How many changed files the ignore rules leave out.
    pub ignored_files: u64,
    /// The directories of the host that the session does not have any more, in no order.
    pub gone_directories: Vec<PathBuf>,
    /// The directories that the session has in its own layer, in no order.
    pub own_directories: Vec<PathBuf>,
    /// What the session has written, or removed, and is as on the host all the same, in no order.
    pub unchanged: Vec<PathBuf>,
    /// What the session has in the place of a directory of the host, or would have of one that the host made
    /// there, so that nothing beneath that is seen in the session; in no order.
    pub hiding: Vec<PathBuf>,
}

impl DetailedChangeSet {
    /// The same, as the port has it.
    #[must_use]
    pub fn into_domain(self) -> ChangeSet {
        let change = |change: DetailedChange| Change { path: change.path, kind: change.kind };
        ChangeSet {
            changes: self.changes.into_iter().map(change).collect(),
            ignored_files: self.ignored_files,
        }
    }

    pub(crate) fn summary(&self) -> StoredSummary {
        StoredSummary {
            changed_files: self.changes.len() as u64,
            ignored_files: self.ignored_files,
        }
    }
}

/// Walks the upper layer and compares with the lower one.
pub(crate) fn change_set(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
) -> io::Result<DetailedChangeSet> {
    change_set_with(upper, lower, IgnoredFiles::Counted)
}

/// The same, and what becomes of ignored files is said.
pub(crate) fn change_set_with(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    ignored: IgnoredFiles,
) -> io::Result<DetailedChangeSet> {
    let mut walk = Walk {
        upper,
        lower,
        ignored: Ignored::new(upper, lower, ignored),
        pending: vec![Pending {
            path: PathBuf::new(),
            compare: Compare::WithLower,
            side: Side::Both,
            shows: Shows::Lower,
        }],
        found: DetailedChangeSet::default(),
    };
    while let Some(pending) = walk.pending.pop() {
        walk.visit(&pending)?;
    }
    let mut found = walk.found;
    found.changes.sort_by(|left, right| {
        left.path.as_os_str().as_bytes().cmp(right.path.as_os_str().as_bytes())
    });
    Ok(found)
}

/// A directory that is still to be visited.
struct Pending {
    path: PathBuf,
    compare: Compare,
    side: Side,
    shows: Shows,
}

/// Whether the overlay shows anything of the lower layer's directory: nothing beneath one that is opaque, whether
/// the one beneath is marked itself or not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    Lower,
    Nothing,
}

/// Whether what is found in a directory is listed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    WithLower,
    /// It is beneath a directory that is left out: counted only.
    CountOnly,
}

/// On which side a directory is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// A directory in the session; on the host perhaps too.
    Both,
    /// A directory of the host that the session deleted.
    Lower,
    /// The same, and there is something else in its place, which is listed already.
    Replaced,
}

struct Walk<'a> {
    upper: BorrowedFd<'a>,
    lower: BorrowedFd<'a>,
    ignored: Ignored<'a>,
    pending: Vec<Pending>,
    found: DetailedChangeSet,
}

impl Walk<'_> {
    fn visit(&mut self, pending: &Pending) -> io::Result<()> {
        match pending.side {
            Side::Both => self.visit_both(pending),
            Side::Lower | Side::Replaced => self.visit_lower(pending),
        }
    }

    fn visit_both(&mut self, pending: &Pending) -> io::Result<()> {
        // Gone meanwhile, where commands still run.
        let Some(upper) = Directory::open(self.upper, &pending.path)? else { return Ok(()) };
        let lower = Directory::open(self.lower, &pending.path)?;
        let marks = upper.may_hold_marks();
        let names = upper.names()?;
        if names.is_empty() && lower.is_none() {
            let after = self.facts_of(self.upper, &pending.path)?;
            self.add(pending, &pending.path, ChangeKind::Created, None, after);
        }
        if !pending.path.as_os_str().is_empty() && !self.leaves_out(pending, &pending.path, true) {
            self.found.own_directories.push(pending.path.clone());
        }
        let is_opaque = pending.shows == Shows::Nothing || upper.is_opaque();
        let shows = if is_opaque { Shows::Nothing } else { Shows::Lower };
        for name in &names {
            if name == ".git" {
                continue;
            }
            let path = pending.path.join(name);
            let Some(stat) = upper.stat(name)? else { continue };
            let before = lower.as_ref().map(|lower| lower.stat(name)).transpose()?.flatten();
            if upper.is_whiteout(name, &stat, || marks) {
                match before {
                    Some(before) => {
                        if file_type(&before) == FileType::Directory {
                            self.hides(pending, &path);
                        }
                        self.deleted(pending, &path, &before);
                    }
                    None => self.unchanged(pending, &path, false),
                }
                continue;
            }
            self.entry(pending, shows, &upper, lower.as_ref(), name, &path, before.as_ref(), &stat);
        }
        if is_opaque {
            self.hides(pending, &pending.path);
        }
        // What an opaque directory does not show is deleted.
        if let (true, Some(lower)) = (is_opaque, lower) {
            for name in lower.names()? {
                if name != ".git"
                    && names.binary_search(&name).is_err()
                    && let Some(before) = lower.stat(&name)?
                {
                    self.deleted(pending, &pending.path.join(&name), &before);
                }
            }
        }
        Ok(())
    }

    fn visit_lower(&mut self, pending: &Pending) -> io::Result<()> {
        let Some(lower) = Directory::open(self.lower, &pending.path)? else { return Ok(()) };
        let names = match lower.names() {
            Ok(names) => names,
            // The user's own directory, which even the user may not read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Vec::new(),
            Err(error) => return Err(error),
        };
        let is_replaced = pending.side == Side::Replaced;
        if pending.compare == Compare::WithLower && !is_replaced {
            self.found.gone_directories.push(pending.path.clone());
        }
        if names.is_empty() && !is_replaced {
            let before = self.facts_of(self.lower, &pending.path)?;
            self.add(pending, &pending.path, ChangeKind::Deleted, before, None);
        }
        for name in names {
            if name != ".git"
                && let Some(before) = lower.stat(&name)?
            {
                self.deleted(pending, &pending.path.join(&name), &before);
            }
        }
        Ok(())
    }

    /// One entry of the upper layer that is no white-out.
    #[expect(clippy::too_many_arguments, reason = "both sides of one entry")]
    fn entry(
        &mut self,
        pending: &Pending,
        shows: Shows,
        upper: &Directory,
        lower: Option<&Directory>,
        name: &OsStr,
        path: &Path,
        before: Option<&Statx>,
        after: &Statx,
    ) {
        let kind = file_type(after);
        let facts = Some(facts(after));
        if kind == FileType::Directory {
            let was_directory =
                before.is_some_and(|before| file_type(before) == FileType::Directory);
            if let Some(before) = before {
                if !was_directory {
                    self.add(
                        pending,
                        path,
                        ChangeKind::TypeChanged,
                        Some(self::facts(before)),
                        facts,
                    );
                } else if mode(before) != mode(after) {
                    self.add(
                        pending,
                        path,
                        ChangeKind::ModeChanged,
                        Some(self::facts(before)),
                        facts,
                    );
                } else {
                    self.unchanged(pending, path, true);
                }
            }
            self.descend(pending, path, Side::Both, shows);
            return;
        }
        let Some(before) = before else {
            self.add(pending, path, ChangeKind::Created, None, facts);
            return;
        };
        let was = Some(self::facts(before));
        if file_type(before) != kind {
            self.add(pending, path, ChangeKind::TypeChanged, was, facts);
            if file_type(before) == FileType::Directory {
                self.hides(pending, path);
                self.descend(pending, path, Side::Replaced, shows);
            }
            return;
        }
        let same = match (kind, lower) {
            (FileType::RegularFile, Some(lower)) => {
                before.stx_size == after.stx_size && same_contents(upper, lower, name)
            }
            (FileType::Symlink, Some(lower)) => {
                upper.link_target(name).ok() == lower.link_target(name).ok()
            }
            _ => {
                (before.stx_rdev_major, before.stx_rdev_minor)
                    == (after.stx_rdev_major, after.stx_rdev_minor)
            }
        };
        if !same {
            self.add(pending, path, ChangeKind::Modified, was, facts);
        } else if kind != FileType::Symlink && mode(before) != mode(after) {
            self.add(pending, path, ChangeKind::ModeChanged, was, facts);
        } else {
            self.unchanged(pending, path, false);
        }
    }

    fn unchanged(&mut self, pending: &Pending, path: &Path, is_directory: bool) {
        if !self.leaves_out(pending, path, is_directory) {
            self.found.unchanged.push(path.to_path_buf());
        }
    }

    fn hides(&mut self, pending: &Pending, path: &Path) {
        if !self.leaves_out(pending, path, true) {
            self.found.hiding.push(path.to_path_buf());
        }
    }

    /// Whether a path is counted and not listed.
    fn leaves_out(&mut self, pending: &Pending, path: &Path, is_directory: bool) -> bool {
        pending.compare == Compare::CountOnly
            || (path != pending.path && self.ignored.leaves_out(path, is_directory))
    }

    /// Something of the host that the session no longer has.
    fn deleted(&mut self, pending: &Pending, path: &Path, before: &Statx) {
        if file_type(before) == FileType::Directory {
            self.descend(pending, path, Side::Lower, pending.shows);
        } else {
            self.add(pending, path, ChangeKind::Deleted, Some(facts(before)), None);
        }
    }

    fn descend(&mut self, pending: &Pending, path: &Path, side: Side, shows: Shows) {
        let left_out = pending.compare == Compare::CountOnly || self.ignored.leaves_out(path, true);
        let compare = if left_out { Compare::CountOnly } else { Compare::WithLower };
        self.pending.push(Pending { path: path.to_path_buf(), compare, side, shows });
    }

    fn add(
        &mut self,
        pending: &Pending,
        path: &Path,
        kind: ChangeKind,
        before: Option<FileFacts>,
        after: Option<FileFacts>,
    ) {
        let is_directory = after
            .or(before)
            .is_some_and(|facts| FileType::from_raw_mode(facts.mode) == FileType::Directory);
        if self.leaves_out(pending, path, is_directory) {
            self.found.ignored_files += 1;
        } else {
            let path = path.to_path_buf();
            self.found.changes.push(DetailedChange { path, kind, before, after });
        }
    }

    fn facts_of(&self, layer: BorrowedFd<'_>, path: &Path) -> io::Result<Option<FileFacts>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let Some(parent) = Directory::open(layer, parent)? else { return Ok(None) };
        Ok(parent.stat(name)?.as_ref().map(facts))
    }
}

fn facts(stat: &Statx) -> FileFacts {
    FileFacts { mode: u32::from(stat.stx_mode), size_bytes: stat.stx_size }
}

/// The permission bits.
fn mode(stat: &Statx) -> u16 {
    stat.stx_mode & 0o7777
}
