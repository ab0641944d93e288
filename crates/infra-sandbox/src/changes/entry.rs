//! What stands at a path of a layer, with a hash of what it holds.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use forge_domain::{Digest, Entry};
use rustix::fs::{FileType, Statx};

use super::layer::Directory;
use crate::paths::file_type;

const PIECE_BYTES: usize = 64 * 1024;

/// What the overlay notes in a file that was copied up (`ovl_set_origin` of the kernel).
pub(crate) const ORIGIN: &str = "user.overlay.origin";

/// The directory of a layer that was looked into last: most paths are beside the one before.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Option<(PathBuf, Arc<Directory>)>>);

impl Recent {
    fn directory(&self, layer: BorrowedFd<'_>, path: &Path) -> io::Result<Option<Arc<Directory>>> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, directory)) = &*recent
            && known == path
        {
            return Ok(Some(Arc::clone(directory)));
        }
        let Some(directory) = Directory::open(layer, path)?.map(Arc::new) else { return Ok(None) };
        *recent = Some((path.to_path_buf(), Arc::clone(&directory)));
        Ok(Some(directory))
    }

    /// As [`entry`].
    pub(crate) fn entry(
        &self,
        layer: BorrowedFd<'_>,
        path: &Path,
    ) -> io::Result<Option<(Entry, Statx)>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        match self.directory(layer, parent)? {
            Some(directory) => entry_in(&directory, name),
            None => Ok(None),
        }
    }

    /// As [`open`].
    pub(crate) fn open(&self, layer: BorrowedFd<'_>, path: &Path) -> io::Result<std::fs::File> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(missing());
        };
        open_in(&*self.directory(layer, parent)?.ok_or_else(missing)?, name)
    }
}

/// What stands at a path; `None` where nothing does.
pub(crate) fn entry(layer: BorrowedFd<'_>, path: &Path) -> io::Result<Option<(Entry, Statx)>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    match Directory::open(layer, parent)? {
        Some(directory) => entry_in(&directory, name),
        None => Ok(None),
    }
}

fn entry_in(directory: &Directory, name: &OsStr) -> io::Result<Option<(Entry, Statx)>> {
    let Some(stat) = directory.stat(name)? else { return Ok(None) };
    if directory.is_whiteout(name, &stat, || directory.may_hold_marks()) {
        return Ok(None);
    }
    let mode = u32::from(stat.stx_mode & 0o7777);
    let entry = match file_type(&stat) {
        FileType::Directory => Entry::Directory { mode },
        FileType::Symlink => {
            use std::os::unix::ffi::OsStringExt;
            let target = std::ffi::OsString::from_vec(directory.link_target(name)?);
            Entry::Symlink { target: target.into() }
        }
        FileType::RegularFile => {
            let mut file = directory.open_for_reading(name)?;
            let (digest, size_bytes) = digest(&mut file)?;
            Entry::File { size_bytes, digest, mode }
        }
        _ => Entry::Special,
    };
    Ok(Some((entry, stat)))
}

/// Whether a layer has nothing at a path, not even a note that something is gone.
pub(crate) fn is_bare(layer: BorrowedFd<'_>, path: &Path) -> bool {
    matches!(stat(layer, path), Ok(None))
}

/// What is known of an entry of a layer, also of a note that something is gone; `None` where there is none.
pub(crate) fn stat(layer: BorrowedFd<'_>, path: &Path) -> io::Result<Option<Statx>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    match Directory::open(layer, parent)? {
        Some(directory) => directory.stat(name),
        None => Ok(None),
    }
}

/// A regular file of a layer, to be read.
pub(crate) fn open(layer: BorrowedFd<'_>, path: &Path) -> io::Result<std::fs::File> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(missing());
    };
    open_in(&Directory::open(layer, parent)?.ok_or_else(missing)?, name)
}

fn open_in(directory: &Directory, name: &OsStr) -> io::Result<std::fs::File> {
    let file = directory.open_for_reading(name)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Whether a path of the upper layer began as a copy of the lower one's.
pub(crate) fn is_copied_up(upper: BorrowedFd<'_>, path: &Path) -> bool {
    let read = || -> io::Result<bool> {
        let file = open(upper, path)?;
        let mut value = [0u8; 256];
        Ok(rustix::fs::fgetxattr(&file, ORIGIN, &mut value).is_ok())
    };
    read().unwrap_or(false)
}

/// The hash of what is left to be read, and how much that was.
fn digest(file: &mut impl Read) -> io::Result<(Digest, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = [0; PIECE_BYTES];
    let mut length = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((Digest::new(hasher.finalize().into()), length))
}
