//! What a session is to see, decided on the host: from the configuration to a [`SessionSpec`].

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use forge_domain::{EnvironmentError, EnvironmentKind, EnvironmentVariable, Network};
use rustix::fs::{Mode, OFlags};

use crate::config::{AddedAccess, ProcessView, SandboxConfig, SandboxView};
use crate::mount_points::MountPoints;
use crate::secrets::{self, HiddenPaths};
use crate::spec::{
    Access, Keeping, LimitsSpec, NetworkSpec, ProcessesSpec, RawPath, Root, SessionSpec, Shown,
    Upper, View,
};
use crate::store::{LayerPlace, OpenSession};
use crate::system;
use crate::toolchains::{self, ToolchainAccess, ToolchainInput};
use crate::whole;

/// The home directory inside.
pub(crate) const HOME: &str = "/home/forge";

/// How large a private directory in memory may become, at the most.
const MAX_SCRATCH_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// A session that is to be started, and what there is to say about it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) spec: SessionSpec,
    /// The variables that every command gets, `NAME=VALUE` each; of a name, the last counts.
    pub(crate) environment: Vec<OsString>,
    /// What of the project is hidden.
    pub(crate) hidden: HiddenPaths,
}

/// Decides what a session sees. Reads the host, changes nothing but the session's own directory.
pub(crate) fn plan(
    config: &SandboxConfig,
    session: &OpenSession,
    place: LayerPlace,
) -> Result<Plan, EnvironmentError> {
    let workspace = &config.workspace.root;
    let mounts = MountPoints::read();
    let system = system::view();
    // What is secret on the host and where its toolchains are takes as long to be found out, each.
    let (system_masks, toolchains) = std::thread::scope(|scope| {
        let masks = scope.spawn(system::masks);
        let toolchains = toolchains::plan(&ToolchainInput {
            variables: &config.toolchain_variables,
            home: config.home.as_deref(),
            workspace,
            state: &config.state_directory,
            system: &system.trees,
        });
        (masks.join(), toolchains)
    });
    let mut masks = system_masks.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let scratch_bytes = scratch_bytes(config);
    let mut links = system.links;
    masks.extend(toolchains.trees.iter().flat_map(|tree| tree.masks.iter().cloned()));
    links.extend(toolchains.links);

    let (root, mut shown, hidden) = match config.view {
        SandboxView::Workspace => {
            refuse_nested_mounts(&mounts, workspace)?;
            let hidden = hidden(config)
                .map_err(|error| unavailable("the workspace cannot be read", error))?;
            let paths = hidden.files.iter().chain(&hidden.directories);
            masks.extend(paths.map(|path| workspace.join(path)));
            let mut shown: Vec<Shown> =
                system.trees.into_iter().map(|path| show(path, Access::ReadOnly)).collect();
            shown.extend(toolchains.trees.into_iter().map(|tree| match tree.access {
                // Nothing can be layered over a tree in which something is mounted. Most tools work where
                // they cannot write there.
                _ if mounts.beneath(&tree.path).is_some() => show(tree.path, Access::ReadOnly),
                ToolchainAccess::ReadOnly => show(tree.path, Access::Apart),
                ToolchainAccess::ThrowAway => show(tree.path, throw_away(scratch_bytes)),
            }));
            if let Some(git) = outside_git_directory(workspace) {
                let upper = session.outside_layer(place).map_err(|error| {
                    unavailable("the session's layer for git cannot be made", error)
                })?;
                shown.push(show(git, Access::Layered(upper)));
            }
            let root = Root::Listed {
                workspace: workspace.clone().into(),
                upper: session.upper_layer(place),
            };
            (root, shown, hidden)
        }
        SandboxView::WholeRoot => {
            let trees = system.trees.into_iter();
            let trees = trees.chain(toolchains.trees.into_iter().map(|tree| tree.path));
            let whole = whole::plan(trees, &mounts, session)
                .map_err(|error| unavailable("the session's root cannot be made", error))?;
            (whole.root, whole.shown, HiddenPaths::default())
        }
    };
    shown.extend(config.added.iter().map(|added| {
        let access = match added.access {
            AddedAccess::ReadWrite => Access::ReadWrite,
            AddedAccess::ReadOnly if added.source.is_dir() => Access::Apart,
            AddedAccess::ReadOnly => Access::ReadOnly,
        };
        show(added.source.clone(), access)
    }));
    if config.network == Network::Full {
        shown.extend(resolver(&shown));
    }
    let view = View {
        root,
        shown,
        links: links.into_iter().map(|(path, target)| (path.into(), target.into())).collect(),
        masks: masks.into_iter().map(RawPath::from).collect(),
        home: HOME.into(),
        scratch_bytes,
    };
    let limits = &config.limits;
    let limits = LimitsSpec {
        processes: limits.processes,
        open_files: limits.open_files,
        file_bytes: limits.file_bytes,
        memory_bytes: limits.memory_bytes,
        milli_cpus: limits.milli_cpus,
    };
    let network = match config.network {
        Network::None => NetworkSpec::None,
        Network::Full => NetworkSpec::Full,
    };
    let environment = environment(config, &toolchains.path, &toolchains.variables);
    let processes = match config.processes {
        ProcessView::Separate => ProcessesSpec::Separate,
        ProcessView::Shared => ProcessesSpec::Shared,
    };
    let spec = SessionSpec { view, network, limits, processes, layers: config.layers };
    Ok(Plan { spec, environment, hidden })
}

fn unavailable(reason: &str, source: io::Error) -> EnvironmentError {
    EnvironmentError::Unavailable {
        environment: EnvironmentKind::Sandbox,
        reason: reason.to_owned(),
        source: Some(Box::new(source)),
    }
}

fn throw_away(max_bytes: u64) -> Access {
    Access::Layered(Upper::Memory { max_bytes, keeping: Keeping::ThrowAway })
}

fn show(path: PathBuf, access: Access) -> Shown {
    Shown { path: path.into(), access }
}

/// What an overlay shows of its lower layer is one file system: what is mounted beneath would be
/// missing from it, silently.
fn refuse_nested_mounts(mounts: &MountPoints, workspace: &Path) -> Result<(), EnvironmentError> {
    match mounts.beneath(workspace) {
        None => Ok(()),
        Some(mount) => Err(EnvironmentError::Unavailable {
            environment: EnvironmentKind::Sandbox,
            reason: format!(
                "another file system is mounted in the workspace, at {}; work in a directory that \
                 does not hold it, or unmount it",
                mount.display()
            ),
            source: None,
        }),
    }
}

fn hidden(config: &SandboxConfig) -> io::Result<HiddenPaths> {
    let root = &config.workspace.root;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, flags, Mode::empty())?;
    let include: Vec<PathBuf> = config
        .include
        .iter()
        .map(|path| config.workspace.working_directory.join(path))
        .filter_map(|path| path.strip_prefix(root).map(Path::to_path_buf).ok())
        .collect();
    secrets::find(directory.as_fd(), &include)
}

/// Half of what the session may have in memory, within bounds.
pub(crate) fn scratch_bytes(config: &SandboxConfig) -> u64 {
    config.limits.memory_bytes.map_or(MAX_SCRATCH_BYTES, |bytes| (bytes / 2).min(MAX_SCRATCH_BYTES))
}

/// The git directory of a linked worktree or a submodule, where that lies outside of the workspace:
/// the one that its worktrees share (gitrepository-layout(5)).
pub(crate) fn outside_git_directory(workspace: &Path) -> Option<PathBuf> {
    let text = fs::read(workspace.join(".git")).ok()?;
    let path = text.strip_prefix(b"gitdir: ")?;
    let path = path.strip_suffix(b"\n").unwrap_or(path);
    let own = workspace.join(OsString::from_vec(path.to_vec())).canonicalize().ok()?;
    let common = fs::read(own.join("commondir")).ok().and_then(|text| {
        let text = text.strip_suffix(b"\n").unwrap_or(&text).to_vec();
        own.join(OsString::from_vec(text)).canonicalize().ok()
    });
    let directory = common.unwrap_or(own);
    // A git directory, and nothing else that a file of the project names.
    let is_git = directory.join("objects").is_dir() && directory.join("HEAD").exists();
    (is_git && !directory.starts_with(workspace)).then_some(directory)
}

/// The file that names are resolved with, where `/etc/resolv.conf` leads to one that is not shown.
fn resolver(shown: &[Shown]) -> Option<Shown> {
    let real = Path::new("/etc/resolv.conf").canonicalize().ok()?;
    let is_shown = shown.iter().any(|shown| real.starts_with(shown.path.as_path()));
    (!is_shown).then(|| show(real, Access::ReadOnly))
}

fn environment(
    config: &SandboxConfig,
    path: &std::ffi::OsStr,
    toolchains: &[(OsString, OsString)],
) -> Vec<OsString> {
    let mut environment = Vec::new();
    let mut put = |name: &[u8], value: &[u8]| {
        environment.push(OsString::from_vec([name, b"=", value].concat()));
    };
    let root = rustix::process::geteuid().is_root();
    put(b"HOME", HOME.as_bytes());
    put(b"LANG", b"C.UTF-8");
    put(b"LOGNAME", if root { b"root" } else { b"forge" });
    put(b"PATH", path.as_bytes());
    put(b"SHELL", config.shell.as_os_str().as_bytes());
    put(b"TMPDIR", b"/tmp");
    put(b"USER", if root { b"root" } else { b"forge" });
    if root {
        // Without capabilities not even root gives files away, which tar would try.
        put(b"TAR_OPTIONS", b"--no-same-owner");
    }
    for (name, value) in toolchains {
        put(name.as_bytes(), value.as_bytes());
    }
    environment.extend(config.environment.iter().map(joined));
    environment
}

/// `NAME=VALUE`.
pub(crate) fn joined(variable: &EnvironmentVariable) -> OsString {
    let (name, value) = (variable.name().as_os_str(), variable.value().expose());
    OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn the_shared_git_directory_of_a_worktree_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (main, tree) = (root.join("main/.git"), root.join("tree"));
        fs::create_dir_all(main.join("worktrees/tree")).unwrap();
        fs::create_dir_all(main.join("objects")).unwrap();
        fs::create_dir_all(&tree).unwrap();
        fs::write(main.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(main.join("worktrees/tree/commondir"), "../..\n").unwrap();
        let gitdir = format!("gitdir: {}\n", main.join("worktrees/tree").display());
        fs::write(tree.join(".git"), gitdir).unwrap();
        assert_eq!(outside_git_directory(&tree), Some(main));
    }

    #[test]
    fn what_is_no_git_directory_is_not_brought_along() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(".git"), "gitdir: /etc\n").unwrap();
        assert_eq!(outside_git_directory(directory.path()), None);
    }
}
