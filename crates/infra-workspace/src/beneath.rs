//! Opening paths beneath a directory, a name at a time, through no symlink: on every Unix.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

/// The directory that a path is in, and its name there.
pub(crate) fn parent<'a>(root: &OwnedFd, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
    let Some(name) = path.file_name() else { return Err(Errno::INVAL.into()) };
    Ok((directory(root, path.parent().unwrap_or(Path::new("")))?, name))
}

/// A directory, to be read.
pub(crate) fn directory(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(root, ".", flags, Mode::empty())?;
    for part in path.components() {
        let Component::Normal(name) = part else { return Err(Errno::INVAL.into()) };
        at = openat(&at, name, flags, Mode::empty())?;
    }
    Ok(at)
}

/// A regular file, to be read; nothing is waited for.
pub(crate) fn file(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
