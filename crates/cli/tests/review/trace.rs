//! A program that is killed before one of its calls that change the file system, whichever thread makes it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(i32),
    Killed,
}

/// A call that changes what the next process finds. What stands between two of them makes no difference to it.
fn changes_files(info: &libc::ptrace_syscall_info) -> bool {
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return false;
    }
    // SAFETY: `op` says that this is the part of the union that the kernel has filled in.
    #[expect(unsafe_code, reason = "the kernel's union, read where its tag says so")]
    let entry = unsafe { info.u.entry };
    #[expect(clippy::cast_possible_wrap, reason = "the numbers of calls are small")]
    let number = entry.nr as libc::c_long;
    #[cfg(target_arch = "x86_64")]
    if [libc::SYS_mkdir, libc::SYS_rename, libc::SYS_rmdir, libc::SYS_unlink].contains(&number) {
        return true;
    }
    let makes = number == libc::SYS_openat && entry.args[2] & libc::O_CREAT as u64 != 0;
    makes
        || [
            libc::SYS_fchmod,
            libc::SYS_fchown,
            libc::SYS_fsync,
            libc::SYS_ftruncate,
            libc::SYS_mkdirat,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_symlinkat,
            libc::SYS_syncfs,
            libc::SYS_unlinkat,
        ]
        .contains(&number)
}

/// Runs a program to its end, or to before its call of this number, and says how many such calls there were.
pub(crate) fn run(command: &Command, kill_at: Option<u64>) -> io::Result<(Ending, u64)> {
    #[expect(clippy::disallowed_methods, reason = "the tests run the binary")]
    let mut stopped = Command::new("/bin/sh");
    // It waits to be watched.
    stopped.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).arg(command.get_program());
    stopped.args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            stopped.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        stopped.current_dir(directory);
    }
    stopped.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let child = stopped.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options)?;
    kill(pid, Signal::SIGCONT)?;
    let group = Pid::from_raw(-pid.as_raw());
    let mut count = 0;
    loop {
        let status = waitpid(group, Some(WaitPidFlag::__WALL))?;
        let (thread, signal) = match status {
            WaitStatus::Exited(who, code) if who == pid => {
                return Ok((Ending::Exited(code), count));
            }
            WaitStatus::Signaled(who, ..) if who == pid => return Ok((Ending::Killed, count)),
            WaitStatus::PtraceSyscall(thread) => {
                if ptrace::syscall_info(thread).is_ok_and(|info| changes_files(&info)) {
                    if kill_at == Some(count) {
                        kill(pid, Signal::SIGKILL)?;
                        continue;
                    }
                    count += 1;
                }
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            _ => continue,
        };
        // One that is being killed is gone before it can go on.
        let _gone = ptrace::syscall(thread, signal);
    }
}
