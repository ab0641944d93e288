//! Attempts on the host's files.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use crate::arguments::Arguments;
use crate::kernel::{call, hold};
use crate::{Entry, Outcome};

pub(crate) const ATTEMPTS: &[Entry] = &[
    ("read", read),
    ("write", write),
    ("write-over", write_over),
    ("write-reopened", write_reopened),
    ("write-unnamed", write_unnamed),
    ("write-through-link", write_through_link),
    ("read-through-link", read_through_link),
    ("read-above", read_above),
    ("read-through-descriptor", read_through_descriptor),
    ("read-descriptors", read_descriptors),
    ("remove", remove),
    ("rename", rename),
    ("hard-link", hard_link),
    ("change-mode", change_mode),
    ("make-with-mode", make_with_mode),
    ("set-attribute", set_attribute),
    ("read-by-handle", read_by_handle),
    ("write-lower", write_lower),
    ("lock", lock),
    ("watch", watch),
];

/// Prints what a file holds, or what a directory lists.
pub(crate) fn show(path: &str) -> Outcome {
    if Path::new(path).is_dir() {
        for entry in fs::read_dir(path)? {
            writeln!(io::stdout(), "{}", entry?.path().display())?;
        }
        return Ok(());
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    file.take(65_536).read_to_end(&mut bytes)?;
    io::stdout().write_all(&bytes)?;
    writeln!(io::stdout())
}

fn first_success(results: impl Iterator<Item = Outcome>) -> Outcome {
    let mut last = Err(io::ErrorKind::NotFound.into());
    let mut success = false;
    for result in results {
        success |= result.is_ok();
        last = result;
    }
    if success { Ok(()) } else { last }
}

fn read(arguments: &Arguments) -> Outcome {
    first_success(arguments.all().iter().map(|path| show(path)))
}

fn write(arguments: &Arguments) -> Outcome {
    let text = arguments.text(0)?;
    first_success(arguments.all().iter().skip(1).map(|path| fs::write(path, text)))
}

/// Into what is there: a file, a fifo, a device.
fn write_over(arguments: &Arguments) -> Outcome {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new().write(true).custom_flags(flags).open(arguments.text(1)?)?;
    file.write_all(arguments.text(0)?.as_bytes())
}

fn write_reopened(arguments: &Arguments) -> Outcome {
    let file = fs::File::open(arguments.text(1)?)?;
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().write(true).open(again)?.write_all(arguments.text(0)?.as_bytes())
}

fn write_unnamed(arguments: &Arguments) -> Outcome {
    let (text, directory) = (arguments.text(0)?, arguments.text(1)?);
    let mut file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(directory)?;
    file.write_all(text.as_bytes())?;
    let unnamed = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let target = std::ffi::CString::new(format!("{directory}/{}", arguments.text(2)?))?;
    let at = libc::AT_FDCWD;
    let follow = libc::AT_SYMLINK_FOLLOW;
    call!(libc::SYS_linkat, at, unnamed.as_c_str(), at, target.as_c_str(), follow).map(drop)
}

fn write_through_link(arguments: &Arguments) -> Outcome {
    symlink(arguments.text(1)?, "link-out")?;
    fs::write("link-out", arguments.text(0)?)
}

fn read_through_link(arguments: &Arguments) -> Outcome {
    symlink(arguments.text(0)?, "link-out")?;
    show("link-out")
}

fn read_above(arguments: &Arguments) -> Outcome {
    show(&format!("{}{}", "../".repeat(64), arguments.text(0)?.trim_start_matches('/')))
}

/// By a directory that was open before the program was executed.
fn read_through_descriptor(arguments: &Arguments) -> Outcome {
    let name = arguments.text(0)?;
    first_success((3..1024).map(|fd| show(&format!("/proc/self/fd/{fd}/{name}"))))
}

/// All that was open before the program was executed, but the three.
fn read_descriptors(_: &Arguments) -> Outcome {
    let mut inherited = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let link = fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_string_lossy().parse::<i32>().unwrap_or_default();
        writeln!(io::stdout(), "{number} -> {}", link.display())?;
        // The listing itself is one.
        if number > 2 && !link.starts_with("/proc") {
            inherited.push(number);
        }
    }
    first_success(inherited.into_iter().map(|number| show(&format!("/proc/self/fd/{number}"))))
}

fn remove(arguments: &Arguments) -> Outcome {
    first_success(arguments.all().iter().map(fs::remove_file))
}

fn rename(arguments: &Arguments) -> Outcome {
    fs::rename(arguments.text(0)?, arguments.text(1)?)
}

fn hard_link(arguments: &Arguments) -> Outcome {
    fs::hard_link(arguments.text(0)?, arguments.text(1)?)
}

fn change_mode(arguments: &Arguments) -> Outcome {
    let mode = u32::from_str_radix(arguments.text(0)?, 8).map_err(io::Error::other)?;
    fs::write(arguments.text(1)?, "")?;
    fs::set_permissions(arguments.text(1)?, fs::Permissions::from_mode(mode))
}

fn make_with_mode(arguments: &Arguments) -> Outcome {
    let mode = u32::from_str_radix(arguments.text(0)?, 8).map_err(io::Error::other)?;
    let options = OpenOptions::new().write(true).create(true).mode(mode).open(arguments.text(1)?);
    options.map(drop)
}

fn set_attribute(arguments: &Arguments) -> Outcome {
    let (path, name) = (arguments.c_text(0)?, arguments.c_text(1)?);
    let value = &b"y"[..];
    call!(libc::SYS_setxattr, path.as_c_str(), name.as_c_str(), value, 1, 0).map(drop)
}

/// `struct file_handle` in hexadecimal digits, as name_to_handle_at(2) gave it on the host.
fn read_by_handle(arguments: &Arguments) -> Outcome {
    let digits = arguments.text(0)?;
    let bytes: Result<Vec<u8>, _> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16))
        .collect();
    let bytes = bytes.map_err(io::Error::other)?;
    first_success(arguments.all().iter().skip(1).map(|mount| {
        let mount = fs::File::open(mount)?;
        let fd = call!(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &bytes[..], libc::O_RDONLY)?;
        show(&format!("/proc/self/fd/{fd}"))
    }))
}

/// By what the mount table says of where the writable tree comes from.
fn write_lower(arguments: &Arguments) -> Outcome {
    let (text, name) = (arguments.text(0)?, arguments.text(1)?);
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut directories = vec![".".to_owned()];
    for option in table.split([' ', ',', '\n']) {
        if let Some(path) = option.strip_prefix("lowerdir=").or(option.strip_prefix("upperdir=")) {
            writeln!(io::stdout(), "{option}")?;
            directories.push(path.to_owned());
        }
    }
    let directories = directories.iter();
    first_success(directories.map(|directory| fs::write(format!("{directory}/{name}"), text)))
}

fn lock(arguments: &Arguments) -> Outcome {
    let file = fs::File::open(arguments.text(0)?)?;
    call!(libc::SYS_flock, file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB)?;
    hold()
}

/// Learns when the host changes a file.
fn watch(arguments: &Arguments) -> Outcome {
    let path = arguments.c_text(0)?;
    let fd = call!(libc::SYS_inotify_init1, 0)?;
    call!(libc::SYS_inotify_add_watch, fd, path.as_c_str(), 0xfff)?;
    hold()
}
