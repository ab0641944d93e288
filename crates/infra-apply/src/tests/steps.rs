//! One step at a time, and what it refuses.

use std::os::unix::fs::{MetadataExt, symlink};

use forge_domain::{ApplyError, ApplyTarget, Content, Digest, Entry, Placed, Step};
use pretty_assertions::assert_eq;

use super::{Contents, Node, Place, file, nodes, path, steps};

fn place(all: &[(&str, Node)]) -> Place {
    let place = Place::new();
    place.fill(&nodes(all));
    place
}

fn written(at: &str, before: Option<Entry>, text: &str) -> Step {
    let session = Digest::new(blake3::hash(b"the session's").into());
    let content = Content::Merged { bytes: text.as_bytes().to_vec(), session };
    Step { path: path(at), before, after: Placed::File { mode: 0o644, content } }
}

#[test]
fn what_is_applied_is_there_and_an_undo_takes_it_back() {
    let before = [("a", file("1")), ("d", Node::Directory), ("d/b", file("2"))];
    let after = nodes(&[("a", file("x")), ("new", Node::Directory), ("new/c", file("3"))]);
    let place = place(&before);
    let tree = place.tree();
    let (steps, contents) = steps(&tree, &nodes(&before), &after);
    let applied = tree.apply("s", &steps, &contents).unwrap();
    assert_eq!(applied.paths.len(), 5);
    assert_eq!(place.nodes(), after);
    let undone = tree.undo(Some("s"), &|_| true, &|_| false).unwrap();
    assert_eq!((undone.restored.len(), undone.changed.len()), (5, 0));
    assert_eq!(place.nodes(), nodes(&before));
    let again = tree.undo(Some("s"), &|_| true, &|_| false);
    assert!(matches!(again, Err(ApplyError::NothingApplied)), "{again:?}");
}

#[test]
fn an_undo_leaves_what_somebody_has_changed_since_unless_it_is_forced() {
    let before = [("a", file("1")), ("b", file("2"))];
    let after = nodes(&[("a", file("x")), ("b", file("y"))]);
    let place = place(&before);
    let tree = place.tree();
    let (steps, contents) = steps(&tree, &nodes(&before), &after);
    tree.apply("s", &steps, &contents).unwrap();
    place.fill(&nodes(&[("a", file("mine"))]));
    let undone = tree.undo(None, &|_| true, &|_| false).unwrap();
    assert_eq!(undone.changed, [path("a")]);
    assert_eq!(place.nodes(), nodes(&[("a", file("mine")), ("b", file("2"))]));
    let forced = tree.undo(None, &|_| true, &|path| path.as_path().ends_with("a")).unwrap();
    assert_eq!(forced.restored.len(), 1);
    assert_eq!(place.nodes(), nodes(&before));
}

#[test]
fn an_undo_of_some_paths_leaves_the_others_for_the_next_one() {
    let before = [("a", file("1")), ("b", file("2"))];
    let after = nodes(&[("a", file("x")), ("b", file("y"))]);
    let place = place(&before);
    let tree = place.tree();
    let (steps, contents) = steps(&tree, &nodes(&before), &after);
    tree.apply("s", &steps, &contents).unwrap();
    tree.undo(None, &|path| path.as_path().ends_with("a"), &|_| false).unwrap();
    assert_eq!(place.nodes(), nodes(&[("a", file("1")), ("b", file("y"))]));
    tree.undo(None, &|_| true, &|_| false).unwrap();
    assert_eq!(place.nodes(), nodes(&before));
    let elsewhere = tree.undo(Some("other"), &|_| true, &|_| false);
    assert!(matches!(elsewhere, Err(ApplyError::NothingApplied)));
}

#[test]
fn a_path_that_changed_since_it_was_planned_is_named_and_nothing_is_done() {
    let place = place(&[("a", file("1")), ("b", file("2"))]);
    let tree = place.tree();
    let seen = tree.look(&path("a")).unwrap();
    let all = [written("b", tree.look(&path("b")).unwrap(), "y"), written("a", seen, "x")];
    place.fill(&nodes(&[("a", file("mine"))]));
    match tree.apply("s", &all, &Contents::default()) {
        Err(ApplyError::Changed { paths }) => assert_eq!(paths, [path("a")]),
        other => panic!("{other:?}"),
    }
    assert_eq!(place.nodes(), nodes(&[("a", file("mine")), ("b", file("2"))]));
    assert!(!tree.is_pending());
}

#[test]
fn nothing_is_written_through_a_symlink() {
    let outside = tempfile::tempdir().unwrap();
    let place = place(&[("real", Node::Directory)]);
    symlink(outside.path(), place.root().join("out")).unwrap();
    symlink("real", place.root().join("in")).unwrap();
    let tree = place.tree();
    for at in ["out/x", "in/x"] {
        let refused = tree.apply("s", &[written(at, None, "x")], &Contents::default());
        assert!(refused.is_err(), "{at}");
    }
    assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    // The control: beside the symlinks it works.
    tree.apply("s", &[written("real/x", None, "x")], &Contents::default()).unwrap();
    assert_eq!(place.nodes().len(), 4);
}

#[test]
fn what_the_session_does_not_hold_any_more_as_it_was_reviewed_is_not_written() {
    let place = place(&[("a", file("1"))]);
    let tree = place.tree();
    let digest = Digest::new(blake3::hash(b"reviewed").into());
    let after = Placed::File { mode: 0o644, content: Content::Session { digest } };
    let step = Step { path: path("a"), before: tree.look(&path("a")).unwrap(), after };
    let swapped = Contents([("a".into(), b"swapped".to_vec())].into());
    let refused = tree.apply("s", std::slice::from_ref(&step), &swapped);
    assert!(matches!(refused, Err(ApplyError::SessionChanged { .. })), "{refused:?}");
    assert_eq!(place.nodes(), nodes(&[("a", file("1"))]));
    let reviewed = Contents([("a".into(), b"reviewed".to_vec())].into());
    tree.apply("s", &[step], &reviewed).unwrap();
}

#[test]
fn a_directory_with_something_else_in_it_stays() {
    let place = place(&[("d", Node::Directory), ("d/gone", file("1")), ("d/kept", file("2"))]);
    let tree = place.tree();
    let gone = Step {
        path: path("d/gone"),
        before: tree.look(&path("d/gone")).unwrap(),
        after: Placed::Nothing,
    };
    let directory = Step {
        path: path("d"),
        before: tree.look(&path("d")).unwrap(),
        after: Placed::NothingIfEmpty,
    };
    let applied = tree.apply("s", &[gone, directory], &Contents::default()).unwrap();
    let paths: Vec<_> = applied.paths.into_iter().map(|applied| applied.path).collect();
    assert_eq!(paths, [path("d/gone")]);
    assert_eq!(place.nodes(), nodes(&[("d", Node::Directory), ("d/kept", file("2"))]));
}

#[test]
fn a_modified_file_keeps_its_attributes_and_hard_links_become_copies() {
    let place = place(&[("a", file("1"))]);
    std::fs::hard_link(place.root().join("a"), place.root().join("other")).unwrap();
    let tree = place.tree();
    let step = written("a", tree.look(&path("a")).unwrap(), "x");
    tree.apply("s", &[step], &Contents::default()).unwrap();
    assert_eq!(place.nodes(), nodes(&[("a", file("x")), ("other", file("1"))]));
    assert_eq!(std::fs::metadata(place.root().join("a")).unwrap().nlink(), 1);
}

#[test]
#[ignore = "needs root"]
fn a_modified_file_keeps_its_owner_and_a_new_one_takes_its_directorys() {
    use std::os::unix::fs::chown;
    let place = place(&[("a", file("1")), ("d", Node::Directory)]);
    chown(place.root().join("a"), Some(1234), Some(2345)).unwrap();
    chown(place.root().join("d"), Some(3456), Some(4567)).unwrap();
    let tree = place.tree();
    let changed = written("a", tree.look(&path("a")).unwrap(), "x");
    tree.apply("s", &[changed, written("d/new", None, "y")], &Contents::default()).unwrap();
    let owner = |at: &str| {
        let metadata = std::fs::metadata(place.root().join(at)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!((owner("a"), owner("d/new")), ((1234, 2345), (3456, 4567)));
}

#[test]
fn two_at_once_exclude_each_other() {
    let place = place(&[("a", file("1"))]);
    let tree = place.tree();
    let held = tree.journals().unwrap();
    let refused = place.tree().apply("s", &[written("b", None, "x")], &Contents::default());
    assert!(matches!(refused, Err(ApplyError::Busy)), "{refused:?}");
    drop(held);
    place.tree().apply("s", &[written("b", None, "x")], &Contents::default()).unwrap();
}

#[test]
fn what_is_edited_between_a_kill_and_the_recovery_is_not_lost() {
    use super::faults::killed_while_placing;
    for (at, root) in killed_while_placing() {
        let edited = root.root().join("changed");
        if std::fs::read_to_string(&edited).unwrap_or_default() != "new\n" {
            continue;
        }
        use std::io::Write;
        let mut open = std::fs::File::options().append(true).open(&edited).unwrap();
        open.write_all(b"mine\n").unwrap();
        drop(open);
        root.tree().recover().unwrap();
        let found = root.nodes();
        let text = found.get(std::path::Path::new("changed")).cloned();
        assert_eq!(text, Some(file("new\nmine\n")), "{at}");
    }
}

/// Gives the contents of a file and does something to the tree first: what a hostile program of the host, or the
/// user, does between the look at the tree and the renames.
struct Meanwhile<'a> {
    contents: &'a Contents,
    work: &'a dyn Fn(),
}

impl forge_domain::ApplyContents for Meanwhile<'_> {
    fn open(
        &self,
        path: &forge_domain::ReviewedPath,
    ) -> std::io::Result<Box<dyn std::io::Read + '_>> {
        (self.work)();
        self.contents.open(path)
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what others do to the tree")]
fn what_is_swapped_for_a_symlink_between_the_look_and_the_rename_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("file"), "theirs\n").unwrap();
    let before = [("d", Node::Directory), ("d/file", file("1\n")), ("e", Node::Directory)];
    let after = nodes(&[
        ("d", Node::Directory),
        ("d/file", file("2\n")),
        ("d/new", file("2\n")),
        ("e", Node::Directory),
    ]);
    let swaps: [&dyn Fn(&std::path::Path); 4] = [
        // The control: nothing is swapped.
        &|_| {},
        &|root| {
            if !root.join("aside").exists() {
                std::fs::rename(root.join("d"), root.join("aside")).unwrap();
                symlink(outside.path(), root.join("d")).unwrap();
            }
        },
        &|root| {
            drop(std::fs::remove_file(root.join("d/file")));
            symlink(outside.path().join("file"), root.join("d/file")).unwrap();
        },
        &|root| drop(symlink(outside.path().join("made"), root.join("d/new"))),
    ];
    for (number, swap) in swaps.into_iter().enumerate() {
        let place = place(&before);
        let tree = place.tree();
        let (steps, contents) = steps(&tree, &nodes(&before), &after);
        let root = place.root();
        let meanwhile = Meanwhile { contents: &contents, work: &|| swap(&root) };
        let done = tree.apply("s", &steps, &meanwhile);
        if number == 0 {
            done.unwrap();
            assert_eq!(place.nodes(), after);
            continue;
        }
        assert!(matches!(done, Err(ApplyError::Changed { .. })), "{number}: {done:?}");
        assert_eq!(std::fs::read_to_string(outside.path().join("file")).unwrap(), "theirs\n");
        assert_eq!(outside.path().read_dir().unwrap().count(), 1, "{number}");
        assert!(!tree.is_pending(), "{number}");
    }
}
