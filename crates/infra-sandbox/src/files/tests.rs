use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use pretty_assertions::assert_eq;
use rustix::fs::{CWD, mkfifoat};

use super::*;
use crate::sample::{ALL, CANARY, Sample, open};

const KEEP: WriteOptions = WriteOptions { existing: Existing::Keep, mode: None };

fn mode(sample: &Sample, path: &str) -> u32 {
    fs::metadata(sample.host(path)).unwrap().mode() & 0o7777
}

fn chmod(sample: &Sample, path: &str, mode: u32) {
    fs::set_permissions(sample.host(path), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_written_is_read_through_parents_that_are_made() {
    let sample = Sample::new();
    sample.write("a/b/../c/file", "first").unwrap();
    sample.write("a/b/../c/file", "second").unwrap();
    assert_eq!(sample.text("/sample/project/a/c/file").unwrap(), "second");
    assert_eq!(fs::read_to_string(sample.host("a/c/file")).unwrap(), "second");
    assert_eq!(sample.names("a"), ["c"]);
    assert_eq!(sample.names("a/c"), ["file"]);
}

#[test]
fn a_range_is_exact_and_empty_beyond_the_end() {
    let sample = Sample::new();
    sample.file("file", "0123456789");
    let cases = [(3, 4, "3456"), (8, 100, "89"), (10, 1, ""), (u64::MAX, u64::MAX, "")];
    for (offset, max_bytes, expected) in cases {
        let range = ByteRange { offset, max_bytes };
        let actual = sample.trees.read(Path::new("file"), range).unwrap();
        let expected = FileContents { bytes: expected.into(), total_bytes: 10 };
        assert_eq!(actual, expected, "{offset}");
    }
}

#[test]
fn what_is_no_regular_file_is_neither_read_nor_replaced() {
    let sample = Sample::new();
    sample.file("directory/file", "stays");
    mkfifoat(CWD, sample.host("fifo"), Mode::from_raw_mode(0o666)).unwrap();
    let _listener = UnixListener::bind(sample.host("socket")).unwrap();
    sample.link("fifo", "link");
    for path in ["fifo", "socket", "link"] {
        for error in [sample.text(path).unwrap_err(), sample.write(path, "").unwrap_err()] {
            assert!(matches!(error, FileError::Special { .. }), "{path}: {error:?}");
        }
    }
    for path in ["directory", "directory/", ".", "extra", "new/"] {
        let error = sample.write(path, "").unwrap_err();
        assert!(matches!(error, FileError::IsDirectory { .. }), "{path}: {error:?}");
    }
    let error = sample.text("directory").unwrap_err();
    assert!(matches!(error, FileError::IsDirectory { .. }), "{error:?}");
    assert_eq!(sample.names("directory"), ["file"]);
    assert_eq!(sample.text("directory/file").unwrap(), "stays");
}

#[test]
fn paths_that_can_name_nothing_are_said_to() {
    let sample = Sample::new();
    sample.file("file", "");
    for path in ["", "a\0b", &"x".repeat(300)] {
        for error in [sample.text(path).unwrap_err(), sample.write(path, "").unwrap_err()] {
            assert!(matches!(error, FileError::InvalidPath { .. }), "{path}: {error:?}");
        }
    }
    let error = sample.write("file/below", "").unwrap_err();
    assert!(matches!(error, FileError::NotDirectory { .. }), "{error:?}");
    let error = sample.text("missing").unwrap_err();
    assert!(matches!(&error, FileError::NotFound { path } if path == Path::new("missing")));
}

#[test]
fn writing_through_a_link_keeps_it_and_makes_its_target() {
    let sample = Sample::new();
    sample.file("target", "old");
    sample.link("/sample/project/target", "link");
    sample.link("made/below/file", "dangling");
    sample.link("/sample/scratch/note", "note");
    for path in ["link", "dangling", "note"] {
        sample.write(path, "new").unwrap();
        assert!(sample.host(path).is_symlink(), "{path}");
        assert_eq!(sample.text(path).unwrap(), "new");
    }
    assert_eq!(fs::read_to_string(sample.host("target")).unwrap(), "new");
    assert_eq!(fs::read_to_string(sample.host("made/below/file")).unwrap(), "new");
    assert_eq!(fs::read_to_string(sample.beside("scratch/note")).unwrap(), "new");
}

#[test]
fn nothing_is_made_through_a_link_that_leaves() {
    let sample = Sample::new();
    sample.link("../outside", "relative");
    sample.link(sample.beside("outside"), "absolute");
    for path in ["relative/new", "relative/a/b/new", "absolute/new", "relative/canary"] {
        let error = sample.write(path, "planted").unwrap_err();
        assert!(matches!(error, FileError::Outside { .. }), "{path}: {error:?}");
    }
    let error = sample.trees.list(Path::new("relative")).unwrap_err();
    assert!(matches!(error, FileError::Outside { .. }), "{error:?}");
    let names: Vec<_> = fs::read_dir(sample.beside("outside")).unwrap().collect();
    assert_eq!(names.len(), 2);
    assert_eq!(fs::read_to_string(sample.beside("outside/canary")).unwrap(), CANARY);
}

#[test]
fn modes_are_kept_set_and_masked() {
    let sample = Sample::new();
    sample.file("script", "old");
    chmod(&sample, "script", 0o751);
    sample.write("script", "new").unwrap();
    assert_eq!(mode(&sample, "script"), 0o751);

    for asked in [0o600, 0o755, 0o666] {
        let options = WriteOptions { mode: Some(asked), ..WriteOptions::default() };
        sample.trees.write(Path::new("asked"), b"", options).unwrap();
        assert_eq!(mode(&sample, "asked"), asked);
    }

    // What the umask leaves is what the host's own files get.
    sample.file("sibling", "");
    sample.write("fresh", "").unwrap();
    assert_eq!(mode(&sample, "fresh"), mode(&sample, "sibling"));

    chmod(&sample, "script", 0o4755);
    sample.write("script", "newer").unwrap();
    assert_eq!(mode(&sample, "script"), 0o755);
}

#[test]
fn what_is_there_can_be_kept() {
    let sample = Sample::new();
    sample.file("file", "old");
    sample.file("directory/file", "");
    for path in ["file", "directory"] {
        let error = sample.trees.write(Path::new(path), b"new", KEEP).unwrap_err();
        assert!(matches!(error, FileError::AlreadyExists { .. }), "{path}: {error:?}");
    }
    sample.trees.write(Path::new("fresh"), b"new", KEEP).unwrap();
    assert_eq!(sample.text("file").unwrap(), "old");
    assert_eq!(sample.text("fresh").unwrap(), "new");
    assert_eq!(sample.names("."), ["directory", "file", "fresh"]);
}

#[test]
fn a_temporary_file_does_not_outlive_a_failure() {
    let sample = Sample::new();
    let directory = open(&sample.host("."));
    let mut temporary = Temporary::create(&directory, 0o600).unwrap();
    sample.file("taken", "old");
    temporary.place(OsStr::new("taken"), Existing::Keep).unwrap_err();
    assert_eq!(sample.names(".").len(), 2);
    drop(temporary);
    assert_eq!(sample.names("."), ["taken"]);

    let mut temporary = Temporary::create(&directory, 0o600).unwrap();
    sample.file("directory/file", "");
    temporary.place(OsStr::new("directory"), Existing::Replace).unwrap_err();
    drop(temporary);
    assert_eq!(sample.names("."), ["directory", "taken"]);
}

#[test]
fn a_read_only_file_or_directory_is_not_written_to() {
    let sample = Sample::new();
    sample.file("file", "old");
    sample.file("directory/file", "old");
    chmod(&sample, "file", 0o444);
    chmod(&sample, "directory", 0o555);
    for path in ["file", "directory/new"] {
        let written = sample.write(path, "new");
        // Modes do not bind root.
        if rustix::process::geteuid().is_root() {
            written.unwrap();
        } else {
            let error = written.unwrap_err();
            assert!(matches!(error, FileError::PermissionDenied { .. }), "{path}: {error:?}");
            assert_eq!(sample.text("file").unwrap(), "old");
        }
    }
    chmod(&sample, "directory", 0o755);
}

#[test]
#[ignore = "needs root"]
fn the_owner_of_a_replaced_file_stays() {
    let sample = Sample::new();
    sample.file("file", "old");
    std::os::unix::fs::chown(sample.host("file"), Some(12345), Some(54321)).unwrap();
    sample.write("file", "new").unwrap();
    let metadata = fs::metadata(sample.host("file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (12345, 54321));
}

#[test]
fn a_listing_is_sorted_and_says_kinds_and_sizes() {
    let sample = Sample::new();
    for path in ["d/b", "d/a", "d/.hidden", "d/B", "d/e/file"] {
        sample.file(path, "12");
    }
    sample.link("a", "d/link");
    sample.link("d", "way");
    let strange = OsString::from_vec(vec![b'z', 0xff, b'\n']);
    fs::write(sample.host("d").join(&strange), "").unwrap();
    mkfifoat(CWD, sample.host("d/fifo"), Mode::from_raw_mode(0o600)).unwrap();
    let entry =
        |name: &str, kind, size_bytes| DirectoryEntry { name: name.into(), kind, size_bytes };
    let expected = vec![
        entry(".hidden", FileKind::File, 2),
        entry("B", FileKind::File, 2),
        entry("a", FileKind::File, 2),
        entry("b", FileKind::File, 2),
        entry("e", FileKind::Directory, 0),
        entry("fifo", FileKind::Other, 0),
        entry("link", FileKind::Symlink { target: None }, 0),
        DirectoryEntry { name: strange, kind: FileKind::File, size_bytes: 0 },
    ];
    for path in ["d", "way", "way/../d/."] {
        assert_eq!(sample.trees.list(Path::new(path)).unwrap(), expected, "{path}");
    }
    let error = sample.trees.list(Path::new("d/a")).unwrap_err();
    assert!(matches!(error, FileError::NotDirectory { .. }), "{error:?}");
    let error = sample.trees.list(Path::new("missing")).unwrap_err();
    assert!(matches!(error, FileError::NotFound { .. }), "{error:?}");
}

#[test]
fn stat_says_what_is_there_and_does_not_follow() {
    let sample = Sample::new();
    sample.file("file", "12345");
    chmod(&sample, "file", 0o640);
    sample.link("/etc/passwd", "link");
    let metadata = fs::metadata(sample.host("file")).unwrap();
    let expected = FileStat {
        kind: FileKind::File,
        size_bytes: 5,
        mode: Some(0o640),
        modified: Some(metadata.modified().unwrap()),
    };
    assert_eq!(sample.trees.stat(Path::new("file")).unwrap(), expected);
    let kind = sample.trees.stat(Path::new("link")).unwrap().kind;
    assert_eq!(kind, FileKind::Symlink { target: Some("/etc/passwd".into()) });
    for path in [".", "/sample/scratch", "extra/.."] {
        assert_eq!(sample.trees.stat(Path::new(path)).unwrap().kind, FileKind::Directory, "{path}");
    }
}

#[test]
fn an_added_directory_takes_the_place_of_what_it_covers() {
    let sample = Sample::new();
    sample.file("extra/file", "covered");
    fs::write(sample.beside("extra/file"), "added").unwrap();
    assert_eq!(sample.text("extra/file").unwrap(), "added");
    sample.write("extra/new", "x").unwrap();
    assert_eq!(fs::read_to_string(sample.beside("extra/new")).unwrap(), "x");
    assert_eq!(sample.names("extra"), ["file"]);
}

#[test]
fn a_spill_file_is_private_and_has_a_name_of_its_own() {
    let sample = Sample::new();
    let (mut first, path) = sample.trees.spill_file().unwrap();
    let (_, other) = sample.trees.spill_file().unwrap();
    assert_ne!(path, other);
    first.write_all(b"spilled").unwrap();
    assert_eq!(first.metadata().unwrap().mode() & 0o7777, 0o600);
    let path = path.to_str().unwrap();
    assert!(path.starts_with("/sample/scratch/output-") && path.ends_with(".log"), "{path}");
    assert_eq!(sample.text(path).unwrap(), "spilled");
}

#[test]
fn a_sparse_file_of_any_size_is_read_in_part() {
    let sample = Sample::new();
    let file = File::create(sample.host("sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    let actual = sample.trees.read(Path::new("sparse"), ByteRange { offset: 5, max_bytes: 3 });
    assert_eq!(actual.unwrap().bytes, &[0, 0, 0][..]);
    file.set_len(0).unwrap();
    assert_eq!(sample.trees.read(Path::new("sparse"), ALL).unwrap().total_bytes, 0);
}

#[test]
fn a_link_to_itself_cannot_be_read_but_looked_at() {
    let sample = Sample::new();
    symlink("self", sample.host("self")).unwrap();
    let error = sample.text("self").unwrap_err();
    assert!(matches!(error, FileError::InvalidPath { .. }), "{error:?}");
    sample.trees.stat(Path::new("self")).unwrap();
}
