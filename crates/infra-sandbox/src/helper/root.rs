//! The root file system of a session.
//!
//! Everything that comes from the host is taken hold of first, by descriptor, while the host's own
//! root is still there; then the new root is put together and entered, and the old one let go. No
//! path that a command could have touched is ever resolved here.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use super::confine::Writable;
use super::mounts::{self, Changeable, NO_DEVICES, NO_SETUID, READ_ONLY};
use super::shown::{self, Held, Layer};
use crate::spec::{Access, Keeping, Root, SetupStage, Shown, Upper, View};

/// What hides: an empty file and an empty directory that nobody may open.
pub(super) const HIDDEN_FILE: &str = "/.forge/file";
pub(super) const HIDDEN_DIRECTORY: &str = "/.forge/directory";

/// Where a session whose every path can be written keeps what it wrote beside that which is shown.
pub(crate) const WRITTEN: &str = "root";

/// The scratch directory inside.
pub(crate) const SCRATCH: &str = "/tmp/forge";

/// Devices that commands may use.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Where the new root stands until it is entered; one of them is there on every system.
const STAGES: [&str; 3] = ["/tmp", "/var", "/usr"];

/// The root's own tmpfs holds mount points and nothing else.
const ROOT_BYTES: u64 = 16 * 1024 * 1024;

/// What was being done when the kernel refused, and why it did.
pub(super) type Step<T> = Result<T, (SetupStage, String, io::Error)>;

pub(super) fn during<T>(
    stage: SetupStage,
    what: impl Into<String>,
    result: io::Result<T>,
) -> Step<T> {
    result.map_err(|error| (stage, what.into(), error))
}

fn mounting<T>(what: impl Into<String>, result: io::Result<T>) -> Step<T> {
    during(SetupStage::Mounts, what, result)
}

/// What the host's side works on.
pub(super) struct Entered {
    pub(super) workspace: OwnedFd,
    pub(super) scratch: OwnedFd,
    pub(super) upper: OwnedFd,
    /// The layers beside the workspace's that the host's side keeps.
    pub(super) kept: Vec<OwnedFd>,
    pub(super) writable: Writable,
}

/// Puts the root together and enters it.
pub(super) fn enter(view: &View) -> Step<Entered> {
    let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mounting("making the mounts private", mount_change("/", propagation).map_err(Into::into))?;
    let writable = writable(view);
    let taken = shown::take(&view.shown)?;
    let own = Own::open(&view.root)?;
    // From here on the host's files are reached by what is held, and no more by their paths.
    let stage = STAGES.iter().map(Path::new).find(|stage| stage.is_dir());
    let stage = stage.unwrap_or(Path::new("/"));
    let (root, upper, workspace) = own.mount(stage)?;
    let (mut held, kept) = shown::make(taken, stage, &writable)?;
    held.extend(workspace);
    // A tree is placed after what it stands in.
    held.sort_by(|left, right| left.target.cmp(&right.target));
    let processes = during(SetupStage::Proc, "mounting /proc", mounts::processes(Changeable::Yes))?;
    let devices: Vec<Held> = DEVICES.iter().filter_map(|name| device(name)).collect();
    let terminals = mounting("making pseudo-terminals", mounts::terminals())?;

    mounting("placing the root", mounts::attach(&root, CWD, stage))?;
    mounting("entering the root", rustix::process::fchdir(&root).map_err(Into::into))?;
    mounting("entering the root", rustix::process::pivot_root(".", ".").map_err(Into::into))?;
    mounting("leaving the old root", unmount(".", UnmountFlags::DETACH).map_err(Into::into))?;

    mounting("laying out the root", lay_out(view))?;
    mounting("mounting /proc", mounts::attach(&processes, CWD, Path::new("/proc")))?;
    mounting("making /dev", lay_out_devices(devices, &terminals))?;
    for one in &held {
        mounting(format!("showing {}", one.target.display()), place(one))?;
    }
    for (path, link) in &view.links {
        mounting(
            format!("linking {}", path.as_path().display()),
            make_link(path.as_path(), link.as_path()),
        )?;
    }
    let closed: &[&std::ffi::CStr] = match &view.root {
        Root::Listed { .. } => &[c"/dev", c"/"],
        Root::Whole { .. } => &[c"/dev", c"/.forge"],
    };
    let read_only = closed.iter().try_for_each(|path| mounts::restrict_at(path, READ_ONLY));
    mounting("closing the root", read_only)?;
    // After what hides is closed, so that it is as read-only.
    for path in &view.masks {
        mounting(format!("hiding {}", path.as_path().display()), hide(path.as_path()))?;
    }
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let scratch = mounting(
        "opening the scratch directory",
        open(SCRATCH, directory, Mode::empty()).map_err(Into::into),
    )?;
    // Not the descriptor of the mount: the path may have been mounted over, by a mask.
    let workspace = mounting(
        "opening the workspace",
        open(workspace_of(view), directory, Mode::empty()).map_err(Into::into),
    )?;
    Ok(Entered { workspace, scratch, upper, kept, writable })
}

/// The workspace's path inside.
pub(super) fn workspace_of(view: &View) -> &Path {
    match &view.root {
        Root::Listed { workspace, .. } => workspace.as_path(),
        Root::Whole { .. } => Path::new("/"),
    }
}

/// The overlays over what people of the host work on while the session stands: the workspace and its git directory. Not
/// toolchains and the like, which would be slower after it.
pub(super) fn overlays(view: &View) -> Vec<PathBuf> {
    let is_worked_on = |shown: &&Shown| match &shown.access {
        Access::Layered(Upper::Directories { .. })
        | Access::Layered(Upper::Memory { keeping: Keeping::Kept { .. }, .. }) => true,
        Access::ReadOnly
        | Access::Apart
        | Access::ReadWrite
        | Access::Layered(Upper::Memory { keeping: Keeping::ThrowAway, .. }) => false,
    };
    let shown = view.shown.iter().filter(is_worked_on).map(|shown| shown.path.0.clone());
    let workspace = match &view.root {
        Root::Listed { workspace, .. } => Some(workspace.0.clone()),
        Root::Whole { .. } => None,
    };
    shown.chain(workspace).collect()
}

/// What holds that which the session writes, taken hold of.
enum Own {
    Layer(Layer),
    Whole { upper: OwnedFd, root: OwnedFd },
}

impl Own {
    fn open(root: &Root) -> Step<Self> {
        match root {
            Root::Listed { workspace, upper } => {
                Layer::open(workspace.as_path(), upper, SetupStage::Overlay).map(Self::Layer)
            }
            Root::Whole { upper } => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = upper.as_path().join(WRITTEN);
                let opened = open(upper.as_path(), flags, Mode::empty());
                let upper = mounting("opening the root", opened.map_err(Into::into))?;
                let held = mounts::copy_of(&root).and_then(|root| {
                    mounts::restrict(&root, NO_SETUID | NO_DEVICES).map(|()| root)
                });
                Ok(Self::Whole { upper, root: mounting("opening the root", held)? })
            }
        }
    }

    /// The root, where what is written goes, and the workspace where it is a mount of its own.
    fn mount(self, stage: &Path) -> Step<(OwnedFd, OwnedFd, Option<Held>)> {
        match self {
            Self::Layer(layer) => {
                let (workspace, upper) = layer.mount(stage)?;
                let root = mounting("making the root", mounts::memory(ROOT_BYTES, "0755"))?;
                Ok((root, upper, Some(workspace)))
            }
            Self::Whole { upper, root } => Ok((root, upper, None)),
        }
    }
}

/// A device of the host; one that the host lacks is left out.
fn device(name: &str) -> Option<Held> {
    let path = Path::new("/dev").join(name);
    let mount = mounts::copy_of(&path).ok()?;
    mounts::restrict(&mount, NO_SETUID).ok()?;
    Some(Held { mount, target: path, is_directory: false })
}

/// Directories that are there and empty, and those that are private and writable.
fn lay_out(view: &View) -> io::Result<()> {
    let in_memory = matches!(view.root, Root::Listed { .. });
    let writable = |path: &Path, mode: u32| {
        if in_memory {
            return private(path, view.scratch_bytes, &format!("{mode:o}"));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    for name in ["proc", "dev", "sys", "run", "home", "root", "mnt", "media", "srv", "var", "tmp"] {
        directory(&Path::new("/").join(name))?;
    }
    for name in ["/var/lib", "/var/cache", "/var/log"] {
        directory(name.as_ref())?;
    }
    link("/run", "/var/run")?;
    // Beneath a link, the workspace would stand at another path than its own.
    if holds_target(view, "/var/tmp") || fs::symlink_metadata("/var/tmp").is_ok() {
        directory("/var/tmp".as_ref())?;
        writable("/var/tmp".as_ref(), 0o1777)?;
    } else {
        link("/tmp", "/var/tmp")?;
    }
    directory("/.forge".as_ref())?;
    if !in_memory {
        private("/.forge".as_ref(), ROOT_BYTES, "0755")?;
    }
    fs::create_dir(HIDDEN_DIRECTORY)?;
    fs::set_permissions(HIDDEN_DIRECTORY, fs::Permissions::from_mode(0o000))?;
    fs::write(HIDDEN_FILE, "")?;
    fs::set_permissions(HIDDEN_FILE, fs::Permissions::from_mode(0o000))?;
    writable("/tmp".as_ref(), 0o1777)?;
    directory(SCRATCH.as_ref())?;
    fs::set_permissions(SCRATCH, fs::Permissions::from_mode(0o700))?;
    mounts::make_directories(CWD, view.home.as_path())?;
    writable(view.home.as_path(), 0o755)
}

/// Makes a directory, or keeps the one that is there.
fn directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn link(target: &str, path: &str) -> io::Result<()> {
    match symlink(target, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Whether anything of the host is to stand in a directory.
fn holds_target(view: &View, directory: &str) -> bool {
    let mut all = view.shown.iter().map(|shown| shown.path.as_path()).chain([workspace_of(view)]);
    all.any(|path| path.starts_with(directory))
}

fn private(path: &Path, bytes: u64, mode: &str) -> io::Result<()> {
    mounts::attach(&mounts::memory(bytes, mode)?, CWD, path)
}

fn lay_out_devices(devices: Vec<Held>, terminals: &OwnedFd) -> io::Result<()> {
    private("/dev".as_ref(), ROOT_BYTES, "0755")?;
    for device in devices {
        place(&device)?;
    }
    fs::create_dir("/dev/pts")?;
    mounts::attach(terminals, CWD, Path::new("/dev/pts"))?;
    fs::create_dir("/dev/shm")?;
    private("/dev/shm".as_ref(), ROOT_BYTES * 64, "1777")?;
    symlink("pts/ptmx", "/dev/ptmx")?;
    symlink("/proc/self/fd", "/dev/fd")?;
    for (number, name) in ["stdin", "stdout", "stderr"].iter().enumerate() {
        symlink(format!("/proc/self/fd/{number}"), Path::new("/dev").join(name))?;
    }
    Ok(())
}

fn place(held: &Held) -> io::Result<()> {
    if held.is_directory {
        mounts::make_directories(CWD, &held.target)?;
    } else {
        mounts::make_file(CWD, &held.target)?;
    }
    mounts::attach(&held.mount, CWD, &held.target)
}

/// Mounts emptiness over a path. What is not there needs no hiding.
fn hide(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if metadata.is_symlink() {
        return Ok(());
    }
    let source = if metadata.is_dir() { HIDDEN_DIRECTORY } else { HIDDEN_FILE };
    Ok(mount_bind(source, path)?)
}

fn make_link(path: &Path, target: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        mounts::make_directories(CWD, parent)?;
    }
    match symlink(target, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// What Landlock lets commands write: what the mounts do. Where every path can be written, it holds no
/// path a second time: its rules are for whole trees.
fn writable(view: &View) -> Writable {
    let mut directories: Vec<PathBuf> = match &view.root {
        Root::Whole { .. } => vec!["/".into()],
        Root::Listed { workspace, .. } => {
            let own = ["/tmp", "/var/tmp", "/dev/shm", "/dev/pts"].map(PathBuf::from);
            own.into_iter().chain([workspace.0.clone(), view.home.0.clone()]).collect()
        }
    };
    let is_writable =
        |shown: &&Shown| matches!(shown.access, Access::ReadWrite | Access::Layered(_));
    directories.extend(view.shown.iter().filter(is_writable).map(|shown| shown.path.0.clone()));
    let files =
        DEVICES.iter().map(|name| Path::new("/dev").join(name)).filter(|path| path.exists());
    Writable { directories, files: files.collect() }
}
