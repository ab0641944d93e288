//! Which commits of a session were not brought to the host yet, as far as its refs tell. They are read as files: no git
//! is started on what a session has written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use forge_domain::{GitObjectId, SessionId, SessionRef, SessionRefName};
use rustix::fs::{Dir, FileType, Mode, OFlags, fstat};
use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::kept::KeptCommits;
use super::open::{has_archives, may_hold_commits};
use super::sessions::SessionStore;
use crate::beneath;
use crate::plan::outside_git_directory;

/// What was brought to the host, beside the layers.
pub(super) const BROUGHT: &str = "brought.json";

/// The version of what this forge writes there. It reads no other.
const VERSION: u32 = 1;

/// No more is read of a session's refs; where there is more, nobody can say.
const MAX_REFS: usize = 10_000;
const MAX_DEPTH: usize = 32;
const MAX_REF_BYTES: u64 = 1024;
const MAX_PACKED_BYTES: u64 = 16 * 1024 * 1024;

/// Where refs are that are brought over.
const DIRECTORIES: [&str; 3] = ["heads", "tags", "notes"];

/// The commits of a session that were not brought to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitingCommits {
    /// There are none that a ref names.
    None,
    /// These refs name them.
    Refs(Vec<SessionRef>),
    /// There may be any: the refs are kept as only git can read them.
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
struct Brought {
    version: u32,
    /// Names without `refs/`, and what they named.
    refs: BTreeMap<String, String>,
}

impl SessionStore {
    /// Which commits of a session wait. Nothing is locked, and nothing is started.
    ///
    /// # Errors
    /// The session is not there, or cannot be read.
    pub fn waiting_commits(&self, id: &SessionId) -> Result<WaitingCommits, SessionError> {
        let (directory, workspace) = (self.path_of(id), self.find(id)?.workspace);
        if !may_hold_commits(&directory) {
            return Ok(WaitingCommits::None);
        }
        waiting(&directory, &workspace).map_err(SessionError::io("reading", &directory))
    }

    /// Notes that these are all the refs that the session has, and that they were brought to the host.
    ///
    /// # Errors
    /// It cannot be written down; then they wait.
    pub fn note_brought(&self, id: &SessionId, refs: &[SessionRef]) -> Result<(), SessionError> {
        let path = self.path_of(id).join(BROUGHT);
        let new = path.with_extension("json.new");
        let pair = |one: &SessionRef| (one.name.to_string(), one.id.to_string());
        let brought = Brought { version: VERSION, refs: refs.iter().map(pair).collect() };
        let bytes = serde_json::to_vec(&brought).map_err(io::Error::other);
        let written = bytes.and_then(|bytes| fs::write(&new, bytes));
        written.and_then(|()| fs::rename(&new, &path)).map_err(SessionError::io("writing", &path))
    }

    /// Whether commits would be lost with a session. Where none was ever brought over, also those that no ref names.
    pub(super) fn may_lose_commits(&self, id: &SessionId, workspace: &Path) -> bool {
        let directory = self.path_of(id);
        if !may_hold_commits(&directory) {
            return false;
        }
        let is_brought = brought(&directory).is_some()
            && matches!(waiting(&directory, workspace), Ok(WaitingCommits::None));
        !is_brought
    }
}

/// What was brought over; `None` where nothing was, or where that cannot be read.
fn brought(directory: &Path) -> Option<BTreeMap<String, String>> {
    let bytes = fs::read(directory.join(BROUGHT)).ok()?;
    let brought: Brought = serde_json::from_slice(&bytes).ok()?;
    (brought.version == VERSION).then_some(brought.refs)
}

fn waiting(directory: &Path, workspace: &Path) -> io::Result<WaitingCommits> {
    if has_archives(directory) {
        return Ok(WaitingCommits::Unknown);
    }
    let kept = KeptCommits::read(directory)?;
    let outside = outside_git_directory(workspace);
    let host = outside.clone().unwrap_or_else(|| workspace.join(".git"));
    let (layer, prefix) = match outside {
        Some(_) => ("git-upper", ""),
        None => ("upper", ".git"),
    };
    let session = GitDirectory::open(&directory.join(layer), prefix)?;
    if session.as_ref().is_some_and(|session| session.has("reftable")) {
        return Ok(WaitingCommits::Unknown);
    }
    let host = GitDirectory::open(&host, "")?;
    let host = match &host {
        Some(host) => host.refs()?.unwrap_or_default(),
        None => Refs::default(),
    };
    let session = match &session {
        Some(session) => session.refs()?,
        None => Some(Refs::default()),
    };
    let Some(session) = session else { return Ok(WaitingCommits::Unknown) };
    let brought = brought(directory).unwrap_or_default();
    let mut all = session.packed;
    all.extend(session.loose);
    if let Some(kept) = kept {
        // What is checked out is named by its branch.
        let is_named = |one: &SessionRef| one.name.as_str() != "HEAD" || kept.branch.is_none();
        all.extend(kept.refs.into_iter().filter(is_named).map(|one| (one.name, one.id)));
    }
    let is_new = |(name, id): &(SessionRefName, GitObjectId)| {
        let is_id = |known: Option<&GitObjectId>| known == Some(id);
        !is_id(host.loose.get(name))
            && !is_id(host.packed.get(name))
            && brought.get(name.as_str()).is_none_or(|known| known != id.as_str())
    };
    let refs: Vec<SessionRef> =
        all.into_iter().filter(is_new).map(|(name, id)| SessionRef { name, id }).collect();
    Ok(if refs.is_empty() { WaitingCommits::None } else { WaitingCommits::Refs(refs) })
}

/// A directory of git's, or what a layer holds of one.
struct GitDirectory {
    root: OwnedFd,
    prefix: PathBuf,
}

/// The refs of one. A ref that is in a file of its own beats the packed one.
#[derive(Default)]
struct Refs {
    loose: BTreeMap<SessionRefName, GitObjectId>,
    packed: BTreeMap<SessionRefName, GitObjectId>,
}

impl GitDirectory {
    fn open(root: &Path, prefix: &str) -> io::Result<Option<Self>> {
        match File::open(root) {
            Ok(root) => Ok(Some(Self { root: root.into(), prefix: prefix.into() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn has(&self, name: &str) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        beneath::open(&self.root, self.prefix.join(name), flags, Mode::empty()).is_ok()
    }

    /// What a regular file holds; `None` where there is none, or where it is larger.
    fn read(&self, path: &Path, max_bytes: u64) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = beneath::open(&self.root, self.prefix.join(path), flags, Mode::empty()).ok()?;
        if FileType::from_raw_mode(fstat(&file).ok()?.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut bytes = Vec::new();
        File::from(file).take(max_bytes + 1).read_to_end(&mut bytes).ok()?;
        let bytes = Some(bytes).filter(|bytes| bytes.len() as u64 <= max_bytes)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// All that are brought over; `None` where there are too many.
    fn refs(&self) -> io::Result<Option<Refs>> {
        let mut refs = Refs::default();
        let packed = self.read(Path::new("packed-refs"), MAX_PACKED_BYTES);
        for line in packed.unwrap_or_default().lines() {
            if let Some((id, name)) = line.split_once(' ')
                && let Some(id) = GitObjectId::parse(id)
                && let Ok(name) = SessionRefName::parse(name)
            {
                refs.packed.insert(name, id);
            }
        }
        let mut open: Vec<PathBuf> =
            DIRECTORIES.iter().map(|name| Path::new("refs").join(name)).collect();
        let mut files = vec![PathBuf::from("HEAD"), PathBuf::from("refs/stash")];
        // Each worktree has a HEAD of its own.
        for name in self.names(Path::new("worktrees")) {
            files.push(Path::new("worktrees").join(name).join("HEAD"));
        }
        while let Some(directory) = open.pop() {
            if files.len() + open.len() > MAX_REFS || directory.components().count() > MAX_DEPTH {
                return Ok(None);
            }
            for name in self.names(&directory) {
                let path = directory.join(name);
                match self.is_directory(&path) {
                    true => open.push(path),
                    false => files.push(path),
                }
            }
        }
        for path in files {
            let name = if path.ends_with("HEAD") && !path.starts_with("refs") {
                Path::new("HEAD")
            } else {
                &path
            };
            let Some(name) = name.to_str().and_then(|name| SessionRefName::parse(name).ok()) else {
                continue;
            };
            // One that names another ref holds no digits.
            let id = self.read(&path, MAX_REF_BYTES);
            if let Some(id) = id.and_then(|text| GitObjectId::parse(text.trim_end())) {
                refs.loose.insert(name, id);
            }
        }
        Ok(Some(refs))
    }

    fn is_directory(&self, path: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        beneath::open(&self.root, self.prefix.join(path), flags, Mode::empty()).is_ok()
    }

    /// The names in a directory, no more than are looked at.
    fn names(&self, path: &Path) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = beneath::open(&self.root, self.prefix.join(path), flags, Mode::empty());
        let Ok(entries) = opened.and_then(|opened| Ok(Dir::new(opened)?)) else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "." && name != "..").take(MAX_REFS + 1).collect()
    }
}
