//! Groups that bound a session as a whole (cgroups(7)), where they can be had.
//!
//! Two layouts are known: version 2, where an ancestor of this process's group is delegated to the
//! user and hands memory and processes on; and the hierarchies of version 1, for root. Where neither can
//! be had, the session has none, and says which limits therefore do not hold.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::spec::SessionSpec;

const ROOT: &str = "/sys/fs/cgroup";

/// How long the kernel lets a group run in a period, in microseconds.
const PERIOD_US: u64 = 100_000;

/// The groups of one session. Nothing is removed by a drop: see [`Cgroups::remove`].
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    memory: Option<Group>,
    processes: Option<Group>,
    cpus: Option<Group>,
    /// Version 2, where the process was put into its group by [`Cgroups::make`].
    unified: bool,
}

#[derive(Debug, Clone)]
struct Group {
    directory: PathBuf,
    /// The file whose line `oom_kill` counts those whom the kernel ended for their memory.
    events: &'static str,
}

impl Cgroups {
    /// Makes what can be had, for the process to be put into. Whatever fails is left out.
    pub(super) fn make(pid: i32, spec: &SessionSpec) -> Self {
        let layers = spec.layers;
        if !layers.limits || !layers.namespaces {
            return Self::default();
        }
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if Path::new(ROOT).join("cgroup.controllers").exists() {
            Self::unified(pid, spec, &own)
        } else {
            Self::hierarchies(pid, spec, &own)
        }
    }

    pub(super) fn memory_bounded(&self) -> bool {
        self.memory.is_some()
    }

    pub(super) fn cpus_bounded(&self) -> bool {
        self.cpus.is_some()
    }

    pub(super) fn processes_bounded(&self) -> bool {
        self.processes.is_some()
    }

    /// The files with which the session's init puts itself into its groups: see [`join`].
    pub(super) fn to_join(&self) -> Vec<PathBuf> {
        if self.unified {
            return Vec::new();
        }
        let groups = [&self.memory, &self.processes, &self.cpus];
        groups.into_iter().flatten().map(|group| group.directory.join("tasks")).collect()
    }

    /// The file that counts ends for want of memory.
    pub(super) fn memory_events(&self) -> Option<PathBuf> {
        self.memory.as_ref().map(|group| group.directory.join(group.events))
    }

    /// Removes the groups, once nobody is in them; says whether they are gone.
    pub(super) fn remove(&self) -> bool {
        let groups = [&self.memory, &self.processes, &self.cpus];
        groups.into_iter().flatten().fold(true, |gone, group| {
            let removed = match fs::remove_dir(&group.directory) {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            gone && removed
        })
    }

    fn unified(pid: i32, spec: &SessionSpec, own: &str) -> Self {
        let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
            return Self::default();
        };
        let own = Path::new(ROOT).join(path);
        // A group that holds processes cannot hand controllers on, so this one's own is passed over,
        // unless it is the root of all.
        let ancestors = own.ancestors().take_while(|group| group.starts_with(ROOT));
        let skipped = usize::from(own != Path::new(ROOT));
        for parent in ancestors.skip(skipped) {
            if !hands_on(parent) {
                continue;
            }
            let group = Group { directory: parent.join(name(pid)), events: "memory.events" };
            if unified_group(pid, spec, &group).is_ok() {
                let cpus = spec.limits.milli_cpus.map(|_| group.clone());
                let memory = spec.limits.memory_bytes.map(|_| group.clone());
                return Self { memory, processes: Some(group), cpus, unified: true };
            }
            drop(fs::remove_dir(&group.directory));
        }
        Self::default()
    }

    fn hierarchies(pid: i32, spec: &SessionSpec, own: &str) -> Self {
        let make = |controller: &str, files: Vec<(&str, String)>| {
            let directory = hierarchy(own, controller)?.join(name(pid));
            fs::create_dir(&directory).ok()?;
            let set = || {
                files.iter().try_for_each(|(file, value)| fs::write(directory.join(file), value))
            };
            if set().is_err() {
                drop(fs::remove_dir(&directory));
                return None;
            }
            Some(Group { directory, events: "memory.oom_control" })
        };
        let limits = &spec.limits;
        let memory = limits.memory_bytes.and_then(|bytes| {
            let group = make("memory", vec![("memory.limit_in_bytes", bytes.to_string())])?;
            // Kernels without accounting of swap lack the file.
            drop(fs::write(group.directory.join("memory.memsw.limit_in_bytes"), bytes.to_string()));
            Some(group)
        });
        let processes = make("pids", vec![("pids.max", limits.processes.to_string())]);
        let cpus = limits.milli_cpus.and_then(|cpus| {
            let quota = (cpus * PERIOD_US / 1000).max(1000).to_string();
            let files =
                vec![("cpu.cfs_period_us", PERIOD_US.to_string()), ("cpu.cfs_quota_us", quota)];
            make("cpu", files)
        });
        Self { memory, processes, cpus, unified: false }
    }
}

/// Puts this process, which has a single thread, into the groups of version 1.
///
/// Whoever moves another process takes a lock that stops the whole machine's forks and exits, and waits
/// for a grace period of RCU, which is 20 ms and more; a thread that moves itself takes none.
pub(super) fn join(files: &[PathBuf]) -> io::Result<()> {
    files.iter().try_for_each(|file| fs::write(file, "0"))
}

fn name(pid: i32) -> String {
    format!("forge-{pid}")
}

fn hands_on(parent: &Path) -> bool {
    let handed_on = || {
        let text = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |controller| text.split_whitespace().any(|word| word == controller);
        has("memory") && has("pids")
    };
    handed_on()
        || fs::write(parent.join("cgroup.subtree_control"), "+memory +pids").is_ok() && handed_on()
}

fn unified_group(pid: i32, spec: &SessionSpec, group: &Group) -> io::Result<()> {
    let directory = &group.directory;
    let limits = &spec.limits;
    fs::create_dir(directory)?;
    fs::write(directory.join("pids.max"), limits.processes.to_string())?;
    if let Some(bytes) = limits.memory_bytes {
        fs::write(directory.join("memory.max"), bytes.to_string())?;
        drop(fs::write(directory.join("memory.swap.max"), "0"));
    }
    if let Some(cpus) = limits.milli_cpus {
        let quota = (cpus * PERIOD_US / 1000).max(1000);
        fs::write(directory.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
    }
    fs::write(directory.join("cgroup.procs"), pid.to_string())
}

/// Where this process stands in a hierarchy of version 1.
fn hierarchy(own: &str, controller: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        controllers.split(',').any(|one| one == controller).then_some(path)
    })?;
    let root = Path::new(ROOT).join(controller);
    let directory = root.join(path.trim_start_matches('/'));
    // Inside of a container, the path may be told from a root that is not the one mounted here.
    [directory, root].into_iter().find(|directory| directory.join("cgroup.procs").exists())
}
