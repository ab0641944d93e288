//! The system calls of the helper that have no safe wrapper in a library.
//!
//! Everything here is called in the helper only, whose processes have a single thread each: that is
//! what makes a fork without an exec sound.

#![expect(unsafe_code, reason = "system calls without a safe wrapper; each says why it is sound")]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

/// A process after a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fork {
    /// The new one.
    Child,
    /// The old one, with the id of the new one in its own pid namespace.
    Parent(i32),
}

/// Forks with namespaces (clone(2) with `CLONE_NEW*` flags and SIGCHLD at the end).
pub(super) fn fork(namespaces: i32) -> io::Result<Fork> {
    let flags = libc::c_ulong::from(namespaces.cast_unsigned())
        | libc::c_ulong::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: without CLONE_VM the child has its own copy of everything, and the process has one
    // thread, so no lock can be held by a thread that the child lacks. A null stack means "as it is".
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(i32::try_from(pid).unwrap_or(i32::MAX))),
    }
}

/// Sets and clears attributes of a mount (mount_setattr(2)), or of a whole tree of them.
pub(super) fn mount_setattr(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    set: u64,
    clear: u64,
) -> io::Result<()> {
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = MountAttributes { set, clear, propagation: 0, user_namespace: 0 };
    // SAFETY: the pointers are valid for the call, and the size is that of the structure, which has
    // the layout of `struct mount_attr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    check(result)
}

/// Marks all descriptors from this one on to be closed by an exec.
pub(super) fn close_from_at_exec(first: RawFd) -> io::Result<()> {
    // SAFETY: sets a flag of descriptors, closes none.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
}

/// Closes all descriptors from this one on.
pub(super) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: nothing that is owned by a value of this process is used after this: it is called right
    // before an exec, or by a process that holds nothing above `first`.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })
}

/// Makes `to` a copy of `from`, without `CLOEXEC`.
pub(super) fn duplicate(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    if from.as_raw_fd() == to {
        // SAFETY: clears FD_CLOEXEC of a descriptor that is open.
        return check(i64::from(unsafe { libc::fcntl(to, libc::F_SETFD, 0) }));
    }
    // SAFETY: `to` is one of the standard streams, which no value of this process owns.
    check(i64::from(unsafe { libc::dup2(from.as_raw_fd(), to) }))
}

/// Blocks SIGCHLD and gives a descriptor that is readable when one has arrived.
pub(super) fn child_signals() -> io::Result<RawFd> {
    // SAFETY: the set lives on this stack, and the calls only read and write it.
    let descriptor = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if descriptor < 0 { Err(io::Error::last_os_error()) } else { Ok(descriptor) }
}

/// Forgets what [`child_signals`] has told.
pub(super) fn drain_signals(descriptor: RawFd) {
    let mut buffer = [0u8; 128 * 8];
    // SAFETY: the buffer is as long as it says; the descriptor does not block.
    while unsafe { libc::read(descriptor, buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
}

/// Gives every signal its default action and blocks none: what a command expects to begin with.
pub(super) fn reset_signals() {
    // SAFETY: default actions only; signals that cannot be changed are refused and left.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// What waitpid(2) found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// This child ended with this raw status.
    Ended(i32, i32),
    /// There are children, and none has ended.
    Running,
    /// There are no children.
    NoChildren,
}

/// Whether a wait may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocking {
    Yes,
    No,
}

/// Reaps one child.
pub(super) fn wait(blocking: Blocking) -> Waited {
    let flags = match blocking {
        Blocking::Yes => libc::__WALL,
        Blocking::No => libc::__WALL | libc::WNOHANG,
    };
    loop {
        let mut status = 0;
        // SAFETY: the status is written to this stack.
        match unsafe { libc::waitpid(-1, &raw mut status, flags) } {
            0 => return Waited::Running,
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Waited::NoChildren,
            pid => return Waited::Ended(pid, status),
        }
    }
}

/// Sends a signal: to a process, to a group (negative), or to every process of the pid namespace but
/// the caller (-1). A target that is gone is no error.
pub(super) fn kill(target: i32, signal: i32) {
    // SAFETY: sends a signal, touches no memory.
    let _gone = unsafe { libc::kill(target, signal) };
}

/// Executes a program. Returns only the reason why not.
pub(super) fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        let mut pointers: Vec<*const c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(ptr::null());
        pointers
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays are null-terminated, and the strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Brings up the loopback interface of this network namespace (netdevice(7)).
pub(super) fn loopback_up() -> io::Result<()> {
    // SAFETY: the request is a zeroed C structure with a name that is terminated; the socket is
    // closed on every path.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        let mut result = libc::ioctl(socket, libc::SIOCGIFFLAGS, &raw mut request);
        if result == 0 {
            let up = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
            request.ifr_ifru.ifru_flags |= up;
            result = libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request);
        }
        let error = io::Error::last_os_error();
        libc::close(socket);
        if result == 0 { Ok(()) } else { Err(error) }
    }
}

/// Ends this process at once, without running what `std` would run at its end.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns; nothing is left to be flushed in the helper.
    unsafe { libc::_exit(code) }
}

/// Owns a descriptor that was received or made by number.
pub(super) fn own(descriptor: RawFd) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: every caller has just made it and gives it to nobody else.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(descriptor) }
}

fn check(result: i64) -> io::Result<()> {
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The Landlock version of the running kernel, 0 where it has none or it is switched off.
pub(super) fn landlock_version() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no structure and makes no descriptor
    // (landlock_create_ruleset(2)).
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<u8>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Closes a socket that a borrowed value still names; the caller uses it no more.
pub(super) fn close_socket(socket: BorrowedFd<'_>) {
    // SAFETY: whoever calls this does it once for a socket and then ends without running drops.
    let _closed = unsafe { libc::close(socket.as_raw_fd()) };
}
