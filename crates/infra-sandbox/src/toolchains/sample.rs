//! A home directory and a workspace in it, for tests.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::plan::{ToolchainInput, ToolchainView, plan};

/// `h/ome` in a directory of its own, with `project` in it for the workspace.
pub(super) struct Home(TempDir);

impl Home {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("h/ome/project")).unwrap();
        Self(directory)
    }

    /// A path beneath the home directory.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        let home = self.0.path().canonicalize().unwrap().join("h/ome");
        if path.is_empty() { home } else { home.join(path) }
    }

    pub(super) fn file(&self, path: &str, contents: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
    }

    pub(super) fn program(&self, path: &str, contents: &str) {
        self.file(path, contents);
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// An installation of Python's with its library.
    pub(super) fn python(&self, prefix: &str) {
        self.program(&format!("{prefix}/bin/python3.12"), "");
        self.file(&format!("{prefix}/lib/python3.12/os.py"), "");
    }

    pub(super) fn link(&self, target: &str, path: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        symlink(self.path(target), self.path(path)).unwrap();
    }

    /// What is shown with these directories on `PATH` and these variables; both beneath the home.
    pub(super) fn plan(&self, path: &[&str], variables: &[(&str, &str)]) -> ToolchainView {
        let path: Vec<PathBuf> = path.iter().map(|entry| self.path(entry)).collect();
        let mut all = vec![(OsString::from("PATH"), std::env::join_paths(path).unwrap())];
        let variable =
            |(name, value): &(&str, &str)| (OsString::from(name), self.path(value).into());
        all.extend(variables.iter().map(variable));
        self.plan_of(&all, Some(&self.path("")))
    }

    pub(super) fn plan_of(
        &self,
        variables: &[(OsString, OsString)],
        home: Option<&Path>,
    ) -> ToolchainView {
        let input = ToolchainInput {
            variables,
            home,
            workspace: &self.path("project"),
            state: &self.path("kept/state"),
            system: &[PathBuf::from("/usr"), PathBuf::from("/bin")],
        };
        plan(&input)
    }

    /// The trees' paths beneath the home directory.
    pub(super) fn trees(&self, view: &ToolchainView) -> Vec<String> {
        let home = self.path("");
        let shown = |path: &Path| path.strip_prefix(&home).unwrap_or(path).display().to_string();
        view.trees.iter().map(|tree| shown(&tree.path)).collect()
    }

    /// Whether `PATH` inside has a directory of the home.
    pub(super) fn has_on_path(&self, view: &ToolchainView, entry: &str) -> bool {
        std::env::split_paths(&view.path).any(|path| path == self.path(entry))
    }
}
