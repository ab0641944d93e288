//! What a session is to see, decided on the host: from the configuration to a [`SessionSpec`].

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use forge_domain::{EnvironmentError, EnvironmentKind, EnvironmentVariable, Network};
use rustix::fs::{Mode, OFlags};

use crate::config::{AddedAccess, SandboxConfig};
use crate::secrets::{self, HiddenPaths};
use crate::spec::{
    AddedDirectory, LayeredTree, LimitsSpec, NetworkSpec, RawPath, SessionSpec, Upper, View,
    ViewKind,
};
use crate::store::OpenSession;
use crate::system;
use crate::toolchains::{self, ToolchainAccess, ToolchainInput};

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
) -> Result<Plan, EnvironmentError> {
    let workspace = &config.workspace.root;
    refuse_nested_mounts(workspace)?;
    let system = system::view();
    let toolchains = toolchains::plan(&ToolchainInput {
        variables: &config.toolchain_variables,
        home: config.home.as_deref(),
        workspace,
        state: &config.state_directory,
        system: &system.trees,
    });
    let hidden =
        hidden(config).map_err(|error| unavailable("the workspace cannot be read", error))?;
    let scratch_bytes = scratch_bytes(config);

    let mut masks: Vec<RawPath> = system.masks.into_iter().map(RawPath::from).collect();
    let paths = hidden.files.iter().chain(&hidden.directories);
    masks.extend(paths.map(|path| RawPath::from(workspace.join(path))));
    let mut trees: Vec<RawPath> = system.trees.into_iter().map(RawPath::from).collect();
    let mut layered = Vec::new();
    let mut links = system.links;
    for tree in toolchains.trees {
        match tree.access {
            ToolchainAccess::ReadOnly => trees.push(tree.path.into()),
            ToolchainAccess::ThrowAway => layered.push(LayeredTree {
                path: tree.path.into(),
                upper: Upper::Memory { max_bytes: scratch_bytes },
            }),
        }
        masks.extend(tree.masks.into_iter().map(RawPath::from));
    }
    links.extend(toolchains.links);
    if let Some(git) = outside_git_directory(workspace) {
        let upper = session
            .outside_layer()
            .map_err(|error| unavailable("the session's layer for git cannot be made", error))?;
        layered.push(LayeredTree { path: git.into(), upper });
    }
    let mut added: Vec<AddedDirectory> = config
        .added
        .iter()
        .map(|added| AddedDirectory {
            source: added.source.clone().into(),
            target: added.source.clone().into(),
            writable: added.access == AddedAccess::ReadWrite,
        })
        .collect();
    if config.network == Network::Full {
        added.extend(resolver(&trees));
    }
    let view = View {
        kind: ViewKind::Listed,
        workspace: workspace.clone().into(),
        upper: session.upper_layer(),
        trees,
        layered,
        links: links.into_iter().map(|(path, target)| (path.into(), target.into())).collect(),
        masks,
        added,
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
    let spec = SessionSpec { view, network, limits, layers: config.layers };
    Ok(Plan { spec, environment, hidden })
}

fn unavailable(reason: &str, source: io::Error) -> EnvironmentError {
    EnvironmentError::Unavailable {
        environment: EnvironmentKind::Sandbox,
        reason: reason.to_owned(),
        source: Some(Box::new(source)),
    }
}

/// What an overlay shows of its lower layer is one file system: what is mounted beneath would be
/// missing from it, silently.
fn refuse_nested_mounts(workspace: &Path) -> Result<(), EnvironmentError> {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    match nested_mount(&mounts, workspace) {
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

/// A mount point strictly beneath a directory, in the lines of mountinfo (proc_pid_mountinfo(5)).
fn nested_mount(mountinfo: &[u8], directory: &Path) -> Option<PathBuf> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let point = line.split(|byte| *byte == b' ').nth(4)?;
        let path = PathBuf::from(OsString::from_vec(unescaped(point)));
        (path != directory && path.starts_with(directory)).then_some(path)
    })
}

/// Octal escapes of white space and backslashes.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
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
fn scratch_bytes(config: &SandboxConfig) -> u64 {
    config.limits.memory_bytes.map_or(MAX_SCRATCH_BYTES, |bytes| (bytes / 2).min(MAX_SCRATCH_BYTES))
}

/// The git directory of a linked worktree or a submodule, where that lies outside of the workspace:
/// the one that its worktrees share (gitrepository-layout(5)).
fn outside_git_directory(workspace: &Path) -> Option<PathBuf> {
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
fn resolver(trees: &[RawPath]) -> Option<AddedDirectory> {
    let real = Path::new("/etc/resolv.conf").canonicalize().ok()?;
    if trees.iter().any(|tree| real.starts_with(tree.as_path())) {
        return None;
    }
    let source = RawPath::from(real);
    Some(AddedDirectory { target: source.clone(), source, writable: false })
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
    fn a_mount_beneath_the_workspace_is_found() {
        let line = |point: &str| format!("36 35 98:0 / {point} rw,noatime - ext3 /dev/root rw\n");
        let of = |points: &[&str]| {
            let lines: String = points.iter().map(|point| line(point)).collect();
            nested_mount(lines.as_bytes(), Path::new("/work/a b"))
        };
        assert_eq!(of(&["/", "/work", "/work/a\\040b", "/work/a\\040bc"]), None);
        assert_eq!(of(&["/", "/work/a\\040b/data"]), Some(PathBuf::from("/work/a b/data")));
    }

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
