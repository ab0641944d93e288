//! The file port. Every call does its work on a thread for blocking calls.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    ByteRange, DirectoryEntry, Existing, FileContents, FileError, FileKind, FileStat, Files,
    Removal, WriteOptions,
};
use rustix::fs::{Access, OFlags, access};

use crate::environment::{Inner, LocalEnvironment};
use crate::paths::{Bounds, file_error};

#[async_trait]
impl Files for LocalEnvironment {
    async fn read(&self, path: &Path, range: ByteRange) -> Result<FileContents, FileError> {
        let path = path.to_path_buf();
        self.blocking(move |bounds| read(bounds, &path, range)).await
    }

    async fn write(
        &self,
        path: &Path,
        contents: Bytes,
        options: WriteOptions,
    ) -> Result<(), FileError> {
        let path = path.to_path_buf();
        self.blocking(move |bounds| write(bounds, &path, &contents, options)).await
    }

    async fn remove(&self, path: &Path, removal: Removal) -> Result<(), FileError> {
        let path = path.to_path_buf();
        self.blocking(move |bounds| remove(bounds, &path, removal)).await
    }

    async fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>, FileError> {
        let path = path.to_path_buf();
        self.blocking(move |bounds| list(bounds, &path)).await
    }

    async fn stat(&self, path: &Path) -> Result<FileStat, FileError> {
        let path = path.to_path_buf();
        self.blocking(move |bounds| stat(bounds, &path)).await
    }
}

impl LocalEnvironment {
    /// The trees that files and search keep to.
    pub(crate) fn bounds(&self) -> Result<Bounds, FileError> {
        let workspace = &self.inner.config.workspace;
        Ok(Bounds {
            workspace: workspace.root.clone(),
            working_directory: workspace.working_directory.clone(),
            scratch: self.inner.scratch().map_err(Inner::scratch_error)?,
        })
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, FileError>
    where
        T: Send + 'static,
        F: FnOnce(&Bounds) -> Result<T, FileError> + Send + 'static,
    {
        let _call = self.inner.enter().await?;
        let bounds = self.bounds()?;
        match tokio::task::spawn_blocking(move || work(&bounds)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is being shut down, and the environment with it.
            Err(_) => Err(Inner::closed_error().into()),
        }
    }
}

fn read(bounds: &Bounds, path: &Path, range: ByteRange) -> Result<FileContents, FileError> {
    let failed = |error| file_error(path, "read", error);
    let resolved = bounds.resolve(path)?;
    // O_NONBLOCK: opening a fifo would wait for a writer otherwise.
    let mut file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(&resolved)
        .map_err(|error| match error.raw_os_error() {
            // A socket, or a device without a driver, cannot be opened at all (open(2)).
            Some(code) if code == rustix::io::Errno::NXIO.raw_os_error() => {
                FileError::Special { path: path.to_path_buf() }
            }
            _ => failed(error),
        })?;
    let metadata = file.metadata().map_err(failed)?;
    regular(path, &metadata)?;
    file.seek(SeekFrom::Start(range.offset)).map_err(failed)?;
    let expected = metadata.len().saturating_sub(range.offset).min(range.max_bytes);
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    file.take(range.max_bytes).read_to_end(&mut bytes).map_err(failed)?;
    // The size is a lie for files of /proc, and a file may have grown meanwhile.
    let total_bytes = metadata.len().max(range.offset.min(metadata.len()) + bytes.len() as u64);
    Ok(FileContents { bytes: bytes.into(), total_bytes })
}

fn regular(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    if metadata.is_dir() {
        return Err(FileError::IsDirectory { path: path.to_path_buf() });
    }
    if !metadata.is_file() {
        return Err(FileError::Special { path: path.to_path_buf() });
    }
    Ok(())
}

fn write(
    bounds: &Bounds,
    path: &Path,
    contents: &[u8],
    options: WriteOptions,
) -> Result<(), FileError> {
    let failed = |error| file_error(path, "write", error);
    let resolved = bounds.resolve(path)?;
    if bounds.is_root(&resolved) || ends_in_slash(path) {
        return Err(FileError::IsDirectory { path: path.to_path_buf() });
    }
    let existing = existing(path, &resolved, options)?;
    let Some(parent) = resolved.parent() else {
        return Err(FileError::Outside { path: path.to_path_buf() });
    };
    fs::create_dir_all(parent).map_err(|error| match error.kind() {
        // A file where a directory would have to be.
        io::ErrorKind::AlreadyExists => FileError::NotDirectory { path: path.to_path_buf() },
        _ => failed(error),
    })?;
    let mut file = tempfile::Builder::new()
        .prefix(".forge-")
        // Less the umask, which the kernel takes off.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(parent)
        .map_err(failed)?;
    file.write_all(contents).map_err(failed)?;
    if let Some(existing) = &existing {
        keep_owner(file.as_file(), existing);
    }
    let kept = existing.map(|metadata| metadata.mode() & 0o7777);
    if let Some(mode) = options.mode.map(|mode| mode & 0o777).or(kept) {
        file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    }
    let persisted = match options.existing {
        Existing::Replace => file.persist(&resolved),
        Existing::Keep => file.persist_noclobber(&resolved),
    };
    persisted.map(drop).map_err(|error| failed(error.error))
}

fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// What is there already and may be replaced.
fn existing(
    path: &Path,
    resolved: &Path,
    options: WriteOptions,
) -> Result<Option<Metadata>, FileError> {
    let metadata = match fs::symlink_metadata(resolved) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(path, "write", error)),
    };
    if options.existing == Existing::Keep {
        return Err(FileError::AlreadyExists { path: path.to_path_buf() });
    }
    regular(path, &metadata)?;
    // Replacing by rename would get round the file's own mode.
    access(resolved, Access::WRITE_OK).map_err(|error| file_error(path, "write", error.into()))?;
    Ok(Some(metadata))
}

/// The new file belongs to whom the old one did, where we may do that: root editing a user's file.
fn keep_owner(file: &File, existing: &Metadata) {
    let same = file
        .metadata()
        .is_ok_and(|metadata| metadata.uid() == existing.uid() && metadata.gid() == existing.gid());
    if !same {
        drop(std::os::unix::fs::fchown(file, Some(existing.uid()), Some(existing.gid())));
    }
}

fn remove(bounds: &Bounds, path: &Path, removal: Removal) -> Result<(), FileError> {
    let failed = |error| file_error(path, "remove", error);
    let resolved = bounds.resolve_entry(path)?;
    let holds_root = |root: &PathBuf| root.starts_with(&resolved);
    if holds_root(&bounds.workspace) || holds_root(&bounds.scratch) {
        return Err(FileError::Outside { path: path.to_path_buf() });
    }
    let metadata = fs::symlink_metadata(&resolved).map_err(failed)?;
    match (metadata.is_dir(), removal) {
        (false, _) => fs::remove_file(&resolved).map_err(failed),
        (true, Removal::Single) => fs::remove_dir(&resolved).map_err(failed),
        (true, Removal::Tree) => fs::remove_dir_all(&resolved).map_err(failed),
    }
}

fn list(bounds: &Bounds, path: &Path) -> Result<Vec<DirectoryEntry>, FileError> {
    let failed = |error| file_error(path, "list", error);
    let resolved = bounds.resolve(path)?;
    let mut entries = Vec::new();
    for entry in fs::read_dir(&resolved).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // What is removed meanwhile is not there any more.
        let Ok(metadata) = entry.metadata() else { continue };
        entries.push(DirectoryEntry {
            name: entry.file_name(),
            kind: kind(&metadata, None),
            size_bytes: size(&metadata),
        });
    }
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(entries)
}

fn stat(bounds: &Bounds, path: &Path) -> Result<FileStat, FileError> {
    let failed = |error| file_error(path, "stat", error);
    let resolved = bounds.resolve_entry(path)?;
    let metadata = fs::symlink_metadata(&resolved).map_err(failed)?;
    let target = if metadata.is_symlink() { fs::read_link(&resolved).ok() } else { None };
    Ok(FileStat {
        kind: kind(&metadata, target),
        size_bytes: size(&metadata),
        mode: Some(metadata.mode() & 0o7777),
        modified: metadata.modified().ok(),
    })
}

fn kind(metadata: &Metadata, target: Option<PathBuf>) -> FileKind {
    let kind = metadata.file_type();
    if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink { target }
    } else {
        FileKind::Other
    }
}

fn size(metadata: &Metadata) -> u64 {
    if metadata.is_file() { metadata.len() } else { 0 }
}
