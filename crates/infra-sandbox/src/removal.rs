//! Removing files and trees, by descriptor.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use forge_domain::{FileError, Removal};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, chmod, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::beneath;
use crate::descent::Descent;
use crate::files::read_directory;
use crate::paths::{LastLink, Trees, file_error, file_type, is_mount, stat_entry, stat_of};

#[cfg(test)]
mod tests;

impl Trees {
    /// Removes a file or directory, never what a symlink points to.
    pub(crate) fn remove(&self, path: &Path, removal: Removal) -> Result<(), FileError> {
        let failed = |error| file_error(path, "remove", error);
        let place = self.resolve(path, "remove", LastLink::Stay)?;
        if self.holds_root(&place.path) {
            return Err(FileError::Outside { path: path.to_path_buf() });
        }
        let (Some(name), Some(found)) = (&place.name, &place.found) else {
            return Err(FileError::NotFound { path: path.to_path_buf() });
        };
        if is_mount(&found.stat) {
            return Err(FileError::PermissionDenied { path: path.to_path_buf() });
        }
        let removed = match (found.file_type() == FileType::Directory, removal) {
            (false, _) => unlinkat(&place.parent, name, AtFlags::empty()).map_err(io::Error::from),
            (true, Removal::Single) => {
                unlinkat(&place.parent, name, AtFlags::REMOVEDIR).map_err(io::Error::from)
            }
            (true, Removal::Tree) => remove_tree(&place.parent, name),
        };
        removed.map_err(failed)
    }
}

/// Removes a directory with everything in it: a level at a time, not by recursion, since a command can
/// make a tree deeper than any stack.
pub(crate) fn remove_tree(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let top = Arc::new(enter(parent, name)?);
    // The directories of each level that are still to be removed.
    let mut levels = vec![remove_files(&top)?];
    let mut descent = Descent::new(top);
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.pop() else {
            levels.pop();
            let Some(emptied) = descent.up() else { break };
            gone(unlinkat(descent.current()?, &emptied, AtFlags::REMOVEDIR))?;
            continue;
        };
        let directory = match enter(descent.current()?, &name) {
            Ok(directory) => directory,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT) => continue,
                // It has become something else meanwhile.
                Some(Errno::NOTDIR | Errno::LOOP) => {
                    gone(unlinkat(descent.current()?, &name, AtFlags::empty()))?;
                    continue;
                }
                _ => return Err(error),
            },
        };
        levels.push(remove_files(&directory)?);
        descent.down(name, directory);
    }
    gone(unlinkat(parent, name, AtFlags::REMOVEDIR))
}

/// What somebody else removed is as gone as if we had.
fn gone(removed: Result<(), Errno>) -> io::Result<()> {
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory that is to be removed, and gives us the permissions for that where it is ours.
fn enter(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let directory = beneath::open(parent, name, flags, Mode::empty())?;
    let stat = stat_of(&directory)?;
    if is_mount(&stat) {
        return Err(Errno::BUSY.into());
    }
    let user = geteuid();
    if stat.stx_mode & 0o700 != 0o700 && !user.is_root() && stat.stx_uid == user.as_raw() {
        // What can only be held cannot be changed but by this name of our own descriptor, which leads to
        // this very directory wherever it is. Where it fails, the removal says so.
        let own = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let _ = chmod(own, Mode::from_raw_mode(0o700));
    }
    Ok(directory)
}

/// Removes what is no directory, and returns the names of the directories.
fn remove_files(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut directories = Vec::new();
    for (name, _) in read_directory(directory)? {
        let stat = match stat_entry(directory, &name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if is_mount(&stat) {
            return Err(Errno::BUSY.into());
        }
        match file_type(&stat) {
            FileType::Directory => directories.push(name),
            _ => gone(unlinkat(directory, &name, AtFlags::empty()))?,
        }
    }
    Ok(directories)
}
