//! Where a path leads, and whether that is inside.
//!
//! This keeps a model's slip from touching what it did not mean. It is no defence against a command
//! that plants symlinks at the right moment: commands of this environment may write everywhere anyway.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use forge_domain::FileError;

/// The trees that may be touched; absolute, symlinks resolved.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) workspace: PathBuf,
    pub(crate) working_directory: PathBuf,
    pub(crate) scratch: PathBuf,
}

/// As many links are followed as Linux follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

impl Bounds {
    /// Where a path leads, links in its last part followed. What is missing at the end of it may be
    /// missing.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, FileError> {
        let resolved = self.follow(path, &self.absolute(path)?, MAX_LINKS)?;
        self.inside(path, resolved)
    }

    /// Where the last part of a path stands, without following it. The directory it stands in is
    /// resolved.
    pub(crate) fn resolve_entry(&self, path: &Path) -> Result<PathBuf, FileError> {
        let absolute = self.absolute(path)?;
        match (absolute.parent(), absolute.components().next_back()) {
            (Some(parent), Some(Component::Normal(name))) => {
                let parent = self.follow(path, parent, MAX_LINKS)?;
                self.inside(path, parent.join(name))
            }
            // `/`, `.` or `..` at the end: there is no entry, only what it leads to.
            _ => self.resolve(path),
        }
    }

    /// Whether the path is one of the roots themselves.
    pub(crate) fn is_root(&self, resolved: &Path) -> bool {
        resolved == self.workspace || resolved == self.scratch
    }

    fn absolute(&self, path: &Path) -> Result<PathBuf, FileError> {
        let invalid = |reason: &str| FileError::InvalidPath {
            path: path.to_path_buf(),
            reason: reason.to_owned(),
        };
        if path.as_os_str().is_empty() {
            return Err(invalid("it is empty"));
        }
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(invalid("it holds a NUL byte"));
        }
        Ok(self.working_directory.join(path))
    }

    fn inside(&self, asked: &Path, resolved: PathBuf) -> Result<PathBuf, FileError> {
        if resolved.starts_with(&self.workspace) || resolved.starts_with(&self.scratch) {
            Ok(resolved)
        } else {
            Err(FileError::Outside { path: asked.to_path_buf() })
        }
    }

    /// Resolves part by part, as the kernel does. From the first missing part on, the rest is taken
    /// by its letters.
    fn follow(&self, asked: &Path, path: &Path, links: usize) -> Result<PathBuf, FileError> {
        let mut resolved = PathBuf::from("/");
        let mut parts = path.components();
        while let Some(part) = parts.next() {
            match part {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => {
                    resolved.pop();
                }
                Component::Normal(name) => {
                    let Some(target) = self.link_target(asked, &resolved, name)? else {
                        resolved.push(name);
                        continue;
                    };
                    let Some(links) = links.checked_sub(1) else {
                        return Err(FileError::InvalidPath {
                            path: asked.to_path_buf(),
                            reason: "it goes through too many symbolic links".to_owned(),
                        });
                    };
                    let next = resolved.join(target).join(parts.as_path());
                    return self.follow(asked, &next, links);
                }
            }
        }
        Ok(resolved)
    }

    fn link_target(
        &self,
        asked: &Path,
        directory: &Path,
        name: &OsStr,
    ) -> Result<Option<PathBuf>, FileError> {
        match std::fs::read_link(directory.join(name)) {
            Ok(target) => Ok(Some(target)),
            Err(error) => match error.kind() {
                // No link, or nothing there.
                io::ErrorKind::InvalidInput
                | io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(file_error(asked, "stat", error)),
            },
        }
    }
}

/// Names what the operating system's error was about.
pub(crate) fn file_error(path: &Path, operation: &'static str, source: io::Error) -> FileError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::NotFound => FileError::NotFound { path },
        io::ErrorKind::AlreadyExists => FileError::AlreadyExists { path },
        io::ErrorKind::IsADirectory => FileError::IsDirectory { path },
        io::ErrorKind::NotADirectory => FileError::NotDirectory { path },
        io::ErrorKind::DirectoryNotEmpty => FileError::NotEmpty { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            FileError::PermissionDenied { path }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileError::NoSpace { path },
        io::ErrorKind::InvalidFilename => {
            FileError::InvalidPath { path, reason: "a name in it is too long".to_owned() }
        }
        _ => FileError::Io { path, operation, source },
    }
}
