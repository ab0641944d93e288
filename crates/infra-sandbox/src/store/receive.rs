//! Taking in what a session that runs elsewhere has changed, so that it is kept here as if it had run here.
//!
//! It comes from where commands could do anything: every path is checked, is opened beneath the layer through no
//! symlink, and is made aside before it takes its place.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use forge_domain::{Digest, Returned, ReturnedOrigin};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, fchmod, fsetxattr, makedev, mkdirat, mknodat,
    renameat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::error::SessionError;
use super::meta::StoredSummary;
use super::open::OpenSession;
use super::read::SessionLayers;
use crate::beneath;
use crate::changes::{self, Directory, ORIGIN_MARK, change_set};
use crate::files::unused_name;
use crate::paths::{file_type, stat_entry};
use crate::removal::remove_tree;

const PIECE_BYTES: usize = 128 * 1024;
/// As in `ReviewedPath`.
const MAX_PATH_BYTES: usize = 4000;

/// Takes in what a session has that runs elsewhere. It blocks.
#[derive(Debug)]
pub struct Receiver {
    session: Arc<OpenSession>,
    upper: OwnedFd,
    lower: OwnedFd,
    /// Beside the layer, for what is being made.
    aside: OwnedFd,
    workspace: PathBuf,
}

impl OpenSession {
    /// Begins to take in what a session has that runs elsewhere.
    ///
    /// # Errors
    /// Its layers cannot be opened, or the workspace is not there any more.
    pub fn receive(self: &Arc<Self>) -> Result<Receiver, SessionError> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
            opened.map_err(SessionError::io("opening", path))
        };
        let (upper, aside) = self.layers();
        let workspace = self.workspace();
        Ok(Receiver {
            session: Arc::clone(self),
            upper: open(&upper)?,
            lower: open(&workspace)?,
            aside: open(&aside)?,
            workspace,
        })
    }

    /// Its layers, to be read while it is used by this process and mounted nowhere.
    ///
    /// # Errors
    /// They cannot be opened.
    pub fn layers_unmounted(self: &Arc<Self>) -> Result<SessionLayers, SessionError> {
        let receiver = self.receive()?;
        self.layers_in_use(receiver.upper.as_fd())
    }
}

impl Receiver {
    /// Takes in what a path is there, in place of whatever the session had. The hash of a file is returned.
    ///
    /// # Errors
    /// The path leaves the workspace or is git's, something above it is no directory, or it cannot be written; then the
    /// session has what it had. What the contents' reader says is passed on.
    pub fn put(
        &self,
        path: &Path,
        what: Returned<'_>,
        origin: ReturnedOrigin,
    ) -> Result<Option<Digest>, SessionError> {
        let failed = |error| SessionError::io("taking in", path)(error);
        check(path).map_err(failed)?;
        self.try_put(path, what, origin).map_err(failed)
    }

    fn try_put(
        &self,
        path: &Path,
        what: Returned<'_>,
        origin: ReturnedOrigin,
    ) -> io::Result<Option<Digest>> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL.into());
        };
        if let Returned::Nothing = what {
            return self.remove(path, above, name).map(|()| None);
        }
        let parent = self.parent(above)?;
        match what {
            Returned::File { mode, contents } => {
                let new = unused_name("new-", "");
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = beneath::open(&self.aside, &new, flags, Mode::RUSR | Mode::WUSR)?;
                let placed = (|| {
                    let mut file = File::from(file);
                    let digest = copy(contents, &mut file)?;
                    fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
                    if origin == ReturnedOrigin::Workspace {
                        // Empty, it says that the lower layer had it and no more (fs/overlayfs/copy_up.c).
                        fsetxattr(&file, ORIGIN_MARK, b"", XattrFlags::empty())?;
                    }
                    self.clear(&parent, name, |_| true)?;
                    renameat(&self.aside, &new, &parent, name)?;
                    Ok(digest)
                })();
                if placed.is_err() {
                    let _ = unlinkat(&self.aside, &new, AtFlags::empty());
                }
                placed.map(Some)
            }
            Returned::Symlink { target } => {
                let new = unused_name("new-", "");
                symlinkat(target, &self.aside, &new)?;
                let placed = self.clear(&parent, name, |_| true);
                let placed = placed.and_then(|()| Ok(renameat(&self.aside, &new, &parent, name)?));
                if placed.is_err() {
                    let _ = unlinkat(&self.aside, &new, AtFlags::empty());
                }
                placed.map(|()| None)
            }
            Returned::Directory { mode } => {
                self.clear(&parent, name, |kind| kind != FileType::Directory)?;
                self.make(&parent, name, mode)?;
                Ok(None)
            }
            Returned::Nothing => Ok(None),
        }
    }

    /// Takes away what the layer has, and notes where the workspace has something that this hides.
    fn remove(&self, path: &Path, above: &Path, name: &OsStr) -> io::Result<()> {
        let is_on_the_host = changes::stat(self.lower.as_fd(), path)?.is_some();
        let parent = match Directory::open(self.upper.as_fd(), above)? {
            Some(_) => self.parent(above)?,
            None if is_on_the_host => self.parent(above)?,
            None => return Ok(()),
        };
        if let Ok(stat) = stat_entry(&parent, name)
            && is_on_the_host
            && file_type(&stat) == FileType::CharacterDevice
        {
            return Ok(());
        }
        self.clear(&parent, name, |_| true)?;
        if is_on_the_host {
            // The one device that everybody may make (mknod(2), since Linux 5.8).
            mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?;
        }
        Ok(())
    }

    /// Removes what has a name in the layer, where it is of such a kind.
    fn clear(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        is_removed: impl Fn(FileType) -> bool,
    ) -> io::Result<()> {
        let kind = match stat_entry(parent, name) {
            Ok(stat) => file_type(&stat),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        match kind {
            kind if !is_removed(kind) => Ok(()),
            FileType::Directory => remove_tree(parent, name),
            // A file and a symlink are replaced by the renaming itself where they can be.
            _ => Ok(unlinkat(parent, name, AtFlags::empty())?),
        }
    }

    /// A directory of the layer, made with those above it where it is not there: with the modes that they have on the
    /// host, for they are no change.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut at = beneath::open(&self.upper, ".", flags, Mode::empty())?;
        let mut walked = PathBuf::new();
        for part in path.components() {
            let Component::Normal(name) = part else { return Err(Errno::INVAL.into()) };
            walked.push(name);
            let next = beneath::open(&at, name, flags, Mode::empty());
            at = match next.as_ref().map_err(Errno::from_io_error) {
                Ok(_) => next?,
                Err(Some(Errno::NOENT)) => {
                    let mode = changes::stat(self.lower.as_fd(), &walked)?
                        .filter(|stat| file_type(stat) == FileType::Directory)
                        .map_or(0o755, |stat| u32::from(stat.stx_mode));
                    self.make(&at, name, mode)?;
                    beneath::open(&at, name, flags, Mode::empty())?
                }
                Err(_) => next?,
            };
        }
        Ok(at)
    }

    /// A directory, open to us whatever its mode is to be: only what its owner may is added.
    fn make(&self, parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
        match mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let made = beneath::open(parent, name, flags, Mode::empty())?;
        Ok(fchmod(made, Mode::from_raw_mode(mode & 0o777 | 0o700))?)
    }

    /// Notes what the changed files were, as far as it is not noted yet, and how many there are now.
    ///
    /// # Errors
    /// It cannot be read or written down; then nobody knows what the session holds.
    pub fn finish(&self) -> Result<StoredSummary, SessionError> {
        let failed = |error| SessionError::io("reading", &self.workspace)(error);
        let (upper, lower) = (self.upper.as_fd(), self.lower.as_fd());
        let changes = change_set(upper, lower).map_err(failed)?;
        self.session.record_bases(upper, lower, &changes).map_err(failed)?;
        rustix::fs::syncfs(&self.upper).map_err(io::Error::from).map_err(failed)?;
        let waiting = self.session.layers_in_use(upper)?.waiting(changes);
        let summary = waiting.summary();
        self.session.set_summary(summary)?;
        Ok(summary)
    }
}

/// Whether a path may be one of a layer. What may reach the host is decided when it is applied.
fn check(path: &Path) -> io::Result<()> {
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(name) if name != ".git");
    let is_short = path.as_os_str().len() <= MAX_PATH_BYTES;
    match is_short && path.components().all(is_plain) {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "no change has such a path")),
    }
}

fn copy(from: &mut dyn Read, to: &mut File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&piece[..read]);
                io::Write::write_all(to, &piece[..read])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Digest::new(hasher.finalize().into()))
}
