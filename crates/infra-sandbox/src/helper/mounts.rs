//! Mounts by descriptor: what the kernel's mount interface offers, as far as the session needs it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    fspick, move_mount, open_tree,
};

use super::kernel;

const EMPTY: &CStr = c"";

/// What may not be done on a mount (mount_setattr(2)).
pub(super) const READ_ONLY: u64 = 0x1;
pub(super) const NO_SETUID: u64 = 0x2;
pub(super) const NO_DEVICES: u64 = 0x4;

/// A copy of the mount at a path, and where it is a directory, of all beneath it; attached nowhere yet.
pub(super) fn copy_of(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// A copy of the mount at a directory that is held, and of all beneath it.
pub(super) fn copy_of_held(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(directory, EMPTY, flags)?)
}

/// Restricts a mount and all beneath it.
pub(super) fn restrict(mount: &OwnedFd, attributes: u64) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    kernel::mount_setattr(mount.as_fd(), EMPTY, flags, attributes, 0)
}

/// Restricts the mount at a path alone.
pub(super) fn restrict_at(path: &CStr, attributes: u64) -> io::Result<()> {
    kernel::mount_setattr(CWD.as_fd(), path, 0, attributes, 0)
}

/// A new tmpfs, attached nowhere yet.
pub(super) fn memory(bytes: u64, mode: &str) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "size", bytes.to_string())?;
    // One inode for each 4 KiB, within bounds: empty files cost the kernel memory too.
    let inodes = (bytes / 4096).clamp(1024, 4 * 1024 * 1024);
    fsconfig_set_string(context.as_fd(), "nr_inodes", inodes.to_string())?;
    fsconfig_set_string(context.as_fd(), "mode", mode)?;
    finish(&context)
}

/// Whether what is mounted can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changeable {
    Yes,
    No,
}

/// A new `/proc` of the current pid namespace, attached nowhere yet.
pub(super) fn processes(changeable: Changeable) -> io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    if changeable == Changeable::No {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// New pseudo-terminals of the session's own, attached nowhere yet.
pub(super) fn terminals() -> io::Result<OwnedFd> {
    let context = fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(context.as_fd(), "newinstance")?;
    fsconfig_set_string(context.as_fd(), "ptmxmode", "0666")?;
    fsconfig_set_string(context.as_fd(), "mode", "0620")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// An overlay of these directories, the topmost first, attached nowhere yet. They are named by
/// descriptor, so that no path is resolved anew and no character of a path means anything to the
/// kernel's parser. Without an upper layer it cannot be written, and takes two lower ones at the least.
pub(super) fn overlay(
    lower: &[&OwnedFd],
    upper_and_work: Option<(&OwnedFd, &OwnedFd)>,
) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let by_descriptor = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower: Vec<String> = lower.iter().map(|fd| by_descriptor(fd)).collect();
    fsconfig_set_string(context.as_fd(), "lowerdir", lower.join(":"))?;
    if let Some((upper, work)) = upper_and_work {
        fsconfig_set_string(context.as_fd(), "upperdir", by_descriptor(upper))?;
        fsconfig_set_string(context.as_fd(), "workdir", by_descriptor(work))?;
    }
    fsconfig_set_flag(context.as_fd(), "userxattr")?;
    finish(&context)
}

fn finish(context: &OwnedFd) -> io::Result<OwnedFd> {
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Has the kernel forget what it remembers of the layers of an overlay, so that it shows what they hold now. Only
/// what somebody has open stays as it was. A change of a file system's configuration does that, one that
/// changes nothing included (`reconfigure_super` of the kernel calls `shrink_dcache_sb`).
pub(super) fn refresh(overlay: &Path) -> io::Result<()> {
    let context = fspick(CWD, overlay, FsPickFlags::FSPICK_CLOEXEC)?;
    Ok(fsconfig_reconfigure(context.as_fd())?)
}

/// Attaches a mount at a path, relative to a directory.
pub(super) fn attach(mount: &OwnedFd, root: impl AsFd, path: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(mount.as_fd(), EMPTY, root, path, flags)?)
}

/// Makes a directory and its parents, relative to a directory; what is there stays as it is.
pub(super) fn make_directories(root: impl AsFd, path: &Path) -> io::Result<()> {
    let root = root.as_fd();
    let mut made = std::path::PathBuf::new();
    for part in path.components() {
        made.push(part);
        match rustix::fs::mkdirat(root, &made, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            // A read-only mount: fine where the directory is there.
            Err(_) if is_directory(root, &made) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes an empty file for something to be mounted on.
pub(super) fn make_file(root: impl AsFd, path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_directories(root.as_fd(), parent)?;
    }
    // One that is there is not opened for writing: in an overlay that would copy it.
    if rustix::fs::statat(root.as_fd(), path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Ok(());
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(root, path, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn is_directory(root: impl AsFd, path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(root, path, flags, Mode::empty()).is_ok()
}
