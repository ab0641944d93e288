//! The trees that are shown, as they become known; and what each program needs of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::known::{GO, ROOTS, VERSIONS, WRITES};
use super::masks::{expand, masks};
use super::plan::{ToolchainAccess, ToolchainInput, ToolchainTree};
use super::reach;
use super::refusal::{Evidence, Refusals, Verdict};
use super::trail::{self, Trail};

/// So many links to versions elsewhere are followed in one directory of a toolchain.
const MAX_VERSIONS: usize = 256;

/// What is shown so far.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    workspace: &'a Path,
    system: &'a [PathBuf],
    refusals: Refusals,
    trees: BTreeMap<PathBuf, ToolchainAccess>,
    links: BTreeMap<PathBuf, PathBuf>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(input: &ToolchainInput<'a>) -> Self {
        Self {
            workspace: input.workspace,
            system: input.system,
            refusals: Refusals::new(input.home, input.workspace, input.state),
            trees: BTreeMap::new(),
            links: BTreeMap::new(),
        }
    }

    /// Whether a path without links is seen inside.
    pub(super) fn is_shown(&self, path: &Path) -> bool {
        self.is_elsewhere(path) || self.trees.keys().any(|tree| path.starts_with(tree))
    }

    /// Whether others show it: the system, or the workspace.
    fn is_elsewhere(&self, path: &Path) -> bool {
        self.is_of_system(path) || path.starts_with(self.workspace)
    }

    fn is_of_system(&self, path: &Path) -> bool {
        self.system.iter().any(|tree| path.starts_with(tree))
    }

    /// Shows a directory that a variable names, or the toolchain that it belongs to.
    pub(super) fn show_named(&mut self, path: &Path, access: ToolchainAccess) {
        let Some(trail) = trail::follow(path).filter(|trail| trail.real.is_dir()) else { return };
        let real = trail.real.clone();
        let written = |tree: (&PathBuf, &ToolchainAccess)| {
            *tree.1 == ToolchainAccess::ThrowAway && real.starts_with(tree.0)
        };
        let is_enough = match access {
            ToolchainAccess::ReadOnly => self.is_shown(&real),
            ToolchainAccess::ThrowAway => {
                real.starts_with(self.workspace) || self.trees.iter().any(written)
            }
        };
        if !is_enough {
            let evidence =
                if real.join("bin").is_dir() { Evidence::Contents } else { Evidence::Path };
            match self.root_of(&real) {
                Some(root) => self.insert(root, access),
                None if self.refusals.judge(&real, evidence) == Verdict::Allowed => {
                    self.insert(real, access);
                }
                None => {}
            }
        }
        self.link(trail);
    }

    /// Shows a directory of `PATH` and what its programs lead to. `false`: it is not to be shown, or not
    /// there.
    pub(super) fn show_programs(&mut self, path: &Path) -> bool {
        let Some(trail) = trail::follow(path) else { return false };
        let real = trail.real.clone();
        if !real.is_dir() {
            return false;
        }
        if !self.is_shown(&real) {
            let installation = Some(&real).filter(|real| real.ends_with("bin"));
            let installation = installation.and_then(|real| real.parent());
            let installation = installation.filter(|prefix| is_installation(prefix));
            let candidates = [self.root_of(&real), installation.map(Path::to_path_buf)];
            if !self.insert_first(candidates.into_iter().flatten().chain([real.clone()])) {
                return false;
            }
        }
        self.link(trail);
        if self.is_elsewhere(&real) {
            // What programs of the system lead to is the system's; and those of the workspace, which may
            // be anyone's, do not say what is shown.
            return true;
        }
        let reached = reach::reached(&real);
        let mut interpreters = reached.interpreters;
        for program in &reached.links {
            if let Some(real) = self.show_program(program) {
                interpreters.extend(reach::interpreter(&real));
            }
        }
        interpreters.sort();
        interpreters.dedup();
        for interpreter in interpreters {
            let prefix = interpreter.parent().and_then(Path::parent);
            match prefix.filter(|prefix| reach::is_environment(prefix)) {
                Some(environment) => self.show_environment(environment),
                None => drop(self.show_program(&interpreter)),
            }
        }
        true
    }

    /// Shows a virtual environment, and the installation that it stands on. One in the workspace is
    /// there already.
    pub(super) fn show_environment(&mut self, environment: &Path) {
        self.show_named(environment, ToolchainAccess::ReadOnly);
        let real = trail::follow(environment).map(|trail| trail.real);
        if real.is_none_or(|real| real.starts_with(self.workspace)) {
            self.show_base_of(environment);
            return;
        }
        for interpreter in reach::interpreters(environment) {
            self.show_program(&interpreter);
        }
    }

    /// Shows the installation that a virtual environment of the workspace stands on. The project may be
    /// anyone's, and what it names is shown only if it proves to be an installation of Python.
    pub(super) fn show_base_of(&mut self, environment: &Path) {
        for interpreter in reach::interpreters(environment) {
            let Some(trail) = trail::follow(&interpreter) else { continue };
            if !self.is_shown(&trail.real) {
                let Some(prefix) = reach::python_installation(&trail.real) else { continue };
                let root = self.root_of(&prefix);
                self.insert_first(root.into_iter().chain([prefix]));
            }
            self.link(trail);
        }
    }

    /// Shows versions of toolchains that are links to directories elsewhere.
    pub(super) fn show_linked_versions(&mut self) {
        let roots: Vec<PathBuf> = self.trees.keys().filter(|tree| is_root(tree)).cloned().collect();
        for directory in roots.iter().flat_map(|root| VERSIONS.map(|name| expand(root, name))) {
            for entry in directory.iter().filter_map(|path| fs::read_dir(path).ok()) {
                let entries = entry.flatten().take(MAX_VERSIONS);
                let is_link =
                    |entry: &fs::DirEntry| entry.file_type().is_ok_and(|k| k.is_symlink());
                for link in entries.filter(is_link) {
                    self.show_named(&link.path(), ToolchainAccess::ReadOnly);
                }
            }
        }
    }

    /// Shows one file, and again at another path.
    pub(super) fn show_file_at(&mut self, file: &Path, at: &Path) {
        let Some(trail) = trail::follow(file) else { return };
        if self.is_shown(&trail.real) || self.insert_first([trail.real.clone()]) {
            self.links.insert(at.to_path_buf(), trail.real);
        }
    }

    pub(super) fn has_tree_called(&self, names: &[&str]) -> bool {
        self.trees.keys().any(|tree| names.iter().any(|name| tree.ends_with(name)))
    }

    /// Shows what a program needs, and says where it really is.
    fn show_program(&mut self, path: &Path) -> Option<PathBuf> {
        let trail = trail::follow(path).filter(|trail| trail.real.is_file())?;
        let real = trail.real.clone();
        if !self.is_shown(&real) {
            let candidates = self.installations(&real);
            if !self.insert_first(candidates) {
                return None;
            }
        }
        self.link(trail);
        Some(real)
    }

    /// What may be shown for a program, the best first: the toolchain that it belongs to, the packages
    /// that it is one of, its installation, its directory, itself.
    fn installations(&self, program: &Path) -> Vec<PathBuf> {
        let packages = program.ancestors().filter(|path| path.ends_with("node_modules")).last();
        let directory = program.parent().unwrap_or(program);
        let in_bin = ["bin", "sbin", "libexec"].iter().any(|name| directory.ends_with(name));
        let prefix = directory.parent().filter(|_| in_bin);
        let may_run =
            fs::metadata(program).is_ok_and(|found| found.permissions().mode() & 0o111 != 0);
        let paths = [packages, prefix, Some(directory)].into_iter().flatten();
        // Programs of a project bring their directory along, but not the project.
        let paths = paths.filter(|path| !is_project(path)).chain(may_run.then_some(program));
        self.root_of(program).into_iter().chain(paths.map(Path::to_path_buf)).collect()
    }

    /// The toolchain that a path belongs to, where it is a known one: the outermost.
    fn root_of(&self, path: &Path) -> Option<PathBuf> {
        let ancestors: Vec<&Path> = path.ancestors().collect();
        let allowed = |root: &&&Path| {
            self.refusals.judge(root, Evidence::Contents) == Verdict::Allowed
                && (!root.ends_with(GO) || is_of_go(root, path))
        };
        let found = ancestors.iter().rev().filter(|path| is_root(path)).find(allowed);
        found.map(|root| root.to_path_buf())
    }

    /// Shows the first that may be shown. `false`: there is none.
    fn insert_first(&mut self, candidates: impl IntoIterator<Item = PathBuf>) -> bool {
        let allowed = |path: &PathBuf| {
            let evidence = if is_root(path) || reach::is_environment(path) {
                Evidence::Contents
            } else {
                Evidence::Path
            };
            self.refusals.judge(path, evidence) == Verdict::Allowed
        };
        match candidates.into_iter().find(allowed) {
            Some(path) => {
                self.insert(path, ToolchainAccess::ReadOnly);
                true
            }
            None => false,
        }
    }

    /// What is known to be written to is, whoever asks for it.
    fn insert(&mut self, path: PathBuf, access: ToolchainAccess) {
        let writes = WRITES.iter().any(|name| path.ends_with(name)) && is_root(&path);
        let access = if writes { ToolchainAccess::ThrowAway } else { access };
        let own = self.trees.entry(path).or_insert(access);
        *own = access.max(*own);
    }

    /// Has the links of a way made again, where the way ends at something that is shown.
    fn link(&mut self, trail: Trail) {
        if self.is_shown(&trail.real) {
            self.links.extend(trail.links);
        }
    }

    /// The trees without those that others show, and the links that are in none.
    pub(super) fn finish(self) -> (Vec<ToolchainTree>, Vec<(PathBuf, PathBuf)>) {
        let mut trees: Vec<ToolchainTree> = Vec::new();
        for (path, access) in &self.trees {
            let masks = masks(path);
            let covers =
                |tree: &&mut ToolchainTree| path.starts_with(&tree.path) && tree.access >= *access;
            match trees.iter_mut().find(covers) {
                Some(tree) => tree.masks.extend(masks),
                None => {
                    trees.push(ToolchainTree { path: path.clone(), access: *access, masks });
                }
            }
        }
        for tree in &mut trees {
            tree.masks.sort();
            tree.masks.dedup();
        }
        let is_made = |link: &Path| !self.is_shown(link) && !crate::system::shows(link);
        let links = self.links.iter().filter(|(link, _)| is_made(link));
        let links = links.map(|(link, target)| (link.clone(), target.clone())).collect();
        (trees, links)
    }
}

fn is_root(path: &Path) -> bool {
    ROOTS.iter().any(|root| path.ends_with(root))
}

/// Whether a directory called `go` is where Go keeps what it installs, and the path is a part of that.
/// Its own installation is called so as well, and needs to be shown but not to be written.
fn is_of_go(root: &Path, path: &Path) -> bool {
    let is_part =
        path == root || ["bin", "pkg"].iter().any(|name| path.starts_with(root.join(name)));
    let has_any = root.join("bin").is_dir() || root.join("pkg/mod").is_dir();
    is_part && has_any && !root.join("VERSION").exists()
}

/// Whether the programs of a directory's `bin` have their libraries beside it.
fn is_installation(prefix: &Path) -> bool {
    let has = |name: &str| prefix.join(name).is_dir();
    !is_project(prefix) && ["lib", "lib64", "libexec"].iter().any(|name| has(name))
}

/// Whether a directory is somebody's work rather than an installation.
fn is_project(path: &Path) -> bool {
    [".git", ".hg", ".jj", ".svn"].iter().any(|name| path.join(name).exists()) && !is_root(path)
}
