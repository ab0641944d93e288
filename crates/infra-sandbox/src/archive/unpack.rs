//! From an archive to a layer.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    fsetxattr, makedev,
};
use tar::{Archive, EntryType};

use super::OPAQUE;
use crate::changes::{Directory, OPAQUE_MARK};

/// No path or target is longer.
const MAX_TEXT_BYTES: u64 = 64 * 1024;

/// Whether an archive holds an entry whose path is one of these or beneath one. Where it cannot be
/// read, it may.
pub(crate) fn holds(archive: impl Read, paths: &[&Path]) -> bool {
    let mut archive = Archive::new(archive);
    let Ok(mut entries) = archive.entries() else { return true };
    entries.any(|entry| {
        let path = entry.and_then(|entry| Ok(entry.path()?.into_owned()));
        path.map_or(true, |path| paths.iter().any(|wanted| path.starts_with(wanted)))
    })
}

/// Makes in an empty directory what an archive holds. The archive holds what commands have made: no
/// path of it is followed anywhere else.
pub(crate) fn unpack(archive: impl Read, layer: &OwnedFd) -> io::Result<()> {
    // What is in a directory changes its time, and its mode may forbid what is to come.
    let mut directories = Vec::new();
    for entry in Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), is_plain) else {
            return Err(invalid("a path in it leaves the layer"));
        };
        let Some(parent) = Directory::open(layer.as_fd(), parent)? else {
            return Err(invalid("a directory is missing in it"));
        };
        let parent = parent.as_fd();
        let facts = Facts::of(&entry)?;
        match entry.header().entry_type() {
            EntryType::Directory => {
                rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                let mark = text(&mut entry)?;
                directories.push((path.clone(), facts, mark == OPAQUE));
                continue;
            }
            EntryType::Regular => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
                io::copy(&mut entry, &mut File::from(file))?;
            }
            EntryType::Symlink => {
                let target = PathBuf::from(std::ffi::OsStr::from_bytes(&text(&mut entry)?));
                rustix::fs::symlinkat(target, parent, name)?;
            }
            EntryType::Link => {
                let first = PathBuf::from(std::ffi::OsStr::from_bytes(&text(&mut entry)?));
                let (Some(directory), Some(first)) = (first.parent(), first.file_name()) else {
                    return Err(invalid("a hard link in it leads nowhere"));
                };
                let Some(directory) = Directory::open(layer.as_fd(), directory)? else {
                    return Err(invalid("a hard link in it leads nowhere"));
                };
                rustix::fs::linkat(directory.as_fd(), first, parent, name, AtFlags::empty())?;
                continue;
            }
            EntryType::Char => {
                // A white-out: the one device that everybody may make (mknod(2), since Linux 5.8).
                let mode = Mode::empty();
                rustix::fs::mknodat(parent, name, FileType::CharacterDevice, mode, makedev(0, 0))?;
                continue;
            }
            EntryType::Fifo => {
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0)?;
            }
            _ => return Err(invalid("an entry in it is of a kind that is never written")),
        }
        facts.apply(parent, Path::new(name))?;
    }
    for (path, facts, is_opaque) in directories.iter().rev() {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let Some(parent) = Directory::open(layer.as_fd(), parent)? else { continue };
        if *is_opaque {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty())?;
            fsetxattr(directory, OPAQUE_MARK, OPAQUE, XattrFlags::empty())?;
        }
        facts.apply(parent.as_fd(), Path::new(name))?;
    }
    Ok(())
}

/// What is known of an entry besides its contents.
struct Facts {
    owner: (Uid, Gid),
    mode: Mode,
    modified: Timespec,
    is_link: bool,
}

impl Facts {
    fn of<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<Self> {
        let header = entry.header();
        let number = |value: u64| u32::try_from(value).map_err(io::Error::other);
        Ok(Self {
            owner: (Uid::from_raw(number(header.uid()?)?), Gid::from_raw(number(header.gid()?)?)),
            mode: Mode::from_raw_mode(header.mode()? & 0o7777),
            modified: Timespec {
                tv_sec: i64::try_from(header.mtime()?).map_err(io::Error::other)?,
                tv_nsec: header.as_gnu().map_or(Ok(0), tar::GnuHeader::ctime)?.cast_signed(),
            },
            is_link: header.entry_type() == EntryType::Symlink,
        })
    }

    fn apply(&self, parent: impl AsFd, name: &Path) -> io::Result<()> {
        let parent = parent.as_fd();
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = self.owner;
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if !self.is_link {
            // The layer is nobody else's yet, so what has this name is what was made just now.
            rustix::fs::chmodat(parent, name, self.mode, AtFlags::empty())?;
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: self.modified,
        };
        Ok(rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn text<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    entry.take(MAX_TEXT_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
