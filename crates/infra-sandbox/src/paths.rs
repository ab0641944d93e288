//! Where a path leads, and whether that is inside: walked by descriptor, one part at a time.
//!
//! Nothing here depends on a check that was made by path: each part is opened by the kernel beneath the
//! directory before it without following a link, and links are read and followed by us. What a command
//! swaps meanwhile can make a walk fail or end at another place inside of the trees, never outside.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use forge_domain::FileError;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, readlinkat, statx,
};
use rustix::io::Errno;

use crate::beneath;

#[cfg(test)]
mod tests;

/// As many links are followed as Linux follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The trees that files and search reach, by descriptor; the paths are how commands inside see them.
#[derive(Debug, Clone)]
pub(crate) struct Trees {
    pub(crate) workspace: Tree,
    pub(crate) scratch: Tree,
    /// Where relative paths begin: absolute, in the workspace.
    pub(crate) working_directory: PathBuf,
    /// Directories that the user added; may lie inside of the others.
    pub(crate) extra: Vec<Tree>,
}

/// One tree.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    /// Absolute, as commands see it.
    pub(crate) path: PathBuf,
    pub(crate) directory: Arc<OwnedFd>,
}

/// What is done about a symlink in the last part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastLink {
    /// It is followed, also where its target is missing.
    Follow,
    /// It is what the path names.
    Stay,
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The tree that it lies in.
    pub(crate) tree: &'a Tree,
    /// Absolute as commands see it, with links resolved.
    pub(crate) path: PathBuf,
    /// The directory that it stands in; the deepest one that is there, where some are missing.
    pub(crate) parent: Arc<OwnedFd>,
    /// The directories that are missing between `parent` and the place.
    pub(crate) missing: Vec<OsString>,
    /// The name in its directory; `None` for the root of a tree.
    pub(crate) name: Option<OsString>,
    /// What is there.
    pub(crate) found: Option<Found>,
}

/// A thing in a tree, held but not opened.
#[derive(Debug)]
pub(crate) struct Found {
    /// Opened with `O_PATH`.
    pub(crate) descriptor: Arc<OwnedFd>,
    pub(crate) stat: Statx,
}

impl Found {
    fn new(descriptor: Arc<OwnedFd>) -> io::Result<Self> {
        let stat = stat_of(&descriptor)?;
        Ok(Self { descriptor, stat })
    }

    pub(crate) fn file_type(&self) -> FileType {
        file_type(&self.stat)
    }

    pub(crate) fn link_target(&self) -> io::Result<PathBuf> {
        let target = readlinkat(&self.descriptor, "", Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }
}

impl Trees {
    fn all(&self) -> impl Iterator<Item = &Tree> {
        [&self.workspace, &self.scratch].into_iter().chain(&self.extra)
    }

    /// Whether a place is the root of a tree or holds one.
    pub(crate) fn holds_root(&self, path: &Path) -> bool {
        self.all().any(|tree| tree.path.starts_with(path))
    }

    fn root_at(&self, path: &Path) -> Option<&Tree> {
        self.all().find(|tree| tree.path == path)
    }

    /// The innermost tree that a path lies in.
    fn around(&self, path: &Path) -> Option<&Tree> {
        self.all()
            .filter(|tree| path.starts_with(&tree.path))
            .max_by_key(|tree| tree.path.as_os_str().len())
    }

    /// Where a path leads. From the first missing part on, the rest is taken by its letters.
    ///
    /// # Errors
    /// [`FileError::Outside`]: elsewhere. [`FileError::NotDirectory`]: something else is on the way.
    pub(crate) fn resolve(
        &self,
        asked: &Path,
        operation: &'static str,
        last: LastLink,
    ) -> Result<Place<'_>, FileError> {
        let invalid = |reason: &str| FileError::InvalidPath {
            path: asked.to_path_buf(),
            reason: reason.to_owned(),
        };
        if asked.as_os_str().is_empty() {
            return Err(invalid("it is empty"));
        }
        if asked.as_os_str().as_bytes().contains(&0) {
            return Err(invalid("it holds a NUL byte"));
        }
        let mut walk = Walk {
            trees: self,
            asked,
            operation,
            last,
            position: PathBuf::from("/"),
            inside: None,
            missing: Vec::new(),
            pending: Vec::new(),
            links: 0,
        };
        walk.queue(&self.working_directory.join(asked));
        while let Some(part) = walk.pending.pop() {
            match part {
                Part::Root => walk.restart(),
                Part::Up => walk.up()?,
                Part::Down(name) => {
                    if let Some(place) = walk.down(name)? {
                        return Ok(place);
                    }
                }
            }
        }
        walk.end()
    }
}

#[derive(Debug)]
enum Part {
    Root,
    Up,
    Down(OsString),
}

/// A path on its way to its place.
struct Walk<'t, 'a> {
    trees: &'t Trees,
    asked: &'a Path,
    operation: &'static str,
    last: LastLink,
    /// Where we are, absolute and without links.
    position: PathBuf,
    /// The directory there, or the deepest that is not missing; `None` above the trees.
    inside: Option<(&'t Tree, Arc<OwnedFd>)>,
    /// The names of `position` that are not there.
    missing: Vec<OsString>,
    /// What is still to be walked, the next part at the end.
    pending: Vec<Part>,
    links: usize,
}

impl<'t> Walk<'t, '_> {
    fn failed(&self, error: impl Into<io::Error>) -> FileError {
        file_error(self.asked, self.operation, error.into())
    }

    fn queue(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::RootDir => self.pending.push(Part::Root),
                Component::ParentDir => self.pending.push(Part::Up),
                Component::Normal(name) => self.pending.push(Part::Down(name.to_owned())),
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
    }

    fn restart(&mut self) {
        self.position = PathBuf::from("/");
        self.missing.clear();
        self.inside = None;
        self.enter_root();
    }

    /// Whether the position is the root of a tree; it is gone into then.
    fn enter_root(&mut self) -> bool {
        let Some(tree) = self.trees.root_at(&self.position) else { return false };
        self.missing.clear();
        self.inside = Some((tree, Arc::clone(&tree.directory)));
        true
    }

    fn up(&mut self) -> Result<(), FileError> {
        self.position.pop();
        if self.missing.pop().is_some() {
            return Ok(());
        }
        let Some(tree) = self.trees.around(&self.position) else {
            self.inside = None;
            return Ok(());
        };
        // Where the path ends here, what it names is to be found by its name in its own parent.
        if self.pending.is_empty()
            && self.position != tree.path
            && let Some(name) = self.position.file_name().map(OsStr::to_owned)
        {
            self.position.pop();
            self.pending.push(Part::Down(name));
        }
        let below = self.position.strip_prefix(&tree.path).unwrap_or(Path::new(""));
        let directory = if below.as_os_str().is_empty() {
            Arc::clone(&tree.directory)
        } else {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let opened = beneath::open(&tree.directory, below, flags, Mode::empty());
            Arc::new(opened.map_err(|error| self.failed(error))?)
        };
        self.inside = Some((tree, directory));
        Ok(())
    }

    /// Goes on to a name. The place, where the path ends at something that is there.
    fn down(&mut self, name: OsString) -> Result<Option<Place<'t>>, FileError> {
        self.position.push(&name);
        if self.enter_root() {
            return Ok(None);
        }
        let Some((tree, directory)) = self.inside.clone() else { return Ok(None) };
        if !self.missing.is_empty() {
            self.missing.push(name);
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let opened = beneath::open(&directory, &name, flags, Mode::empty());
        let found = match opened.and_then(|descriptor| Found::new(Arc::new(descriptor))) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missing.push(name);
                return Ok(None);
            }
            Err(error) => return Err(self.failed(error)),
        };
        let is_last = self.pending.is_empty();
        match found.file_type() {
            FileType::Symlink if !is_last || self.last == LastLink::Follow => {
                self.follow(&found)?;
                Ok(None)
            }
            _ if is_last => Ok(Some(Place {
                tree,
                path: std::mem::take(&mut self.position),
                parent: directory,
                missing: Vec::new(),
                name: Some(name),
                found: Some(found),
            })),
            FileType::Directory => {
                self.inside = Some((tree, found.descriptor));
                Ok(None)
            }
            _ => Err(FileError::NotDirectory { path: self.asked.to_path_buf() }),
        }
    }

    fn follow(&mut self, link: &Found) -> Result<(), FileError> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(FileError::InvalidPath {
                path: self.asked.to_path_buf(),
                reason: "it goes through too many symbolic links".to_owned(),
            });
        }
        self.position.pop();
        let target = link.link_target().map_err(|error| self.failed(error))?;
        self.queue(&target);
        Ok(())
    }

    /// The place of a path whose end is a root, or missing.
    fn end(mut self) -> Result<Place<'t>, FileError> {
        let Some((tree, directory)) = self.inside.take() else {
            return Err(FileError::Outside { path: self.asked.to_path_buf() });
        };
        let name = self.missing.pop();
        let found = match name {
            Some(_) => None,
            None => Some(Found::new(Arc::clone(&directory)).map_err(|error| self.failed(error))?),
        };
        Ok(Place {
            tree,
            path: self.position,
            parent: directory,
            missing: self.missing,
            name,
            found,
        })
    }
}

/// What is known of an open file.
pub(crate) fn stat_of(descriptor: impl AsFd) -> io::Result<Statx> {
    Ok(statx(descriptor, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?)
}

/// What is known of an entry of a directory, links not followed.
pub(crate) fn stat_entry(directory: impl AsFd, name: &OsStr) -> io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(statx(directory, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?)
}

pub(crate) fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// Whether something is mounted there. The kernel keeps a process of the same mount namespace from
/// removing it; us, who look in from outside, it does not, so that we have to.
pub(crate) fn is_mount(stat: &Statx) -> bool {
    stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
}

/// Whether this is what a hidden file is covered with: root could read the cover, to no use.
pub(crate) fn is_cover(stat: &Statx) -> bool {
    let has_contents = matches!(file_type(stat), FileType::RegularFile | FileType::Directory);
    is_mount(stat) && (stat.stx_mode & 0o777 == 0 || !has_contents)
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
        io::ErrorKind::CrossesDevices => FileError::Outside { path },
        // Busy: something is mounted there.
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::ResourceBusy => FileError::PermissionDenied { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileError::NoSpace { path },
        io::ErrorKind::InvalidFilename => {
            FileError::InvalidPath { path, reason: "a name in it is too long".to_owned() }
        }
        // A socket, or a device without a driver, cannot be opened at all (open(2)).
        _ if Errno::from_io_error(&source) == Some(Errno::NXIO) => FileError::Special { path },
        _ => FileError::Io { path, operation, source },
    }
}
