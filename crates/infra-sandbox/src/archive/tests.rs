use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pretty_assertions::assert_eq;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

use super::*;
use crate::changes::Directory;

fn directory(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// Everything of a tree that an archive keeps, by path.
fn facts(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    let held = directory(root);
    while let Some(path) = pending.pop() {
        let entries = fs::read_dir(root.join(&path)).unwrap();
        for entry in entries.map(Result::unwrap) {
            let (path, metadata) = (path.join(entry.file_name()), entry.metadata().unwrap());
            let kind = metadata.file_type();
            let contents = if kind.is_dir() {
                pending.push(path.clone());
                let opened = Directory::open(held.as_fd(), &path).unwrap().unwrap();
                format!("directory, opaque {}", opened.is_opaque())
            } else if kind.is_symlink() {
                format!("{:?}", fs::read_link(entry.path()).unwrap())
            } else if kind.is_file() {
                format!("{:?}, links {}", fs::read(entry.path()).unwrap(), metadata.nlink())
            } else {
                format!("fifo {}, device {}", kind.is_fifo(), kind.is_char_device())
            };
            let times = (metadata.mtime(), metadata.mtime_nsec());
            // A white-out has neither.
            let times = if kind.is_char_device() { (0, 0) } else { times };
            let mode = if kind.is_char_device() { 0 } else { metadata.mode() };
            found.insert(path, format!("{contents}, {mode:o}, {times:?}"));
        }
    }
    found
}

#[test]
fn a_layer_comes_back_as_it_was() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |path: &str| from.path().join(path);
    fs::create_dir_all(at("sub/opaque/deeper")).unwrap();
    fs::write(at("sub/file"), "contents\n").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("program"), vec![7; 100_000]).unwrap();
    fs::set_permissions(at("program"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(at("program"), at("sub/the same program")).unwrap();
    fs::write(from.path().join(OsStr::from_bytes(b"line\nbreak \xff")), "odd").unwrap();
    let long = "n".repeat(200);
    fs::create_dir_all(at(&format!("{long}/{long}"))).unwrap();
    fs::write(at(&format!("{long}/{long}/{long}")), "deep").unwrap();
    symlink("../..//./elsewhere/", at("sub/link")).unwrap();
    symlink("x".repeat(300), at("long link")).unwrap();
    symlink("/absolute\nwith a break", at("absolute")).unwrap();
    mknodat(CWD, at("deleted"), FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    setxattr(at("sub/opaque"), "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    fs::write(at("closed"), "secret").unwrap();
    fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(at("sub/opaque"), fs::Permissions::from_mode(0o555)).unwrap();

    let mut archive = Vec::new();
    let entries = pack(directory(from.path()).as_fd(), &mut archive).unwrap();
    unpack(&archive[..], &directory(to.path())).unwrap();

    for root in [from.path(), to.path()] {
        let closed = root.join("closed");
        assert_eq!(fs::metadata(&closed).unwrap().mode() & 0o777, 0);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let expected = facts(from.path());
    assert_eq!(entries, expected.len() as u64);
    assert_eq!(facts(to.path()), expected);
}

#[test]
fn nothing_is_packed_as_nothing() {
    let from = tempfile::tempdir().unwrap();
    assert_eq!(pack(directory(from.path()).as_fd(), std::io::sink()).unwrap(), 0);
}

#[test]
fn what_an_archive_holds_is_known_without_unpacking_it() {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir_all(from.path().join(".git/objects/ab")).unwrap();
    let mut archive = Vec::new();
    pack(directory(from.path()).as_fd(), &mut archive).unwrap();
    assert!(holds(&archive[..], &[Path::new(".git/refs"), Path::new(".git/objects")]));
    assert!(!holds(&archive[..], &[Path::new(".git/refs"), Path::new("git")]));
    assert!(holds(&b"no archive, but long enough to be looked at".repeat(20)[..], &[]));
}

#[test]
fn an_archive_that_was_cut_off_or_leads_outside_is_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), vec![1; 10_000]).unwrap();
    let mut archive = Vec::new();
    pack(directory(from.path()).as_fd(), &mut archive).unwrap();
    unpack(&archive[..5_000], &directory(to.path())).unwrap_err();

    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.as_gnu_mut().unwrap().set_ctime(0);
    header.set_entry_type(tar::EntryType::Symlink);
    builder.append_data(&mut header, "link", &b"/"[..]).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    builder.append_data(&mut header, "link/planted", &b"x"[..]).unwrap();
    let to = tempfile::tempdir().unwrap();
    let refused = unpack(&builder.into_inner().unwrap()[..], &directory(to.path()));
    assert_eq!(refused.unwrap_err().to_string(), "a directory is missing in it");
}
