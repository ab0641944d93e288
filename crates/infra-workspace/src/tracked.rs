//! The files that git tracks, from its index (gitformat-index(5)), without git.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};

use crate::beneath;

/// A larger index is not read.
const MAX_INDEX_BYTES: usize = 128 * 1024 * 1024;
/// Names of version 4 are compressed: all of them together may not be more, nor one more than a path can be.
const MAX_NAME_BYTES: usize = 4096;
const MAX_ALL_NAMES_BYTES: usize = 128 * 1024 * 1024;
/// More of the file that leads to a worktree's own directory is not read.
const MAX_POINTER_BYTES: u64 = 8192;
/// How long the name of an object is, with SHA-1 and with SHA-256. Which it is shows by where the index ends.
const HASH_BYTES: [usize; 2] = [20, 32];

/// The files and symlinks that git tracks, relative to the root, in byte order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tracked(Vec<Vec<u8>>);

/// Why it is not known what git tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotUnderstood;

impl Tracked {
    /// What the index of a working tree tracks: nothing where there is none.
    ///
    /// # Errors
    /// There is one, and it cannot be read: it is too large, damaged, only a part of a split one, or of a version to come.
    pub(crate) fn at(root: &OwnedFd) -> Result<Self, NotUnderstood> {
        let Some(git) = git_directory(root) else { return Ok(Self::default()) };
        let file = match beneath::file(&git, OsStr::new("index")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(_) => return Err(NotUnderstood),
        };
        let mut bytes = Vec::new();
        let read = file.take(MAX_INDEX_BYTES as u64 + 1).read_to_end(&mut bytes);
        if read.is_err() || bytes.len() > MAX_INDEX_BYTES {
            return Err(NotUnderstood);
        }
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, NotUnderstood> {
        let mut names = HASH_BYTES
            .into_iter()
            .find_map(|hash_bytes| names(bytes, hash_bytes))
            .ok_or(NotUnderstood)?;
        names.sort();
        Ok(Self(names))
    }

    /// Whether this very path is tracked.
    pub(crate) fn has(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        self.0.binary_search_by(|name| name.as_slice().cmp(path)).is_ok()
    }

    /// Whether anything in this directory is.
    pub(crate) fn has_within(&self, directory: &Path) -> bool {
        let start = [directory.as_os_str().as_bytes(), b"/"].concat();
        let first = self.0.partition_point(|name| *name < start);
        self.0.get(first).is_some_and(|name| name.starts_with(&start))
    }
}

/// Where git keeps what belongs to this working tree (gitrepository-layout(5)). That of a linked one is elsewhere.
pub(crate) fn git_directory(root: &OwnedFd) -> Option<OwnedFd> {
    if let Ok(directory) = beneath::directory(root, Path::new(".git")) {
        return Some(directory);
    }
    pointed_to(root, ".git", b"gitdir: ")
}

/// Where git keeps what all working trees of a repository share, from what belongs to one.
pub(crate) fn shared_directory(own: OwnedFd) -> OwnedFd {
    pointed_to(&own, "commondir", b"").unwrap_or(own)
}

/// The directory that is named by what is in a file, after a prefix.
fn pointed_to(directory: &OwnedFd, name: &str, prefix: &[u8]) -> Option<OwnedFd> {
    let mut text = Vec::new();
    let pointer = beneath::file(directory, OsStr::new(name)).ok()?;
    pointer.take(MAX_POINTER_BYTES).read_to_end(&mut text).ok()?;
    let path = text.strip_prefix(prefix)?;
    let path = PathBuf::from(OsString::from_vec(path.trim_ascii_end().to_vec()));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(directory, &path, flags, Mode::empty()).ok()
}

/// The names of the files and symlinks in an index whose objects have names of so many bytes.
fn names(bytes: &[u8], hash_bytes: usize) -> Option<Vec<Vec<u8>>> {
    let end = bytes.len().checked_sub(hash_bytes)?;
    let mut reader = Reader { bytes: bytes.get(..end)?, at: 0 };
    if reader.take(4)? != b"DIRC" {
        return None;
    }
    let version = reader.number()?;
    if !(2..=4).contains(&version) {
        return None;
    }
    let count = reader.number()?;
    let (mut names, mut previous, mut all_bytes) = (Vec::new(), Vec::new(), 0_usize);
    for _ in 0..count {
        let start = reader.at;
        // Times, device and inode are before the mode; user, group, size and the object after it.
        reader.take(24)?;
        let mode = reader.number()?;
        reader.take(12 + hash_bytes)?;
        let flags = reader.take(2)?[0];
        if flags & 0x40 != 0 {
            if version < 3 {
                return None;
            }
            reader.take(2)?;
        }
        let mut name: Vec<u8> = Vec::new();
        if version == 4 {
            let kept = previous.len().checked_sub(reader.varint()?)?;
            name.extend_from_slice(previous.get(..kept)?);
        }
        name.extend_from_slice(reader.until_nul()?);
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return None;
        }
        if version < 4 {
            let length = reader.at - start;
            reader.take(length.next_multiple_of(8) - length)?;
        }
        // No submodule, and no directory of a sparse index.
        if matches!(mode >> 12, 0o10 | 0o12) {
            all_bytes += name.len();
            if all_bytes > MAX_ALL_NAMES_BYTES {
                return None;
            }
            names.push(name.clone());
        }
        previous = name;
    }
    while reader.at < reader.bytes.len() {
        let kind = reader.take(4)?;
        let length = usize::try_from(reader.number()?).ok()?;
        // The rest of a split index is in another file.
        if kind == b"link" {
            return None;
        }
        reader.take(length)?;
    }
    Some(names)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Up to a NUL, which is passed.
    fn until_nul(&mut self) -> Option<&'a [u8]> {
        let length = self.bytes.get(self.at..)?.iter().position(|byte| *byte == 0)?;
        let taken = self.take(length)?;
        self.at += 1;
        Some(taken)
    }

    /// A number as pack files have it for offsets: seven bits a byte, the higher first, one added at each further byte.
    fn varint(&mut self) -> Option<usize> {
        let mut value = 0_usize;
        loop {
            let byte = self.take(1)?[0];
            value = value.checked_mul(128)?.checked_add(usize::from(byte & 127))?;
            if byte & 128 == 0 {
                return Some(value);
            }
            value = value.checked_add(1)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    /// An index of version 2 or 4 with these names, without anything else.
    fn index(version: u32, hash_bytes: usize, all: &[&str]) -> Vec<u8> {
        let mut bytes = b"DIRC".to_vec();
        bytes.extend(version.to_be_bytes());
        bytes.extend(u32::try_from(all.len()).unwrap().to_be_bytes());
        let mut previous = "";
        for name in all {
            let start = bytes.len();
            bytes.extend([0; 24]);
            bytes.extend(0o100_644_u32.to_be_bytes());
            bytes.extend(vec![0; 12 + hash_bytes + 2]);
            if version == 4 {
                let same = name.bytes().zip(previous.bytes()).take_while(|(a, b)| a == b).count();
                bytes.push(u8::try_from(previous.len() - same).unwrap());
                bytes.extend(&name.as_bytes()[same..]);
                bytes.push(0);
            } else {
                bytes.extend(name.as_bytes());
                bytes.push(0);
                while !(bytes.len() - start).is_multiple_of(8) {
                    bytes.push(0);
                }
            }
            previous = name;
        }
        bytes.extend(vec![0; hash_bytes]);
        bytes
    }

    fn tracked(names: &[&str]) -> Tracked {
        Tracked(names.iter().map(|name| name.as_bytes().to_vec()).collect())
    }

    #[test]
    fn names_are_read_with_either_hash() {
        for version in [2, 4] {
            for hash_bytes in HASH_BYTES {
                for names in [&[][..], &["a"], &["a", "a/b", "d/long-name", "d/long-other"]] {
                    let actual = Tracked::parse(&index(version, hash_bytes, names));
                    assert_eq!(actual, Ok(tracked(names)), "{version} {hash_bytes}");
                }
            }
        }
        let found = tracked(&["a-b/c", "a/b/c", "d"]);
        for (path, is_file, has_some) in [
            ("a", false, true),
            ("a/b", false, true),
            ("a/b/c", true, false),
            ("a-b", false, true),
            ("d", true, false),
            ("e", false, false),
        ] {
            let path = Path::new(path);
            assert_eq!((found.has(path), found.has_within(path)), (is_file, has_some), "{path:?}");
        }
    }

    #[test]
    fn what_is_no_whole_index_is_not_understood() {
        let whole = index(2, 20, &["a", "b"]);
        let mut split = whole.clone();
        split.splice(whole.len() - 20..whole.len() - 20, *b"link\0\0\0\0");
        let mut other = whole.clone();
        other.splice(whole.len() - 20..whole.len() - 20, *b"TREE\0\0\0\0");
        assert_eq!(Tracked::parse(&other), Ok(tracked(&["a", "b"])));
        let mut newer = whole.clone();
        newer[7] = 5;
        for bytes in [&b""[..], b"DIRC", &[0; 100], &split, &newer] {
            assert_eq!(Tracked::parse(bytes), Err(NotUnderstood), "{bytes:?}");
        }
        for end in 0..whole.len() {
            assert_eq!(Tracked::parse(&whole[..end]), Err(NotUnderstood), "{end}");
        }
    }

    #[test]
    fn names_that_grow_without_end_are_not_kept() {
        let mut bytes = b"DIRC".to_vec();
        bytes.extend(4_u32.to_be_bytes());
        bytes.extend(2_u32.to_be_bytes());
        for name in [vec![b'x'; MAX_NAME_BYTES], vec![b'y']] {
            bytes.extend([0; 24]);
            bytes.extend(0o100_644_u32.to_be_bytes());
            bytes.extend([0; 34]);
            bytes.push(0);
            bytes.extend(name);
            bytes.push(0);
        }
        bytes.extend([0; 20]);
        assert_eq!(Tracked::parse(&bytes), Err(NotUnderstood));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _unchecked = Tracked::parse(&bytes);
            let _unchecked = Tracked::parse(&[b"DIRC\0\0\0\x04\0\0\0\x02", &bytes[..]].concat());
        }

        #[test]
        fn no_damage_makes_it_panic(
            version in prop_oneof![Just(2), Just(4)],
            damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = index(version, 20, &["a", "a/b", "d/long-name", "d/long-other"]);
            for (at, byte) in damage {
                let length = bytes.len();
                bytes[usize::from(at) % length] = byte;
            }
            let _unchecked = Tracked::parse(&bytes);
        }
    }
}
