//! A repository of the host.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use forge_domain::{CommitsError, GitObjectId, RepositoryRefs};

use crate::program::GitProgram;
use crate::run::{Ended, Input, Output, run};

/// The repository whose work tree the workspace is: an ordinary one, a linked worktree, or a submodule. Implements
/// [`CommitTarget`](forge_domain::CommitTarget).
#[derive(Debug)]
pub struct HostRepository {
    pub(crate) git: GitProgram,
    pub(crate) workspace: PathBuf,
    /// Switches off the hooks that the configuration names.
    pub(crate) hooks: Vec<(OsString, OsString)>,
    pub(crate) objects: PathBuf,
    /// The file with the commits whose parents are not there, which a shallow clone has.
    pub(crate) shallow: PathBuf,
    /// `sha1` or `sha256`.
    pub(crate) format: String,
}

impl HostRepository {
    /// Finds the repository of a workspace, whose path is absolute and holds no symlinks. git is looked up in the search
    /// path, as `PATH` has it.
    ///
    /// # Errors
    /// [`CommitsError::NoGit`], [`CommitsError::NoRepository`], or git cannot read it.
    pub fn open(workspace: &Path, search_path: &OsStr) -> Result<Self, CommitsError> {
        let git = GitProgram::find(search_path, Some(workspace)).ok_or(CommitsError::NoGit)?;
        match workspace.join(".git").symlink_metadata() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CommitsError::NoRepository { path: workspace.to_path_buf() });
            }
            Err(source) => {
                let path = workspace.join(".git");
                return Err(CommitsError::Io { operation: "reading", path, source });
            }
        }
        let mut repository = Self {
            git,
            workspace: workspace.to_path_buf(),
            hooks: Vec::new(),
            objects: PathBuf::new(),
            shallow: PathBuf::new(),
            format: String::new(),
        };
        repository.hooks = repository.configured_hooks()?;
        let facts = repository
            .run(
                "rev-parse",
                &[
                    "--path-format=absolute",
                    "--git-path",
                    "objects",
                    "--git-path",
                    "shallow",
                    "--show-object-format",
                ],
                Input::Nothing,
            )?
            .success("rev-parse")?;
        let lines: Vec<&[u8]> = facts.split(|byte| *byte == b'\n').collect();
        let [objects, shallow, format, b""] = lines[..] else {
            let reason =
                "its answer cannot be read; git 2.31 is the oldest that will do".to_owned();
            return Err(CommitsError::Git { command: "rev-parse", reason });
        };
        repository.objects = OsStr::from_bytes(objects).into();
        repository.shallow = OsStr::from_bytes(shallow).into();
        repository.format = String::from_utf8_lossy(format).into_owned();
        Ok(repository)
    }

    /// Switches off each hook that the configuration names.
    fn configured_hooks(&self) -> Result<Vec<(OsString, OsString)>, CommitsError> {
        let arguments = ["--null", "--name-only", "--get-regexp", r"^hook\."];
        let ended = self.run("config", &arguments, Input::Nothing)?;
        if ended.status.code() == Some(1) {
            return Ok(Vec::new());
        }
        let names = ended.success("config")?;
        let mut hooks: Vec<&[u8]> = names
            .split(|byte| *byte == 0)
            .filter_map(|key| key.get(..key.iter().rposition(|byte| *byte == b'.')?))
            // A setting for all of them, as `hook.jobs`, names none.
            .filter(|hook| hook.contains(&b'.'))
            .collect();
        hooks.dedup();
        let off = |hook: &[u8]| {
            (OsStr::from_bytes(&[hook, &b".enabled"[..]].concat()).into(), "false".into())
        };
        Ok(hooks.into_iter().map(off).collect())
    }

    /// Runs a command in the repository.
    pub(crate) fn run(
        &self,
        name: &'static str,
        arguments: &[&str],
        input: Input,
    ) -> Result<Ended, CommitsError> {
        let mut command = self.git.command(&self.workspace, &self.hooks);
        command.arg("--no-pager").arg(name).args(arguments);
        run(command, name, input, Output::Kept)
    }

    pub(crate) fn all_refs(&self) -> Result<RepositoryRefs, CommitsError> {
        let head =
            self.run("rev-parse", &["--verify", "--quiet", "HEAD^{commit}"], Input::Nothing)?;
        // In a repository without commits, HEAD names nothing.
        let head = match head.status.code() {
            Some(1) => None,
            _ => GitObjectId::parse(String::from_utf8_lossy(&head.success("rev-parse")?).trim()),
        };
        let format = "--format=%(objectname) %(refname)";
        let listed =
            self.run("for-each-ref", &[format], Input::Nothing)?.success("for-each-ref")?;
        let refs = listed.split(|byte| *byte == b'\n').filter_map(|line| {
            let (id, name) = std::str::from_utf8(line).ok()?.split_once(' ')?;
            Some((name.to_owned(), GitObjectId::parse(id)?))
        });
        Ok(RepositoryRefs { head, refs: refs.collect() })
    }
}
