//! Which trees are shown, and how commands are told.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::known::{BLANK_SEPARATED, CHOICES, DEFAULTS, WRITTEN};
use super::shown::Shown;

/// What is found at the end of every `PATH` inside.
const SYSTEM_PATH: [&str; 5] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// What virtual environments are called in a project.
const ENVIRONMENTS: [&str; 3] = [".venv", "venv", "env"];

/// The versions that a user chose for every project; tools look for it in the home directory.
const TOOL_VERSIONS: &str = ".tool-versions";

/// The file systems of Windows are brought to its Linux by this protocol (statfs(2)).
const V9FS_MAGIC: u64 = 0x0102_1997;

/// What there is to go by.
#[derive(Debug)]
pub(crate) struct ToolchainInput<'a> {
    /// The user's variables, by the names in `TOOLCHAIN_VARIABLES`.
    pub(crate) variables: &'a [(OsString, OsString)],
    /// The user's home directory.
    pub(crate) home: Option<&'a Path>,
    /// Without links.
    pub(crate) workspace: &'a Path,
    /// Where sessions are kept: never shown.
    pub(crate) state: &'a Path,
    /// What is shown already.
    pub(crate) system: &'a [PathBuf],
}

/// What is shown, and how commands are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ToolchainView {
    /// In order of their paths; none lies in another of the same access.
    pub(crate) trees: Vec<ToolchainTree>,
    /// `PATH` inside.
    pub(crate) path: OsString,
    /// The other variables.
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// Links that are made, for what is named by a path with a link in it: path, target. What is there
    /// already at such a path stays.
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
}

/// A directory of the host that is shown at its own path, which has no links in it; or a single
/// program, which then is shown read-only.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ToolchainTree {
    pub(crate) path: PathBuf,
    pub(crate) access: ToolchainAccess,
    /// What is hidden in it: files and directories.
    pub(crate) masks: Vec<PathBuf>,
}

/// What commands may do in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ToolchainAccess {
    /// Read and execute.
    ReadOnly,
    /// Everything; what they write is thrown away at the end.
    ThrowAway,
}

/// Looks at the host and decides.
pub(crate) fn plan(input: &ToolchainInput<'_>) -> ToolchainView {
    let home = input.home.and_then(|home| home.canonicalize().ok());
    let mut planner = Planner { input, home, shown: Shown::new(input) };
    planner.variables();
    let path = planner.path();
    for name in ENVIRONMENTS {
        planner.shown.show_base_of(&input.workspace.join(name));
    }
    planner.shown.show_linked_versions();
    planner.tool_versions();
    let variables = planner.variables_inside();
    let (trees, links) = planner.shown.finish();
    ToolchainView { trees, path, variables, links }
}

struct Planner<'a> {
    input: &'a ToolchainInput<'a>,
    /// Without links.
    home: Option<PathBuf>,
    shown: Shown<'a>,
}

impl Planner<'_> {
    fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.input.variables.iter().rev().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
    }

    /// The defaults of variables that are not set, where there is something.
    fn defaults(&self) -> Vec<(&'static str, PathBuf)> {
        let Some(home) = &self.home else { return Vec::new() };
        let unset = DEFAULTS.iter().filter(|(name, _)| self.variable(name).is_none());
        unset
            .map(|(name, path)| (*name, home.join(path)))
            .filter(|(name, path)| {
                // Go's is called as anything may be.
                *name != "GOPATH" || path.join("bin").is_dir() || path.join("pkg/mod").is_dir()
            })
            .collect()
    }

    /// Shows what variables name, or would name if they were set.
    fn variables(&mut self) {
        let variables = self.input.variables;
        let named = variables.iter().filter(|(name, _)| name != "PATH" && !is_choice(name));
        let named = named.flat_map(|(name, value)| {
            paths(name, value).into_iter().map(|path| (name.as_os_str(), path))
        });
        let defaults = self.defaults();
        let defaults = defaults.iter().map(|(name, path)| (OsStr::new(*name), path.clone()));
        for (name, path) in named.chain(defaults) {
            let writes = WRITTEN.iter().any(|written| name == *written);
            let access =
                if writes { ToolchainAccess::ThrowAway } else { ToolchainAccess::ReadOnly };
            self.shown.show_named(&path, access);
        }
        // One that was linked to a name may also be chosen by its path.
        let toolchain = self.variable("RUSTUP_TOOLCHAIN").map(PathBuf::from);
        if let Some(path) = toolchain.filter(|path| path.is_absolute()) {
            self.shown.show_named(&path, ToolchainAccess::ReadOnly);
        }
        if let Some(environment) = self.variable("VIRTUAL_ENV").map(PathBuf::from) {
            self.shown.show_environment(&environment);
        }
    }

    /// Shows what `PATH` reaches, and says which of its directories are there inside.
    fn path(&mut self) -> OsString {
        let path = self.variable("PATH").unwrap_or_default().to_owned();
        let mut kept: Vec<PathBuf> = Vec::new();
        for entry in std::env::split_paths(&path) {
            if !entry.is_absolute() || kept.contains(&entry) || is_of_windows(&entry) {
                continue;
            }
            // A command may make one in the workspace only later.
            if entry.starts_with(self.input.workspace) || self.shown.show_programs(&entry) {
                kept.push(entry);
            }
        }
        for entry in SYSTEM_PATH.iter().map(PathBuf::from) {
            if !kept.contains(&entry) {
                kept.push(entry);
            }
        }
        // An entry of a PATH cannot hold the separator, so they can be joined again.
        std::env::join_paths(kept).unwrap_or_default()
    }

    /// Tools that look for the user's choice of versions in the home directory find it there.
    fn tool_versions(&mut self) {
        let Some(choice) = self.home.as_ref().map(|home| home.join(TOOL_VERSIONS)) else { return };
        let chooses = self.shown.has_tree_called(&[".asdf", ".local/share/mise"]);
        if chooses && choice.is_file() {
            self.shown.show_file_at(&choice, &Path::new(crate::plan::HOME).join(TOOL_VERSIONS));
        }
    }

    /// The variables whose directories are there inside.
    fn variables_inside(&self) -> Vec<(OsString, OsString)> {
        let is_there = |path: &PathBuf| {
            super::trail::follow(path).is_some_and(|trail| self.shown.is_shown(&trail.real))
        };
        let own = self.input.variables.iter().filter(|(name, value)| {
            let there = || paths(name, value).iter().all(is_there);
            name != "PATH" && !value.is_empty() && (is_choice(name) || there())
        });
        let defaults = self.defaults().into_iter().filter(|(_, path)| is_there(path));
        let defaults = defaults.map(|(name, path)| (name.into(), path.into()));
        own.cloned().chain(defaults).collect()
    }
}

fn is_choice(name: &OsStr) -> bool {
    CHOICES.iter().any(|choice| name == *choice)
}

/// The directories that a variable names.
fn paths(name: &OsStr, value: &OsStr) -> Vec<PathBuf> {
    let blanks = BLANK_SEPARATED.iter().any(|separated| name == *separated);
    match value.to_str().filter(|_| blanks) {
        Some(value) => value.split_ascii_whitespace().map(PathBuf::from).collect(),
        None => std::env::split_paths(value).filter(|path| !path.as_os_str().is_empty()).collect(),
    }
}

/// Whether it is a directory of the Windows beneath. These are many, their programs are of no use here,
/// and to look through them takes seconds.
fn is_of_windows(path: &Path) -> bool {
    let mut parts = path.strip_prefix("/mnt").into_iter().flatten();
    let is_drive = parts.next().is_some_and(|drive| drive.len() == 1);
    is_drive
        && rustix::fs::statfs(path)
            .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == V9FS_MAGIC))
}
