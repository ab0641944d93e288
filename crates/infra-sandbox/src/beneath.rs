//! Opening paths beneath a directory, by descriptor.
//!
//! Every path that a command of the sandbox could have had a hand in is opened through here: the
//! kernel resolves it (openat2(2)) and refuses what would leave the directory, so that no swap of a
//! directory for a symlink leads anywhere else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// The kernel gives up (`EAGAIN`) where the tree is renamed meanwhile; then it is asked again.
const ATTEMPTS: usize = 128;

/// Opens a relative path beneath a directory, through no symlink. `CLOEXEC` is always added; `mode` counts where a file
/// is made.
///
/// # Errors
/// `EXDEV`: the path leaves the directory. `ELOOP`: a symlink is on the way or at the end. Else as open(2).
pub(crate) fn open(
    directory: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let directory = directory.as_fd();
    let path = match path.as_ref() {
        path if path.as_os_str().is_empty() => Path::new("."),
        path => path,
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    for _ in 0..ATTEMPTS {
        match openat2(directory, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use pretty_assertions::assert_eq;

    use super::*;

    fn outcome(root: &fs::File, path: &str) -> Option<Errno> {
        let opened = open(root, path, OFlags::RDONLY, Mode::empty());
        opened.err().and_then(|error| Errno::from_io_error(&error))
    }

    #[test]
    fn what_leaves_the_directory_is_refused_by_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("inside");
        fs::create_dir_all(inside.join("sub")).unwrap();
        fs::write(directory.path().join("outside"), "x").unwrap();
        fs::write(inside.join("sub/file"), "x").unwrap();
        symlink("../outside", inside.join("out")).unwrap();
        symlink("sub", inside.join("in")).unwrap();
        let root = fs::File::open(&inside).unwrap();

        assert_eq!(outcome(&root, "sub/file"), None);
        assert_eq!(outcome(&root, "sub/../sub/file"), None);
        for path in ["out", "in", "in/file"] {
            assert_eq!(outcome(&root, path), Some(Errno::LOOP), "{path}");
        }
        for path in ["../outside", "/etc/passwd", "sub/../../outside"] {
            assert_eq!(outcome(&root, path), Some(Errno::XDEV), "{path}");
        }
    }
}
