//! The file port's calls on the trees, by descriptor. They block.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use forge_domain::{
    ByteRange, DirectoryEntry, Existing, FileContents, FileError, FileKind, FileStat, WriteOptions,
};
use rustix::fs::{
    Access, AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Statx, Uid, accessat, fchmod,
    fchown, linkat, mkdirat, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::beneath;
use crate::paths::{
    Found, LastLink, Place, Trees, file_error, file_type, is_cover, is_mount, stat_entry, stat_of,
};

#[cfg(test)]
mod tests;

impl Trees {
    /// Opens a regular file for reading, and says how large it is.
    pub(crate) fn open(&self, path: &Path) -> Result<(File, u64), FileError> {
        let failed = |error| file_error(path, "read", error);
        let place = self.resolve(path, "read", LastLink::Follow)?;
        let found = there(path, &place)?;
        regular(path, &found.stat)?;
        let Some(name) = &place.name else {
            return Err(FileError::IsDirectory { path: path.to_path_buf() });
        };
        let file = open_file(&place.parent, name).map_err(failed)?;
        // What was opened may be another thing than what was looked at.
        let stat = stat_of(&file).map_err(failed)?;
        regular(path, &stat)?;
        Ok((file, stat.stx_size))
    }

    /// Reads a range of a regular file.
    pub(crate) fn read(&self, path: &Path, range: ByteRange) -> Result<FileContents, FileError> {
        let failed = |error| file_error(path, "read", error);
        let (mut file, size) = self.open(path)?;
        if range.offset >= size {
            return Ok(FileContents { bytes: bytes::Bytes::new(), total_bytes: size });
        }
        file.seek(SeekFrom::Start(range.offset)).map_err(failed)?;
        let expected = (size - range.offset).min(range.max_bytes);
        let mut bytes = Vec::new();
        // A sparse file costs a command nothing: its size alone must not be more than we have.
        bytes
            .try_reserve(usize::try_from(expected).unwrap_or(usize::MAX))
            .map_err(|_| failed(Errno::NOMEM.into()))?;
        file.take(range.max_bytes).read_to_end(&mut bytes).map_err(failed)?;
        // The file may have grown meanwhile.
        let total_bytes = size.max(range.offset + bytes.len() as u64);
        Ok(FileContents { bytes: bytes.into(), total_bytes })
    }

    /// Lists a directory in byte order of the names.
    pub(crate) fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>, FileError> {
        Ok(self.list_with_times(path)?.into_iter().map(|(entry, _)| entry).collect())
    }

    /// The same, with the time at which each was last modified.
    pub(crate) fn list_with_times(
        &self,
        path: &Path,
    ) -> Result<Vec<(DirectoryEntry, Option<SystemTime>)>, FileError> {
        let failed = |error| file_error(path, "list", error);
        let place = self.resolve(path, "list", LastLink::Follow)?;
        let found = there(path, &place)?;
        if found.file_type() != FileType::Directory {
            return Err(FileError::NotDirectory { path: path.to_path_buf() });
        }
        if is_cover(&found.stat) {
            return Err(FileError::PermissionDenied { path: path.to_path_buf() });
        }
        let directory = &found.descriptor;
        let mut entries = Vec::new();
        for (name, _) in read_directory(directory).map_err(failed)? {
            // What is removed meanwhile is not there any more.
            let Ok(stat) = stat_entry(directory, &name) else { continue };
            let (kind, size_bytes) = (kind(&stat, None), size(&stat));
            entries.push((DirectoryEntry { name, kind, size_bytes }, modified(&stat)));
        }
        entries.sort_by(|(left, _), (right, _)| left.name.cmp(&right.name));
        Ok(entries)
    }

    /// Says what a path names, without following a symlink in its last part.
    pub(crate) fn stat(&self, path: &Path) -> Result<FileStat, FileError> {
        let place = self.resolve(path, "stat", LastLink::Stay)?;
        let found = there(path, &place)?;
        let target = match found.file_type() {
            FileType::Symlink => found.link_target().ok(),
            _ => None,
        };
        Ok(FileStat {
            kind: kind(&found.stat, target),
            size_bytes: size(&found.stat),
            mode: Some(u32::from(found.stat.stx_mode) & 0o7777),
            modified: modified(&found.stat),
        })
    }

    /// Writes a whole file, all or nothing.
    pub(crate) fn write(
        &self,
        path: &Path,
        contents: &[u8],
        options: WriteOptions,
    ) -> Result<(), FileError> {
        self.write_with(path, options, |file| file.write_all(contents))
    }

    /// The same with contents that are put into the file piece by piece.
    pub(crate) fn write_with(
        &self,
        path: &Path,
        options: WriteOptions,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), FileError> {
        let failed = |error| file_error(path, "write", error);
        let place = self.resolve(path, "write", LastLink::Follow)?;
        let name = match &place.name {
            Some(name) if !path.as_os_str().as_bytes().ends_with(b"/") => name,
            _ => return Err(FileError::IsDirectory { path: path.to_path_buf() }),
        };
        let existing = replaceable(path, &place, name, options)?;
        let parent = make_missing(path, &place)?;
        let kept = existing.map(|stat| u32::from(stat.stx_mode));
        let mode = options.mode.or(kept).map(permission_bits);
        // What is to be private is so from the beginning; else the kernel takes the umask off.
        let first = if mode.is_some() { 0o600 } else { 0o666 };
        let mut temporary = Temporary::create(&parent, first).map_err(failed)?;
        fill(&mut temporary.file).map_err(failed)?;
        if let Some(existing) = existing {
            keep_owner(&temporary.file, existing);
        }
        if let Some(mode) = mode {
            fchmod(&temporary.file, mode).map_err(|error| failed(error.into()))?;
        }
        temporary.place(name, options.existing).map_err(failed)
    }

    /// A new file for spilled output in the scratch tree, and its path as commands see it.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn spill_file(&self) -> io::Result<(File, PathBuf)> {
        let (file, name) = create_unique(&self.scratch.directory, "output-", ".log", 0o600)?;
        Ok((file, self.scratch.path.join(name)))
    }
}

fn there<'a>(path: &Path, place: &'a Place<'_>) -> Result<&'a Found, FileError> {
    place.found.as_ref().ok_or_else(|| FileError::NotFound { path: path.to_path_buf() })
}

fn regular(path: &Path, stat: &Statx) -> Result<(), FileError> {
    match file_type(stat) {
        _ if is_cover(stat) => Err(FileError::PermissionDenied { path: path.to_path_buf() }),
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(FileError::IsDirectory { path: path.to_path_buf() }),
        _ => Err(FileError::Special { path: path.to_path_buf() }),
    }
}

/// Opens an entry of a directory for reading, whatever it has become meanwhile: a fifo does not block,
/// a terminal does not become ours, a symlink is refused.
pub(crate) fn open_file(directory: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    Ok(beneath::open(directory, name, flags, Mode::empty())?.into())
}

/// The entries of a directory that is held, without `.` and `..`, as they come.
pub(crate) fn read_directory(directory: &OwnedFd) -> io::Result<Vec<(OsString, FileType)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let readable = beneath::open(directory, ".", flags, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in Dir::new(readable)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
        }
    }
    Ok(entries)
}

/// What is there already and may be replaced.
fn replaceable<'a>(
    path: &Path,
    place: &'a Place<'_>,
    name: &OsStr,
    options: WriteOptions,
) -> Result<Option<&'a Statx>, FileError> {
    let Some(found) = &place.found else { return Ok(None) };
    if options.existing == Existing::Keep {
        return Err(FileError::AlreadyExists { path: path.to_path_buf() });
    }
    regular(path, &found.stat)?;
    if is_mount(&found.stat) {
        return Err(FileError::PermissionDenied { path: path.to_path_buf() });
    }
    // Replacing by rename would get round the file's own mode.
    accessat(&place.parent, name, Access::WRITE_OK, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| file_error(path, "write", error.into()))?;
    Ok(Some(&found.stat))
}

/// Makes the directories that are missing above a place.
fn make_missing(path: &Path, place: &Place<'_>) -> Result<Arc<OwnedFd>, FileError> {
    let failed = |error| file_error(path, "write", error);
    let mut directory = Arc::clone(&place.parent);
    for name in &place.missing {
        match mkdirat(&directory, name, Mode::from_raw_mode(0o777)) {
            // Somebody else made it.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let made = beneath::open(&directory, name, flags, Mode::empty());
        directory = Arc::new(made.map_err(failed)?);
    }
    Ok(directory)
}

/// Set-id bits are not kept, as the kernel takes them off what is written to.
fn permission_bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o1777)
}

/// The new file belongs to whom the old one did, where we may do that: root editing a user's file.
fn keep_owner(file: &File, existing: &Statx) {
    let same = stat_of(file)
        .is_ok_and(|new| (new.stx_uid, new.stx_gid) == (existing.stx_uid, existing.stx_gid));
    if !same {
        let (owner, group) = (Uid::from_raw(existing.stx_uid), Gid::from_raw(existing.stx_gid));
        let _ = fchown(file, Some(owner), Some(group));
    }
}

/// A file on its way to its name; removed where it does not get there.
pub(crate) struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: String,
    pub(crate) file: File,
    is_placed: bool,
}

impl<'a> Temporary<'a> {
    pub(crate) fn create(directory: &'a OwnedFd, mode: u32) -> io::Result<Self> {
        let (file, name) = create_unique(directory, ".forge-", "", mode)?;
        Ok(Self { directory, name, file, is_placed: false })
    }

    pub(crate) fn place(&mut self, name: &OsStr, existing: Existing) -> io::Result<()> {
        let (directory, temporary) = (self.directory, self.name.as_str());
        match existing {
            Existing::Replace => renameat(directory, temporary, directory, name)?,
            Existing::Keep => {
                let flags = RenameFlags::NOREPLACE;
                match renameat_with(directory, temporary, directory, name, flags) {
                    // The file system has no such rename.
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                        return Ok(linkat(
                            directory,
                            temporary,
                            directory,
                            name,
                            AtFlags::empty(),
                        )?);
                    }
                    renamed => renamed?,
                }
            }
        }
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = unlinkat(self.directory, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// Makes a file under a name that nothing has.
fn create_unique(
    directory: &OwnedFd,
    prefix: &str,
    suffix: &str,
    mode: u32,
) -> io::Result<(File, String)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let mode = Mode::from_raw_mode(mode);
    loop {
        let name = unused_name(prefix, suffix);
        match beneath::open(directory, &name, flags, mode) {
            Ok(file) => return Ok((file.into(), name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// A name that nothing has, but for an unlucky chance.
pub(crate) fn unused_name(prefix: &str, suffix: &str) -> String {
    format!("{prefix}{:016x}{suffix}", RandomState::new().hash_one(prefix))
}

fn kind(stat: &Statx, target: Option<PathBuf>) -> FileKind {
    match file_type(stat) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink { target },
        _ => FileKind::Other,
    }
}

fn size(stat: &Statx) -> u64 {
    if file_type(stat) == FileType::RegularFile { stat.stx_size } else { 0 }
}

fn modified(stat: &Statx) -> Option<SystemTime> {
    let nanoseconds = Duration::from_nanos(stat.stx_mtime.tv_nsec.into());
    let seconds = Duration::from_secs(stat.stx_mtime.tv_sec.unsigned_abs());
    let whole = if stat.stx_mtime.tv_sec < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole?.checked_add(nanoseconds)
}
