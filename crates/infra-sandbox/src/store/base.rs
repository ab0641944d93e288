//! What the changed files of a session were when it began to differ: `base/` beside its layers.
//!
//! The overlay copies a file up when it is written and keeps no original. So what the host has is noted at the end
//! of every turn and use, for each changed path of which nothing is noted yet. It is what the session began with
//! only if the host's inode was not changed (its ctime, which nobody can set) since the use began; where it was,
//! that is noted instead, and nothing is ever merged or overwritten by it.
//!
//! What the session has written and left as it was is noted as well: should the host's change later, it is the host
//! that has changed it. For the same reason it is noted what hides directories: what the host puts into one of these
//! later is not missing since the session removed it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use forge_domain::{AppliedId, Base, Digest, Entry};
use rustix::fs::{FileType, Statx};
use serde::{Deserialize, Serialize};

use super::blobs::{Blobs, Keeping, create};
use super::lock::no_follow;
use super::meta::WrittenPath;
use super::moment::{Moment, Moments, Sight};
use crate::changes::{DetailedChangeSet, Directory, Recent, entry, is_bare, is_copied_up, stat};
use crate::paths::file_type;

const MANIFEST: &str = "manifest.json";

/// It is written to, to ask the kernel's clock for inodes.
const CLOCK: &str = "clock";

const VERSION: u32 = 1;

/// Of a larger file only its hash is kept, and it is not merged.
const MAX_KEPT_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Manifest {
    version: u32,
    bases: Vec<Written>,
    /// What hid directories of the host at the end of the last use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hiding: Vec<WrittenPath>,
    /// Where the session had directories of its own then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    directories: Vec<WrittenPath>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    path: WrittenPath,
    base: WrittenBase,
    /// The host's when it was seen to be as noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sight: Option<Sight>,
    /// What it was before each apply, the oldest first: that is what it is again after an undo.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<(String, WrittenBase)>,
}

/// What is noted of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Noted {
    base: Base,
    /// The host's when it was seen to be that; `None` where it is another, or is to be looked at.
    sight: Option<Sight>,
    before: Vec<(AppliedId, Base)>,
}

impl Noted {
    fn unseen(base: Base) -> Self {
        Self { base, sight: None, before: Vec::new() }
    }
}

/// A path that is dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DealtWith {
    /// Relative to the workspace.
    pub path: PathBuf,
    /// What the session has there now: what it goes on from.
    pub base: Base,
    /// What it counts as having been before, where nothing is noted of it.
    pub before: Base,
}

/// What becomes of what is noted of paths where neither side has anything any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// What comes there next is new.
    BeginsAnew,
    /// It stays: an apply may have taken these away of which the session is not told yet, and an undo of it has to
    /// know what they were.
    Stays,
}

/// Both layers, and what tells which of the host's is what the session began with.
struct Sides<'a> {
    upper: BorrowedFd<'a>,
    lower: BorrowedFd<'a>,
    moments: &'a Moments,
    /// What hides directories now.
    hiding: &'a BTreeSet<PathBuf>,
    /// A moment before anything is looked at.
    now: Option<Moment>,
}

/// What the host has at a path of which something is noted, and that it was this when it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) path: PathBuf,
    pub(crate) base: Base,
    pub(crate) sight: Option<Sight>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenBase {
    Absent,
    Unknown,
    File { size_bytes: u64, digest: String, mode: u32 },
    Symlink { target: WrittenPath },
    Directory { mode: u32 },
    Special,
}

/// What is noted of a session's paths.
#[derive(Debug, Clone)]
pub(super) struct Bases {
    directory: PathBuf,
    blobs: Blobs,
    all: BTreeMap<PathBuf, Noted>,
    hiding: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    /// It cannot be read: then nothing is known of any path.
    is_damaged: bool,
}

impl Bases {
    /// Reads what is noted of the session in a directory.
    pub(super) fn read(session: &Path) -> Self {
        let directory = session.join("base");
        let mut bases = Self {
            directory: directory.clone(),
            blobs: Blobs::new(directory.clone()),
            all: BTreeMap::new(),
            hiding: BTreeSet::new(),
            directories: BTreeSet::new(),
            is_damaged: false,
        };
        let mut read = || -> io::Result<()> {
            let mut file = match File::options()
                .read(true)
                .custom_flags(no_follow())
                .open(directory.join(MANIFEST))
            {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(());
                }
                other => other?,
            };
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let manifest: Manifest = serde_json::from_slice(&bytes)?;
            if manifest.version > VERSION {
                return Err(io::Error::other("a newer forge has written it"));
            }
            let all = manifest.bases.into_iter();
            bases.all = all.map(|one| (one.path.as_path().to_path_buf(), one.into())).collect();
            let paths = |written: Vec<WrittenPath>| {
                written.iter().map(|path| path.as_path().to_path_buf()).collect()
            };
            bases.hiding = paths(manifest.hiding);
            bases.directories = paths(manifest.directories);
            Ok(())
        };
        if let Err(error) = read() {
            tracing::warn!(%error, path = %directory.display(), "What the changed files were cannot be read.");
            bases.is_damaged = true;
        }
        bases
    }

    /// What a path was; where nothing is noted, `None`.
    pub(super) fn of(&self, path: &Path) -> Option<Base> {
        if self.is_damaged {
            Some(Base::Unknown)
        } else {
            self.all.get(path).map(|noted| noted.base.clone())
        }
    }

    /// What is noted of every path that the host may have gone on with: whose inode is not the one that was seen to be
    /// as noted, or was changed since. Of a path of which nothing is known it makes no difference.
    pub(super) fn perhaps_outdated(&self, lower: BorrowedFd<'_>) -> Vec<(PathBuf, Base)> {
        let is_as_seen = |path: &Path, noted: &Noted| {
            let Some(sight) = noted.sight else { return false };
            matches!(stat(lower, path), Ok(Some(stat)) if sight.is_of(&stat))
        };
        let noted = self.all.iter().filter(|(_, noted)| noted.base != Base::Unknown);
        let noted = noted.filter(|(path, noted)| !is_as_seen(path, noted));
        noted.map(|(path, noted)| (path.clone(), noted.base.clone())).collect()
    }

    /// The moment that it is by the kernel's clock for inodes; `None` where nothing can be written.
    pub(super) fn now(&self) -> Option<Moment> {
        let path = self.directory.join(CLOCK);
        let written = write_private(&path, b".").and_then(|()| File::open(path));
        written.and_then(|file| Moment::of(&file)).ok()
    }

    /// Whether nothing is noted.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && !self.is_damaged
    }

    /// What a file was, where it was kept.
    pub(super) fn contents(&self, digest: Digest, max_bytes: u64) -> io::Result<Vec<u8>> {
        self.blobs.contents(digest, max_bytes)
    }

    /// Notes what is not noted yet: the host has what the session began with where it did not change since.
    pub(super) fn record(
        &mut self,
        upper: BorrowedFd<'_>,
        lower: BorrowedFd<'_>,
        changes: &DetailedChangeSet,
        moments: &Moments,
        dropped: Dropped,
    ) -> io::Result<()> {
        let mut is_new = false;
        let listed = || {
            let changed = changes.changes.iter().map(|change| &change.path);
            // Directories, too, with which one side stands alone: something else may take their place on both.
            let directories = changes.own_directories.iter().chain(&changes.gone_directories);
            changed.chain(&changes.unchanged).chain(&changes.hiding).chain(directories)
        };
        if !self.is_damaged && dropped == Dropped::BeginsAnew {
            let listed: BTreeSet<&PathBuf> = listed().collect();
            let before = self.all.len();
            // What the session dropped again begins anew: neither side has anything there. An undo may bring it back.
            self.all.retain(|path, noted| {
                if listed.contains(path) || !is_bare(upper, path) {
                    return true;
                }
                is_new |= noted.base != Base::Absent;
                noted.base = Base::Absent;
                noted.sight = None;
                !noted.before.is_empty()
            });
            is_new |= self.all.len() != before;
        }
        let mut hiding: BTreeSet<PathBuf> = changes.hiding.iter().cloned().collect();
        // What took the place of a directory that the host has not any more would hide another one there, which an undo
        // may bring back.
        for (path, noted) in &self.all {
            let is_other = |stat: Statx| file_type(&stat) != FileType::Directory;
            let was_directory = is_directory(&noted.base)
                || noted.before.iter().any(|(_, before)| is_directory(before));
            if was_directory && stat(upper, path)?.is_some_and(is_other) {
                hiding.insert(path.clone());
            }
        }
        let mut found = Vec::new();
        let new: Vec<&PathBuf> = listed().filter(|path| !self.all.contains_key(*path)).collect();
        let now = if new.is_empty() { None } else { self.now() };
        let sides = Sides { upper, lower, moments, hiding: &hiding, now };
        let mut keeping = self.blobs.keep();
        for path in new {
            let (base, sight) = self.found(&sides, &mut keeping, path)?;
            found.push((path.clone(), Noted { sight, ..Noted::unseen(base) }));
        }
        keeping.finish()?;
        let directories = changes.own_directories.iter().cloned().collect();
        is_new |= !found.is_empty() || hiding != self.hiding || directories != self.directories;
        self.all.extend(found);
        (self.hiding, self.directories) = (hiding, directories);
        if is_new { self.write() } else { Ok(()) }
    }

    /// Whether what the session has above a path was there at the end of an earlier use, so that the session has
    /// never seen what the host has at the path.
    fn is_hidden_since_before(&self, path: &Path, hiding: &BTreeSet<PathBuf>) -> bool {
        path.ancestors().skip(1).filter(|above| hiding.contains(*above)).any(|above| {
            // What the host put into a directory that is no more was seen in it, where that did not hide it.
            self.hiding.contains(above)
                || !self.directories.contains(above)
                    && self.all.get(above).is_some_and(|noted| !is_directory(&noted.base))
        })
    }

    /// What a path was when the session began to differ, and the host's where that is it.
    fn found(
        &self,
        sides: &Sides<'_>,
        keeping: &mut Keeping<'_>,
        path: &Path,
    ) -> io::Result<(Base, Option<Sight>)> {
        let &Sides { upper, lower, moments, hiding, now } = sides;
        let unknown = Ok((Base::Unknown, None));
        let copy = stat(upper, path)?;
        let Some(since) = moments.seen_by(copy.as_ref()).filter(|_| !self.is_damaged) else {
            return unknown;
        };
        match entry(lower, path) {
            Ok(Some((found, stat)))
                // Where both have the same now, both go on from there.
                if has(upper, path, &found)
                    || Moment::changed(&stat) <= since
                        && !is_elsewhere(lower, path, since)
                        && !self.is_hidden_since_before(path, hiding) =>
            {
                if let Entry::File { size_bytes, digest, .. } = found
                    && size_bytes <= MAX_KEPT_BYTES
                    && !keeping.keep(digest, || held(lower, &Recent::default(), path))?
                {
                    return unknown;
                }
                Ok((Base::Known(found), now.and_then(|now| Sight::of(&stat, now))))
            }
            Ok(Some(_)) => unknown,
            // Deleted on the host meanwhile, or moved in the session from elsewhere: then nobody has touched the
            // directory on the host.
            Ok(None) if is_copied_up(upper, path) && !is_still(lower, path, since) => unknown,
            Ok(None) => Ok((Base::Absent, None)),
            // It may not be read, so it was not either.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => unknown,
            Err(error) => Err(error),
        }
    }

    /// Keeps what files hold in the layer that has that; what neither has any more is not kept.
    pub(super) fn keep_either<'a>(
        &self,
        upper: BorrowedFd<'_>,
        lower: BorrowedFd<'_>,
        paths: impl IntoIterator<Item = (&'a Path, &'a Base)>,
    ) -> io::Result<()> {
        let mut keeping = self.blobs.keep();
        let (above, below) = (Recent::default(), Recent::default());
        for (path, base) in paths {
            let Base::Known(Entry::File { size_bytes, digest, .. }) = base else { continue };
            if *size_bytes > MAX_KEPT_BYTES {
                continue;
            }
            for (layer, recent) in [(upper, &above), (lower, &below)] {
                match keeping.keep(*digest, || held(layer, recent, path)) {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        keeping.finish()
    }

    /// Notes that these paths are dealt with, by an apply where there was one: what the session makes of them
    /// from here on is new.
    pub(super) fn settle(
        &mut self,
        paths: Vec<DealtWith>,
        applied: Option<&AppliedId>,
    ) -> io::Result<()> {
        for DealtWith { path, base, before } in paths {
            let noted = self.all.entry(path).or_insert(Noted::unseen(before));
            let before = std::mem::replace(&mut noted.base, base);
            // The host's may be another: what was merged, or what the user has kept.
            noted.sight = None;
            noted.before.extend(applied.map(|id| (id.clone(), before)));
        }
        self.write()
    }

    /// The same of an apply of which nobody was told in time.
    pub(super) fn settle_late(
        &mut self,
        mut paths: Vec<DealtWith>,
        applied: &AppliedId,
    ) -> io::Result<()> {
        let is_told = |path: &Path| {
            let noted = self.all.get(path);
            noted.is_some_and(|noted| noted.before.iter().any(|(id, _)| id == applied))
        };
        paths.retain(|one| !is_told(&one.path));
        for one in &paths {
            // Noted since then, by somebody who saw that both sides have the same.
            if let Some(noted) = self.all.get_mut(&one.path).filter(|noted| noted.base == one.base)
            {
                noted.base = one.before.clone();
            }
        }
        self.settle(paths, Some(applied))
    }

    /// Notes that an apply was taken back for these paths.
    pub(super) fn take_back<'a>(
        &mut self,
        paths: impl IntoIterator<Item = &'a Path>,
        applied: &AppliedId,
    ) -> io::Result<()> {
        for path in paths {
            let Some(noted) = self.all.get_mut(path) else { continue };
            let place = noted.before.iter().position(|(id, _)| id == applied);
            // Where the apply was never noted, it is still what it was before that.
            if let Some((_, base)) = place.and_then(|place| noted.before.drain(place..).next()) {
                noted.base = base;
                noted.sight = None;
            }
        }
        self.write()
    }

    /// Notes what the host has at paths where the session has, or had before, what was noted.
    pub(super) fn follow(&mut self, paths: impl IntoIterator<Item = Followed>) -> io::Result<()> {
        for Followed { path, base, sight } in paths {
            let noted = self.all.entry(path).or_insert(Noted::unseen(Base::Unknown));
            (noted.base, noted.sight) = (base, sight);
        }
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let before =
            |(id, base): &(AppliedId, Base)| (id.as_str().to_owned(), WrittenBase::of(base));
        let bases = self.all.iter().map(|(path, noted)| Written {
            path: WrittenPath::of(path),
            base: WrittenBase::of(&noted.base),
            sight: noted.sight,
            before: noted.before.iter().map(before).collect(),
        });
        let paths = |paths: &BTreeSet<PathBuf>| {
            paths.iter().map(|path| WrittenPath::of(path)).collect::<Vec<_>>()
        };
        let (hiding, directories) = (paths(&self.hiding), paths(&self.directories));
        let manifest = Manifest { version: VERSION, bases: bases.collect(), hiding, directories };
        let path = self.directory.join(MANIFEST);
        let new = self.directory.join("manifest.json.new");
        write_private(&new, &serde_json::to_vec(&manifest)?)?;
        fs::rename(new, path)
    }
}

fn is_directory(base: &Base) -> bool {
    matches!(base, Base::Known(Entry::Directory { .. }))
}

/// Whether something above a path may be another directory than it was: a renaming changes the time of the directory
/// that is renamed, and writes to the one that it is in, and leaves what is beneath it as it is.
fn is_elsewhere(layer: BorrowedFd<'_>, path: &Path, since: Moment) -> bool {
    let stat = |path: &Path| {
        let directory = Directory::open(layer, path).ok()??;
        directory.stat(OsStr::new(".")).ok()?
    };
    let above = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
    above.filter_map(|above| Some((above, above.parent()?))).any(|(directory, parent)| {
        let is_changed = stat(directory).is_none_or(|stat| Moment::changed(&stat) > since);
        is_changed && stat(parent).is_none_or(|stat| Moment::written(&stat) > since)
    })
}

/// Whether nothing has come or gone since then in the nearest directory above a path that is there.
fn is_still(layer: BorrowedFd<'_>, path: &Path, since: Moment) -> bool {
    let above = path.ancestors().skip(1).find_map(|above| Directory::open(layer, above).ok()?);
    let stat = above.and_then(|above| above.stat(OsStr::new(".")).ok()?);
    stat.is_some_and(|stat| Moment::changed(&stat) <= since)
}

/// What a file of a layer holds, no more than one byte more than is kept.
fn held(layer: BorrowedFd<'_>, recent: &Recent, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    recent.open(layer, path)?.take(MAX_KEPT_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a layer has this at a path.
fn has(layer: BorrowedFd<'_>, path: &Path, wanted: &Entry) -> bool {
    matches!(entry(layer, path), Ok(Some((found, _))) if found == *wanted)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path)?.write_all(bytes)
}

impl WrittenBase {
    fn of(base: &Base) -> Self {
        match base {
            Base::Absent => Self::Absent,
            Base::Unknown => Self::Unknown,
            Base::Known(Entry::File { size_bytes, digest, mode }) => {
                Self::File { size_bytes: *size_bytes, digest: digest.to_string(), mode: *mode }
            }
            Base::Known(Entry::Symlink { target }) => {
                Self::Symlink { target: WrittenPath::of(target) }
            }
            Base::Known(Entry::Directory { mode }) => Self::Directory { mode: *mode },
            Base::Known(Entry::Special) => Self::Special,
        }
    }
}

impl From<Written> for Noted {
    fn from(written: Written) -> Self {
        let before = written.before.into_iter();
        let before = before.filter_map(|(id, base)| Some((AppliedId::parse(&id)?, base.into())));
        Self { base: written.base.into(), sight: written.sight, before: before.collect() }
    }
}

impl From<WrittenBase> for Base {
    fn from(written: WrittenBase) -> Self {
        match written {
            WrittenBase::Absent => Self::Absent,
            WrittenBase::Unknown => Self::Unknown,
            WrittenBase::File { size_bytes, digest, mode } => match Digest::parse(&digest) {
                Some(digest) => Self::Known(Entry::File { size_bytes, digest, mode }),
                None => Self::Unknown,
            },
            WrittenBase::Symlink { target } => {
                Self::Known(Entry::Symlink { target: target.as_path().to_path_buf() })
            }
            WrittenBase::Directory { mode } => Self::Known(Entry::Directory { mode }),
            WrittenBase::Special => Self::Known(Entry::Special),
        }
    }
}
