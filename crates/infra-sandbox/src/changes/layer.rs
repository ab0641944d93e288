//! One layer: opening in it, and the marks of the overlay.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Statx, makedev};
use rustix::io::Errno;

use crate::beneath;
use crate::files::read_directory;
use crate::paths::{file_type, stat_entry};

/// So many names are opened at once, at the most 256 bytes each: within `PATH_MAX`.
const NAMES_AT_ONCE: usize = 15;

/// The overlay's marks in a layer that was mounted with `userxattr`.
pub(crate) const OPAQUE: &str = "user.overlay.opaque";
const WHITEOUT: &str = "user.overlay.whiteout";

/// A directory of a layer, held.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

impl Directory {
    /// Opens a directory beneath the root of a layer; `None` where there is none.
    pub(crate) fn open(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let names: Vec<&OsStr> = path.iter().collect();
        if names.len() <= NAMES_AT_ONCE {
            return match beneath::open(root, path, flags, Mode::empty()) {
                Ok(directory) => Ok(Some(Self(directory))),
                Err(error) if is_absent(&error) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let mut at = beneath::open(root, ".", flags, Mode::empty())?;
        for names in names.chunks(NAMES_AT_ONCE) {
            let path: PathBuf = names.iter().collect();
            at = match beneath::open(&at, path, flags, Mode::empty()) {
                Ok(next) => next,
                Err(error) if is_absent(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        Ok(Some(Self(at)))
    }

    /// The names in it, in byte order. One that may not be read, as a command may have made it, is
    /// opened for us first and closed again.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        let entries = match read_directory(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.names_of_closed()?
            }
            other => other?,
        };
        let mut names: Vec<OsString> = entries.into_iter().map(|(name, _)| name).collect();
        names.sort();
        Ok(names)
    }

    fn names_of_closed(&self) -> io::Result<Vec<(OsString, FileType)>> {
        let own = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&self.0)?.st_mode & 0o7777);
        // By this name of our own descriptor it is this very directory, wherever it is.
        rustix::fs::chmod(&own, mode | Mode::RUSR | Mode::XUSR)?;
        let names = read_directory(&self.0);
        rustix::fs::chmod(&own, mode)?;
        names
    }

    /// What is known of an entry; `None` where there is none.
    pub(crate) fn stat(&self, name: &OsStr) -> io::Result<Option<Statx>> {
        match stat_entry(&self.0, name) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let own = format!("/proc/self/fd/{}", self.0.as_raw_fd());
                let mode = Mode::from_raw_mode(rustix::fs::fstat(&self.0)?.st_mode & 0o7777);
                rustix::fs::chmod(&own, mode | Mode::XUSR)?;
                let stat = stat_entry(&self.0, name);
                rustix::fs::chmod(&own, mode)?;
                stat.map(Some)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file in it for reading, without waiting for anything.
    pub(crate) fn open_file(&self, name: &OsStr) -> io::Result<std::fs::File> {
        crate::files::open_file(&self.0, name)
    }

    /// Opens a regular file in it, also one that may not be read: for us first, and it is closed again.
    pub(crate) fn open_for_reading(&self, name: &OsStr) -> io::Result<std::fs::File> {
        match self.open_file(name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => return other,
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let held = beneath::open(&self.0, Path::new(name), flags, Mode::empty())?;
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&held)?.st_mode & 0o7777);
        // By this name of our own descriptor it is this very file.
        let own = format!("/proc/self/fd/{}", held.as_raw_fd());
        rustix::fs::chmod(&own, mode | Mode::RUSR)?;
        let file = self.open_file(name);
        rustix::fs::chmod(&own, mode)?;
        file
    }

    /// Where a symlink in it points.
    pub(crate) fn link_target(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, name, Vec::new())?.into_bytes())
    }

    /// Whether the overlay shows nothing of the lower layer's directory beneath it.
    pub(crate) fn is_opaque(&self) -> bool {
        self.mark(OPAQUE).as_deref() == Some(b"y")
    }

    /// Whether it may hold white-outs that are no devices (overlayfs.rst, since Linux 6.7).
    pub(crate) fn may_hold_marks(&self) -> bool {
        self.mark(OPAQUE).as_deref() == Some(b"x")
    }

    /// Whether an entry says that the lower layer's is gone.
    /// To see whether it may hold marks costs more than to look at an entry, so that is asked last.
    pub(crate) fn is_whiteout(
        &self,
        name: &OsStr,
        stat: &Statx,
        may_hold_marks: impl FnOnce() -> bool,
    ) -> bool {
        match file_type(stat) {
            FileType::CharacterDevice => {
                makedev(stat.stx_rdev_major, stat.stx_rdev_minor) == makedev(0, 0)
            }
            FileType::RegularFile if stat.stx_size == 0 && may_hold_marks() => {
                let file = self.open_file(name);
                file.is_ok_and(|file| {
                    let mut value = [0u8; 8];
                    rustix::fs::fgetxattr(&file, WHITEOUT, &mut value).is_ok()
                })
            }
            _ => false,
        }
    }

    /// The directory itself.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn mark(&self, name: &str) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut value = [0u8; 8];
        let length = match beneath::open(&self.0, ".", flags, Mode::empty()) {
            Ok(open) => rustix::fs::fgetxattr(open, name, &mut value),
            // Not readable: asked by the name of our own descriptor, which leads nowhere else.
            Err(_) => {
                let own = format!("/proc/self/fd/{}", self.0.as_fd().as_raw_fd());
                rustix::fs::getxattr(own, name, &mut value)
            }
        };
        Some(value[..length.ok()?].to_vec())
    }
}

/// Whether the layer just has no such thing.
fn is_absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}
