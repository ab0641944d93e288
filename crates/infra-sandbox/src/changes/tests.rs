use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use forge_domain::ChangeKind;
use pretty_assertions::assert_eq;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use tempfile::TempDir;

use super::*;

/// An upper and a lower layer made by hand.
struct Layers(TempDir);

impl Layers {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["upper", "lower"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self(directory)
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, contents: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// As the overlay does: a character device 0:0, which needs no privilege (mknod(2)).
    fn whiteout(&self, path: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let device = rustix::fs::makedev(0, 0);
        mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), device).unwrap();
    }

    fn mark(&self, path: &str, name: &str, value: &[u8]) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        setxattr(self.path(path), name, value, XattrFlags::empty()).unwrap();
    }

    fn read(&self) -> DetailedChangeSet {
        let open = |name: &str| File::open(self.path(name)).unwrap();
        change_set(open("upper").as_fd(), open("lower").as_fd()).unwrap()
    }

    fn changes(&self) -> Vec<(String, ChangeKind)> {
        let change = |change: DetailedChange| (change.path.display().to_string(), change.kind);
        self.read().changes.into_iter().map(change).collect()
    }
}

fn expected(changes: &[(&str, ChangeKind)]) -> Vec<(String, ChangeKind)> {
    changes.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect()
}

#[test]
fn nothing_is_changed_in_an_empty_layer() {
    let layers = Layers::new();
    layers.file("lower/a", "x");
    assert_eq!(layers.read(), DetailedChangeSet::default());
}

#[test]
fn what_is_new_other_and_gone_is_listed_in_order() {
    let layers = Layers::new();
    for (path, contents) in [("lower/same", "x"), ("lower/other", "x"), ("lower/gone", "x")] {
        layers.file(path, contents);
    }
    layers.file("upper/same", "x");
    layers.file("upper/other", "y");
    layers.file("upper/d/new", "");
    layers.whiteout("upper/gone");
    layers.whiteout("upper/never-there");
    fs::create_dir(layers.path("upper/empty")).unwrap();
    assert_eq!(
        layers.changes(),
        expected(&[
            ("d/new", ChangeKind::Created),
            ("empty", ChangeKind::Created),
            ("gone", ChangeKind::Deleted),
            ("other", ChangeKind::Modified),
        ])
    );
}

#[test]
fn a_mode_alone_is_told_apart() {
    let layers = Layers::new();
    layers.file("lower/a", "x");
    layers.file("upper/a", "x");
    fs::create_dir(layers.path("lower/d")).unwrap();
    fs::create_dir(layers.path("upper/d")).unwrap();
    fs::set_permissions(layers.path("upper/a"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(layers.path("upper/d"), fs::Permissions::from_mode(0o700)).unwrap();
    let modes = [("a", ChangeKind::ModeChanged), ("d", ChangeKind::ModeChanged)];
    assert_eq!(layers.changes(), expected(&modes));
    let change = &layers.read().changes[0];
    assert_eq!(change.after.unwrap().mode & 0o7777, 0o755);
}

#[test]
fn of_a_deleted_directory_its_files_are_listed() {
    let layers = Layers::new();
    layers.file("lower/d/e/one", "x");
    layers.file("lower/d/two", "x");
    fs::create_dir(layers.path("lower/d/empty")).unwrap();
    layers.whiteout("upper/d");
    assert_eq!(
        layers.changes(),
        expected(&[
            ("d/e/one", ChangeKind::Deleted),
            ("d/empty", ChangeKind::Deleted),
            ("d/two", ChangeKind::Deleted),
        ])
    );
}

#[test]
fn an_opaque_directory_hides_what_it_does_not_hold() {
    let layers = Layers::new();
    layers.file("lower/d/kept", "x");
    layers.file("lower/d/gone", "x");
    layers.file("upper/d/kept", "x");
    layers.file("upper/d/new", "x");
    layers.mark("upper/d", "user.overlay.opaque", b"y");
    assert_eq!(
        layers.changes(),
        expected(&[("d/gone", ChangeKind::Deleted), ("d/new", ChangeKind::Created)])
    );
}

#[test]
fn a_marked_file_is_a_whiteout_only_where_the_directory_says_so() {
    let layers = Layers::new();
    layers.file("lower/d/gone", "x");
    layers.file("upper/d/gone", "");
    layers.mark("upper/d/gone", "user.overlay.whiteout", b"");
    assert_eq!(layers.changes(), expected(&[("d/gone", ChangeKind::Modified)]));
    layers.mark("upper/d", "user.overlay.opaque", b"x");
    assert_eq!(layers.changes(), expected(&[("d/gone", ChangeKind::Deleted)]));
}

#[test]
fn forged_marks_mean_nothing() {
    let layers = Layers::new();
    layers.file("lower/d/there", "x");
    layers.file("upper/d/new", "x");
    layers.mark("upper/d", "user.overlay.overlay.opaque", b"y");
    assert_eq!(layers.changes(), expected(&[("d/new", ChangeKind::Created)]));
}

#[test]
fn another_type_is_told_with_what_it_replaced() {
    let layers = Layers::new();
    layers.file("lower/was-directory/a", "x");
    layers.file("lower/was-file", "x");
    layers.file("lower/was-link", "x");
    layers.file("upper/was-directory", "x");
    layers.file("upper/was-file/b", "x");
    symlink("x", layers.path("upper/was-link")).unwrap();
    assert_eq!(
        layers.changes(),
        expected(&[
            ("was-directory", ChangeKind::TypeChanged),
            ("was-directory/a", ChangeKind::Deleted),
            ("was-file", ChangeKind::TypeChanged),
            ("was-file/b", ChangeKind::Created),
            ("was-link", ChangeKind::TypeChanged),
        ])
    );
}

#[test]
fn a_symlink_is_its_target_and_is_never_followed() {
    let layers = Layers::new();
    layers.file("outside/secret", "x");
    symlink("a", layers.path("lower/link")).unwrap();
    symlink("b", layers.path("upper/link")).unwrap();
    symlink("a", layers.path("lower/same")).unwrap();
    symlink("a", layers.path("upper/same")).unwrap();
    symlink(layers.path("outside"), layers.path("upper/out")).unwrap();
    assert_eq!(
        layers.changes(),
        expected(&[("link", ChangeKind::Modified), ("out", ChangeKind::Created)])
    );
}

#[test]
fn git_is_never_part_of_it() {
    let layers = Layers::new();
    layers.file("upper/.git/config", "x");
    layers.file("upper/nested/.git/HEAD", "x");
    layers.file("lower/.git/HEAD", "x");
    layers.whiteout("upper/.git/HEAD");
    layers.file("upper/nested/file", "x");
    assert_eq!(layers.changes(), expected(&[("nested/file", ChangeKind::Created)]));
}

#[test]
fn ignored_files_are_counted_and_not_listed() {
    let layers = Layers::new();
    layers.file("lower/.gitignore", "target/\n*.log\n!kept.log\n");
    layers.file("lower/old.log", "x");
    layers.file("lower/.git/info/exclude", "private\n");
    layers.file("upper/target/debug/one", "x");
    layers.file("upper/target/kept.log", "x");
    layers.file("upper/a.log", "x");
    layers.file("upper/kept.log", "x");
    layers.file("upper/private", "x");
    layers.whiteout("upper/old.log");
    layers.file("upper/sub/.gitignore", "*.tmp\n");
    layers.file("upper/sub/x.tmp", "x");
    let read = layers.read();
    assert_eq!(
        layers.changes(),
        expected(&[("kept.log", ChangeKind::Created), ("sub/.gitignore", ChangeKind::Created)])
    );
    assert_eq!(read.ignored_files, 6);
}

#[test]
fn the_rules_are_those_that_the_session_sees() {
    let layers = Layers::new();
    layers.file("lower/.gitignore", "a\n");
    layers.file("upper/.gitignore", "b\n");
    layers.file("upper/a", "x");
    layers.file("upper/b", "x");
    let changes = [(".gitignore", ChangeKind::Modified), ("a", ChangeKind::Created)];
    assert_eq!(layers.changes(), expected(&changes));
}

#[test]
fn what_may_not_be_read_is_not_kept_from_the_user() {
    let layers = Layers::new();
    layers.file("upper/closed/file", "x");
    layers.file("lower/unreadable", "x");
    layers.file("upper/unreadable", "y");
    fs::set_permissions(layers.path("upper/unreadable"), fs::Permissions::from_mode(0o000))
        .unwrap();
    fs::set_permissions(layers.path("upper/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let changes = [("closed/file", ChangeKind::Created), ("unreadable", ChangeKind::Modified)];
    assert_eq!(layers.changes(), expected(&changes));
    let mode = fs::metadata(layers.path("upper/closed")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o000);
    fs::set_permissions(layers.path("upper/closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn names_of_any_bytes_and_deep_trees_are_read() {
    use std::os::unix::ffi::OsStrExt;
    let layers = Layers::new();
    let odd = layers.path("upper").join(std::ffi::OsStr::from_bytes(b"\xff\n"));
    fs::write(odd, "x").unwrap();
    let mut deep = layers.path("upper");
    for _ in 0..120 {
        deep.push("d".repeat(30));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "x").unwrap();
    let read = layers.read();
    assert_eq!(read.changes.len(), 2);
    assert!(read.changes.iter().any(|change| change.path.ends_with(Path::new("file"))));
}
