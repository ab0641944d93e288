//! What the host's side of an attempt takes that no library offers: calls by number, and what this
//! kernel and this user have.

#![expect(unsafe_code, reason = "the host's side of an attempt takes calls without a safe wrapper")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use crate::trial::Scene;

/// A file that is removed with this.
pub(crate) struct RemovedAtEnd(pub(crate) PathBuf);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// A directory that is removed with this, if it is empty.
pub(crate) struct EmptiedAtEnd(pub(crate) PathBuf);

impl Drop for EmptiedAtEnd {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// The `struct file_handle` of a file, in hexadecimal digits (name_to_handle_at(2)).
pub(crate) fn handle_of(path: &Path) -> String {
    let mut handle = [0_u8; 8 + 128];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let (path, mut mount) = (c_path(path), 0_i32);
    // SAFETY: the pointers are valid for the call; the first word of the handle says how long it is.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    let length = usize::try_from(u32::from_ne_bytes(handle[..4].try_into().unwrap())).unwrap();
    handle[..8 + length].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn has_attribute(path: &Path, name: &str) -> bool {
    rustix::fs::lgetxattr(path, name, &mut [0_u8; 64][..]).is_ok()
}

/// Somebody else has locked the file.
pub(crate) fn cannot_lock(path: String) -> impl FnMut(&Scene) -> bool {
    let mut seen = false;
    move |scene| {
        let file = fs::File::open(&path).unwrap();
        // Only while it runs; and not for longer than the look.
        seen |= !scene.pids.is_empty()
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
        seen
    }
}

/// A descriptor of another process, for a look at it (pidfd_getfd(2)).
pub(crate) fn descriptor_of(pid: u32, number: i32) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
    // SAFETY: takes three numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just made it, for this process alone.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Family, kind and protocol of a socket.
pub(crate) fn socket_kind(socket: &OwnedFd) -> Option<[i32; 3]> {
    let option = |name| {
        let (mut value, mut length) = (0_i32, 4_u32);
        // SAFETY: value and length are valid for the call, and the length is that of the value.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        (result == 0).then_some(value)
    };
    Some([option(libc::SO_DOMAIN)?, option(libc::SO_TYPE)?, option(libc::SO_PROTOCOL)?])
}

/// Whether this kernel makes sockets of a kind at all, for whoever runs the tests.
pub(crate) fn makes_sockets(family: i32, kind: i32, protocol: i32) -> bool {
    // SAFETY: takes three numbers.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    if fd < 0 {
        return false;
    }
    // SAFETY: the kernel has just made it, for this process alone.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    true
}

/// A duplicate of a descriptor that programs inherit.
pub(crate) fn inheritable(file: &impl AsRawFd) -> OwnedFd {
    // SAFETY: takes numbers; the new descriptor is this process's alone.
    unsafe {
        let fd = libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 100);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}

fn succeeds(name: &str) -> bool {
    let program = crate::stage::program();
    let mut command = Command::new(program);
    let status = command
        .args([name, "forge-probe"])
        .current_dir("/")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Asked once a process: it takes executing a program.
macro_rules! lack {
    ($name:ident, $attempt:literal, $reason:literal) => {
        pub(crate) fn $name() -> Option<&'static str> {
            static FOUND: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
            let succeeds = *FOUND.get_or_init(|| succeeds($attempt));
            (!succeeds).then_some($reason)
        }
    };
}
lack!(lacks_i386, "unshare-i386", "no i386 calls on this kernel");
lack!(lacks_x32, "unshare-x32", "no x32 calls on this kernel");
lack!(lacks_bpf, "bpf-map", "bpf is not allowed to this user");
lack!(lacks_perf, "perf-event", "perf events are not allowed to this user");
lack!(lacks_uring, "io-uring", "io_uring is not allowed here");
lack!(lacks_userfault, "userfault", "userfaultfd is not allowed to this user");
lack!(lacks_fanotify, "fanotify", "fanotify is not allowed to this user");
lack!(lacks_user_namespaces, "unshare-user", "user namespaces are not allowed here");
lack!(lacks_time_namespaces, "unshare-time", "time namespaces are not allowed here");

/// A session keyring of this process's own, with a key in it. Before any other thread is started: the
/// keyring is a thread's, and comes to those that it starts and to all that they execute.
pub(crate) fn make_session_key(description: &str, text: &str) -> bool {
    let (join, session) = (1, -3);
    let description = CString::new(description).unwrap();
    // SAFETY: the strings end with a nought, and live longer than the calls.
    unsafe {
        libc::syscall(libc::SYS_keyctl, join, 0_usize) >= 0
            && libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                description.as_ptr(),
                text.as_ptr(),
                text.len(),
                session,
            ) >= 0
    }
}

/// A host name of this process's own, and of all that it starts, so that a change of it is nobody
/// else's. For root only.
pub(crate) fn separate_hostname() -> bool {
    // SAFETY: takes a number; there is one thread yet.
    unsafe { libc::unshare(libc::CLONE_NEWUTS) == 0 }
}

/// A timer that is cancelled when the clock is set (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
pub(crate) fn timer_that_sees_clock_changes() -> OwnedFd {
    let far = libc::timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 };
    let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let value = libc::itimerspec { it_interval: never, it_value: far };
    let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
    // SAFETY: the value is valid for the call, and the descriptor is new and this process's alone.
    unsafe {
        let fd = libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        let timer = OwnedFd::from_raw_fd(fd);
        let set = libc::timerfd_settime(fd, flags, &raw const value, std::ptr::null_mut());
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        timer
    }
}

/// Ends a process that an attempt of these tests has left behind.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _unchecked = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Sets a variable of this process, which what it executes gets. Before any other thread is started.
pub(crate) fn set_variable(name: &str, value: &str) {
    // SAFETY: there is one thread yet.
    unsafe { std::env::set_var(name, value) };
}

/// Looks for writing to a file (inotify(7)).
pub(crate) struct Watch(OwnedFd);

impl Watch {
    pub(crate) fn on(path: &str) -> Self {
        use rustix::fs::inotify;
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY).unwrap();
        Self(watch)
    }

    pub(crate) fn saw_writing(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 4096]).is_ok()
    }
}

/// A part of a line of the kernel's log; empty where it has none.
pub(crate) fn kernel_log_word() -> String {
    let mut buffer = vec![0_u8; 65_536];
    let read_all = 3;
    // SAFETY: the buffer is valid for the call and as long as it says.
    let length =
        unsafe { libc::syscall(libc::SYS_syslog, read_all, buffer.as_mut_ptr(), buffer.len()) };
    buffer.truncate(usize::try_from(length).unwrap_or_default());
    let text = String::from_utf8_lossy(&buffer).into_owned();
    let line = text.lines().rev().nth(1).unwrap_or_default();
    line.rsplit("] ").next().unwrap_or_default().to_owned()
}

/// Which line discipline a terminal has.
pub(crate) fn line_discipline(terminal: &fs::File) -> Option<i32> {
    let mut number = 0_i32;
    // SAFETY: the kernel writes one number (ioctl_tty(2), `TIOCGETD`).
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGETD, &raw mut number) };
    (result == 0).then_some(number)
}
