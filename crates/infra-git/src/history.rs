//! The history of a workspace's repository, on its way into an environment that is not on this machine.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use forge_domain::{CommitTarget, CommitsError, GitObjectId, History, HistoryError, HistorySource};

use crate::repository::HostRepository;
use crate::run::{Input, Output, run};

/// Of a repository's own configuration only these go along: they run nothing and hold no secret.
const SETTINGS: &str = r"^(user\.(name|email)|core\.(autocrlf|eol|filemode))$";
/// Rules are shorter.
const MAX_EXCLUDE_BYTES: u64 = 256 * 1024;

/// The history of a workspace of this machine.
#[derive(Debug, Clone)]
pub struct HostHistory {
    workspace: PathBuf,
    search_path: OsString,
    /// Where the bundle is written; only its owner can look into it.
    directory: PathBuf,
    max_bytes: u64,
}

impl HostHistory {
    /// The workspace's path is absolute and holds no symlinks. git is looked up in the search path, as `PATH` has it. A
    /// bundle is written into the directory, in a file without a name; one of more bytes is not sent.
    #[must_use]
    pub fn new(workspace: &Path, search_path: &OsStr, directory: &Path, max_bytes: u64) -> Self {
        Self {
            workspace: workspace.to_path_buf(),
            search_path: search_path.to_owned(),
            directory: directory.to_path_buf(),
            max_bytes,
        }
    }

    /// A name that nobody has.
    fn unused(&self) -> io::Result<PathBuf> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("history-{}-{number}", process::id()));
        // Of a process that was killed and had this one's number.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(path),
        }
    }

    /// A bundle of these revisions, and its length. The parents of what is cut, a line each, are taken for missing.
    fn bundle(
        &self,
        repository: &HostRepository,
        revisions: &[&str],
        cut: Option<&str>,
    ) -> Result<(File, u64), CommitsError> {
        let failed = |source| CommitsError::Io {
            operation: "writing to",
            path: self.directory.clone(),
            source,
        };
        let path = self.unused().map_err(failed)?;
        let open = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let mut file = open.map_err(failed)?;
        fs::remove_file(&path).map_err(failed)?;
        let mut command = repository.git.command(&repository.workspace, &repository.hooks);
        let shallow = match cut {
            Some(ends) => {
                let path = self.unused().map_err(failed)?;
                fs::write(&path, ends).map_err(failed)?;
                command.env("GIT_SHALLOW_FILE", &path);
                Some(path)
            }
            None => None,
        };
        command.args(["--no-pager", "bundle", "create", "--quiet", "-"]).args(revisions);
        let ended = file.try_clone().map_err(failed).and_then(|copy| {
            let output = Output::Limited(copy, self.max_bytes);
            run(command, "bundle", Input::Nothing, output)
        });
        if let Some(path) = shallow {
            drop(fs::remove_file(path));
        }
        let length = file.metadata().map_err(failed)?.len();
        if length > self.max_bytes {
            // It was ended there.
            return Ok((file, length));
        }
        ended?.success("bundle")?;
        file.rewind().map_err(failed)?;
        Ok((file, length))
    }
}

impl HistorySource for HostHistory {
    fn take(&self, also: &[GitObjectId]) -> Result<History, HistoryError> {
        let repository = match HostRepository::open(&self.workspace, &self.search_path) {
            Ok(repository) => repository,
            Err(CommitsError::NoRepository { .. } | CommitsError::NoGit)
                if self.workspace.join(".git").symlink_metadata().is_err() =>
            {
                let mut above = self.workspace.ancestors().skip(1);
                return Err(match above.find(|above| above.join(".git").exists()) {
                    Some(root) => HistoryError::Within { root: root.to_path_buf() },
                    None => HistoryError::NoRepository,
                });
            }
            Err(error) => return Err(error.into()),
        };
        let branch = repository.branch_that_is_checked_out()?;
        let refs = repository.all_refs()?;
        let is_sent =
            |name: &str| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
        let mut history = History {
            bundle: None,
            object_format: repository.format.clone(),
            head: refs.head.clone(),
            branch,
            shallow: fs::read(&repository.shallow).unwrap_or_default(),
            exclude: repository.exclude()?,
            settings: repository.plain_settings()?,
            tracked: Vec::new(),
            cut_at_bytes: None,
            session: None,
        };
        let holds = CommitTarget::holds(&repository, also)?;
        let also = also.iter().zip(holds).filter(|(_, is_there)| *is_there);
        let also: Vec<&str> = also.map(|(id, _)| id.as_str()).collect();
        let mut revisions = vec!["--branches", "--tags"];
        revisions.extend(&also);
        if refs.head.is_some() {
            revisions.push("HEAD");
            history.tracked = repository.tracked()?;
        } else if !refs.refs.iter().any(|(name, _)| is_sent(name)) {
            return Ok(history);
        }
        let (mut file, mut length) = self.bundle(&repository, &revisions, None)?;
        if length > self.max_bytes {
            let too_large = HistoryError::TooLarge { limit_bytes: self.max_bytes };
            let Some(head) = &refs.head else { return Err(too_large) };
            let name = history.branch.as_ref().map(|branch| format!("refs/heads/{branch}"));
            let mut revisions: Vec<&str> = ["HEAD"].into_iter().chain(name.as_deref()).collect();
            revisions.extend(&also);
            let ends: Vec<&str> = [head.as_str()].into_iter().chain(also).collect();
            let ends = ends.iter().map(|id| format!("{id}\n")).collect::<String>();
            (file, length) = self.bundle(&repository, &revisions, Some(&ends))?;
            if length > self.max_bytes {
                return Err(too_large);
            }
            history.shallow = ends.into_bytes();
            history.cut_at_bytes = Some(self.max_bytes);
        }
        history.bundle = Some((Box::new(file), length));
        Ok(history)
    }
}

impl HostRepository {
    fn branch_that_is_checked_out(&self) -> Result<Option<String>, CommitsError> {
        let ended = self.run("symbolic-ref", &["--quiet", "HEAD"], Input::Nothing)?;
        if ended.status.code() == Some(1) {
            return Ok(None);
        }
        let name = String::from_utf8_lossy(&ended.success("symbolic-ref")?).into_owned();
        Ok(name.trim_end().strip_prefix("refs/heads/").map(str::to_owned))
    }

    /// The paths of the commit that is checked out.
    fn tracked(&self) -> Result<Vec<PathBuf>, CommitsError> {
        let arguments = ["-r", "-z", "--name-only", "HEAD"];
        let listed = self.run("ls-tree", &arguments, Input::Nothing)?.success("ls-tree")?;
        let names = listed.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| PathBuf::from(OsStr::from_bytes(name))).collect())
    }

    fn plain_settings(&self) -> Result<Vec<(String, String)>, CommitsError> {
        // Only what is in the repository's own file: what forge sets itself is none of it.
        let arguments = ["--local", "--no-includes", "--null", "--get-regexp", SETTINGS];
        let ended = self.run("config", &arguments, Input::Nothing)?;
        if ended.status.code() == Some(1) {
            return Ok(Vec::new());
        }
        let text = String::from_utf8_lossy(&ended.success("config")?).into_owned();
        let pairs = text.split('\0').filter_map(|entry| entry.split_once('\n'));
        Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    fn exclude(&self) -> Result<Vec<u8>, CommitsError> {
        let arguments = ["--path-format=absolute", "--git-path", "info/exclude"];
        let path = self.run("rev-parse", &arguments, Input::Nothing)?.success("rev-parse")?;
        let path = Path::new(OsStr::from_bytes(path.strip_suffix(b"\n").unwrap_or(&path)));
        let is_plain = path
            .symlink_metadata()
            .is_ok_and(|found| found.is_file() && found.len() <= MAX_EXCLUDE_BYTES);
        Ok(if is_plain { fs::read(path).unwrap_or_default() } else { Vec::new() })
    }
}
