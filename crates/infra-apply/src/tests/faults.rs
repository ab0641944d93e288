//! Every call to the file system fails in turn, or is the last one of a process that is killed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forge_domain::{ApplyError, ApplyTarget, Content, Digest, Entry, Placed, Step};

use super::{Contents, Node, Nodes, Place, file, nodes, path, steps};

/// A mode that keeps even the owner of a directory from changing it.
const CLOSED: u32 = 0o555;

/// What happens at a call.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Nothing: calls are counted.
    None,
    /// It fails like this, once.
    Once(u64, io::ErrorKind),
    /// It fails like this, and so does every later call that needs what is missing: the disk stays full, or
    /// read-only.
    From(u64, io::ErrorKind),
    /// It and all after it are never made: the process was killed before it.
    Kill(u64),
}

#[derive(Debug)]
pub(crate) struct Faults {
    calls: AtomicU64,
    fault: Fault,
}

impl Faults {
    pub(super) fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self { calls: AtomicU64::new(0), fault })
    }

    pub(crate) fn reach(&self, call: &'static str) -> io::Result<()> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Once(at, kind) if number == at => Err(kind.into()),
            Fault::From(at, kind) if number >= at && fails(call, kind) => Err(kind.into()),
            Fault::Kill(at) if number >= at => Err(io::Error::other("killed")),
            Fault::None | Fault::Once(..) | Fault::From(..) | Fault::Kill(_) => Ok(()),
        }
    }

    fn count(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

/// Whether a call fails on a disk without room, or on one that is read-only.
fn fails(call: &str, kind: io::ErrorKind) -> bool {
    match kind {
        io::ErrorKind::StorageFull => ["create", "mkdir", "symlink", "write"].contains(&call),
        _ => !["fstat", "lock", "open", "openat2", "read", "readdir", "readlink", "stat"]
            .contains(&call),
    }
}

fn before() -> Nodes {
    nodes(&[
        ("changed", file("old\n")),
        ("script", Node::File(b"#!/bin/sh\n".to_vec(), 0o644)),
        ("gone", file("gone\n")),
        ("dir", Node::Directory),
        ("dir/a", file("a\n")),
        ("dir/b", file("b\n")),
        ("link", Node::Link("changed".into())),
        ("was-file", file("f\n")),
        ("was-dir", Node::Directory),
        ("was-dir/x", file("x\n")),
        ("stays", file("stays\n")),
        ("merged", file("host\n")),
        ("mode", Node::Directory),
        ("mode/x", file("x\n")),
    ])
}

fn after() -> Nodes {
    nodes(&[
        ("changed", file("new\n")),
        ("script", Node::File(b"#!/bin/sh\n".to_vec(), 0o755)),
        ("new", Node::Directory),
        ("new/deep", Node::Directory),
        ("new/deep/file", file("deep\n")),
        ("link", Node::Link("stays".into())),
        ("was-file", Node::Directory),
        ("was-file/y", file("y\n")),
        ("was-dir", file("d\n")),
        ("stays", file("stays\n")),
        ("merged", file("host\nsession\n")),
        ("mode", Node::Directory),
        ("mode/x", file("x\n")),
        ("mode/y", file("y\n")),
    ])
}

/// The steps, of which one is a merge, and one gives a directory a mode that keeps even its owner out.
fn all_steps(place: &Place) -> (Vec<Step>, Contents) {
    let tree = place.tree();
    let (mut steps, contents) = steps(&tree, &before(), &after());
    for step in &mut steps {
        if step.path == path("merged") {
            let session = Digest::new(blake3::hash(b"session\n").into());
            let content = Content::Merged { bytes: b"host\nsession\n".to_vec(), session };
            step.after = Placed::File { mode: 0o644, content };
        }
        if step.path == path("new") {
            step.after = Placed::Directory { mode: CLOSED };
        }
    }
    let at = steps.iter().position(|step| step.path == path("mode/y")).unwrap();
    let mode = Step {
        path: path("mode"),
        before: tree.look(&path("mode")).unwrap(),
        after: Placed::Directory { mode: CLOSED },
    };
    steps.insert(at, mode);
    (steps, contents)
}

/// The mode of a directory, where there is one.
fn mode(place: &Place, at: &str) -> Option<u32> {
    match place.tree().look(&path(at)).unwrap() {
        Some(Entry::Directory { mode }) => Some(mode),
        _ => None,
    }
}

/// Whether the tree is wholly as before, the modes of directories included.
fn is_old(place: &Place) -> bool {
    place.nodes() == before() && mode(place, "mode") == Some(0o755)
}

/// Whether it is wholly as after.
fn is_new(place: &Place) -> bool {
    let modes = [mode(place, "mode"), mode(place, "new")];
    place.nodes() == after() && modes == [Some(CLOSED); 2]
}

/// Applies with a fault, and says how often the file system was called and what came out.
fn apply(place: &Place, fault: Fault) -> (u64, Result<(), ApplyError>) {
    let faults = Faults::new(fault);
    let (steps, contents) = all_steps(place);
    let tree = place.tree_with(&faults);
    let done = tree.apply("session", &steps, &contents).map(drop);
    (faults.count(), done)
}

fn undo(place: &Place, fault: Fault) -> (u64, Result<(), ApplyError>) {
    let faults = Faults::new(fault);
    let tree = place.tree_with(&faults);
    let done = tree.undo(None, &|_| true, &|_| false).map(drop);
    (faults.count(), done)
}

fn filled() -> Place {
    let place = Place::in_memory();
    place.fill(&before());
    place
}

/// After a kill at each call, the next start leaves the old tree or the new one, and both can be gone on from.
#[test]
fn a_kill_at_every_call_leaves_the_old_tree_or_the_new_one() {
    let (calls, done) = apply(&filled(), Fault::None);
    done.unwrap();
    let (mut old, mut new) = (0, 0);
    // The first call opens the tree.
    for at in 1..calls {
        let place = filled();
        let (_, done) = apply(&place, Fault::Kill(at));
        place.tree().recover().unwrap();
        if is_old(&place) {
            old += 1;
            assert!(done.is_err(), "{at}");
            apply(&place, Fault::None).1.unwrap();
        } else {
            new += 1;
        }
        assert!(is_new(&place), "{at}: {:#?}", place.nodes());
        undo(&place, Fault::None).1.unwrap();
        assert!(is_old(&place), "{at}: {:#?}", place.nodes());
    }
    println!(
        "{} fault points of an apply: the old tree after {old}, the new one after {new}",
        calls - 1
    );
    assert!(old > 100 && new > 10, "{old} {new}");
}

#[test]
fn a_kill_at_every_call_of_an_undo_leaves_one_of_both_too() {
    let whole = applied();
    let (calls, done) = undo(&whole, Fault::None);
    done.unwrap();
    let (mut old, mut new) = (0, 0);
    for at in 1..calls {
        let place = applied();
        let _killed = undo(&place, Fault::Kill(at));
        place.tree().recover().unwrap();
        if is_new(&place) {
            new += 1;
            undo(&place, Fault::None).1.unwrap();
        } else {
            old += 1;
        }
        assert!(is_old(&place), "{at}: {:#?}", place.nodes());
    }
    println!(
        "{} fault points of an undo: the old tree after {old}, the new one after {new}",
        calls - 1
    );
    assert!(old > 10 && new > 100, "{old} {new}");
}

/// A recovery that is killed is gone on with by the next one.
#[test]
fn a_kill_in_a_recovery_is_recovered_from() {
    let (calls, _) = apply(&filled(), Fault::None);
    let mut points = 0;
    for at in (1..calls).step_by(7) {
        for second in (1..).step_by(3) {
            let place = filled();
            let _killed = apply(&place, Fault::Kill(at));
            let faults = Faults::new(Fault::Kill(second));
            let recovered = place.tree_with(&faults).recover();
            place.tree().recover().unwrap();
            assert!(is_old(&place) || is_new(&place), "{at} {second}: {:#?}", place.nodes());
            points += 1;
            if recovered.is_ok() {
                break;
            }
        }
    }
    println!("{points} pairs of fault points of an apply and its recovery");
}

const KINDS: [io::ErrorKind; 3] = [
    io::ErrorKind::StorageFull,
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::ReadOnlyFilesystem,
];

/// What the operating system refuses is taken back at once, and nothing waits for a recovery.
#[test]
fn a_call_that_fails_changes_nothing_or_nothing_is_missing() {
    let (calls, _) = apply(&filled(), Fault::None);
    let mut points = 0;
    for (kind, at) in KINDS.into_iter().flat_map(|kind| (1..calls).map(move |at| (kind, at))) {
        let place = filled();
        let (_, done) = apply(&place, Fault::Once(at, kind));
        place.tree().recover().unwrap();
        points += 1;
        // A directory of which nobody can say whether it is empty stays.
        let mut with_directory = after();
        with_directory.insert("dir".into(), Node::Directory);
        if done.is_ok() && place.nodes() == with_directory {
            continue;
        }
        let is_right = if done.is_ok() { is_new(&place) } else { is_old(&place) };
        assert!(is_right, "{at} {kind}: {done:?} {:#?}", place.nodes());
    }
    println!("{points} calls of an apply that fail");
}

#[test]
fn a_call_of_an_undo_that_fails_changes_nothing_or_nothing_is_missing() {
    let (calls, _) = undo(&applied(), Fault::None);
    let mut points = 0;
    for (kind, at) in KINDS.into_iter().flat_map(|kind| (1..calls).map(move |at| (kind, at))) {
        let place = applied();
        let faults = Faults::new(Fault::Once(at, kind));
        let done = place.tree_with(&faults).undo(None, &|_| true, &|_| false);
        place.tree().recover().unwrap();
        points += 1;
        let left = place.nodes();
        let Ok(done) = done else {
            assert!(is_new(&place), "{at} {kind}: {done:?} {:?}", left.keys());
            continue;
        };
        // What cannot be looked at just then is refused by its name, and stays with what it stands in.
        let is_refused = |path: &std::path::Path| {
            done.changed
                .iter()
                .any(|refused| path.starts_with(refused) || refused.as_path().starts_with(path))
        };
        let (before, after) = (before(), after());
        for path in before.keys().chain(after.keys()).filter(|path| !is_refused(path)) {
            // A directory of which nobody can say whether it is empty stays.
            let stays = left.get(path) == Some(&Node::Directory) && !before.contains_key(path);
            assert!(stays || left.get(path) == before.get(path), "{at} {kind} {path:?}: {done:?}");
        }
        for path in left.keys().filter(|path| is_refused(path)) {
            let is = left.get(path);
            assert!(is == before.get(path) || is == after.get(path), "{at} {kind} {path:?}");
        }
    }
    println!("{points} calls of an undo that fail");
}

/// A disk that stays full, or read-only, from some call on: when there is room again, the tree is one of both.
#[test]
fn a_disk_that_stays_full_or_read_only_leaves_the_old_tree_or_the_new_one() {
    let (calls, _) = apply(&filled(), Fault::None);
    let mut points = 0;
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::ReadOnlyFilesystem] {
        for at in 1..calls {
            let place = filled();
            let (_, done) = apply(&place, Fault::From(at, kind));
            place.tree().recover().unwrap();
            points += 1;
            let is_right = if done.is_ok() { is_new(&place) } else { is_old(&place) };
            assert!(is_right || is_new(&place), "{at} {kind}: {done:?} {:#?}", place.nodes());
        }
    }
    println!("{points} points from which on the disk is full or read-only");
}

/// A place where all of it was applied.
fn applied() -> Place {
    let place = filled();
    apply(&place, Fault::None).1.unwrap();
    place
}

/// A place for each kill of an apply that left something pending.
pub(super) fn killed_while_placing() -> Vec<(u64, Place)> {
    let (calls, _) = apply(&filled(), Fault::None);
    let killed = (1..calls).map(|at| {
        let place = filled();
        let _killed = apply(&place, Fault::Kill(at));
        (at, place)
    });
    killed.filter(|(_, place)| place.tree().is_pending()).collect()
}
