//! The walk over the workspace.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use derive_setters::Setters;
use forge_domain::{
    LeftOut, LeftOutReason, Secrecy, SourceEntry, SourceError, SourceListing, SourcePath,
    SourceStamp, WorkspaceSource, is_secret_directory, secrecy,
};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, readlinkat, statat};

use crate::beneath;
use crate::rules::{Rules, Verdict};
use crate::tracked::{NotUnderstood, Tracked};

/// So much of a file is looked at for secrets.
const LOOK_BYTES: u64 = 64 * 1024;
/// So many of the largest are named where all is too large.
const NAMED: usize = 3;

/// A workspace of this machine.
#[derive(Debug, Clone, Setters)]
#[setters(into)]
pub struct HostSource {
    /// Its root; absolute, without symlinks.
    #[setters(skip)]
    root: PathBuf,
    /// Secrets that go along all the same, relative to the root; with a directory, everything in it. Default: none.
    include: Vec<PathBuf>,
    /// Larger files stay behind. Default: 100 MiB.
    max_file_bytes: u64,
    /// The files together may not be more. Default: 2 GiB.
    max_total_bytes: u64,
}

impl HostSource {
    /// Every default. Nothing is read yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            include: Vec::new(),
            max_file_bytes: 100 * 1024 * 1024,
            max_total_bytes: 2 * 1024 * 1024 * 1024,
        }
    }

    fn open_root(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.root, flags, Mode::empty())?)
    }

    /// Whether a path stays behind, whatever the project's rules say of it.
    fn refusal(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
    ) -> Option<LeftOutReason> {
        let is_included = || self.include.iter().any(|included| path.starts_with(included));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if is_secret_directory(path) && !is_included() => {
                Some(LeftOutReason::Secret)
            }
            FileType::Directory | FileType::Symlink => None,
            FileType::RegularFile => {
                if size(stat) > self.max_file_bytes {
                    return Some(LeftOutReason::TooLarge);
                }
                let mut file = match beneath::file(parent, name) {
                    Ok(file) => file,
                    Err(_) => return Some(LeftOutReason::Unreadable),
                };
                let is_secret = match secrecy(path) {
                    Secrecy::Open => false,
                    Secrecy::Secret => true,
                    Secrecy::Perhaps(signs) => {
                        let mut text = Vec::new();
                        let read = file.by_ref().take(LOOK_BYTES).read_to_end(&mut text);
                        read.is_err() || signs.are_in(&text)
                    }
                };
                (is_secret && !is_included()).then_some(LeftOutReason::Secret)
            }
            _ => Some(LeftOutReason::Special),
        }
    }
}

/// A directory that is still to be walked.
struct Pending {
    path: PathBuf,
    rules: Rules,
    is_ignored: IsIgnored,
}

/// Whether git's rules leave a directory out, so that only what git tracks goes along of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IsIgnored {
    No,
    ButForTracked,
}

impl WorkspaceSource for HostSource {
    fn list(&self) -> Result<SourceListing, SourceError> {
        let failed = |source| SourceError::Io { path: self.root.clone(), source };
        let root = self.open_root().map_err(failed)?;
        let mut listing = SourceListing::default();
        let tracked = Tracked::at(&root).unwrap_or_else(|NotUnderstood| {
            let path = PathBuf::from(".git/index");
            listing.left_out.push(LeftOut { path, reason: LeftOutReason::IndexNotUnderstood });
            Tracked::default()
        });
        let first = Pending {
            path: PathBuf::new(),
            rules: Rules::at_the_root(&root),
            is_ignored: IsIgnored::No,
        };
        let mut pending = vec![first];
        while let Some(Pending { path, rules, is_ignored }) = pending.pop() {
            let names = beneath::directory(&root, &path).and_then(|directory| {
                let names = names(&directory)?;
                Ok((directory, names))
            });
            let (directory, names) = match names {
                Ok(found) => found,
                Err(error) if path.as_os_str().is_empty() => return Err(failed(error)),
                // Gone, or something else by now.
                Err(error) if is_gone(&error) => continue,
                Err(_) => {
                    listing.left_out.push(LeftOut { path, reason: LeftOutReason::Unreadable });
                    continue;
                }
            };
            for name in names {
                let is_root = path.as_os_str().is_empty();
                let path = path.join(&name);
                let mut leave = |path, reason| listing.left_out.push(LeftOut { path, reason });
                if name == ".git" {
                    if !is_root {
                        leave(path, LeftOutReason::NestedRepository);
                    }
                    continue;
                }
                let stat = match statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(error) if is_gone(&error.into()) => continue,
                    Err(_) => {
                        leave(path, LeftOutReason::Unreadable);
                        continue;
                    }
                };
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let is_tracked = || match is_directory {
                    true => tracked.has_within(&path),
                    false => tracked.has(&path),
                };
                let is_ignored = match (rules.verdict(&path, is_directory), is_ignored) {
                    (Verdict::Taken, IsIgnored::No) => IsIgnored::No,
                    // Nothing within an ignored directory is taken in again by a rule.
                    (Verdict::LeftByGit, _) | (Verdict::Taken, IsIgnored::ButForTracked)
                        if is_tracked() =>
                    {
                        IsIgnored::ButForTracked
                    }
                    (Verdict::Taken | Verdict::LeftByGit | Verdict::LeftByForge, _) => {
                        leave(path, LeftOutReason::Ignored);
                        continue;
                    }
                };
                if let Some(reason) = self.refusal(&directory, &name, &path, &stat) {
                    leave(path, reason);
                    continue;
                }
                let Some(found) = source_path(&directory, &name, path, &stat) else { continue };
                if let SourceEntry::File { size_bytes, .. } = found.entry {
                    listing.total_bytes += size_bytes;
                }
                if is_directory && let Ok(inner) = beneath::directory(&directory, Path::new(&name))
                {
                    let rules = rules.within(&inner, &found.path);
                    pending.push(Pending { path: found.path.clone(), rules, is_ignored });
                }
                listing.paths.push(found);
            }
        }
        let bytes = |path: &PathBuf| path.as_os_str().as_encoded_bytes().to_vec();
        listing.paths.sort_by_cached_key(|one| bytes(&one.path));
        listing.left_out.sort_by_cached_key(|one| bytes(&one.path));
        if listing.total_bytes > self.max_total_bytes {
            return Err(SourceError::TooLarge {
                total_bytes: listing.total_bytes,
                limit_bytes: self.max_total_bytes,
                largest: largest(&listing),
            });
        }
        Ok(listing)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        let root = self.open_root()?;
        let (parent, name) = beneath::parent(&root, path)?;
        Ok(Box::new(beneath::file(&parent, name)?))
    }

    fn look(&self, path: &Path) -> io::Result<Option<SourcePath>> {
        let root = self.open_root()?;
        let found = beneath::parent(&root, path).and_then(|(parent, name)| {
            let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((parent, name, stat))
        });
        match found {
            Ok((parent, name, stat)) if self.refusal(&parent, name, path, &stat).is_none() => {
                Ok(source_path(&parent, name, path.to_path_buf(), &stat))
            }
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The names in a directory, in byte order.
fn names(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory.as_fd())? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

/// `None` where it is a symlink that is gone, or something that no project has.
fn source_path(parent: &OwnedFd, name: &OsStr, path: PathBuf, stat: &Stat) -> Option<SourcePath> {
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_lossless,
        reason = "on some systems a mode has 16 bits"
    )]
    let mode = stat.st_mode as u32 & 0o777;
    let entry = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => SourceEntry::File { size_bytes: size(stat), mode },
        FileType::Directory => SourceEntry::Directory { mode },
        FileType::Symlink => {
            let target = readlinkat(parent, name, Vec::new()).ok()?.into_bytes();
            SourceEntry::Symlink { target: OsString::from_vec(target).into() }
        }
        _ => return None,
    };
    let modified_seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    Some(SourcePath { path, entry, modified_seconds, stamp: stamp(stat) })
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// All that tells two versions apart, mixed into one number (FNV-1a).
fn stamp(stat: &Stat) -> SourceStamp {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    // A directory's own times say what is in it, which is listed itself.
    let times = [
        stat.st_mtime as i128,
        stat.st_mtime_nsec as i128,
        stat.st_ctime as i128,
        stat.st_ctime_nsec as i128,
    ];
    let times = if is_directory { [0; 4] } else { times };
    let size = if is_directory { 0 } else { stat.st_size as i128 };
    let facts = [stat.st_mode as i128, stat.st_dev as i128, stat.st_ino as i128, size];
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for fact in facts.into_iter().chain(times) {
        for byte in fact.to_le_bytes() {
            hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }
    SourceStamp::new(hash)
}

fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// What takes most of the room, by the first name of its path.
fn largest(listing: &SourceListing) -> Vec<PathBuf> {
    let mut sizes = std::collections::BTreeMap::<&OsStr, u64>::new();
    for one in &listing.paths {
        if let (SourceEntry::File { size_bytes, .. }, Some(first)) =
            (&one.entry, one.path.iter().next())
        {
            *sizes.entry(first).or_default() += size_bytes;
        }
    }
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    sizes.into_iter().take(NAMED).map(|(name, _)| PathBuf::from(name)).collect()
}
