//! Which trees are shown.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::known::{CHOICES, CREDENTIALS, DEFAULTS, MAYBE_CREDENTIALS, NEVER, ROOTS, WRITES};
use super::reach;
use crate::secrets::file_holds_login;

/// What is found at the end of every `PATH` inside.
const SYSTEM_PATH: [&str; 5] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// What there is to go by.
#[derive(Debug)]
pub(crate) struct ToolchainInput<'a> {
    /// The user's variables, by the names in `TOOLCHAIN_VARIABLES`.
    pub(crate) variables: &'a [(OsString, OsString)],
    /// The user's home directory.
    pub(crate) home: Option<&'a Path>,
    pub(crate) workspace: &'a Path,
    /// What is shown already.
    pub(crate) system: &'a [PathBuf],
}

/// What is shown, and how commands are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ToolchainView {
    /// In order of their paths; none lies in another.
    pub(crate) trees: Vec<ToolchainTree>,
    /// `PATH` inside.
    pub(crate) path: OsString,
    /// The other variables.
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// Links that are made, for what is named by a path with a link in it: path, target.
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
}

/// A directory of the host that is shown at its own path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ToolchainTree {
    pub(crate) path: PathBuf,
    pub(crate) access: ToolchainAccess,
    /// What is hidden in it.
    pub(crate) masks: Vec<PathBuf>,
}

/// What commands may do in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolchainAccess {
    /// Read and execute.
    ReadOnly,
    /// Everything; what they write is thrown away at the end.
    ThrowAway,
}

/// Looks at the host and decides.
pub(crate) fn plan(input: &ToolchainInput<'_>) -> ToolchainView {
    let mut planner = Planner {
        input,
        home: input.home.and_then(|home| home.canonicalize().ok()),
        trees: BTreeMap::new(),
        links: BTreeMap::new(),
    };
    planner.variables();
    let path = planner.path();
    planner.environments_of_workspace();
    planner.finish(path)
}

struct Planner<'a> {
    input: &'a ToolchainInput<'a>,
    home: Option<PathBuf>,
    trees: BTreeMap<PathBuf, ToolchainAccess>,
    links: BTreeMap<PathBuf, PathBuf>,
}

impl Planner<'_> {
    fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.input.variables.iter().rev().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
    }

    /// The directories that variables name, or would name if they were set.
    fn variables(&mut self) {
        let named: Vec<PathBuf> = self
            .input
            .variables
            .iter()
            .filter(|(name, _)| name != "PATH" && !CHOICES.iter().any(|choice| name == choice))
            .flat_map(|(_, value)| std::env::split_paths(value))
            .collect();
        let defaults = self.home.iter().flat_map(|home| {
            DEFAULTS
                .iter()
                .filter(|(name, _)| self.variable(name).is_none())
                .map(|(_, path)| home.join(path))
        });
        for path in named.into_iter().chain(defaults.collect::<Vec<_>>()) {
            self.show(&path);
        }
        if let Some(environment) = self.variable("VIRTUAL_ENV").map(PathBuf::from) {
            self.show_interpreter(&environment);
        }
    }

    /// Shows what `PATH` reaches, and says which of its directories are there inside.
    fn path(&mut self) -> OsString {
        let path = self.variable("PATH").unwrap_or_default().to_owned();
        let mut kept: Vec<PathBuf> = Vec::new();
        for entry in std::env::split_paths(&path) {
            if !entry.is_absolute() || kept.contains(&entry) {
                continue;
            }
            let Ok(real) = entry.canonicalize() else { continue };
            if !real.is_dir() || !(self.is_shown(&real) || self.show(&entry)) {
                continue;
            }
            // A known toolchain is shown whole: what its programs lead to is in it.
            let known = root_of(&real, self.home.as_deref()).is_some();
            if !known && !self.is_of_system(&real) && !real.starts_with(self.input.workspace) {
                self.show_targets(&real);
            }
            kept.push(entry);
        }
        for entry in SYSTEM_PATH.iter().map(PathBuf::from) {
            if !kept.contains(&entry) {
                kept.push(entry);
            }
        }
        // An entry of a PATH cannot hold the separator, so they can be joined again.
        std::env::join_paths(kept).unwrap_or_default()
    }

    /// The interpreters behind virtual environments in the workspace.
    fn environments_of_workspace(&mut self) {
        for name in [".venv", "venv", "env"] {
            let environment = self.input.workspace.join(name);
            self.show_interpreter(&environment);
        }
    }

    fn show_interpreter(&mut self, environment: &Path) {
        for interpreter in reach::interpreters(environment) {
            self.show_prefix(&interpreter);
        }
    }

    /// Shows what programs in a directory are links to, or are interpreted by.
    fn show_targets(&mut self, directory: &Path) {
        for target in reach::targets(directory) {
            self.show_prefix(&target);
        }
    }

    /// Shows the installation that a program belongs to: the directory above its `bin`, or its own.
    fn show_prefix(&mut self, program: &Path) {
        let Some(directory) = program.parent() else { return };
        if self.is_shown(directory) {
            return;
        }
        let in_bin = directory.file_name().is_some_and(|name| name == "bin" || name == "sbin");
        let prefix = directory.parent().filter(|_| in_bin);
        if !prefix.is_some_and(|prefix| self.show(prefix)) {
            self.show(directory);
        }
    }

    /// Shows a directory, or the toolchain that it belongs to. `false`: it is not to be shown, or not
    /// there.
    fn show(&mut self, path: &Path) -> bool {
        let Ok(real) = path.canonicalize() else { return false };
        if !real.is_dir() {
            return false;
        }
        if !self.is_shown(&real) {
            let root = root_of(&real, self.home.as_deref()).unwrap_or_else(|| real.clone());
            if self.is_refused(&root) {
                return false;
            }
            let writes = WRITES.iter().any(|name| root.file_name().is_some_and(|own| own == *name));
            let access =
                if writes { ToolchainAccess::ThrowAway } else { ToolchainAccess::ReadOnly };
            self.trees.insert(root, access);
        }
        self.link(path, &real);
        true
    }

    /// Makes the link again that a path goes through, so that it is there by the name it was given.
    fn link(&mut self, path: &Path, real: &Path) {
        if path == real {
            return;
        }
        for ancestor in path.ancestors() {
            let Ok(target) = std::fs::read_link(ancestor) else { continue };
            if !self.is_shown(ancestor) && !ancestor.starts_with(self.input.workspace) {
                let target =
                    ancestor.parent().map_or_else(|| target.clone(), |parent| parent.join(&target));
                if let Ok(target) = target.canonicalize() {
                    self.links.insert(ancestor.to_path_buf(), target);
                }
            }
        }
    }

    fn is_of_system(&self, path: &Path) -> bool {
        self.input.system.iter().any(|tree| path.starts_with(tree))
    }

    /// Whether it is seen inside already.
    fn is_shown(&self, path: &Path) -> bool {
        self.is_of_system(path)
            || path.starts_with(self.input.workspace)
            || self.trees.keys().any(|tree| path.starts_with(tree))
    }

    /// What must not be shown whatever names it.
    fn is_refused(&self, path: &Path) -> bool {
        if path.components().count() < 3 || self.input.workspace.starts_with(path) {
            // A directory in the root holds much that is nobody's toolchain; what is there and is one
            // is shown with the system.
            return true;
        }
        if ["/proc", "/sys", "/dev", "/run", "/boot", "/var"]
            .iter()
            .any(|never| path.starts_with(never))
        {
            return true;
        }
        let Some(home) = &self.home else { return false };
        home.starts_with(path) || NEVER.iter().any(|name| path.starts_with(home.join(name)))
    }

    fn finish(self, path: OsString) -> ToolchainView {
        let mut trees: Vec<ToolchainTree> = Vec::new();
        for (path, access) in &self.trees {
            let within = trees.last().is_some_and(|tree| path.starts_with(&tree.path));
            if !within {
                let masks = masks(path);
                trees.push(ToolchainTree { path: path.clone(), access: *access, masks });
            }
        }
        let shown = |path: &Path| {
            self.is_of_system(path)
                || path.starts_with(self.input.workspace)
                || trees.iter().any(|tree| path.starts_with(&tree.path))
        };
        let mut variables: Vec<(OsString, OsString)> = Vec::new();
        for (name, value) in self.input.variables {
            let is_choice = CHOICES.iter().any(|choice| name == choice);
            let is_there = || {
                let mut paths = std::env::split_paths(value);
                paths.all(|path| path.canonicalize().is_ok_and(|real| shown(&real)))
            };
            if name != "PATH" && !value.is_empty() && (is_choice || is_there()) {
                variables.push((name.clone(), value.clone()));
            }
        }
        for (name, default) in DEFAULTS {
            let Some(home) = &self.home else { continue };
            let path = home.join(default);
            if self.variable(name).is_none() && path.is_dir() && shown(&path) {
                variables.push((name.into(), path.into()));
            }
        }
        // A link may lead to what a tree stands in.
        let leads =
            |target: &Path| shown(target) || trees.iter().any(|tree| tree.path.starts_with(target));
        let links = self.links.iter().filter(|(link, target)| leads(target) && !shown(link));
        let links = links.map(|(link, target)| (link.clone(), target.clone())).collect();
        ToolchainView { path, variables, links, trees }
    }
}

/// The toolchain that a directory belongs to, where it is a known one.
fn root_of(path: &Path, home: Option<&Path>) -> Option<PathBuf> {
    path.ancestors()
        .filter(|ancestor| home.is_none_or(|home| *ancestor != home))
        .find(|ancestor| ROOTS.iter().any(|root| ancestor.ends_with(root)))
        .map(Path::to_path_buf)
}

/// What holds logins in a toolchain.
fn masks(tree: &Path) -> Vec<PathBuf> {
    let there = |path: &PathBuf| path.symlink_metadata().is_ok_and(|found| found.is_file());
    let always = CREDENTIALS.iter().map(|name| tree.join(name)).filter(there);
    let maybe = MAYBE_CREDENTIALS.iter().map(|name| tree.join(name)).filter(there);
    always.chain(maybe.filter(|path| file_holds_login(path))).collect()
}
