//! What of `/proc` is hidden, or may only be read.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::mount_bind;

use super::mounts::{self, Changeable};
use super::root::{HIDDEN_DIRECTORY, HIDDEN_FILE};

/// Parts of `/proc` that show what is the machine's and not the session's.
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
    // Read-only as a whole: it changes what is the machine's, and Landlock lets nobody write to it
    // anyway.
    let processes = mounts::processes(Changeable::No)?;
    mounts::attach(&processes, CWD.as_fd(), Path::new("/proc"))?;
    masks.apply()
}

/// Which parts of `/proc` this kernel has that are masked.
#[derive(Debug, Clone, Default)]
pub(super) struct ProcMasks {
    hidden: Vec<(PathBuf, &'static str)>,
}

impl ProcMasks {
    pub(super) fn find() -> Self {
        let hidden = PROC_HIDDEN.iter().filter_map(|name| {
            let path = Path::new("/proc").join(name);
            let kind = fs::symlink_metadata(&path).ok()?;
            Some((path, if kind.is_dir() { HIDDEN_DIRECTORY } else { HIDDEN_FILE }))
        });
        Self { hidden: hidden.collect() }
    }

    pub(super) fn apply(&self) -> io::Result<()> {
        for (path, source) in &self.hidden {
            mount_bind(*source, path)?;
        }
        Ok(())
    }
}
