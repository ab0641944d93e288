//! A file with a key: read only where nobody else can read it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use secrecy::SecretString;

/// Why a file gives no key.
#[derive(Debug)]
pub(crate) enum KeyFileError {
    /// It cannot be read.
    Read(io::Error),
    /// Others can read it or write to it; its permission bits.
    Mode(u32),
    /// It holds nothing.
    Empty,
}

/// A key is short; what is longer is some other file.
const MAX_KEY_BYTES: u64 = 16 * 1024;

/// Reads a key. White space around it does not count.
///
/// # Errors
/// [`KeyFileError`].
pub(crate) fn read(path: &Path) -> Result<SecretString, KeyFileError> {
    let file = File::open(path).map_err(KeyFileError::Read)?;
    let metadata = file.metadata().map_err(KeyFileError::Read)?;
    // A pipe, as of `<(pass show tensorlake)`, belongs to whoever opened it.
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(KeyFileError::Mode(mode));
    }
    let mut text = String::new();
    file.take(MAX_KEY_BYTES).read_to_string(&mut text).map_err(KeyFileError::Read)?;
    match text.trim() {
        "" => Err(KeyFileError::Empty),
        key => Ok(SecretString::from(key)),
    }
}
