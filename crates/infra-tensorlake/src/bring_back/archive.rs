//! Fetching files: an archive that the guest makes, and what is taken out of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tar::{Archive, EntryType};

/// Packs the files whose names, each with a NUL, are in the text in `$2` as base64, or in the pieces, where there is `-`. What
/// is small is printed, the rest stays in a file that is to be fetched; that of the last time goes. A hard link is packed as the file that it is.
pub(crate) const PACK: &str = r#"tar --version 2>/dev/null | grep -q 'GNU tar' || { echo "lacks GNU tar"; exit; }
here=$1
names() { if [ "$here" = - ]; then join_pieces; else printf %s "$here" | base64 -d; fi; }
rm -f -- "$K"/back-*
archive=$(mktemp "$K/back-XXXXXXXXXX") || exit
names >"$K/names" || exit
[ "$here" != - ] || remove_pieces
cd -P -- "$W" || exit
pack() {
  tar -c --format=gnu --no-recursion --hard-dereference --ignore-failed-read --null --verbatim-files-from \
    -T "$K/names" -f - 2>"$K/pack-errors" || [ $? = 1 ] || [ ! -s "$K/pack-errors" ] || echo "cannot pack: $(tail -n 1 "$K/pack-errors")" >&2
}
if command -v gzip >/dev/null; then kind=gzip; pack | gzip -1 >"$archive" || exit
else kind=plain; pack >"$archive" || exit; fi
size=$(stat -c %s -- "$archive")
if [ "$size" -le 1048576 ]; then echo "ok here $kind"; base64 -w 8192 -- "$archive"; rm -f -- "$archive"
else echo "ok file $kind $size $archive"; fi
"#;

/// `PATH_MAX` of Linux.
const MAX_NAME_BYTES: u64 = 4096;
/// What a header and the padding of a file take at the most, with a name that needs a header of its own.
const MAX_OVERHEAD_BYTES: u64 = 8 * 1024;
/// What an archive ends with, and what its blocks are filled up with.
const MAX_END_BYTES: u64 = 64 * 1024;

/// Hands over each file that is in an archive and was asked for, once, and no more of it than was listed and a little: a
/// file may grow while commands run. What is anything else is an error.
///
/// Of a file that is handed over, the contents have to be read to their end.
pub(crate) fn read_files<E: From<io::Error>>(
    archive: impl Read,
    mut wanted: BTreeMap<PathBuf, u64>,
    mut hand_over: impl FnMut(&Path, &mut dyn Read) -> Result<(), E>,
) -> Result<BTreeMap<PathBuf, u64>, E> {
    let limit = wanted.values().fold(MAX_END_BYTES, |sum, size| {
        sum.saturating_add(allowed(*size)).saturating_add(MAX_OVERHEAD_BYTES)
    });
    let mut archive = Archive::new(archive.take(limit));
    let mut long_name = None;
    // Raw: names of any length are ours to read, within limits.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let size = entry.header().entry_size()?;
                if size > MAX_NAME_BYTES + 1 {
                    return Err(invalid("a name in it is too long").into());
                }
                let mut name = Vec::new();
                entry.read_to_end(&mut name)?;
                long_name = Some(name);
            }
            EntryType::Regular => {
                let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let path = name_of(&name);
                let Some(listed) = wanted.remove(&path) else {
                    return Err(invalid("it holds a file that was not asked for").into());
                };
                if entry.header().entry_size()? > allowed(listed) {
                    return Err(invalid("a file in it is larger than it was").into());
                }
                hand_over(&path, &mut entry)?;
            }
            _ => return Err(invalid("it holds something else than files").into()),
        }
    }
    Ok(wanted)
}

/// How long a file may be that was so long when it was listed.
fn allowed(listed_bytes: u64) -> u64 {
    listed_bytes.saturating_add(listed_bytes / 8).saturating_add(16 * 1024 * 1024)
}

/// The name as it was asked for: behind `./`, and up to a NUL.
fn name_of(bytes: &[u8]) -> PathBuf {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let name = &bytes[..end];
    OsStr::from_bytes(name.strip_prefix(b"./").unwrap_or(name)).into()
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive from the guest: {reason}"))
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use tar::{Builder, Header};

    use super::*;

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header
    }

    /// An archive with raw names, as no builder would write them.
    fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, contents) in entries {
            let mut header = header(*kind, contents.len() as u64);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, *contents).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// Names and contents.
    type Found = Vec<(String, Vec<u8>)>;

    fn read(archive: &[u8], wanted: &[(&str, u64)]) -> io::Result<(Found, usize)> {
        let wanted = wanted.iter().map(|(path, size)| (PathBuf::from(path), *size)).collect();
        let mut found = Vec::new();
        let left = read_files(archive, wanted, |path, contents| {
            let mut bytes = Vec::new();
            contents.read_to_end(&mut bytes)?;
            found.push((path.to_str().unwrap().to_owned(), bytes));
            Ok::<(), io::Error>(())
        })?;
        Ok((found, left.len()))
    }

    #[test]
    fn files_that_were_asked_for_are_handed_over() {
        let file = EntryType::Regular;
        let packed = archive(&[("./a", file, b"one"), ("b/c", file, b"")]);
        let (found, left) = read(&packed, &[("a", 3), ("b/c", 0), ("gone", 1)]).unwrap();
        assert_eq!(found, [("a".to_owned(), b"one".to_vec()), ("b/c".to_owned(), Vec::new())]);
        assert_eq!(left, 1, "what the guest did not pack is said");
    }

    #[test]
    fn a_long_name_is_read_and_one_that_is_too_long_is_not() {
        let long = format!("{}end", "directory/".repeat(30));
        let named = |name: &str| {
            let mut bytes = archive(&[("././@LongLink", EntryType::GNULongName, name.as_bytes())]);
            bytes.truncate(bytes.len() - 1024);
            bytes.extend(archive(&[("cut", EntryType::Regular, b"x")]));
            bytes
        };
        let (found, _) = read(&named(&format!("./{long}\0")), &[(&long, 1)]).unwrap();
        assert_eq!(found, [(long, b"x".to_vec())]);
        assert!(read(&named(&"x".repeat(5000)), &[("cut", 1)]).is_err());
    }

    #[test]
    fn an_archive_that_lies_hands_nothing_over_that_was_not_asked_for() {
        let file = EntryType::Regular;
        let cases = [
            archive(&[("../out", file, b"x")]),
            archive(&[("/etc/out", file, b"x")]),
            archive(&[("a/../../out", file, b"x")]),
            archive(&[("other", file, b"x")]),
            archive(&[("link", EntryType::Symlink, b"")]),
            archive(&[("a", EntryType::Link, b"")]),
            archive(&[("a", EntryType::Char, b"")]),
            archive(&[("a", EntryType::GNUSparse, b"")]),
            archive(&[("a", EntryType::XHeader, b"20 path=/etc/out\n")]),
        ];
        for packed in cases {
            let mut found = 0;
            let wanted = [("a", 1), ("link", 1)].map(|(path, size)| (PathBuf::from(path), size));
            let read = read_files(&*packed, wanted.into(), |_, _| {
                found += 1;
                Ok::<(), io::Error>(())
            });
            assert!(read.is_err());
            assert_eq!(found, 0);
        }
        // A second one of the same name, and one that is much larger than it was.
        let twice = archive(&[("a", file, b"one"), ("a", file, b"two")]);
        assert!(read(&twice, &[("a", 3)]).is_err());
        let huge = archive(&[("a", file, &vec![0; 20 * 1024 * 1024])]);
        assert!(read(&huge, &[("a", 3)]).is_err());
        assert!(read(&huge, &[("a", 20 * 1024 * 1024)]).is_ok(), "as large as it was");
    }

    #[test]
    fn an_archive_that_breaks_off_is_an_error() {
        let packed = archive(&[("a", EntryType::Regular, &[7; 5000])]);
        assert!(read(&packed[..2000], &[("a", 5000)]).is_err());
        assert!(read(&packed, &[("a", 5000)]).is_ok());
    }
}
