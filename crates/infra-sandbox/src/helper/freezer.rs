//! Stopping every process of a session at once, and letting them go on.
//!
//! By signals, and so on every machine: a group that the kernel could freeze is not to be had everywhere. What a command
//! had stopped itself stays so.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::kernel;

/// How long all of them may take to stop: one that waits for a disk takes the signal after that.
const LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(1);

/// What is stopped of a session.
#[derive(Debug, Default)]
pub(super) struct Freezer {
    /// Those that were stopped before; `None` while nothing is frozen.
    stopped: Option<BTreeSet<i32>>,
}

impl Freezer {
    /// Stops every process but the caller and waits for it. Where one does not stop in time, all go on again.
    pub(super) fn freeze(&mut self) -> io::Result<()> {
        if self.stopped.is_some() {
            return Ok(());
        }
        let stopped = processes()?.into_iter().filter(|pid| state(*pid) == State::Stopped);
        self.stopped = Some(stopped.collect());
        let began = Instant::now();
        loop {
            // Again each time: one that was being forked may have missed it, one may have been woken by another.
            kernel::kill(-1, libc::SIGSTOP);
            if processes()?.into_iter().all(|pid| state(pid) != State::Running) {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                self.thaw()?;
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            std::thread::sleep(PAUSE);
        }
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.stopped.is_some()
    }

    /// Lets go on what was stopped by [`Freezer::freeze`].
    pub(super) fn thaw(&mut self) -> io::Result<()> {
        let Some(stopped) = self.stopped.take() else { return Ok(()) };
        for pid in processes()?.into_iter().filter(|pid| !stopped.contains(pid)) {
            kernel::kill(pid, libc::SIGCONT);
        }
        Ok(())
    }
}

/// From the quietest to the liveliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ended,
    /// By a signal or by what traces it.
    Stopped,
    /// Stands still as long as its child does, see [`waits_for_a_child`].
    Waiting,
    Running,
}

/// The other processes of this pid namespace and of those in it.
fn processes() -> io::Result<Vec<i32>> {
    let own = std::process::id().cast_signed();
    let numbers = numbers_in(Path::new("/proc"))?.into_iter();
    Ok(numbers.filter(|pid| *pid != own).collect())
}

fn numbers_in(directory: &Path) -> io::Result<Vec<i32>> {
    let names = fs::read_dir(directory)?.filter_map(Result::ok).map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Whether a thread waits in vfork(2) or the like for a child to execute its program. It takes no signal before, and a
/// child that was stopped on its way keeps it there; neither does anything meanwhile.
fn waits_for_a_child(file: &str) -> bool {
    let making = [
        libc::SYS_clone,
        libc::SYS_clone3,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
    ];
    let text = fs::read_to_string(file).unwrap_or_default();
    let number = text.split(' ').next().and_then(|number| number.parse().ok());
    number.is_some_and(|number: libc::c_long| making.contains(&number))
}

/// What a process does: the liveliest of its threads counts.
fn state(pid: i32) -> State {
    let tasks = format!("/proc/{pid}/task");
    let Ok(threads) = numbers_in(Path::new(&tasks)) else { return State::Ended };
    let mut all = State::Ended;
    for thread in threads {
        // proc(5): the state is what follows the name, which is in parentheses and may hold some itself.
        let Ok(text) = fs::read_to_string(format!("{tasks}/{thread}/stat")) else { continue };
        let letter = text.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        let one = match letter {
            Some('T' | 't') => State::Stopped,
            Some('D') if waits_for_a_child(&format!("{tasks}/{thread}/syscall")) => State::Waiting,
            Some('Z' | 'X' | 'x') | None => State::Ended,
            Some(_) => State::Running,
        };
        all = all.max(one);
    }
    all
}
