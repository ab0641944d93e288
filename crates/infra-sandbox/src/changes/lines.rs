//! How many lines a change adds and takes away.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

use similar::{Algorithm, ChangeTag, TextDiff};

use super::layer::Directory;
use crate::paths::file_type;
use rustix::fs::FileType;

/// A larger file is not compared line by line.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// So long is compared; beyond it, the rest counts as replaced.
const MAX_TIME: std::time::Duration = std::time::Duration::from_millis(500);

/// What a change does to a file's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineChanges {
    /// So many lines.
    Lines {
        /// Lines that are new.
        added: u64,
        /// Lines that are gone.
        removed: u64,
    },
    /// It holds NUL bytes or is too large; there is nothing to count.
    Binary,
    /// It is no regular file on either side.
    NoFile,
}

/// Compares both sides of a path.
pub(crate) fn line_changes(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    path: &Path,
    sides: (bool, bool),
) -> LineChanges {
    let (before, after) = sides;
    let before = if before { text(lower, path) } else { Side::Text(Vec::new()) };
    let after = if after { text(upper, path) } else { Side::Text(Vec::new()) };
    match (before, after) {
        (Side::Text(before), Side::Text(after)) => count(&before, &after),
        (Side::Binary, _) | (_, Side::Binary) => LineChanges::Binary,
        (Side::NoFile, _) | (_, Side::NoFile) => LineChanges::NoFile,
    }
}

fn count(before: &[u8], after: &[u8]) -> LineChanges {
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .timeout(MAX_TIME)
        .diff_lines(before, after);
    let tagged = |tag| diff.iter_all_changes().filter(|change| change.tag() == tag).count() as u64;
    LineChanges::Lines { added: tagged(ChangeTag::Insert), removed: tagged(ChangeTag::Delete) }
}

/// What a regular file or a symlink holds, of a symlink its target. `FileTooLarge` where that is more than so many
/// bytes, `Unsupported` where it is something else.
pub(crate) fn contents(
    layer: BorrowedFd<'_>,
    path: &Path,
    max_bytes: u64,
) -> std::io::Result<Vec<u8>> {
    use std::io::ErrorKind;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::NotFound.into());
    };
    let directory = Directory::open(layer, parent)?.ok_or(ErrorKind::NotFound)?;
    let stat = directory.stat(name)?.ok_or(ErrorKind::NotFound)?;
    match file_type(&stat) {
        FileType::Symlink => directory.link_target(name),
        FileType::RegularFile if stat.stx_size > max_bytes => Err(ErrorKind::FileTooLarge.into()),
        FileType::RegularFile => {
            let mut bytes = Vec::new();
            directory.open_file(name)?.take(max_bytes).read_to_end(&mut bytes)?;
            Ok(bytes)
        }
        _ => Err(ErrorKind::Unsupported.into()),
    }
}

enum Side {
    Text(Vec<u8>),
    Binary,
    NoFile,
}

fn text(layer: BorrowedFd<'_>, path: &Path) -> Side {
    let read = || {
        let directory = Directory::open(layer, path.parent()?).ok()??;
        let name: &OsStr = path.file_name()?;
        let stat = directory.stat(name).ok()??;
        if file_type(&stat) != FileType::RegularFile {
            return None;
        }
        if stat.stx_size > MAX_BYTES {
            return Some(Side::Binary);
        }
        let mut bytes = Vec::new();
        directory.open_file(name).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        Some(if bytes.contains(&0) { Side::Binary } else { Side::Text(bytes) })
    };
    read().unwrap_or(Side::NoFile)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn lines_are_counted_on_both_sides() {
        let directory = tempfile::tempdir().unwrap();
        let (upper, lower) = (directory.path().join("u"), directory.path().join("l"));
        for (layer, contents) in [(&upper, "a\nX\nc\nd\n"), (&lower, "a\nb\nc\n")] {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join("file"), contents).unwrap();
        }
        fs::write(upper.join("binary"), [0, 1]).unwrap();
        let (upper, lower) = (File::open(upper).unwrap(), File::open(lower).unwrap());
        let of =
            |path: &str, sides| line_changes(upper.as_fd(), lower.as_fd(), Path::new(path), sides);
        assert_eq!(of("file", (true, true)), LineChanges::Lines { added: 2, removed: 1 });
        assert_eq!(of("file", (false, true)), LineChanges::Lines { added: 4, removed: 0 });
        assert_eq!(of("file", (true, false)), LineChanges::Lines { added: 0, removed: 3 });
        assert_eq!(of("binary", (false, true)), LineChanges::Binary);
        assert_eq!(of("missing", (true, true)), LineChanges::NoFile);
    }
}
