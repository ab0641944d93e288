//! Who uses a session: a lock (flock(2)) on its `lock` file, with the owner's number in it.
//!
//! The lock is what counts: the kernel gives it back however the owner ends. The number is for people
//! and for `session stop`, and it is a mark: it stays where a use ended without an account of what the
//! session holds.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::sessions::SessionState;

/// Somebody who only looks holds the lock for a moment, together with others, and so does the helper of
/// an owner that was killed; so often, and with such pauses, the end of that is waited for.
const ATTEMPTS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(2);

/// Why a lock is not had.
#[derive(Debug)]
pub(super) enum NotLocked {
    /// Another process has it.
    Busy(Option<i32>),
    /// The session is not there, or not any more.
    Missing,
    /// The operating system refused.
    Io(io::Error),
}

/// Locks the session in a directory, until the file is dropped. A session without a lock file gets one.
pub(super) fn take(directory: &Path) -> Result<File, NotLocked> {
    let path = file_of(directory);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let lock = match options.custom_flags(no_follow()).open(&path) {
        Ok(lock) => lock,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound => NotLocked::Missing,
                _ => NotLocked::Io(error),
            });
        }
    };
    for _ in 0..ATTEMPTS {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(&lock, &path) => return Ok(lock),
            // It was removed between the opening and the lock.
            Ok(()) => return Err(NotLocked::Missing),
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(NotLocked::Io(error.into())),
        }
        // An owner shares it with nobody, those who look share it with each other.
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                flock(&lock, FlockOperation::Unlock)
                    .map_err(|error| NotLocked::Io(error.into()))?;
                std::thread::sleep(PAUSE);
            }
            // Its owner was killed: a helper that still ends what ran in it holds it for a moment.
            Err(_) if owner(directory).is_some_and(is_gone) => std::thread::sleep(PAUSE),
            Err(_) => break,
        }
    }
    Err(NotLocked::Busy(owner(directory)))
}

/// Whether no process has this number.
fn is_gone(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH))
}

/// Gives a lock back, whoever else holds a copy of its descriptor: a child of this process has one
/// between its fork and its exec, and by closing it is given back with the last copy (flock(2)).
pub(super) fn release(lock: &File) {
    // Should it fail, closing does it.
    let _unchecked = flock(lock, FlockOperation::Unlock);
}

/// Whether somebody has the session in a directory locked.
pub(super) fn state(directory: &Path) -> SessionState {
    let Ok(lock) = File::open(file_of(directory)) else { return SessionState::Idle };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => SessionState::Running(owner(directory)),
        _ => SessionState::Idle,
    }
}

/// Marks a session as used by this process. The mark says from now on that nobody knows what it holds.
pub(super) fn mark(mut lock: &File) -> io::Result<()> {
    lock.rewind()?;
    lock.set_len(0)?;
    lock.write_all(std::process::id().to_string().as_bytes())
}

/// Takes the mark away: what the session holds has been written down.
pub(super) fn unmark(lock: &File) -> io::Result<()> {
    lock.set_len(0)
}

/// Whether the mark is there, and when it was last changed. Without a lock file nobody ever used it.
pub(super) fn marked(directory: &Path) -> (bool, Option<SystemTime>) {
    match fs::symlink_metadata(file_of(directory)) {
        Ok(metadata) => (metadata.len() > 0, metadata.modified().ok()),
        Err(_) => (false, None),
    }
}

fn file_of(directory: &Path) -> PathBuf {
    directory.join("lock")
}

/// Flags for files that we have made ourselves: should they be anything else, nothing is followed and
/// nothing is waited for.
pub(super) fn no_follow() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

fn is_at(lock: &File, path: &Path) -> bool {
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (lock.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => place(held) == place(there),
        _ => false,
    }
}

/// Who wrote its number into the lock.
fn owner(directory: &Path) -> Option<i32> {
    let mut text = String::new();
    let file = File::open(file_of(directory)).ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}
