//! Whether two files hold the same.

use std::ffi::OsStr;
use std::io::{self, Read};

use super::layer::Directory;

/// So much is compared at a time.
const PIECE_BYTES: usize = 128 * 1024;

/// Whether two regular files of the same size hold the same bytes. One that cannot be read differs:
/// nothing that may be a change is kept from the user.
pub(super) fn same_contents(upper: &Directory, lower: &Directory, name: &OsStr) -> bool {
    let compared = || -> io::Result<bool> {
        let (mut left, mut right) = (upper.open_file(name)?, lower.open_file(name)?);
        let (mut one, mut two) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
        loop {
            let (read, other) = (fill(&mut left, &mut one)?, fill(&mut right, &mut two)?);
            if one[..read] != two[..other] {
                return Ok(false);
            }
            if read == 0 {
                return Ok(true);
            }
        }
    };
    compared().unwrap_or(false)
}

/// Reads until the buffer is full or the file is at its end.
fn fill(file: &mut std::fs::File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
