//! Every call to the file system fails in turn, or is the last one of a process that is killed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forge_domain::{ApplyError, ApplyTarget};
use pretty_assertions::assert_eq;

use super::{Node, Nodes, Place, file, nodes, steps};

/// What happens at a call.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Nothing: calls are counted.
    None,
    /// It fails like this, once.
    Once(u64, io::ErrorKind),
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

    pub(crate) fn reach(&self, _call: &'static str) -> io::Result<()> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Once(at, kind) if number == at => Err(kind.into()),
            Fault::Kill(at) if number >= at => Err(io::Error::other("killed")),
            Fault::None | Fault::Once(..) | Fault::Kill(_) => Ok(()),
        }
    }

    fn count(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
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
    ])
}

/// Applies with a fault, and says how often the file system was called and what came out.
fn apply(place: &Place, fault: Fault) -> (u64, Result<(), ApplyError>) {
    let faults = Faults::new(fault);
    let (steps, contents) = steps(&place.tree(), &before(), &after());
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
    let place = Place::new();
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
        let tree = place.tree();
        tree.recover().unwrap();
        let found = place.nodes();
        if found == before() {
            old += 1;
            assert!(done.is_err(), "{at}");
            apply(&place, Fault::None).1.unwrap();
            assert_eq!(place.nodes(), after(), "{at}");
        } else {
            assert_eq!(found, after(), "{at}");
            new += 1;
        }
        undo(&place, Fault::None).1.unwrap();
        assert_eq!(place.nodes(), before(), "{at}");
    }
    println!("{} fault points: the old tree after {old}, the new one after {new}", calls - 1);
    assert!(old > 100 && new > 10, "{old} {new}");
}

#[test]
fn a_kill_at_every_call_of_an_undo_leaves_one_of_both_too() {
    let whole = filled();
    apply(&whole, Fault::None).1.unwrap();
    let (calls, done) = undo(&whole, Fault::None);
    done.unwrap();
    for at in 1..calls {
        let place = filled();
        apply(&place, Fault::None).1.unwrap();
        let _killed = undo(&place, Fault::Kill(at));
        place.tree().recover().unwrap();
        let found = place.nodes();
        if found == after() {
            undo(&place, Fault::None).1.unwrap();
        }
        assert_eq!(place.nodes(), before(), "{at}");
    }
    println!("{} fault points of an undo", calls - 1);
}

/// A recovery that is killed is gone on with by the next one.
#[test]
fn a_kill_in_a_recovery_is_recovered_from() {
    let (calls, _) = apply(&filled(), Fault::None);
    for at in (1..calls).step_by(7) {
        for second in (1..).step_by(3) {
            let place = filled();
            let _killed = apply(&place, Fault::Kill(at));
            let faults = Faults::new(Fault::Kill(second));
            let recovered = place.tree_with(&faults).recover();
            place.tree().recover().unwrap();
            let found = place.nodes();
            assert!(found == before() || found == after(), "{at} {second}: {found:?}");
            if recovered.is_ok() {
                break;
            }
        }
    }
}

/// What the operating system refuses is taken back at once, and nothing waits for a recovery.
#[test]
fn a_call_that_fails_changes_nothing_or_nothing_is_missing() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied] {
        let (calls, _) = apply(&filled(), Fault::None);
        for at in 1..calls {
            let place = filled();
            let (_, done) = apply(&place, Fault::Once(at, kind));
            place.tree().recover().unwrap();
            let found = place.nodes();
            // A directory of which nobody can say whether it is empty stays.
            let mut with_directory = after();
            with_directory.insert("dir".into(), Node::Directory);
            if done.is_ok() && found == with_directory {
                continue;
            }
            let expected = if done.is_ok() { after() } else { before() };
            assert_eq!(found, expected, "{at} {kind}: {done:?}");
        }
    }
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
