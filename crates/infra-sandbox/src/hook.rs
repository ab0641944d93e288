//! The way into the helper: the same program, executed again.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use crate::helper;

/// The one argument that the helper is executed with.
pub(crate) const HELPER_ARGUMENT: &str = "__sandbox-init";

/// Whether this program would become the helper if it was executed again.
static HOOKED: AtomicBool = AtomicBool::new(false);

/// Becomes the sandbox's helper where this process was executed as one, and else returns at once.
///
/// To be called first thing in `main`, before any thread is started: the helper forks without an exec.
/// A program that does not call it has to name another one that does, by
/// [`HelperProgram::Path`]; otherwise making a sandbox is an error.
pub fn sandbox_hook() {
    HOOKED.store(true, Ordering::Relaxed);
    let mut arguments = std::env::args_os().skip(1);
    let is_helper = arguments.next().as_deref() == Some(OsStr::new(HELPER_ARGUMENT))
        && arguments.next().is_none();
    if !is_helper {
        return;
    }
    // Somebody who types the argument has no such socket as stdin, and gets the program itself.
    let stdin = rustix::stdio::stdin();
    if socket_type(stdin).ok() != Some(SocketType::SEQPACKET) {
        return;
    }
    helper::run(stdin.as_fd());
}

/// Which program holds a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HelperProgram {
    /// This very program, which calls [`sandbox_hook`] first thing in `main`.
    #[default]
    ThisProgram,
    /// Another one that does so, as an absolute path: the `forge` binary, say.
    Path(PathBuf),
}

impl HelperProgram {
    /// The file to execute; `None` where this program would not become a helper.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::ThisProgram => {
                HOOKED.load(Ordering::Relaxed).then(|| PathBuf::from("/proc/self/exe"))
            }
            Self::Path(path) => Some(path.clone()),
        }
    }
}
