//! What of `/proc` is hidden, or may only be read.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::mount_bind;

use super::mounts::{self, READ_ONLY};
use super::root::{HIDDEN_DIRECTORY, HIDDEN_FILE};

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
