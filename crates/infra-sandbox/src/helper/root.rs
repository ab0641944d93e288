//! The root file system of a session.
//!
//! Everything that comes from the host is taken hold of first, by descriptor, while the host's own
//! root is still there; then the new root is put together and entered, and the old one let go. No
//! path that a command could have touched is ever resolved here.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use super::confine::Writable;
use super::mounts::{self, NO_DEVICES, NO_SETUID, READ_ONLY};
use crate::spec::{SetupStage, Upper, View};

/// What hides: an empty file and an empty directory that nobody may open.
const HIDDEN_FILE: &str = "/.forge/file";
pub(super) const HIDDEN_DIRECTORY: &str = "/.forge/directory";

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
    pub(super) writable: Writable,
}

/// A mount that is held and not attached yet.
struct Held {
    mount: OwnedFd,
    target: PathBuf,
    is_directory: bool,
}

/// Puts the root together and enters it.
pub(super) fn enter(view: &View) -> Step<Entered> {
    let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mounting("making the mounts private", mount_change("/", propagation).map_err(Into::into))?;
    let mut held = hold(view)?;
    let lower = Layer::open(view.workspace.as_path(), &view.upper, SetupStage::Overlay)?;
    let layered = view
        .layered
        .iter()
        .map(|tree| Layer::open(tree.path.as_path(), &tree.upper, SetupStage::Mounts));
    let layered = layered.collect::<Step<Vec<Layer>>>()?;
    // From here on the host's files are reached by what is held, and no more by their paths.
    let stage = STAGES.iter().map(Path::new).find(|stage| stage.is_dir());
    let stage = stage.unwrap_or(Path::new("/"));
    let (workspace, upper) = lower.mount(stage)?;
    for layer in layered {
        let target = layer.path.clone();
        let (mount, _) = layer.mount(stage)?;
        held.push(Held { mount, target, is_directory: true });
    }
    // A tree is placed after what it stands in.
    held.sort_by(|left, right| left.target.cmp(&right.target));
    let processes = during(SetupStage::Proc, "mounting /proc", mounts::processes())?;
    let devices: Vec<Held> = DEVICES.iter().filter_map(|name| device(name)).collect();
    let terminals = mounting("making pseudo-terminals", mounts::terminals())?;

    let root = mounting("making the root", mounts::memory(ROOT_BYTES, "0755"))?;
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
    let target = view.workspace.as_path();
    mounting("showing the workspace", mounts::make_directories(CWD, target))?;
    mounting("showing the workspace", mounts::attach(&workspace, CWD, target))?;
    for (path, link) in &view.links {
        mounting(
            format!("linking {}", path.as_path().display()),
            make_link(path.as_path(), link.as_path()),
        )?;
    }
    let read_only =
        [c"/dev", c"/"].into_iter().try_for_each(|path| mounts::restrict_at(path, READ_ONLY));
    mounting("closing the root", read_only)?;
    // After the root is closed: what hides is a part of it, and is then as read-only.
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
        open(target, directory, Mode::empty()).map_err(Into::into),
    )?;
    Ok(Entered { workspace, scratch, upper, writable: writable(view) })
}

/// Takes hold of everything that comes from the host, but the workspace.
fn hold(view: &View) -> Step<Vec<Held>> {
    let mut held = Vec::new();
    for path in &view.trees {
        held.push(hold_one(path.as_path(), path.as_path(), NO_SETUID | NO_DEVICES | READ_ONLY)?);
    }
    for added in &view.added {
        let attributes = NO_SETUID | NO_DEVICES | if added.writable { 0 } else { READ_ONLY };
        held.push(hold_one(added.source.as_path(), added.target.as_path(), attributes)?);
    }
    Ok(held)
}

fn hold_one(source: &Path, target: &Path, attributes: u64) -> Step<Held> {
    let what = || format!("taking hold of {}", source.display());
    let mount = mounting(what(), mounts::copy_of(source))?;
    mounting(what(), mounts::restrict(&mount, attributes))?;
    Ok(Held { mount, target: target.to_path_buf(), is_directory: source.is_dir() })
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// A directory that gets a writable layer, both held.
struct Layer {
    path: PathBuf,
    lower: OwnedFd,
    upper: LayerUpper,
    stage: SetupStage,
}

enum LayerUpper {
    Directories(OwnedFd, OwnedFd),
    Memory(u64),
}

impl Layer {
    fn open(path: &Path, upper: &Upper, stage: SetupStage) -> Step<Self> {
        let open = |path: &Path| {
            during(stage, format!("opening {}", path.display()), open_directory(path))
        };
        let upper = match upper {
            Upper::Directories { upper, work } => {
                LayerUpper::Directories(open(upper.as_path())?, open(work.as_path())?)
            }
            Upper::Memory { max_bytes } => LayerUpper::Memory(*max_bytes),
        };
        Ok(Self { path: path.to_path_buf(), lower: open(path)?, upper, stage })
    }

    /// Mounts the overlay, attached nowhere yet, and gives the upper layer with it.
    fn mount(self, place: &Path) -> Step<(OwnedFd, OwnedFd)> {
        let Self { path, lower, upper, stage } = self;
        let what = || format!("mounting an overlay over {}", path.display());
        let (upper, work) = match upper {
            LayerUpper::Directories(upper, work) => (upper, work),
            LayerUpper::Memory(bytes) => during(stage, what(), memory_layers(bytes, place))?,
        };
        let mount = during(stage, what(), mounts::overlay(&lower, &upper, &work))?;
        Ok((mount, upper))
    }
}

/// An upper and a work directory in a new tmpfs. The kernel takes a layer only from a mount that is
/// attached in this namespace, so it is, at a place that is left behind with the old root.
fn memory_layers(bytes: u64, place: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let memory = mounts::memory(bytes, "0700")?;
    mounts::attach(&memory, CWD, place)?;
    let make = |name: &str| {
        rustix::fs::mkdirat(&memory, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok::<_, io::Error>(rustix::fs::openat(&memory, name, flags, Mode::empty())?)
    };
    Ok((make("upper")?, make("work")?))
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
    for name in ["proc", "dev", "sys", "run", "home", "root", "mnt", "media", "srv", "var", "tmp"] {
        fs::create_dir(Path::new("/").join(name))?;
    }
    for name in ["/var/lib", "/var/cache", "/var/log"] {
        fs::create_dir(name)?;
    }
    symlink("/run", "/var/run")?;
    // Beneath a link, the workspace would stand at another path than its own.
    if holds_target(view, "/var/tmp") {
        fs::create_dir("/var/tmp")?;
        private("/var/tmp".as_ref(), view.scratch_bytes, "1777")?;
    } else {
        symlink("/tmp", "/var/tmp")?;
    }
    fs::create_dir("/.forge")?;
    fs::create_dir(HIDDEN_DIRECTORY)?;
    fs::set_permissions(HIDDEN_DIRECTORY, std::os::unix::fs::PermissionsExt::from_mode(0o000))?;
    fs::write(HIDDEN_FILE, "")?;
    fs::set_permissions(HIDDEN_FILE, std::os::unix::fs::PermissionsExt::from_mode(0o000))?;
    private("/tmp".as_ref(), view.scratch_bytes, "1777")?;
    fs::create_dir(SCRATCH)?;
    fs::set_permissions(SCRATCH, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    mounts::make_directories(CWD, view.home.as_path())?;
    private(view.home.as_path(), view.scratch_bytes, "0755")
}

/// Whether anything of the host is to stand in a directory.
fn holds_target(view: &View, directory: &str) -> bool {
    let trees = view.trees.iter().chain(view.layered.iter().map(|tree| &tree.path));
    let added = view.added.iter().map(|added| &added.target);
    let mut all = trees.chain(added).chain([&view.workspace]);
    all.any(|path| path.as_path().starts_with(directory))
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

/// What Landlock lets commands write: what the mounts do.
fn writable(view: &View) -> Writable {
    let mut directories: Vec<PathBuf> =
        ["/tmp", "/var/tmp", "/dev/shm", "/dev/pts"].into_iter().map(PathBuf::from).collect();
    directories.push(view.home.as_path().to_path_buf());
    directories.push(view.workspace.as_path().to_path_buf());
    directories.extend(view.layered.iter().map(|tree| tree.path.as_path().to_path_buf()));
    let added = view.added.iter().filter(|added| added.writable);
    directories.extend(added.map(|added| added.target.as_path().to_path_buf()));
    let files =
        DEVICES.iter().map(|name| Path::new("/dev").join(name)).filter(|path| path.exists());
    Writable { directories, files: files.collect() }
}

/// Parts of `/proc` that show or change what is the machine's and not the session's.
const PROC_READ_ONLY: [&std::ffi::CStr; 6] =
    [c"/proc/sys", c"/proc/irq", c"/proc/bus", c"/proc/fs", c"/proc/sysrq-trigger", c"/proc/mtrr"];
const PROC_HIDDEN: [&str; 12] = [
    "kcore",
    "keys",
    "timer_list",
    "kmsg",
    "kallsyms",
    "acpi",
    "scsi",
    "sched_debug",
    "latency_stats",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
];

/// Mounts a `/proc` of the current pid namespace over the one that is there, with its masks. What is to
/// be masked is found out once, by [`ProcMasks::find`].
pub(super) fn fresh_proc(masks: &ProcMasks) -> io::Result<()> {
    let processes = mounts::processes()?;
    mounts::attach(&processes, CWD.as_fd(), Path::new("/proc"))?;
    masks.apply()
}

/// Which parts of `/proc` this kernel has that are masked.
#[derive(Debug, Clone, Default)]
pub(super) struct ProcMasks {
    read_only: Vec<&'static std::ffi::CStr>,
    hidden: Vec<(PathBuf, &'static str)>,
}

impl ProcMasks {
    pub(super) fn find() -> Self {
        let exists =
            |path: &&std::ffi::CStr| rustix::fs::access(*path, rustix::fs::Access::EXISTS).is_ok();
        let read_only = PROC_READ_ONLY.into_iter().filter(exists).collect();
        let hidden = PROC_HIDDEN.iter().filter_map(|name| {
            let path = Path::new("/proc").join(name);
            let kind = fs::symlink_metadata(&path).ok()?;
            Some((path, if kind.is_dir() { HIDDEN_DIRECTORY } else { HIDDEN_FILE }))
        });
        Self { read_only, hidden: hidden.collect() }
    }

    pub(super) fn apply(&self) -> io::Result<()> {
        for path in &self.read_only {
            mount_bind(*path, *path)?;
            mounts::restrict_at(path, READ_ONLY)?;
        }
        for (path, source) in &self.hidden {
            mount_bind(*source, path)?;
        }
        Ok(())
    }
}
