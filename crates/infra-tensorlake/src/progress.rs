//! How far a sandbox is that is not there yet, for whoever waits for it.

use std::fmt;
use std::sync::Arc;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The server makes the sandbox, or resumes it.
    Starting,
    /// It is looked at what there is of the project.
    Listing,
    /// The project is packed and sent.
    Sending {
        /// So many paths are packed.
        paths: u64,
        /// Of so many.
        all_paths: u64,
        /// So many bytes of files are packed.
        bytes: u64,
        /// Of so many.
        all_bytes: u64,
    },
    /// What was sent is checked and unpacked there.
    Unpacking,
    /// Nothing is waited for any more, however that came.
    Ended,
}

/// Told of each [`Progress`] as it comes, by any thread; it must not block. Whatever begins is told to have ended.
#[derive(Clone)]
pub struct ProgressListener(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressListener {
    /// Takes a function.
    pub fn new(listener: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }
}

impl fmt::Debug for ProgressListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressListener")
    }
}

/// Tells of one wait. Dropping it tells that it has ended.
#[derive(Debug)]
pub(crate) struct Telling(Option<ProgressListener>);

impl Telling {
    /// Begins with this.
    pub(crate) fn begin(listener: Option<&ProgressListener>, first: Progress) -> Self {
        let telling = Self(listener.cloned());
        telling.tell(first);
        telling
    }

    pub(crate) fn tell(&self, progress: Progress) {
        if let Some(ProgressListener(listener)) = &self.0 {
            listener(progress);
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.tell(Progress::Ended);
    }
}
