//! What the operating system's errors become.

use std::io;
use std::path::{Path, PathBuf};

use forge_domain::ApplyError;

/// What was to be done, to be used with `map_err`.
pub(crate) fn failed(
    operation: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(io::Error) -> ApplyError {
    let path: PathBuf = path.as_ref().to_path_buf();
    move |source| ApplyError::Io { operation, path, source }
}
