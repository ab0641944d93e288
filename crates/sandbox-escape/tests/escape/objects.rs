//! Objects of System V and POSIX on the host, for attempts on them. Each is gone with its value.

#![expect(unsafe_code, reason = "these objects have no safe wrapper")]

use std::ffi::CString;
use std::sync::atomic::{AtomicI32, Ordering};

/// A key that nobody else has: by the process, and counted.
fn key() -> i32 {
    static NUMBER: AtomicI32 = AtomicI32::new(1);
    let process = i32::try_from(std::process::id() & 0x3f_ffff).unwrap();
    0x4000_0000 | (process << 8) | (NUMBER.fetch_add(1, Ordering::Relaxed) & 0xff)
}

const MAKE: i32 = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;

/// A System V message queue.
pub(crate) struct MessageQueue {
    pub(crate) key: i32,
    id: i32,
}

impl MessageQueue {
    pub(crate) fn empty() -> Self {
        let key = key();
        // SAFETY: takes numbers.
        let id = unsafe { libc::msgget(key, MAKE) };
        assert!(id >= 0, "{}", std::io::Error::last_os_error());
        Self { key, id }
    }

    pub(crate) fn with(text: &str) -> Self {
        let queue = Self::empty();
        let message = [&1_i64.to_ne_bytes()[..], text.as_bytes()].concat();
        // SAFETY: the message begins with its type, and its text is as long as said.
        let sent = unsafe { libc::msgsnd(queue.id, message.as_ptr().cast(), text.len(), 0) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
        queue
    }

    pub(crate) fn holds_anything(&self) -> bool {
        let mut status = std::mem::MaybeUninit::<libc::msqid_ds>::zeroed();
        // SAFETY: the structure is valid for the call, and all noughts is a value of it.
        unsafe {
            libc::msgctl(self.id, libc::IPC_STAT, status.as_mut_ptr()) == 0
                && status.assume_init().msg_qnum > 0
        }
    }
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        // SAFETY: removes what this value has made.
        unsafe { libc::msgctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// A System V segment of shared memory.
pub(crate) struct SharedMemory {
    pub(crate) key: i32,
    id: i32,
}

impl SharedMemory {
    pub(crate) fn new() -> Self {
        let key = key();
        // SAFETY: takes numbers.
        let id = unsafe { libc::shmget(key, 4096, MAKE) };
        assert!(id >= 0, "{}", std::io::Error::last_os_error());
        Self { key, id }
    }

    pub(crate) fn mode(&self) -> u32 {
        let mut status = std::mem::MaybeUninit::<libc::shmid_ds>::zeroed();
        // SAFETY: the structure is valid for the call, and all noughts is a value of it.
        unsafe {
            libc::shmctl(self.id, libc::IPC_STAT, status.as_mut_ptr());
            u32::from(status.assume_init().shm_perm.mode) & 0o777
        }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: removes what this value has made.
        unsafe { libc::shmctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// A System V set of one semaphore.
pub(crate) struct Semaphores {
    pub(crate) key: i32,
    id: i32,
}

impl Semaphores {
    pub(crate) fn new() -> Self {
        let key = key();
        // SAFETY: takes numbers.
        let id = unsafe { libc::semget(key, 1, MAKE) };
        assert!(id >= 0, "{}", std::io::Error::last_os_error());
        Self { key, id }
    }

    pub(crate) fn value(&self) -> i32 {
        // SAFETY: takes numbers.
        unsafe { libc::semctl(self.id, 0, libc::GETVAL) }
    }
}

impl Drop for Semaphores {
    fn drop(&mut self) {
        // SAFETY: removes what this value has made.
        unsafe { libc::semctl(self.id, 0, libc::IPC_RMID) };
    }
}

/// A POSIX message queue.
pub(crate) struct PosixQueue(CString);

impl PosixQueue {
    fn make(name: &str, text: &str) -> Option<Self> {
        let name = CString::new(name).unwrap();
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
        // SAFETY: the name ends with a nought; the text is as long as said; the descriptor is closed.
        unsafe {
            let queue = libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0o600, 0_usize);
            let queue = i32::try_from(queue).ok().filter(|queue| *queue >= 0)?;
            libc::syscall(libc::SYS_mq_timedsend, queue, text.as_ptr(), text.len(), 0, 0_usize);
            libc::close(queue);
        }
        Some(Self(name))
    }

    pub(crate) fn with(name: &str, text: &str) -> Self {
        Self::make(name, text).unwrap()
    }
}

impl Drop for PosixQueue {
    fn drop(&mut self) {
        // SAFETY: the name ends with a nought.
        unsafe { libc::syscall(libc::SYS_mq_unlink, self.0.as_ptr()) };
    }
}

pub(crate) fn lacks_posix_queues() -> Option<&'static str> {
    let made = PosixQueue::make(&format!("forge-probe-{}-{}", std::process::id(), key()), "x");
    made.is_none().then_some("no POSIX message queues here")
}

pub(crate) fn lacks_shared_memory() -> Option<&'static str> {
    // SAFETY: takes numbers; what is made is removed.
    let made = unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, 4096, 0o600);
        if id >= 0 {
            libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        }
        id >= 0
    };
    (!made).then_some("no System V objects here")
}
