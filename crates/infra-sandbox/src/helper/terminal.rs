//! A terminal for one command, from the session's own pseudo-terminals.

use std::io;
use std::os::fd::OwnedFd;

use forge_command_io::resize;
use forge_domain::TerminalSize;
use rustix::fs::{Mode, OFlags, open as open_file};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

/// Makes a terminal: the host's end, and stdin, stdout and stderr of the command.
///
/// It comes from the `/dev/pts` of the session, so that no terminal of the host is ever in a command's
/// hands; and the command's end is opened by the host's end, not by a path.
pub(super) fn open(size: TerminalSize) -> io::Result<(OwnedFd, [OwnedFd; 3])> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let host = open_file("/dev/ptmx", flags, Mode::empty())?;
    unlockpt(&host)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let inside = ioctl_tiocgptpeer(&host, flags)?;
    resize(&inside, size)?;
    let streams = [inside.try_clone()?, inside.try_clone()?, inside];
    Ok((host, streams))
}
