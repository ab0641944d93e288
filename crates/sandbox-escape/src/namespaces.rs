//! Attempts to enter or to make namespaces, and to change roots.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use crate::arguments::Arguments;
use crate::files::show;
use crate::kernel::{call, hold, in_child, leave};
use crate::{Entry, Outcome};

pub(crate) const ATTEMPTS: &[Entry] = &[
    ("unshare-user", unshare_user),
    ("clone-user", clone_user),
    ("clone3-user", clone3_user),
    ("unshare-time", unshare_time),
    ("enter-user", enter_user),
    ("change-root", change_root),
    ("pivot-root", pivot_root),
    ("leave-root", leave_root),
    ("set-hostname", set_hostname),
    ("set-clock", set_clock),
    ("unshare-i386", unshare_i386),
    ("unshare-x32", unshare_x32),
];

/// Whatever capabilities can be had in new namespaces. Without, what follows is tried as it is.
pub(crate) fn gain(namespaces: i32) {
    drop(call!(libc::SYS_unshare, libc::CLONE_NEWUSER));
    drop(call!(libc::SYS_unshare, namespaces));
}

fn unshare_user(_: &Arguments) -> Outcome {
    in_child(|| {
        call!(libc::SYS_unshare, libc::CLONE_NEWUSER)?;
        hold()
    })
}

fn after_clone(pid: i64) -> Outcome {
    if pid == 0 {
        drop(hold());
        leave(0);
    }
    call!(libc::SYS_wait4, pid, 0, 0, 0).map(drop)
}

fn clone_user(_: &Arguments) -> Outcome {
    after_clone(call!(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0)?)
}

fn clone3_user(_: &Arguments) -> Outcome {
    // `struct clone_args`, of which the first member and the fifth are set.
    let mut words = [0_u64; 8];
    words[0] = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
    words[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
    after_clone(call!(libc::SYS_clone3, &bytes[..], 64)?)
}

/// The time namespace is that of children to come.
fn unshare_time(_: &Arguments) -> Outcome {
    in_child(|| {
        drop(call!(libc::SYS_unshare, libc::CLONE_NEWUSER));
        call!(libc::SYS_unshare, 0x80 /* CLONE_NEWTIME */)?;
        hold()
    })
}

fn enter_user(arguments: &Arguments) -> Outcome {
    let mut last = Err(io::ErrorKind::NotFound.into());
    for pid in [arguments.number(0)?, 1] {
        last = fs::File::open(format!("/proc/{pid}/ns/user"))
            .and_then(|file| call!(libc::SYS_setns, file.as_raw_fd(), libc::CLONE_NEWUSER));
        if last.is_ok() {
            return hold();
        }
    }
    last.map(drop)
}

fn change_root(_: &Arguments) -> Outcome {
    in_child(|| {
        gain(0);
        fs::create_dir_all("new-root")?;
        call!(libc::SYS_chroot, c"new-root")?;
        hold()
    })
}

fn pivot_root(_: &Arguments) -> Outcome {
    in_child(|| {
        gain(libc::CLONE_NEWNS);
        fs::create_dir_all("new-root")?;
        let none = c"none";
        let private = i64::try_from(libc::MS_REC | libc::MS_PRIVATE).map_err(io::Error::other)?;
        call!(libc::SYS_mount, none, c"/", 0, private, 0)?;
        call!(libc::SYS_mount, none, c"new-root", c"tmpfs", 0, 0)?;
        call!(libc::SYS_chdir, c"new-root")?;
        call!(libc::SYS_pivot_root, c".", c".")?;
        hold()
    })
}

/// A root within the root, left by a directory that is open outside of it.
fn leave_root(arguments: &Arguments) -> Outcome {
    gain(0);
    let root = fs::File::open("/")?;
    fs::create_dir_all("new-root")?;
    if call!(libc::SYS_chroot, c"new-root").is_ok() {
        call!(libc::SYS_fchdir, root.as_raw_fd())?;
        for _ in 0..64 {
            call!(libc::SYS_chdir, c"..")?;
        }
        drop(call!(libc::SYS_chroot, c"."));
    }
    show(arguments.text(0)?)
}

fn set_hostname(arguments: &Arguments) -> Outcome {
    let name = arguments.text(0)?.as_bytes();
    let length = i64::try_from(name.len()).map_err(io::Error::other)?;
    call!(libc::SYS_sethostname, name, length).map(drop)
}

/// Sets the clock forward by a nanosecond, which is less than it is exact to.
fn set_clock(_: &Arguments) -> Outcome {
    // `struct timex`: ADJ_SETOFFSET and ADJ_NANO; the offset's fraction stands at 80.
    let mut bytes = vec![0_u8; 256];
    bytes[..4].copy_from_slice(&0x2100_u32.to_ne_bytes());
    bytes[80..88].copy_from_slice(&1_i64.to_ne_bytes());
    call!(libc::SYS_clock_adjtime, libc::CLOCK_REALTIME, &mut bytes[..])?;
    writeln!(io::stdout(), "set").map(drop)
}

/// unshare(2) by the number that it has for 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn unshare_i386(_: &Arguments) -> Outcome {
    in_child(|| {
        crate::kernel::call_i386(310, libc::CLONE_NEWUSER.cast_unsigned(), 0)?;
        hold()
    })
}

#[cfg(target_arch = "x86_64")]
fn unshare_x32(_: &Arguments) -> Outcome {
    in_child(|| {
        call!(0x4000_0000 | libc::SYS_unshare, libc::CLONE_NEWUSER)?;
        hold()
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn unshare_i386(_: &Arguments) -> Outcome {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_arch = "x86_64"))]
fn unshare_x32(_: &Arguments) -> Outcome {
    Err(io::ErrorKind::Unsupported.into())
}
