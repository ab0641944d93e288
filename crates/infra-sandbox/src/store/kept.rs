//! Commits that a session made in a microVM, kept beside its layers: what its refs name, and a bundle. Both are as the guest has
//! said them, and nothing here looks into the bundle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use forge_domain::{GitObjectId, SessionId, SessionRef, SessionRefName};
use serde::{Deserialize, Serialize};

use super::blobs::create;
use super::error::SessionError;
use super::lock::no_follow;
use super::open::OpenSession;
use super::prune::remove_file;
use super::sessions::SessionStore;

/// In a session's directory: a line that says what there is, and behind it the bundle.
pub(super) const KEPT: &str = "commits";
const NEW: &str = "commits.new";
/// The version of what this forge writes there. It reads no other.
const VERSION: u32 = 1;
/// A thousand refs are shorter.
const MAX_HEAD_BYTES: u64 = 4 * 1024 * 1024;

/// What is kept of a session's commits.
#[derive(Debug)]
pub struct KeptCommits {
    /// The refs that were not as they had been brought in, `HEAD` among them.
    pub refs: Vec<SessionRef>,
    /// The branch that was checked out, without `refs/heads/`; `None` where none was.
    pub branch: Option<String>,
    /// A bundle of what the host did not have, read from its beginning, and its length. `None` where it had everything.
    pub bundle: Option<(File, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    /// Names without `refs/`, and what they name.
    refs: BTreeMap<String, String>,
    branch: Option<String>,
}

impl KeptCommits {
    /// The commits that the bundle builds upon, as far as its head can be read.
    #[must_use]
    pub fn needs(&self) -> Vec<GitObjectId> {
        let needed = |line: &String| GitObjectId::parse(line.strip_prefix('-')?.split(' ').next()?);
        self.head_lines().iter().filter_map(needed).collect()
    }

    /// The same with refs that name what is in the bundle: what a ref named when it was listed may be older.
    #[must_use]
    pub fn consistent(mut self) -> Self {
        for line in self.head_lines() {
            let Some((id, name)) = line.split_once(' ') else { continue };
            let Some(id) = GitObjectId::parse(id) else { continue };
            for one in self.refs.iter_mut().filter(|one| one.name.in_session() == name) {
                one.id.clone_from(&id);
            }
        }
        self
    }

    /// What the head of the bundle says (gitformat-bundle(5)); the bundle is read from where it was again.
    fn head_lines(&self) -> Vec<String> {
        let Some((file, _)) = &self.bundle else { return Vec::new() };
        let mut file = file;
        let Ok(begin) = file.stream_position() else { return Vec::new() };
        let head = io::BufReader::new(file.take(MAX_HEAD_BYTES));
        let lines = head.split(b'\n').map_while(Result::ok).take_while(|line| !line.is_empty());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect();
        match file.seek(io::SeekFrom::Start(begin)) {
            Ok(_) => lines,
            Err(_) => Vec::new(),
        }
    }

    /// What is kept in a session's directory; `None` where nothing is.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let opened =
            File::options().read(true).custom_flags(no_follow()).open(directory.join(KEPT));
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut line = Vec::new();
        io::BufReader::new(&file).take(MAX_HEAD_BYTES).read_until(b'\n', &mut line)?;
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let head: Head = serde_json::from_slice(&line)?;
        if head.version != VERSION {
            return Err(invalid());
        }
        let one = |(name, id): (String, String)| {
            let name = if name == "HEAD" { name } else { format!("refs/{name}") };
            let name = SessionRefName::parse(&name).map_err(|_| invalid())?;
            Ok(SessionRef { name, id: GitObjectId::parse(&id).ok_or_else(invalid)? })
        };
        let refs = head.refs.into_iter().map(one).collect::<io::Result<_>>()?;
        let begin = line.len() as u64;
        let length = file.metadata()?.len().saturating_sub(begin);
        (&file).seek(io::SeekFrom::Start(begin))?;
        let bundle = (length > 0).then_some((file, length));
        Ok(Some(Self { refs, branch: head.branch, bundle }))
    }

    pub(super) fn are_there(directory: &Path) -> bool {
        directory.join(KEPT).symlink_metadata().is_ok()
    }
}

impl SessionStore {
    /// The commits that a session made in a microVM; `None` where it made none.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn kept_commits(&self, id: &SessionId) -> Result<Option<KeptCommits>, SessionError> {
        read(&self.path_of(id))
    }
}

impl OpenSession {
    /// Keeps no commits any more.
    ///
    /// # Errors
    /// What is kept cannot be removed.
    pub fn drop_commits(&self) -> Result<(), SessionError> {
        let path = self.path().join(KEPT);
        remove_file(&path).map_err(SessionError::io("removing", &path))
    }

    /// As [`SessionStore::kept_commits`].
    ///
    /// # Errors
    /// They cannot be read.
    pub fn kept_commits(&self) -> Result<Option<KeptCommits>, SessionError> {
        read(self.path())
    }

    /// Keeps commits in the place of those that were kept before. The bundle is read from where it is to its end. Whatever
    /// happens, the ones or the others are there; they survive a loss of power.
    ///
    /// # Errors
    /// They cannot be written down; those of before are still there.
    pub fn keep_commits(&self, commits: KeptCommits) -> Result<(), SessionError> {
        let path = self.path().join(KEPT);
        let new = self.path().join(NEW);
        let kept = write(&new, commits)
            .and_then(|()| fs::rename(&new, &path))
            .and_then(|()| File::open(self.path())?.sync_all());
        if kept.is_err() {
            drop(fs::remove_file(&new));
        }
        kept.map_err(SessionError::io("writing", &path))
    }
}

fn read(directory: &Path) -> Result<Option<KeptCommits>, SessionError> {
    KeptCommits::read(directory).map_err(SessionError::io("reading", &directory.join(KEPT)))
}

fn write(new: &Path, commits: KeptCommits) -> io::Result<()> {
    let KeptCommits { refs, branch, bundle } = commits;
    let pair = |one: SessionRef| (one.name.to_string(), one.id.to_string());
    let head = Head { version: VERSION, refs: refs.into_iter().map(pair).collect(), branch };
    let mut file = create(new)?;
    let mut line = serde_json::to_vec(&head)?;
    line.push(b'\n');
    file.write_all(&line)?;
    if let Some((mut bundle, _)) = bundle {
        io::copy(&mut bundle, &mut file)?;
    }
    file.sync_all()
}
