//! The space on the disk that a session may fill.
//!
//! Nothing in the kernel bounds a directory tree for an ordinary user, so it is looked at. Walking a
//! large upper layer every second would be work for nothing: the file system is asked first how much
//! less room it has than at the last walk, and only where that could mean that the limit is passed is
//! the tree walked.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use tokio::sync::watch;
use tracing::{debug, warn};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// What an entry costs besides its contents: an inode and a name.
const ENTRY_BYTES: u64 = 512;

/// Directories deeper than this are counted by their own entry alone.
const MAX_DEPTH: usize = 512;

/// Looks after the space until it is dropped.
#[derive(Debug)]
pub(crate) struct Quota {
    task: tokio::task::AbortHandle,
    exceeded: watch::Receiver<u64>,
}

impl Quota {
    /// Begins to look after the upper layer; after none, where limits are off.
    pub(crate) fn watch(upper: Option<Arc<OwnedFd>>, max_bytes: u64) -> Self {
        let (sender, exceeded) = watch::channel(0);
        let task = tokio::spawn(async move {
            let Some(upper) = upper else { return std::future::pending().await };
            let mut gauge = Gauge::default();
            loop {
                tokio::time::sleep(INTERVAL).await;
                let upper = Arc::clone(&upper);
                let looked = tokio::task::spawn_blocking(move || {
                    let over = gauge.look(&upper, max_bytes);
                    (gauge, over)
                });
                let Ok((next, over)) = looked.await else { return };
                gauge = next;
                match over {
                    Ok(true) => {
                        warn!(max_bytes, "The session has written more than it may.");
                        sender.send_modify(|count| *count += 1);
                    }
                    Ok(false) => {}
                    Err(error) => debug!(%error, "The session's space could not be looked at."),
                }
            }
        });
        Self { task: task.abort_handle(), exceeded }
    }

    /// A receiver that changes each time the limit is found to be passed by something that still grows.
    pub(crate) fn exceeded(&self) -> watch::Receiver<u64> {
        let mut exceeded = self.exceeded.clone();
        exceeded.mark_unchanged();
        exceeded
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was known at the last walk.
#[derive(Debug, Clone, Copy, Default)]
struct Gauge {
    walked: bool,
    tree_bytes: u64,
    free_bytes: u64,
    free_entries: u64,
}

impl Gauge {
    /// Whether the tree holds more than it may and has grown since the last look. One that is being
    /// emptied is left in peace.
    fn look(&mut self, upper: &OwnedFd, max_bytes: u64) -> io::Result<bool> {
        let room = rustix::fs::fstatvfs(upper)?;
        let free_bytes = room.f_bavail * room.f_frsize;
        let lost = self.free_bytes.saturating_sub(free_bytes)
            + self.free_entries.saturating_sub(room.f_ffree) * ENTRY_BYTES;
        if self.walked && self.tree_bytes.saturating_add(lost) <= max_bytes {
            return Ok(false);
        }
        let before = std::mem::replace(&mut self.tree_bytes, size(upper)?);
        let grown = !self.walked || self.tree_bytes > before;
        *self = Self { walked: true, free_bytes, free_entries: room.f_ffree, ..*self };
        Ok(self.tree_bytes > max_bytes && grown)
    }
}

/// How much a tree takes on the disk: the blocks of its files, and something for each entry. Hard links
/// are counted as often as they are there, which errs on the side of the limit.
pub(crate) fn size(root: &OwnedFd) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |parent: &OwnedFd, name: &std::ffi::CStr| {
        rustix::fs::openat(parent, name, flags, Mode::empty())
    };
    let mut bytes = 0u64;
    let mut stack = vec![Dir::new(open(root, c".")?)?];
    while let Some(directory) = stack.last_mut() {
        let Some(entry) = directory.next() else {
            stack.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        bytes += ENTRY_BYTES;
        let parent = directory.fd()?;
        let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && stack.len() < MAX_DEPTH {
            let parent = stack.last().map(Dir::fd).transpose()?;
            let opened =
                parent.map(|parent| rustix::fs::openat(parent, name, flags, Mode::empty()));
            // One that may not be read holds what it holds; whoever made it so cannot write to it
            // either without making it readable again.
            if let Some(Ok(opened)) = opened {
                stack.push(Dir::new(opened)?);
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn contents_and_entries_count() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        fs::write(directory.path().join("a/b/file"), vec![1; 100_000]).unwrap();
        let root = OwnedFd::from(fs::File::open(directory.path()).unwrap());
        let one = size(&root).unwrap();
        assert!(one >= 100_000, "{one}");
        fs::write(directory.path().join("empty"), "").unwrap();
        assert!(size(&root).unwrap() > one);
    }

    #[test]
    fn only_what_grows_beyond_its_limit_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(fs::File::open(directory.path()).unwrap());
        let mut gauge = Gauge::default();
        assert!(!gauge.look(&root, 50_000).unwrap());
        fs::write(directory.path().join("file"), vec![1; 100_000]).unwrap();
        // What the file system says about its room may lag: the next walk is forced here.
        gauge.walked = false;
        assert!(gauge.look(&root, 50_000).unwrap());
        fs::write(directory.path().join("file"), vec![1; 60_000]).unwrap();
        gauge.free_bytes = u64::MAX;
        assert!(!gauge.look(&root, 50_000).unwrap());
    }
}
