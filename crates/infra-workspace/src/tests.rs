use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use forge_domain::{LeftOutReason, SourceEntry, SourceError, WorkspaceSource};
use pretty_assertions::assert_eq;
use tempfile::TempDir;

use crate::HostSource;

struct Project(TempDir);

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            project.write(path, text);
        }
        project
    }

    fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn source(&self) -> HostSource {
        HostSource::new(self.0.path())
    }
}

fn paths(source: &HostSource) -> Vec<String> {
    let listing = source.list().unwrap();
    listing.paths.iter().map(|one| one.path.to_string_lossy().into_owned()).collect()
}

fn left_out(source: &HostSource) -> Vec<(String, LeftOutReason)> {
    let listing = source.list().unwrap();
    let shown = |path: &PathBuf| path.to_string_lossy().into_owned();
    listing.left_out.iter().map(|one| (shown(&one.path), one.reason)).collect()
}

#[test]
fn everything_goes_along_as_it_is() {
    let project =
        Project::new(&[("a", "one"), ("d/e/f", ""), (".hidden", "x"), (".git/config", "x")]);
    let root = project.0.path();
    project.write(OsStr::from_bytes(b"new\nline \xff"), "odd");
    fs::create_dir(root.join("empty")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("/etc", root.join("out")).unwrap();
    fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o4751)).unwrap();
    let listing = project.source().list().unwrap();
    let entries: Vec<_> =
        listing.paths.iter().map(|one| (one.path.clone(), one.entry.clone())).collect();
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
    let directory = |path| (PathBuf::from(path), SourceEntry::Directory { mode: mode(path) });
    let link = |path: &str, target: &str| {
        (PathBuf::from(path), SourceEntry::Symlink { target: target.into() })
    };
    let odd = PathBuf::from(OsStr::from_bytes(b"new\nline \xff"));
    let odd_mode = fs::metadata(root.join(&odd)).unwrap().permissions().mode() & 0o777;
    let expected = [
        (".hidden".into(), SourceEntry::File { size_bytes: 1, mode: mode(".hidden") }),
        ("a".into(), SourceEntry::File { size_bytes: 3, mode: 0o751 }),
        directory("d"),
        link("dangling", "nowhere"),
        directory("d/e"),
        ("d/e/f".into(), SourceEntry::File { size_bytes: 0, mode: mode("d/e/f") }),
        directory("empty"),
        (odd, SourceEntry::File { size_bytes: 3, mode: odd_mode }),
        link("out", "/etc"),
    ];
    let mut expected: Vec<(PathBuf, SourceEntry)> = expected.into();
    expected.sort_by_key(|(path, _)| path.as_os_str().as_bytes().to_vec());
    assert_eq!(entries, expected);
    assert_eq!((listing.total_bytes, listing.left_out), (7, vec![]));
}

#[test]
fn rules_of_git_and_of_forge_leave_out() {
    let files = [
        (".gitignore", "/target/\n*.log\n!keep.log\n"),
        ("target/x", ""),
        ("a.log", ""),
        ("keep.log", ""),
        ("sub/.gitignore", "!b.log\nlocal\n"),
        ("sub/b.log", ""),
        ("sub/local", ""),
        ("sub/target/x", ""),
        (".forgeignore", "large/\n"),
        ("large/x", ""),
        (".git/info/exclude", "mine\n"),
        ("mine", ""),
    ];
    let project = Project::new(&files);
    let source = project.source();
    let kept = [
        ".forgeignore",
        ".gitignore",
        "keep.log",
        "sub",
        "sub/.gitignore",
        "sub/b.log",
        "sub/target",
        "sub/target/x",
    ];
    assert_eq!(paths(&source), kept);
    let left = ["a.log", "large", "mine", "sub/local", "target"];
    assert_eq!(left_out(&source), left.map(|path| (path.to_owned(), LeftOutReason::Ignored)));
}

#[test]
fn what_is_secret_special_large_or_anothers_repository_stays_behind_with_its_reason() {
    let project = Project::new(&[
        (".env", "K=1"),
        (".env.example", "K="),
        ("key.pem", "-----BEGIN PRIVATE KEY-----"),
        ("cert.pem", "x"),
        (".ssh/config", "x"),
        ("large", "0123456789"),
        ("nested/.git/config", "x"),
        ("nested/file", "x"),
    ]);
    let root = project.0.path();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let source = project.source().max_file_bytes(9_u64).max_total_bytes(1000_u64);
    let source = HostSource::clone(&source);
    let expected = [
        (".env", LeftOutReason::Secret),
        (".ssh", LeftOutReason::Secret),
        ("key.pem", LeftOutReason::TooLarge),
        ("large", LeftOutReason::TooLarge),
        ("nested/.git", LeftOutReason::NestedRepository),
        ("socket", LeftOutReason::Special),
    ];
    assert_eq!(left_out(&source), expected.map(|(path, reason)| (path.to_owned(), reason)));
    let all = project.source().include(vec![PathBuf::from(".env"), ".ssh".into()]);
    let left: Vec<String> = left_out(&all).into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, ["key.pem", "nested/.git", "socket"]);
}

#[test]
fn a_project_that_is_too_large_is_refused_and_the_largest_are_named() {
    let project = Project::new(&[
        ("small", "x"),
        ("big/a", "0123456789"),
        ("big/b", "0123456789"),
        ("mid", "01234"),
    ]);
    let source = project.source().max_total_bytes(20_u64);
    let Err(SourceError::TooLarge { total_bytes, largest, .. }) = source.list() else {
        panic!("it was listed");
    };
    assert_eq!((total_bytes, largest), (26, vec!["big".into(), "mid".into(), "small".into()]));
}

#[test]
fn a_stamp_tells_versions_apart() {
    let project = Project::new(&[("a", "one"), ("d/x", "x")]);
    let source = project.source();
    let stamp = |path: &str| source.look(Path::new(path)).unwrap().unwrap().stamp;
    let (file, directory) = (stamp("a"), stamp("d"));
    assert_eq!(file, stamp("a"));
    std::thread::sleep(std::time::Duration::from_millis(20));
    project.write("a", "two");
    project.write("d/y", "y");
    assert_ne!(file, stamp("a"));
    assert_eq!(directory, stamp("d"), "what is in it is listed itself");
    assert_eq!(source.look(Path::new("gone")).unwrap(), None);
    project.write(".env", "x");
    assert_eq!(source.look(Path::new(".env")).unwrap(), None);
}

#[test]
fn no_symlink_on_the_way_is_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    let project = Project::new(&[("d/file", "x")]);
    let source = project.source();
    assert!(source.open(Path::new("d/file")).is_ok());
    symlink(outside.path(), project.0.path().join("link")).unwrap();
    symlink(outside.path().join("secret"), project.0.path().join("direct")).unwrap();
    for path in ["link/secret", "direct", "../secret", "/etc/hostname", "d", ""] {
        assert!(source.open(Path::new(path)).is_err(), "{path}");
    }
}
