//! What a session that runs elsewhere has changed, taken in.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use forge_domain::{Base, ChangeKind, Entry, Returned, ReturnedOrigin};
use pretty_assertions::assert_eq;

use super::*;

fn file(receiver: &Receiver, path: &str, contents: &str, origin: ReturnedOrigin) {
    let mut bytes = contents.as_bytes();
    let file = Returned::File { mode: 0o644, contents: &mut bytes };
    receiver.put(Path::new(path), file, origin).unwrap();
}

fn nothing(receiver: &Receiver, path: &str) {
    receiver.put(Path::new(path), Returned::Nothing, ReturnedOrigin::Workspace).unwrap();
}

fn kinds(session: &Arc<OpenSession>) -> Vec<(String, ChangeKind)> {
    let changes = session.layers_unmounted().unwrap().changes().unwrap().changes;
    changes.into_iter().map(|one| (one.path.display().to_string(), one.kind)).collect()
}

fn place() -> Place {
    let place = Place::new();
    let root = place.workspace();
    fs::create_dir_all(root.join("d/e")).unwrap();
    for (path, text) in [("kept", "k"), ("changed", "one"), ("gone", "g"), ("d/e/f", "deep")] {
        fs::write(root.join(path), text).unwrap();
    }
    place
}

#[test]
fn what_is_taken_in_is_the_sessions_change_set() {
    let place = place();
    let session = Arc::new(place.open(&SessionChoice::Fresh));
    let receiver = session.receive().unwrap();
    file(&receiver, "changed", "two", ReturnedOrigin::Workspace);
    file(&receiver, "kept", "k", ReturnedOrigin::Workspace);
    file(&receiver, "new/deep/file", "n", ReturnedOrigin::Session);
    let link = Returned::Symlink { target: Path::new("../elsewhere") };
    receiver.put(Path::new("link"), link, ReturnedOrigin::Session).unwrap();
    let empty = Returned::Directory { mode: 0o750 };
    receiver.put(Path::new("empty"), empty, ReturnedOrigin::Session).unwrap();
    nothing(&receiver, "gone");
    nothing(&receiver, "d/e");
    nothing(&receiver, "never-there");
    let summary = receiver.finish().unwrap();
    assert_eq!(summary, StoredSummary { changed_files: 6, ignored_files: 0 });

    let expected = [
        ("changed", ChangeKind::Modified),
        ("d/e/f", ChangeKind::Deleted),
        ("empty", ChangeKind::Created),
        ("gone", ChangeKind::Deleted),
        ("link", ChangeKind::Created),
        ("new/deep/file", ChangeKind::Created),
    ];
    assert_eq!(kinds(&session), expected.map(|(path, kind)| (path.to_owned(), kind)));
    let layers = session.layers_unmounted().unwrap();
    assert_eq!(layers.base_contents(Path::new("changed"), 100).unwrap(), b"one");
    assert_eq!(layers.base_contents(Path::new("gone"), 100).unwrap(), b"g");
    assert_eq!(layers.base(Path::new("link")), Base::Absent);
    assert!(!place.store.upper_of(session.id()).join("never-there").exists());
}

#[test]
fn what_is_taken_in_again_takes_the_place_of_what_was_there() {
    let place = place();
    let session = Arc::new(place.open(&SessionChoice::Fresh));
    let receiver = session.receive().unwrap();
    file(&receiver, "changed/now/a/directory", "x", ReturnedOrigin::Session);
    nothing(&receiver, "d");
    file(&receiver, "made", "x", ReturnedOrigin::Session);
    receiver.finish().unwrap();
    let changed = ("changed".to_owned(), ChangeKind::TypeChanged);
    assert!(kinds(&session).contains(&changed), "{:?}", kinds(&session));

    let receiver = session.receive().unwrap();
    file(&receiver, "changed", "one", ReturnedOrigin::Workspace);
    let directory = Returned::Directory { mode: 0o755 };
    receiver.put(Path::new("d"), directory, ReturnedOrigin::Workspace).unwrap();
    nothing(&receiver, "d/e");
    file(&receiver, "d/new", "n", ReturnedOrigin::Session);
    nothing(&receiver, "made");
    receiver.finish().unwrap();
    let expected = [("d/e/f", ChangeKind::Deleted), ("d/new", ChangeKind::Created)];
    assert_eq!(kinds(&session), expected.map(|(path, kind)| (path.to_owned(), kind)));

    // As often as it is said.
    let receiver = session.receive().unwrap();
    nothing(&receiver, "d/e");
    receiver.finish().unwrap();
    let white_out = fs::symlink_metadata(place.store.upper_of(session.id()).join("d/e")).unwrap();
    assert!(white_out.file_type().is_char_device());
}

#[test]
fn a_path_that_leaves_the_layer_or_is_gits_is_refused() {
    let place = place();
    let session = Arc::new(place.open(&SessionChoice::Fresh));
    let outside = place.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let receiver = session.receive().unwrap();
    let link = Returned::Symlink { target: &outside };
    receiver.put(Path::new("link"), link, ReturnedOrigin::Session).unwrap();
    for path in ["../out", "/etc/out", "", ".", "a/../../out", ".git/hooks/x", "a/.git", "link/out"]
    {
        let mut bytes: &[u8] = b"x";
        let file = Returned::File { mode: 0o644, contents: &mut bytes };
        let put = receiver.put(Path::new(path), file, ReturnedOrigin::Session);
        assert!(put.is_err(), "{path}");
    }
    nothing_is_in(&outside);
    // The same way is open for a path that stays inside.
    file(&receiver, "inside/out", "x", ReturnedOrigin::Session);
    let long = "x/".repeat(3000) + "x";
    let directory = Returned::Directory { mode: 0o755 };
    assert!(receiver.put(Path::new(&long), directory, ReturnedOrigin::Session).is_err());
    nothing_is_in(&outside);
    fs::write(outside.join("out"), "the user's").unwrap();
    nothing(&receiver, "link/out");
    assert_eq!(fs::read_to_string(outside.join("out")).unwrap(), "the user's");
}

fn nothing_is_in(directory: &Path) {
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
}

#[test]
fn a_file_that_breaks_off_leaves_what_was_there() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
    }
    let place = place();
    let session = Arc::new(place.open(&SessionChoice::Fresh));
    let receiver = session.receive().unwrap();
    file(&receiver, "changed", "two", ReturnedOrigin::Workspace);
    let broken = Returned::File { mode: 0o644, contents: &mut Broken };
    receiver.put(Path::new("changed"), broken, ReturnedOrigin::Workspace).unwrap_err();
    let layers = session.layers_unmounted().unwrap();
    assert_eq!(layers.after(Path::new("changed"), 100).unwrap(), b"two");
    let work = place.store.path_of(session.id()).join("work");
    nothing_is_in(&work);
}

#[test]
fn modes_are_kept_without_what_gives_rights() {
    let place = place();
    let session = Arc::new(place.open(&SessionChoice::Fresh));
    let receiver = session.receive().unwrap();
    let mut bytes: &[u8] = b"x";
    let program = Returned::File { mode: 0o4755, contents: &mut bytes };
    receiver.put(Path::new("program"), program, ReturnedOrigin::Session).unwrap();
    let metadata = fs::metadata(place.store.upper_of(session.id()).join("program")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o755);
}

#[test]
fn what_the_host_changed_since_it_was_sent_is_never_taken_for_what_was() {
    let place = place();
    let session = Arc::new(place.open(&SessionChoice::Fresh));
    std::thread::sleep(Duration::from_millis(20));
    fs::write(place.workspace().join("changed"), "host").unwrap();
    fs::remove_file(place.workspace().join("gone")).unwrap();
    let receiver = session.receive().unwrap();
    file(&receiver, "changed", "two", ReturnedOrigin::Workspace);
    file(&receiver, "gone", "changed there", ReturnedOrigin::Workspace);
    file(&receiver, "kept", "other", ReturnedOrigin::Workspace);
    receiver.finish().unwrap();
    let layers = session.layers_unmounted().unwrap();
    assert_eq!(layers.base(Path::new("changed")), Base::Unknown);
    assert_eq!(layers.base(Path::new("gone")), Base::Unknown);
    assert!(matches!(
        layers.base(Path::new("kept")),
        Base::Known(Entry::File { size_bytes: 1, .. })
    ));
}
