//! Reading what a session changed, whether it is in use or not.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use forge_domain::{Base, ChangeKind, Entry, SessionId};
use rustix::fs::{Mode, OFlags};

use super::base::{Bases, Followed};
use super::error::SessionError;
use super::moment::Sight;
use super::open::OpenSession;
use super::sessions::SessionStore;
use crate::changes::{
    DetailedChange, DetailedChangeSet, Directory, FileFacts, IgnoredFiles, LineChanges, Recent,
    change_set_with, contents, entry, is_copied_up, line_changes, open, stat,
};
use crate::layers::Layers;
use crate::plan::HOME;
use crate::session::{Helper, Session};
use crate::spec::{
    Keeping, LimitsSpec, NetworkSpec, ProcessesSpec, Root, SessionSpec, Upper, View,
};

/// A byte of an archive takes at most so many in memory, where a small file takes a page.
const MEMORY_PER_BYTE: u64 = 8;
const MIN_MEMORY: u64 = 64 * 1024 * 1024;

/// What is noted of a session's paths against what the host has there.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// In byte order of the paths.
    pub(crate) outdated: Vec<Outdated>,
    /// The host has what was noted, which was not known before.
    pub(crate) as_noted: Vec<Followed>,
}

/// A path where the host has something else than was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outdated {
    pub(crate) path: PathBuf,
    /// What was noted.
    pub(crate) base: Base,
    /// What the session has in a layer of its own; `None` where it has nothing there.
    pub(crate) session: Option<Entry>,
    pub(crate) host: Option<Entry>,
    /// The host's as it was seen.
    pub(crate) sight: Option<Sight>,
}

/// The two layers of a session, held to be read.
#[derive(Debug)]
pub struct SessionLayers {
    upper: OwnedFd,
    lower: OwnedFd,
    bases: Bases,
    /// The directory of the upper layer that was looked into last.
    recent: Recent,
}

impl SessionStore {
    /// Opens the layers of a session to be read. Nothing is locked: what runs in the session goes on. Of a
    /// session whose layers are in memory, this is what was written down last; it is unpacked by a
    /// helper, which blocks.
    ///
    /// # Errors
    /// It is not there, its workspace is not there any more, or it cannot be unpacked.
    pub fn layers(&self, id: &SessionId) -> Result<SessionLayers, SessionError> {
        let workspace = self.find(id)?.workspace;
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
            opened.map_err(SessionError::io("opening", path))
        };
        let upper = match OpenSession::archive_in(&self.path_of(id)) {
            None => open(&self.upper_of(id))?,
            Some(archive) => self
                .unpacked(&archive, &workspace)
                .map_err(SessionError::io("unpacking", &archive))?,
        };
        let bases = Bases::read(&self.path_of(id));
        Ok(SessionLayers::new(upper, open(&workspace)?, bases))
    }

    /// What an archive holds, as a layer in memory that lasts as long as this descriptor.
    fn unpacked(&self, archive: &Path, workspace: &Path) -> io::Result<OwnedFd> {
        let file = File::open(archive)?;
        let max_bytes = file.metadata()?.len().saturating_mul(MEMORY_PER_BYTE).max(MIN_MEMORY);
        let keeping = Keeping::Kept { before: Some(archive.into()) };
        let spec = SessionSpec {
            view: View {
                root: Root::Listed {
                    workspace: workspace.into(),
                    upper: Upper::Memory { max_bytes, keeping },
                },
                shown: Vec::new(),
                links: Vec::new(),
                masks: Vec::new(),
                home: HOME.into(),
                scratch_bytes: 1024 * 1024,
            },
            network: NetworkSpec::None,
            limits: LimitsSpec {
                processes: 512,
                open_files: 1024,
                file_bytes: None,
                memory_bytes: None,
                milli_cpus: None,
            },
            processes: ProcessesSpec::Separate,
            layers: Layers::ALL,
        };
        let session = Helper::spawn(self.helper_program())
            .and_then(|helper| Session::start(helper, &spec, file.as_fd()))
            .map_err(io::Error::other)?;
        let upper = session.upper.try_clone();
        session.end();
        upper
    }
}

impl SessionLayers {
    pub(super) fn new(upper: OwnedFd, lower: OwnedFd, bases: Bases) -> Self {
        Self { upper, lower, bases, recent: Recent::default() }
    }

    pub(super) fn with(self, bases: Bases) -> Self {
        Self { bases, ..self }
    }

    /// A second hold of the same layers.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (upper, lower) = (self.upper.try_clone()?, self.lower.try_clone()?);
        Ok(Self::new(upper, lower, self.bases.clone()))
    }

    /// Compares what is noted with the host, where that may have gone on since.
    pub(crate) fn compared(&self) -> io::Result<Compared> {
        let mut compared = Compared::default();
        let noted = self.bases.perhaps_outdated(self.lower.as_fd());
        let now = if noted.is_empty() { None } else { self.bases.now() };
        for (path, base) in noted {
            let host = match entry(self.lower.as_fd(), &path) {
                Ok(host) => host,
                // Nothing can be said of it, nor taken from it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                Err(error) => return Err(error),
            };
            let seen = |now| host.as_ref().and_then(|(_, stat)| Sight::of(stat, now));
            let sight = now.and_then(seen);
            let host = host.map(|(entry, _)| entry);
            if !base.is(host.as_ref()) {
                let session = self.entry(&path)?;
                compared.outdated.push(Outdated { path, base, session, host, sight });
            } else if sight.is_some() {
                compared.as_noted.push(Followed { path, base, sight });
            }
        }
        Ok(compared)
    }

    /// Whether anything stands at a path of the host.
    pub(crate) fn is_on_the_host(&self, path: &Path) -> io::Result<bool> {
        Ok(stat(self.lower.as_fd(), path)?.is_some())
    }

    /// What stands at a path of the host.
    pub(crate) fn entry_on_the_host(&self, path: &Path) -> io::Result<Option<Entry>> {
        Ok(entry(self.lower.as_fd(), path)?.map(|(entry, _)| entry))
    }

    /// The names in a directory of the host, without `.git`; none where it is no directory any more.
    pub(crate) fn names_on_the_host(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let Some(directory) = Directory::open(self.lower.as_fd(), path)? else {
            return Ok(Vec::new());
        };
        Ok(directory.names()?.into_iter().filter(|name| name != ".git").collect())
    }

    /// Opens a regular file of the host, to be read.
    pub(crate) fn open_on_the_host(&self, path: &Path) -> io::Result<File> {
        open(self.lower.as_fd(), path)
    }

    /// What was changed.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn changes(&self) -> io::Result<DetailedChangeSet> {
        self.changes_with(IgnoredFiles::Counted)
    }

    /// What was changed and is not on the host yet, with what becomes of ignored files. What was applied before is
    /// no change, also where the host's was edited since.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn changes_with(&self, ignored: IgnoredFiles) -> io::Result<DetailedChangeSet> {
        let found = change_set_with(self.upper.as_fd(), self.lower.as_fd(), ignored)?;
        Ok(self.waiting(found))
    }

    /// What of a change set is not dealt with yet.
    pub(crate) fn waiting(&self, mut found: DetailedChangeSet) -> DetailedChangeSet {
        if !self.bases.is_empty() {
            found.changes.retain(|change| {
                let size = change.after.map(|facts| facts.size_bytes);
                let is_directory = |facts: FileFacts| facts.mode & 0o170_000 == 0o040_000;
                if change.kind == ChangeKind::TypeChanged && change.after.is_some_and(is_directory)
                {
                    // What is in it has no place on the host.
                    return true;
                }
                match self.bases.of(&change.path) {
                    // Only what may be the same is read.
                    Some(Base::Known(Entry::File { size_bytes, .. }))
                        if size != Some(size_bytes) =>
                    {
                        true
                    }
                    Some(base @ Base::Known(_)) if size.is_some() => {
                        let entry = entry(self.upper.as_fd(), &change.path);
                        entry.map_or(true, |found| !base.is(found.map(|(entry, _)| entry).as_ref()))
                    }
                    Some(Base::Absent) => change.after.is_some(),
                    Some(Base::Known(_) | Base::Unknown) | None => true,
                }
            });
        }
        found
    }

    /// What stands at a path that is changed in the session; `None` where nothing does any more.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        Ok(self.recent.entry(self.upper.as_fd(), path)?.map(|(entry, _)| entry))
    }

    /// Opens a regular file that is changed in the session, to be read.
    ///
    /// # Errors
    /// It is not there, is something else, or cannot be read.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        self.recent.open(self.upper.as_fd(), path)
    }

    /// What a changed path was when the session began to differ. Where nothing was noted, whatever the host has
    /// is nothing to rely on.
    #[must_use]
    pub fn base(&self, path: &Path) -> Base {
        match self.bases.of(path) {
            Some(base) => base,
            None if is_copied_up(self.upper.as_fd(), path) => Base::Unknown,
            None => match entry(self.lower.as_fd(), path) {
                Ok(None) => Base::Absent,
                Ok(Some(_)) | Err(_) => Base::Unknown,
            },
        }
    }

    /// What a file was when the session began to differ.
    ///
    /// # Errors
    /// That is not known, it was no file, or it is larger than so many bytes, eight million at the most.
    pub fn base_contents(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        match self.base(path) {
            Base::Known(Entry::File { digest, .. }) => self.bases.contents(digest, max_bytes),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Keeps what files hold that are to be merged with later.
    pub(super) fn keep_contents<'a>(
        &self,
        bases: &Bases,
        paths: impl IntoIterator<Item = (&'a Path, &'a Base)>,
    ) -> io::Result<()> {
        bases.keep_either(self.upper.as_fd(), self.lower.as_fd(), paths)
    }

    /// The permission bits of a directory of the session; `None` where it has none there.
    #[must_use]
    pub fn directory_mode(&self, path: &Path) -> Option<u32> {
        let mode = |layer| match entry(layer, path) {
            Ok(Some((Entry::Directory { mode }, _))) => Some(mode),
            _ => None,
        };
        mode(self.upper.as_fd()).or_else(|| mode(self.lower.as_fd()))
    }

    /// What a regular file or a symlink holds on the host: of a symlink, its target.
    ///
    /// # Errors
    /// `FileTooLarge`: it is larger than so many bytes. `Unsupported`: it is something else. Or it is not
    /// there, or cannot be read.
    pub fn before(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        contents(self.lower.as_fd(), path, max_bytes)
    }

    /// The same in the session, of a path that is changed in it.
    ///
    /// # Errors
    /// As [`SessionLayers::before`].
    pub fn after(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        contents(self.upper.as_fd(), path, max_bytes)
    }

    /// What a change does to the lines of its file.
    #[must_use]
    pub fn line_changes(&self, change: &DetailedChange) -> LineChanges {
        let sides = (change.before.is_some(), change.after.is_some());
        line_changes(self.upper.as_fd(), self.lower.as_fd(), &change.path, sides)
    }
}
