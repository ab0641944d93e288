//! Going down and up a tree by descriptor with a bounded number of them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::beneath;

/// So many directories are held at a time; those above are opened again when they are come back to.
const MAX_OPEN: usize = 64;

/// So many names are opened at once, at the most 256 bytes each: within `PATH_MAX`.
const NAMES_AT_ONCE: usize = 15;

/// A directory with the way from the top to it, however deep it is.
#[derive(Debug)]
pub(crate) struct Descent {
    top: Arc<OwnedFd>,
    /// The names from the top to the current directory.
    names: Vec<OsString>,
    /// The last of them, open.
    open: VecDeque<OwnedFd>,
}

impl Descent {
    pub(crate) fn new(top: Arc<OwnedFd>) -> Self {
        Self { top, names: Vec::new(), open: VecDeque::new() }
    }

    /// The directory that was gone down to.
    ///
    /// # Errors
    /// It had been let go, and is not there any more under its names.
    pub(crate) fn current(&mut self) -> io::Result<&OwnedFd> {
        if self.open.is_empty() && !self.names.is_empty() {
            self.open_again()?;
        }
        Ok(self.open.back().unwrap_or(&self.top))
    }

    /// Goes down to a directory that was opened in the current one.
    pub(crate) fn down(&mut self, name: OsString, directory: OwnedFd) {
        self.names.push(name);
        self.open.push_back(directory);
        if self.open.len() > MAX_OPEN {
            self.open.pop_front();
        }
    }

    /// Goes up from a directory, whose name is returned; `None` at the top.
    pub(crate) fn up(&mut self) -> Option<OsString> {
        self.open.pop_back();
        self.names.pop()
    }

    fn open_again(&mut self) -> io::Result<()> {
        let (far, near) = self.names.split_at(self.names.len().saturating_sub(MAX_OPEN));
        let mut above = None;
        for names in far.chunks(NAMES_AT_ONCE) {
            let path: PathBuf = names.iter().collect();
            above = Some(open_directory(above.as_ref().unwrap_or(&self.top), path)?);
        }
        for name in near {
            let directory = self.open.back().or(above.as_ref()).unwrap_or(&self.top);
            let directory = open_directory(directory, PathBuf::from(name))?;
            self.open.push_back(directory);
        }
        Ok(())
    }
}

fn open_directory(directory: &OwnedFd, path: PathBuf) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    beneath::open(directory, path, flags, Mode::empty())
}
