//! Files.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use forge_domain::{ByteRange, Existing, FileError, FileKind, Removal, WriteOptions};
use pretty_assertions::assert_eq;

use super::probe::{Environment, read, run, stdout, text, write};
use crate::{Scenario, Step};

const ALL: ByteRange = ByteRange { offset: 0, max_bytes: u64::MAX };

async fn read_error(environment: &Environment, path: impl AsRef<Path>) -> FileError {
    environment.read(path.as_ref(), ALL).await.unwrap_err()
}

async fn write_error(
    environment: &Environment,
    path: impl AsRef<Path>,
    options: WriteOptions,
) -> FileError {
    environment.write(path.as_ref(), Bytes::from_static(b"new"), options).await.unwrap_err()
}

async fn remove_error(
    environment: &Environment,
    path: impl AsRef<Path>,
    removal: Removal,
) -> FileError {
    environment.remove(path.as_ref(), removal).await.unwrap_err()
}

async fn names(environment: &Environment, path: &str) -> Vec<OsString> {
    let entries = environment.list(Path::new(path)).await.unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

async fn steps(environment: &Environment, steps: impl IntoIterator<Item = Step>) {
    let exit = run(environment, &Scenario::new(steps)).await;
    assert!(exit.ending.is_success(), "{exit:?}");
}

fn link(target: &str, path: &str) -> Step {
    Step::Link(target.into(), path.into())
}

/// Reads what was written.
pub async fn what_is_written_is_read(environment: Environment) {
    write(&environment, "file", b"first").await;
    write(&environment, "file", b"second, longer").await;
    assert_eq!(read(&environment, "file").await, b"second, longer");
    write(&environment, "file", b"3").await;
    assert_eq!(read(&environment, "file").await, b"3");
}

/// All values, and more than one piece of a body-limited transport.
pub async fn any_bytes_survive(environment: Environment) {
    let all: Vec<u8> = (0..=255u8).cycle().take(5_000_000).collect();
    write(&environment, "binary", &all).await;
    let actual = read(&environment, "binary").await;
    assert!(actual == all, "{} bytes came back of {}", actual.len(), all.len());
}

/// Nothing is something.
pub async fn an_empty_file_is_a_file(environment: Environment) {
    write(&environment, "empty", b"").await;
    let contents = environment.read(Path::new("empty"), ALL).await.unwrap();
    assert_eq!((contents.bytes.len(), contents.total_bytes), (0, 0));
    assert_eq!(environment.stat(Path::new("empty")).await.unwrap().kind, FileKind::File);
}

/// A range gives its bytes and the size of the whole.
pub async fn a_range_is_exact(environment: Environment) {
    write(&environment, "file", b"0123456789").await;
    let range = ByteRange { offset: 3, max_bytes: 4 };
    let contents = environment.read(Path::new("file"), range).await.unwrap();
    assert_eq!((&contents.bytes[..], contents.total_bytes), (&b"3456"[..], 10));
}

/// Beyond the end is nothing.
pub async fn a_range_beyond_the_end_is_empty(environment: Environment) {
    write(&environment, "file", b"0123456789").await;
    for (offset, expected) in [(8, &b"89"[..]), (10, b""), (99, b"")] {
        let range = ByteRange { offset, max_bytes: 100 };
        let contents = environment.read(Path::new("file"), range).await.unwrap();
        assert_eq!((&contents.bytes[..], contents.total_bytes), (expected, 10));
    }
}

/// Missing directories above are made.
pub async fn parents_are_made(environment: Environment) {
    write(&environment, "a/b/c/file", b"deep").await;
    assert_eq!(read(&environment, "a/b/c/file").await, b"deep");
}

/// One tree: files for commands.
pub async fn a_written_file_is_seen_by_commands(environment: Environment) {
    write(&environment, "file", b"by port").await;
    let exit = run(&environment, &Scenario::new([Step::PrintFile("file".into())])).await;
    assert_eq!(text(&exit), "by port");
}

/// One tree: commands for files.
pub async fn what_a_command_wrote_is_read(environment: Environment) {
    steps(&environment, [Step::WriteFile("file".into(), b"by command".to_vec())]).await;
    assert_eq!(read(&environment, "file").await, b"by command");
}

/// A script stays executable when it is edited.
pub async fn replacing_keeps_the_mode(environment: Environment) {
    write(&environment, "script", b"old").await;
    steps(&environment, [Step::Mode(0o755, "script".into())]).await;
    write(&environment, "script", b"new").await;
    let stat = environment.stat(Path::new("script")).await.unwrap();
    assert!(stat.mode.is_none_or(|mode| mode & 0o777 == 0o755), "{:?}", stat.mode);
}

/// A mode that is asked for is given, whatever the umask.
pub async fn a_mode_can_be_set(environment: Environment) {
    for mode in [0o600, 0o755, 0o666] {
        let options = WriteOptions { mode: Some(mode), ..WriteOptions::default() };
        environment.write(Path::new("file"), Bytes::new(), options).await.unwrap();
        let stat = environment.stat(Path::new("file")).await.unwrap();
        assert!(stat.mode.is_none_or(|actual| actual & 0o777 == mode), "{:?}", stat.mode);
    }
}

/// Whoever asks to keep what is there keeps it.
pub async fn an_existing_file_can_be_kept(environment: Environment) {
    write(&environment, "file", b"old").await;
    let keep = WriteOptions { existing: Existing::Keep, ..WriteOptions::default() };
    let error = write_error(&environment, "file", keep).await;
    assert!(matches!(error, FileError::AlreadyExists { .. }), "{error:?}");
    assert_eq!(read(&environment, "file").await, b"old");
    environment.write(Path::new("fresh"), Bytes::from_static(b"new"), keep).await.unwrap();
    assert_eq!(read(&environment, "fresh").await, b"new");
}

/// What is not there is named.
pub async fn a_missing_file_is_not_found(environment: Environment) {
    for path in ["missing", "no/such/file"] {
        let error = read_error(&environment, path).await;
        assert!(
            matches!(&error, FileError::NotFound { path: p } if p == Path::new(path)),
            "{error:?}"
        );
        let error = environment.stat(Path::new(path)).await.unwrap_err();
        assert!(matches!(error, FileError::NotFound { .. }), "{error:?}");
    }
}

/// A file has nothing below it.
pub async fn a_path_below_a_file_is_an_error(environment: Environment) {
    write(&environment, "file", b"").await;
    let read = read_error(&environment, "file/below").await;
    assert!(
        matches!(read, FileError::NotDirectory { .. } | FileError::NotFound { .. }),
        "{read:?}"
    );
    let write = write_error(&environment, "file/below", WriteOptions::default()).await;
    assert!(matches!(write, FileError::NotDirectory { .. }), "{write:?}");
}

/// A directory has no bytes.
pub async fn a_directory_cannot_be_read(environment: Environment) {
    write(&environment, "directory/file", b"").await;
    let error = read_error(&environment, "directory").await;
    assert!(matches!(error, FileError::IsDirectory { .. }), "{error:?}");
}

/// Nor is it replaced by a file.
pub async fn a_directory_cannot_be_overwritten(environment: Environment) {
    write(&environment, "directory/file", b"stays").await;
    for path in ["directory", "directory/", "."] {
        let error = write_error(&environment, path, WriteOptions::default()).await;
        assert!(matches!(error, FileError::IsDirectory { .. }), "{path}: {error:?}");
    }
    assert_eq!(read(&environment, "directory/file").await, b"stays");
}

/// Reading a fifo would wait for ever.
pub async fn a_fifo_is_special(environment: Environment) {
    steps(&environment, [Step::Fifo("fifo".into())]).await;
    let error = read_error(&environment, "fifo").await;
    assert!(matches!(error, FileError::Special { .. }), "{error:?}");
    let error = write_error(&environment, "fifo", WriteOptions::default()).await;
    assert!(matches!(error, FileError::Special { .. }), "{error:?}");
    assert_eq!(environment.stat(Path::new("fifo")).await.unwrap().kind, FileKind::Other);
}

/// No path is no file.
pub async fn an_empty_path_is_invalid(environment: Environment) {
    let error = read_error(&environment, "").await;
    assert!(matches!(error, FileError::InvalidPath { .. }), "{error:?}");
}

/// The kernel's paths end at NUL.
pub async fn a_nul_byte_in_a_path_is_invalid(environment: Environment) {
    let read = read_error(&environment, "a\0b").await;
    let write = write_error(&environment, "a\0b", WriteOptions::default()).await;
    for error in [read, write] {
        assert!(matches!(error, FileError::InvalidPath { .. }), "{error:?}");
    }
}

/// Names have at most 255 bytes.
pub async fn a_name_that_is_too_long_is_refused(environment: Environment) {
    let error = write_error(&environment, "x".repeat(300), WriteOptions::default()).await;
    assert!(matches!(error, FileError::InvalidPath { .. }), "{error:?}");
}

/// `..` and absolute paths lead out, for every call.
pub async fn leaving_the_workspace_is_refused(environment: Environment) {
    let outside = environment.describe().await.unwrap().workspace.join("../elsewhere/file");
    let paths = [
        PathBuf::from("../elsewhere/file"),
        PathBuf::from("/etc/passwd"),
        PathBuf::from(".."),
        outside,
    ];
    for path in paths {
        let errors = [
            read_error(&environment, &path).await,
            write_error(&environment, &path, WriteOptions::default()).await,
            remove_error(&environment, &path, Removal::Tree).await,
            environment.list(&path).await.unwrap_err(),
            environment.stat(&path).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, FileError::Outside { .. }), "{path:?}: {error:?}");
        }
    }
}

/// A symlink is no way out.
pub async fn a_symlink_that_leaves_is_refused(environment: Environment) {
    let links =
        [link("/etc", "directory"), link("/etc/passwd", "file"), link("/no/such", "dangling")];
    steps(&environment, links).await;
    for path in ["directory/passwd", "file", "dangling"] {
        let read = read_error(&environment, path).await;
        let write = write_error(&environment, path, WriteOptions::default()).await;
        for error in [read, write] {
            assert!(matches!(error, FileError::Outside { .. }), "{path}: {error:?}");
        }
    }
}

/// A symlink inside is as good as what it points to.
pub async fn a_symlink_that_stays_is_followed(environment: Environment) {
    write(&environment, "directory/file", b"target").await;
    steps(&environment, [link("directory/file", "link"), link("directory", "way")]).await;
    assert_eq!(read(&environment, "link").await, b"target");
    assert_eq!(read(&environment, "way/file").await, b"target");
    assert_eq!(names(&environment, "way").await, ["file"]);
}

/// The link stays a link, and its target gets the bytes.
pub async fn writing_through_a_symlink_keeps_it(environment: Environment) {
    write(&environment, "target", b"old").await;
    steps(&environment, [link("target", "link"), link("made", "dangling")]).await;
    write(&environment, "link", b"new").await;
    write(&environment, "dangling", b"made").await;
    assert_eq!(read(&environment, "target").await, b"new");
    assert_eq!(read(&environment, "made").await, b"made");
    for path in ["link", "dangling"] {
        let kind = environment.stat(Path::new(path)).await.unwrap().kind;
        assert!(matches!(kind, FileKind::Symlink { .. }), "{path}: {kind:?}");
    }
}

/// `.` and `..` that stay inside are resolved.
pub async fn dots_inside_are_resolved(environment: Environment) {
    write(&environment, "a/file", b"here").await;
    assert_eq!(read(&environment, "./a/../a/./file").await, b"here");
    let absolute = environment.describe().await.unwrap().workspace.join("a/file");
    assert_eq!(read(&environment, absolute.to_str().unwrap()).await, b"here");
}

/// The scratch space belongs to files and commands alike, and is no part of the workspace.
pub async fn the_scratch_space_can_be_used(environment: Environment) {
    let description = environment.describe().await.unwrap();
    assert!(!description.scratch.starts_with(&description.workspace));
    let path = description.scratch.join("note").to_str().unwrap().to_owned();
    write(&environment, &path, b"scratch").await;
    assert_eq!(read(&environment, &path).await, b"scratch");
    let exit = run(&environment, &Scenario::new([Step::PrintFile(path.clone())])).await;
    assert_eq!(stdout(&exit), b"scratch");
    environment.remove(Path::new(&path), Removal::Single).await.unwrap();
}

/// Spaces, newlines, quotes, a leading dash, other alphabets.
pub async fn strange_names_are_names(environment: Environment) {
    let mut expected: Vec<OsString> =
        ["a b", "new\nline", "-rf", "'\"$x`", "naïve 名", "\u{1b}[31m"]
            .iter()
            .map(OsString::from)
            .collect();
    expected.push(OsString::from_vec(vec![b'n', b'o', 0xff, 0xfe]));
    expected.sort();
    for name in &expected {
        let path = Path::new("strange").join(name);
        let options = WriteOptions::default();
        environment.write(&path, Bytes::from_static(b"x"), options).await.unwrap();
        assert_eq!(environment.read(&path, ALL).await.unwrap().bytes, &b"x"[..], "{name:?}");
    }
    assert_eq!(names(&environment, "strange").await, expected);
}

/// A listing has everything, hidden or not, in byte order.
pub async fn a_listing_is_sorted_and_whole(environment: Environment) {
    for path in ["b", "a", ".hidden", "B", "d/file"] {
        write(&environment, path, b"12").await;
    }
    steps(&environment, [link("a", "link")]).await;
    let entries = environment.list(Path::new(".")).await.unwrap();
    let actual: Vec<_> = entries
        .iter()
        .map(|entry| (entry.name.to_str().unwrap(), entry.kind.clone(), entry.size_bytes))
        .map(|(name, kind, size)| match kind {
            FileKind::Symlink { .. } => (name, FileKind::Symlink { target: None }, size),
            other => (name, other, size),
        })
        .collect();
    let expected = [
        (".hidden", FileKind::File, 2),
        ("B", FileKind::File, 2),
        ("a", FileKind::File, 2),
        ("b", FileKind::File, 2),
        ("d", FileKind::Directory, 0),
        ("link", FileKind::Symlink { target: None }, 0),
    ];
    assert_eq!(actual, expected);
}

/// Only a directory has entries.
pub async fn a_file_cannot_be_listed(environment: Environment) {
    write(&environment, "file", b"").await;
    let error = environment.list(Path::new("file")).await.unwrap_err();
    assert!(matches!(error, FileError::NotDirectory { .. }), "{error:?}");
    let error = environment.list(Path::new("missing")).await.unwrap_err();
    assert!(matches!(error, FileError::NotFound { .. }), "{error:?}");
}

/// Kind, size, mode.
pub async fn stat_says_what_is_there(environment: Environment) {
    write(&environment, "directory/file", b"12345").await;
    steps(&environment, [Step::Mode(0o640, "directory/file".into())]).await;
    let file = environment.stat(Path::new("directory/file")).await.unwrap();
    assert_eq!((file.kind, file.size_bytes), (FileKind::File, 5));
    assert!(file.mode.is_none_or(|mode| mode & 0o777 == 0o640), "{:?}", file.mode);
    let directory = environment.stat(Path::new("directory")).await.unwrap();
    assert_eq!((directory.kind, directory.size_bytes), (FileKind::Directory, 0));
    assert_eq!(environment.stat(Path::new(".")).await.unwrap().kind, FileKind::Directory);
}

/// A link is a link, also where its target is outside or missing.
pub async fn stat_does_not_follow(environment: Environment) {
    steps(&environment, [link("/etc/passwd", "outside"), link("missing", "dangling")]).await;
    for (path, target) in [("outside", "/etc/passwd"), ("dangling", "missing")] {
        let kind = environment.stat(Path::new(path)).await.unwrap().kind;
        assert_eq!(kind, FileKind::Symlink { target: Some(target.into()) });
    }
}

/// Removing takes what the path names, never what a link points to.
pub async fn removing_takes_files_and_links(environment: Environment) {
    write(&environment, "file", b"").await;
    write(&environment, "target", b"stays").await;
    steps(&environment, [link("target", "link"), Step::MakeDirectory("empty".into())]).await;
    for path in ["file", "link", "empty"] {
        environment.remove(Path::new(path), Removal::Single).await.unwrap();
    }
    assert_eq!(names(&environment, ".").await, ["target"]);
    assert_eq!(read(&environment, "target").await, b"stays");
}

/// A directory that holds something goes only as a tree.
pub async fn removing_a_full_directory_needs_a_tree(environment: Environment) {
    write(&environment, "directory/below/file", b"").await;
    let error = remove_error(&environment, "directory", Removal::Single).await;
    assert!(matches!(error, FileError::NotEmpty { .. }), "{error:?}");
    environment.remove(Path::new("directory"), Removal::Tree).await.unwrap();
    assert_eq!(names(&environment, ".").await, [""; 0]);
}

/// A tree's links are removed, their targets are not.
pub async fn removing_a_tree_leaves_what_links_point_to(environment: Environment) {
    write(&environment, "kept/file", b"stays").await;
    steps(&environment, [Step::MakeDirectory("tree".into()), link("../kept", "tree/link")]).await;
    environment.remove(Path::new("tree"), Removal::Tree).await.unwrap();
    assert_eq!(read(&environment, "kept/file").await, b"stays");
}

/// The workspace and the scratch space themselves stay.
pub async fn the_roots_cannot_be_removed(environment: Environment) {
    write(&environment, "file", b"stays").await;
    let description = environment.describe().await.unwrap();
    for path in [PathBuf::from("."), description.workspace, description.scratch] {
        let error = remove_error(&environment, &path, Removal::Tree).await;
        assert!(matches!(error, FileError::Outside { .. }), "{path:?}: {error:?}");
    }
    assert_eq!(read(&environment, "file").await, b"stays");
}

/// Nothing cannot be removed.
pub async fn a_missing_file_cannot_be_removed(environment: Environment) {
    for removal in [Removal::Single, Removal::Tree] {
        let error = remove_error(&environment, "missing", removal).await;
        assert!(matches!(error, FileError::NotFound { .. }), "{error:?}");
    }
}
