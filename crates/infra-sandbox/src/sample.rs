//! Trees for tests. Their paths as commands see them are nowhere on the host: what is found was found
//! by descriptor.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forge_domain::{ByteRange, FileError, WriteOptions};
use tempfile::TempDir;

use crate::paths::{Tree, Trees};

pub(crate) const ALL: ByteRange = ByteRange { offset: 0, max_bytes: u64::MAX };
pub(crate) const CANARY: &str = "canary of the outside";

/// A directory of the host with a workspace, a scratch space and what is outside of them.
pub(crate) struct Sample {
    directory: TempDir,
    pub(crate) trees: Trees,
}

impl Sample {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["workspace", "scratch", "extra", "outside/below"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        for name in ["outside/canary", "outside/below/canary"] {
            fs::write(directory.path().join(name), CANARY).unwrap();
        }
        let tree = |name: &str, path: &str| Tree {
            path: PathBuf::from(path),
            directory: Arc::new(open(&directory.path().join(name))),
        };
        let trees = Trees {
            workspace: tree("workspace", "/sample/project"),
            scratch: tree("scratch", "/sample/scratch"),
            working_directory: PathBuf::from("/sample/project"),
            extra: vec![tree("extra", "/sample/project/extra")],
        };
        Self { directory, trees }
    }

    /// A path of the workspace on the host.
    pub(crate) fn host(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join("workspace").join(path)
    }

    pub(crate) fn beside(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Makes a file with its parents, on the host.
    pub(crate) fn file(&self, path: &str, contents: &str) {
        fs::create_dir_all(self.host(path).parent().unwrap()).unwrap();
        fs::write(self.host(path), contents).unwrap();
    }

    pub(crate) fn link(&self, target: impl AsRef<Path>, path: &str) {
        symlink(target, self.host(path)).unwrap();
    }

    pub(crate) fn text(&self, path: &str) -> Result<String, FileError> {
        let contents = self.trees.read(Path::new(path), ALL)?;
        Ok(String::from_utf8(contents.bytes.to_vec()).unwrap())
    }

    pub(crate) fn write(&self, path: &str, contents: &str) -> Result<(), FileError> {
        self.trees.write(Path::new(path), contents.as_bytes(), WriteOptions::default())
    }

    /// The names in a directory of the host, sorted.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.host(path)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}
