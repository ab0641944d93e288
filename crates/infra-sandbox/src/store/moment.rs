//! Moments by the kernel's clock for inodes, and what they say about a file.
//!
//! A change of an inode sets its ctime, which no program can set to anything else. So a file that has the ctime which it
//! had when it was read holds what it held, unless both came in one step of the clock.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::fs::{Statx, StatxFlags, StatxTimestamp};
use serde::{Deserialize, Serialize};

/// By so much two moments may be wrong against each other: clocks for inodes go in steps of a few milliseconds.
const CLOCK_STEPS: Duration = Duration::from_millis(100);

/// A moment by the kernel's clock for inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Moment {
    seconds: i64,
    nanoseconds: i64,
}

impl Moment {
    /// When a file was last written to.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() })
    }

    pub(super) fn written(stat: &Statx) -> Self {
        Self::at(stat.stx_mtime)
    }

    pub(super) fn changed(stat: &Statx) -> Self {
        Self::at(stat.stx_ctime)
    }

    /// When an inode was made, where the file system keeps that.
    fn born(stat: &Statx) -> Option<Self> {
        let is_known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        is_known.then(|| Self::at(stat.stx_btime))
    }

    fn at(time: StatxTimestamp) -> Self {
        Self { seconds: time.tv_sec, nanoseconds: i64::from(time.tv_nsec) }
    }

    fn earlier(self, by: Duration) -> Self {
        let nanoseconds = self.nanoseconds - i64::from(by.subsec_nanos());
        let borrowed = i64::from(nanoseconds < 0);
        let seconds = self.seconds - by.as_secs().cast_signed() - borrowed;
        Self { seconds, nanoseconds: nanoseconds + borrowed * 1_000_000_000 }
    }
}

/// The moments at which the session saw the host as it was then: the begin of its use, and each taking in. The oldest
/// first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moments(Vec<Moment>);

impl Moments {
    pub(super) fn new(first: Moment) -> Self {
        Self(vec![first])
    }

    pub(super) fn push(&mut self, moment: Moment) {
        self.0.push(moment);
    }

    /// As of which of them the session saw what it then made a copy of: the last one before the copy was made, and
    /// where that is not known, the first.
    pub(super) fn seen_by(&self, copy: Option<&Statx>) -> Option<Moment> {
        let first = self.0.first().copied();
        let Some(born) = copy.and_then(Moment::born) else { return first };
        self.0.iter().rev().copied().find(|moment| *moment <= born).or(first)
    }
}

/// By what a file is known again, and known to hold what it held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sight {
    inode: u64,
    changed: Moment,
}

impl Sight {
    /// Of a file that is looked at now; `None` where it was changed so lately that another change would not show.
    pub(crate) fn of(stat: &Statx, now: Moment) -> Option<Self> {
        let changed = Moment::changed(stat);
        (changed < now.earlier(CLOCK_STEPS)).then_some(Self { inode: stat.stx_ino, changed })
    }

    /// Whether it is the same file, which was not changed.
    pub(super) fn is_of(self, stat: &Statx) -> bool {
        (stat.stx_ino, Moment::changed(stat)) == (self.inode, self.changed)
    }
}
