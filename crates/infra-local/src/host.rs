//! What is read on the user's machine, whatever the environment is.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use derive_setters::Setters;
use forge_domain::{Host, HostError, Instructions, WorkspaceLocation};

/// The file with the project's instructions for agents.
const INSTRUCTIONS_FILE: &str = "AGENTS.md";

/// The host's file system.
#[derive(Debug, Clone, Default, Setters)]
#[setters(strip_option, into)]
pub struct LocalHost {
    /// The user's home directory, which is refused as a workspace. Default: none is known.
    pub home: Option<PathBuf>,
    /// Forge's own state, whose ancestors are refused as a workspace. Default: none is known.
    pub state_directory: Option<PathBuf>,
}

#[async_trait]
impl Host for LocalHost {
    async fn locate_workspace(&self, start: &Path) -> Result<WorkspaceLocation, HostError> {
        let working_directory = directory(start)?;
        let root = git_root(&working_directory).unwrap_or_else(|| working_directory.clone());
        self.refuse_unsuitable(&root)?;
        Ok(WorkspaceLocation { root, working_directory })
    }

    async fn read_instructions(
        &self,
        workspace: &WorkspaceLocation,
        max_bytes: usize,
    ) -> Result<Vec<Instructions>, HostError> {
        let mut directories: Vec<&Path> = workspace
            .working_directory
            .ancestors()
            .take_while(|directory| directory.starts_with(&workspace.root))
            .collect();
        directories.reverse();
        let mut found = Vec::new();
        for directory in directories {
            found.extend(read_one(&workspace.root, &directory.join(INSTRUCTIONS_FILE), max_bytes)?);
        }
        Ok(found)
    }
}

impl LocalHost {
    fn refuse_unsuitable(&self, root: &Path) -> Result<(), HostError> {
        let unsuitable = |what| Err(HostError::Unsuitable { path: root.to_path_buf(), what });
        if root == Path::new("/") {
            return unsuitable("the root directory");
        }
        if resolved(self.home.as_deref()).is_some_and(|home| home == root) {
            return unsuitable("your home directory");
        }
        if resolved(self.state_directory.as_deref()).is_some_and(|state| state.starts_with(root)) {
            return unsuitable("a directory that holds Forge's own state");
        }
        Ok(())
    }
}

/// The path with its symlinks resolved, as far as it exists.
fn resolved(path: Option<&Path>) -> Option<PathBuf> {
    let path = path?;
    path.ancestors().find_map(|ancestor| {
        let rest = path.strip_prefix(ancestor).ok()?;
        Some(ancestor.canonicalize().ok()?.join(rest))
    })
}

fn directory(start: &Path) -> Result<PathBuf, HostError> {
    let failed = |source: io::Error| {
        let path = start.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => HostError::NotFound { path },
            io::ErrorKind::NotADirectory => HostError::NotDirectory { path },
            _ => HostError::Io { path, source },
        }
    };
    let resolved = start.canonicalize().map_err(failed)?;
    if !resolved.metadata().map_err(failed)?.is_dir() {
        return Err(HostError::NotDirectory { path: start.to_path_buf() });
    }
    Ok(resolved)
}

/// The nearest directory with a `.git`: a directory, or a file in linked worktrees and submodules.
fn git_root(directory: &Path) -> Option<PathBuf> {
    directory
        .ancestors()
        .find(|ancestor| ancestor.join(".git").symlink_metadata().is_ok())
        .map(Path::to_path_buf)
}

fn read_one(root: &Path, path: &Path, max_bytes: usize) -> Result<Option<Instructions>, HostError> {
    let failed = |source| HostError::Io { path: path.to_path_buf(), source };
    let target = match path.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !target.starts_with(root) || !target.metadata().map_err(failed)?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let file = File::open(&target).map_err(failed)?;
    // One byte more than asked for tells whether there is more.
    file.take(max_bytes as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let truncated = bytes.len() > max_bytes;
    bytes.truncate(max_bytes);
    Ok(Some(Instructions {
        path: path.strip_prefix(root).unwrap_or(path).to_path_buf(),
        text: String::from_utf8_lossy(&bytes).trim_end_matches('\u{fffd}').to_owned(),
        truncated,
    }))
}
