//! A new pseudo-terminal, and a command that has it as its controlling terminal.

#![expect(unsafe_code, reason = "std has no safe way to give a child a controlling terminal")]

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use forge_command_io::resize;
use forge_domain::TerminalSize;
use rustix::pty::{OpenptFlags, grantpt, openpt, unlockpt};
use tokio::process::Command;

/// Signals that whoever started Forge may have told it to ignore, and that keys and the end of a terminal
/// send.
const OF_TERMINALS: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// The command's end of a pseudo-terminal.
#[derive(Debug)]
pub(crate) struct ChildTerminal(OwnedFd);

/// Makes a pseudo-terminal: the host's end and the command's.
pub(crate) fn open(size: TerminalSize) -> io::Result<(OwnedFd, ChildTerminal)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = peer(&master)?;
    resize(&slave, size)?;
    Ok((master, ChildTerminal(slave)))
}

/// The other end of exactly this one, whatever stands at its path.
#[cfg(target_os = "linux")]
fn peer(master: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    Ok(rustix::pty::ioctl_tiocgptpeer(master, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn peer(master: &OwnedFd) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let path = rustix::pty::ptsname(master, Vec::new())?;
    Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?)
}

impl ChildTerminal {
    /// Makes it stdin, stdout, stderr and the controlling terminal of a command.
    pub(crate) fn connect(self, command: &mut Command) -> io::Result<()> {
        let Self(slave) = self;
        command
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave));
        let take_terminal = || {
            rustix::process::setsid()?;
            for signal in OF_TERMINALS {
                // SAFETY: the default action runs nothing of this program.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
        };
        // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
        unsafe { command.pre_exec(take_terminal) };
        Ok(())
    }
}
