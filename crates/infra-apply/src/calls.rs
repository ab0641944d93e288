//! The calls to the file system, all of them. Each is a point at which tests interrupt.

#![expect(clippy::disallowed_methods, reason = "this is the module through which the others call")]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid,
};
use rustix::io::Errno;

/// The kernel gives up (`EAGAIN`) where the tree is renamed meanwhile; then it is asked again.
const ATTEMPTS: usize = 128;

/// So much is copied at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// What stands before every call.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    #[cfg(test)]
    pub(crate) faults: Option<std::sync::Arc<crate::tests::Faults>>,
}

/// What a file is known by, wherever it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

impl Calls {
    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "interrupted by tests")
    )]
    fn point(&self, _call: &'static str) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return faults.reach(_call);
        }
        Ok(())
    }

    /// Opens a directory by its path, which may lead through symlinks: it is the user's own word.
    pub(crate) fn open_root(&self, path: &Path) -> io::Result<OwnedFd> {
        self.point("open")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(path, flags, Mode::empty())?)
    }

    /// Opens what is beneath a directory, through no symlink.
    pub(crate) fn open(
        &self,
        directory: impl AsFd,
        path: &Path,
        flags: OFlags,
    ) -> io::Result<OwnedFd> {
        self.point("openat2")?;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    pub(crate) fn open_directory(&self, directory: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
        self.open(directory, path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Makes a file that must not be there; only its owner can use it.
    pub(crate) fn create(&self, directory: impl AsFd, name: &str) -> io::Result<File> {
        self.point("create")?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(opened.into())
    }

    pub(crate) fn stat(&self, directory: impl AsFd, name: &OsStr) -> io::Result<Option<Stat>> {
        self.point("stat")?;
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn stat_of(&self, file: impl AsFd) -> io::Result<Stat> {
        self.point("fstat")?;
        Ok(rustix::fs::fstat(file)?)
    }

    pub(crate) fn read_link(&self, directory: impl AsFd, name: &OsStr) -> io::Result<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        self.point("readlink")?;
        let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
        Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
    }

    pub(crate) fn make_directory(&self, directory: impl AsFd, name: &str) -> io::Result<()> {
        self.point("mkdir")?;
        Ok(rustix::fs::mkdirat(directory, name, Mode::RWXU)?)
    }

    pub(crate) fn make_link(
        &self,
        target: &Path,
        directory: impl AsFd,
        name: &str,
    ) -> io::Result<()> {
        self.point("symlink")?;
        Ok(rustix::fs::symlinkat(target, directory, name)?)
    }

    /// Moves something to where nothing is.
    pub(crate) fn rename(
        &self,
        from: (impl AsFd, &OsStr),
        to: (impl AsFd, &OsStr),
    ) -> io::Result<()> {
        self.point("rename")?;
        let flags = RenameFlags::NOREPLACE;
        Ok(rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags)?)
    }

    /// Puts each in the place of the other, at once.
    pub(crate) fn exchange(
        &self,
        one: (impl AsFd, &OsStr),
        other: (impl AsFd, &OsStr),
    ) -> io::Result<()> {
        self.point("exchange")?;
        let flags = RenameFlags::EXCHANGE;
        Ok(rustix::fs::renameat_with(one.0, one.1, other.0, other.1, flags)?)
    }

    /// Moves something of our own to a place, whatever of our own is there.
    pub(crate) fn replace(&self, directory: impl AsFd, from: &str, to: &str) -> io::Result<()> {
        self.point("replace")?;
        Ok(rustix::fs::renameat(&directory, from, &directory, to)?)
    }

    /// Removes a file; that it is not there is no error.
    pub(crate) fn remove(&self, directory: impl AsFd, name: &OsStr) -> io::Result<()> {
        self.point("unlink")?;
        absent(rustix::fs::unlinkat(directory, name, AtFlags::empty()))
    }

    /// Removes an empty directory; that it is not there is no error.
    pub(crate) fn remove_directory(&self, directory: impl AsFd, name: &OsStr) -> io::Result<()> {
        self.point("rmdir")?;
        absent(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR))
    }

    pub(crate) fn set_mode(&self, file: impl AsFd, mode: u32) -> io::Result<()> {
        self.point("chmod")?;
        Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
    }

    pub(crate) fn set_owner(&self, file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
        self.point("chown")?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
    }

    pub(crate) fn set_link_owner(
        &self,
        directory: impl AsFd,
        name: &str,
        (uid, gid): (u32, u32),
    ) -> io::Result<()> {
        self.point("lchown")?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(directory, name, Some(uid), Some(gid), flags)?)
    }

    /// Copies the extended attributes that are the user's to set, as far as that goes.
    pub(crate) fn copy_attributes(&self, from: impl AsFd, to: impl AsFd) -> io::Result<()> {
        self.point("xattr")?;
        let mut names = vec![0u8; 4096];
        let Ok(length) = rustix::fs::flistxattr(&from, &mut names) else { return Ok(()) };
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let is_kept = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
                || name.starts_with(b"system.posix_acl");
            let mut value = vec![0u8; 64 * 1024];
            if is_kept && let Ok(length) = rustix::fs::fgetxattr(&from, name, &mut value) {
                // What the file system does not take is no part of what was reviewed.
                let flags = rustix::fs::XattrFlags::empty();
                let _unchecked = rustix::fs::fsetxattr(&to, name, &value[..length], flags);
            }
        }
        Ok(())
    }

    /// Whether nothing is in a directory.
    pub(crate) fn is_empty(&self, directory: impl AsFd) -> io::Result<bool> {
        self.point("readdir")?;
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The names in a directory of our own.
    pub(crate) fn names(&self, directory: impl AsFd) -> io::Result<Vec<String>> {
        self.point("readdir")?;
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Copies to the end, and gives the hash of what was copied and how long it is.
    pub(crate) fn copy(
        &self,
        from: &mut dyn Read,
        to: &mut File,
    ) -> io::Result<(forge_domain::Digest, u64)> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = [0; PIECE_BYTES];
        let mut length = 0;
        loop {
            self.point("read")?;
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.point("write")?;
            to.write_all(&buffer[..read])?;
            hasher.update(&buffer[..read]);
            length += read as u64;
        }
        Ok((forge_domain::Digest::new(hasher.finalize().into()), length))
    }

    /// The hash of a file.
    pub(crate) fn digest(&self, mut file: &File) -> io::Result<forge_domain::Digest> {
        self.point("read")?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = [0; PIECE_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => drop(hasher.update(&buffer[..read])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forge_domain::Digest::new(hasher.finalize().into()))
    }

    pub(crate) fn read(&self, directory: impl AsFd, name: &str) -> io::Result<Vec<u8>> {
        let mut file = File::from(self.open(directory, Path::new(name), OFlags::RDONLY)?);
        self.point("read")?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Puts a file with these contents in the place of what is there, at once, durably.
    pub(crate) fn write(&self, directory: impl AsFd, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{name}.new");
        self.remove(&directory, new.as_ref())?;
        let mut file = self.create(&directory, &new)?;
        self.point("write")?;
        file.write_all(bytes)?;
        self.sync(&file)?;
        self.replace(&directory, &new, name)?;
        self.sync(directory)
    }

    pub(crate) fn sync(&self, file: impl AsFd) -> io::Result<()> {
        self.point("fsync")?;
        Ok(rustix::fs::fsync(file)?)
    }

    /// Waits until everything of a file system is on its disk.
    pub(crate) fn sync_all(&self, file: impl AsFd) -> io::Result<()> {
        self.point("syncfs")?;
        Ok(rustix::fs::syncfs(file)?)
    }

    /// A lock on a file in a directory of our own; `None` where somebody else has it.
    pub(crate) fn lock(&self, directory: impl AsFd) -> io::Result<Option<Lock>> {
        self.point("lock")?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, "lock", flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a directory that only its owner can use, with all above it, and opens it.
    pub(crate) fn make_state(&self, path: &Path) -> io::Result<OwnedFd> {
        use std::os::unix::fs::DirBuilderExt;
        self.point("mkdir")?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        self.open_root(path)
    }
}

/// A lock that is held; given back when it is dropped, whoever else has a copy of its descriptor.
#[derive(Debug)]
pub(crate) struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // Should it fail, closing does it.
        let _unchecked = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// What kind of thing it is.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn absent(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
