//! From a layer to an archive.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Statx};
use tar::{Builder, EntryType, Header};

use super::OPAQUE;
use crate::changes::Directory;
use crate::paths::file_type;

/// Writes what a layer holds, and says how many entries that are. What changes meanwhile is there as it
/// was at some moment; what cannot be read is an error.
pub(crate) fn pack(layer: BorrowedFd<'_>, archive: impl Write) -> io::Result<u64> {
    let mut packing = Packing { archive: Builder::new(archive), first: HashMap::new(), entries: 0 };
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let Some(directory) = Directory::open(layer, &path)? else { continue };
        for name in directory.names()? {
            let path = path.join(&name);
            let Some(stat) = directory.stat(&name)? else { continue };
            packing.entry(layer, &directory, &name, &path, &stat)?;
            if file_type(&stat) == FileType::Directory {
                pending.push(path);
            }
        }
    }
    packing.archive.finish()?;
    Ok(packing.entries)
}

struct Packing<W: Write> {
    archive: Builder<W>,
    /// The first path of each file that has several.
    first: HashMap<u64, PathBuf>,
    entries: u64,
}

impl<W: Write> Packing<W> {
    fn entry(
        &mut self,
        layer: BorrowedFd<'_>,
        directory: &Directory,
        name: &OsStr,
        path: &Path,
        stat: &Statx,
    ) -> io::Result<()> {
        let mut header = header(stat);
        match file_type(stat) {
            FileType::Directory => {
                let opaque = Directory::open(layer, path)?.is_some_and(|found| found.is_opaque());
                let mark: &[u8] = if opaque { OPAQUE } else { &[] };
                self.append(&mut header, EntryType::Directory, path, mark)
            }
            FileType::Symlink => {
                let target = directory.link_target(name)?;
                self.append(&mut header, EntryType::Symlink, path, &target)
            }
            FileType::CharacterDevice | FileType::RegularFile
                if directory.is_whiteout(name, stat, || directory.may_hold_marks()) =>
            {
                self.append(&mut header, EntryType::Char, path, &[])
            }
            FileType::RegularFile => {
                if stat.stx_nlink > 1 {
                    if let Some(first) = self.first.get(&stat.stx_ino) {
                        let first = first.as_os_str().as_bytes().to_vec();
                        return self.append(&mut header, EntryType::Link, path, &first);
                    }
                    self.first.insert(stat.stx_ino, path.to_path_buf());
                }
                let file = directory.open_for_reading(name)?;
                // As many bytes as the header says, whatever becomes of the file meanwhile.
                let size = file.metadata()?.len();
                header.set_entry_type(EntryType::Regular);
                header.set_size(size);
                self.entries += 1;
                let contents = file.take(size).chain(io::repeat(0)).take(size);
                self.archive.append_data(&mut header, path, contents)
            }
            FileType::Fifo => self.append(&mut header, EntryType::Fifo, path, &[]),
            // Nobody listens at a socket any more, and there are no other devices in a session.
            _ => Ok(()),
        }
    }

    fn append(
        &mut self,
        header: &mut Header,
        kind: EntryType,
        path: &Path,
        contents: &[u8],
    ) -> io::Result<()> {
        header.set_entry_type(kind);
        header.set_size(contents.len() as u64);
        self.entries += 1;
        self.archive.append_data(header, path, contents)
    }
}

fn header(stat: &Statx) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(u32::from(stat.stx_mode & 0o7777));
    header.set_uid(stat.stx_uid.into());
    header.set_gid(stat.stx_gid.into());
    header.set_mtime(u64::try_from(stat.stx_mtime.tv_sec).unwrap_or(0));
    // Build tools compare to the nanosecond.
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.set_ctime(stat.stx_mtime.tv_nsec.into());
    }
    header
}
