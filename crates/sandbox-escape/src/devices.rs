//! Attempts on devices, on `/proc` and on `/sys`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::arguments::Arguments;
use crate::files::show;
use crate::kernel::{call, hold};
use crate::{Entry, Outcome};

pub(crate) const ATTEMPTS: &[Entry] = &[
    ("open-devices", open_devices),
    ("open-for-writing", open_for_writing),
    ("open-all-for-writing", open_all_for_writing),
    ("make-node", make_node),
    ("push-input", push_input),
    ("push-own-input", push_own_input),
    ("control-console", control_console),
    ("set-line-discipline", set_line_discipline),
    ("write-back", write_back),
    ("read-kernel-log", read_kernel_log),
];

/// What every process may have.
const ALLOWED: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"];

fn open(path: &Path, write: bool) -> io::Result<fs::File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(!write).write(write).custom_flags(flags).open(path)
}

/// Every device node that is there, of those that not everybody has; opened, not read.
fn open_devices(_: &Arguments) -> Outcome {
    let mut held = Vec::new();
    let mut waiting = vec![Path::new("/dev").to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = entry.file_name().to_string_lossy().into_owned();
            let terminal = directory.ends_with("pts") && name == "ptmx";
            if kind.is_dir() {
                waiting.push(path);
            } else if !kind.is_char_device() && !kind.is_block_device()
                || ALLOWED.contains(&name.as_str())
                || terminal
                // Opening a watchdog starts it.
                || name.starts_with("watchdog")
            {
            } else if let Ok(file) = open(&path, false) {
                writeln!(io::stdout(), "opened {}", path.display())?;
                held.push(file);
            }
        }
    }
    if held.is_empty() { Err(io::ErrorKind::PermissionDenied.into()) } else { hold() }
}

/// Opens and writes nothing.
fn open_for_writing(arguments: &Arguments) -> Outcome {
    let held: Vec<_> =
        arguments.all().iter().filter_map(|path| open(Path::new(path), true).ok()).collect();
    if held.is_empty() { Err(io::ErrorKind::PermissionDenied.into()) } else { hold() }
}

/// Opens every file beneath a directory for writing, and writes nothing.
fn open_all_for_writing(arguments: &Arguments) -> Outcome {
    let mut held = Vec::new();
    let mut waiting: Vec<_> =
        arguments.all().iter().map(|path| Path::new(path).to_owned()).collect();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() && held.len() < 200 => {
                    held.extend(open(&entry.path(), true).ok());
                }
                _ => {}
            }
        }
    }
    writeln!(io::stdout(), "opened {} files for writing", held.len())?;
    if held.is_empty() { Err(io::ErrorKind::PermissionDenied.into()) } else { hold() }
}

/// `make-node PATH MAJOR MINOR`: a character device. One that can be read is opened.
fn make_node(arguments: &Arguments) -> Outcome {
    let path = arguments.c_text(0)?;
    let number = |at| arguments.number(at).and_then(|n| u32::try_from(n).map_err(io::Error::other));
    let device = libc::makedev(number(1)?, number(2)?);
    let device = i64::try_from(device).map_err(io::Error::other)?;
    let mode = i64::from(libc::S_IFCHR | 0o666);
    call!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_c_str(), mode, device)?;
    if device == 0 {
        return Ok(());
    }
    let _held = open(Path::new(arguments.text(0)?), false)?;
    hold()
}

/// Makes a terminal of the host the controlling one, and puts a text into its input.
fn push_input(arguments: &Arguments) -> Outcome {
    // The leader of a session that has no terminal yet can take one.
    drop(call!(libc::SYS_setsid));
    let terminal = OpenOptions::new().read(true).write(true).open(arguments.text(1)?)?;
    let fd = terminal.as_raw_fd();
    drop(call!(libc::SYS_ioctl, fd, 0x540e /* TIOCSCTTY */, 0));
    for byte in arguments.text(0)?.bytes() {
        call!(libc::SYS_ioctl, fd, 0x5412 /* TIOCSTI */, &[byte][..])?;
    }
    Ok(())
}

/// Puts the token into the input of the terminal that it has.
fn push_own_input(arguments: &Arguments) -> Outcome {
    for byte in arguments.text(0)?.bytes() {
        call!(libc::SYS_ioctl, 0, 0x5412 /* TIOCSTI */, &[byte][..])?;
    }
    Ok(())
}

/// Asks its terminal to paste the console's selection. One that is no console knows no such thing, and says
/// so, if the call comes to it.
fn control_console(_: &Arguments) -> Outcome {
    let paste = [3];
    match call!(libc::SYS_ioctl, 0, 0x541c /* TIOCLINUX */, &paste[..]) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(error),
        other => {
            writeln!(io::stdout(), "the call arrived: {other:?}")?;
            Ok(())
        }
    }
}

/// `set-line-discipline PATH NUMBER`: of a terminal of the host.
fn set_line_discipline(arguments: &Arguments) -> Outcome {
    let mut options = OpenOptions::new();
    let terminal = options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let terminal = terminal.open(arguments.text(0)?)?;
    let number = i32::try_from(arguments.number(1)?).map_err(io::Error::other)?;
    let fd = terminal.as_raw_fd();
    call!(libc::SYS_ioctl, fd, 0x5423 /* TIOCSETD */, &number.to_ne_bytes()[..])?;
    Ok(())
}

/// Writes to a file of the kernel what it holds already.
fn write_back(arguments: &Arguments) -> Outcome {
    let value = fs::read(arguments.text(0)?)?;
    open(Path::new(arguments.text(0)?), true)?.write_all(&value)
}

fn read_kernel_log(_: &Arguments) -> Outcome {
    let mut buffer = vec![0; 65_536];
    let read_all = 3;
    match call!(libc::SYS_syslog, read_all, &mut buffer[..], 65_536) {
        Ok(length) => {
            buffer.truncate(usize::try_from(length).unwrap_or_default());
            io::stdout().write_all(&buffer)
        }
        Err(_) => show("/proc/kmsg").or_else(|_| {
            let log = open(Path::new("/dev/kmsg"), false)?;
            let mut record = [0; 8192];
            let length = rustix::io::read(&log, &mut record)?;
            io::stdout().write_all(&record[..length])
        }),
    }
}
