//! The processes of one command: its process group, and on Linux those that left the group.
//!
//! A command leads a process group of its own, and a signal to the group reaches all who stayed in it.
//! A daemon calls `setsid` and leaves. So that it does not outlive its command either, every command
//! gets a variable of its own, [`MARKER`], which its descendants inherit, and on Linux the end of the
//! command looks through `/proc` for processes that carry it. The search costs little since the kernel
//! gives out process ids in rising order: only ids above the leader's are looked at, unless the
//! counter has started over meanwhile. A process that also clears its environment escapes; making Forge
//! the reaper of all orphans (`PR_SET_CHILD_SUBREAPER`) would find that one too, but would change how
//! a program that embeds Forge is told of *its* children.

use std::ffi::OsString;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, Signal as OsSignal, kill_process_group, test_kill_process_group};

/// The variable that marks a command's descendants.
pub(crate) const MARKER: &str = "FORGE_COMMAND_ID";

/// A value of [`MARKER`] that no other command has had.
pub(crate) fn next_mark() -> OsString {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id()).into()
}

/// The processes of one command. Dropping it kills them, unless [`Group::sweep`] did before: that is
/// how the drop of a command's future ends the command. Neither blocks.
#[derive(Debug)]
pub(crate) struct Group {
    leader: Pid,
    mark: OsString,
    swept: bool,
}

impl Group {
    pub(crate) fn new(leader: Pid, mark: OsString) -> Self {
        Self { leader, mark, swept: false }
    }

    /// Sends a signal to all who are still in the group. A group that is gone is no error.
    pub(crate) fn signal(&self, signal: OsSignal) {
        let _gone = kill_process_group(self.leader, signal);
    }

    /// Whether anyone is still in the group, zombies that nobody has waited for included.
    pub(crate) fn has_members(&self) -> bool {
        test_kill_process_group(self.leader).is_ok()
    }

    /// Kills everything that is left of the command. To be called when the leader has ended: its id
    /// is given to another process only after the kernel has given out all others.
    pub(crate) fn sweep(&mut self) {
        self.swept = true;
        self.signal(OsSignal::KILL);
        strays::kill(self.leader, &self.mark);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.swept {
            self.sweep();
        }
    }
}

#[cfg(target_os = "linux")]
mod strays {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use rustix::process::{Pid, Signal as OsSignal, kill_process};

    use super::MARKER;

    /// A daemon may fork between two looks, so it is looked again until nothing is found.
    const MAX_ROUNDS: usize = 8;

    pub(super) fn kill(leader: Pid, mark: &OsStr) {
        let mut entry = MARKER.as_bytes().to_vec();
        entry.push(b'=');
        entry.extend_from_slice(mark.as_bytes());
        for _ in 0..MAX_ROUNDS {
            let found = find(leader, &entry);
            if found.is_empty() {
                return;
            }
            for pid in found {
                let _gone = kill_process(pid, OsSignal::KILL);
            }
        }
    }

    fn find(leader: Pid, entry: &[u8]) -> Vec<Pid> {
        let leader = leader.as_raw_nonzero().get();
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let processes: Vec<i32> = processes
            .flatten()
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .collect();
        // Asked after the list was made, so that nothing in the list is newer.
        let newest = newest();
        processes
            .into_iter()
            .filter(|pid| may_descend(leader, newest, *pid))
            .filter(|pid| carries(*pid, entry))
            .filter_map(Pid::from_raw)
            .collect()
    }

    /// The id that was given out last: the fifth field of `/proc/loadavg`, see proc_loadavg(5).
    fn newest() -> Option<i32> {
        let load = fs::read_to_string("/proc/loadavg").ok()?;
        load.split_whitespace().nth(4)?.parse().ok()
    }

    /// Whether an id was given out since the leader's. If the counter has started over meanwhile, every
    /// id may have been.
    pub(super) fn may_descend(leader: i32, newest: Option<i32>, pid: i32) -> bool {
        match newest {
            Some(newest) if newest >= leader => (leader..=newest).contains(&pid),
            Some(_) | None => true,
        }
    }

    /// A zombie's environment is empty, so what was killed and not yet reaped is not found again.
    fn carries(pid: i32, entry: &[u8]) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == entry)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::strays::may_descend;

    #[test]
    fn only_ids_given_out_since_the_leader_are_looked_at() {
        let looked_at = |newest| [99, 100, 150, 151].map(|pid| may_descend(100, newest, pid));
        assert_eq!(looked_at(Some(150)), [false, true, true, false]);
        // The counter started over, or nobody knows.
        assert_eq!(looked_at(Some(50)), [true; 4]);
        assert_eq!(looked_at(None), [true; 4]);
    }
}

#[cfg(not(target_os = "linux"))]
mod strays {
    use std::ffi::OsStr;

    use rustix::process::Pid;

    /// Other systems offer no way to find them without help of the process itself.
    pub(super) fn kill(_leader: Pid, _mark: &OsStr) {}
}
