//! Discarding and removing what an attacker may have laid out.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with};

use pretty_assertions::assert_eq;

use super::*;

#[test]
fn a_tree_of_five_thousand_levels_is_discarded() {
    let place = Place::in_memory();
    let session = place.open(&SessionChoice::Fresh);
    let upper = place.store.upper_of(session.id());
    let mut directory = OwnedFd::from(File::open(&upper).unwrap());
    for _ in 0..5000 {
        mkdirat(&directory, "deep", Mode::RWXU).unwrap();
        directory =
            openat(&directory, "deep", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    drop(directory);
    session.discard().unwrap();
    assert!(!session.holds_anything().unwrap());
    assert_eq!(session.end().unwrap(), SessionEnd::Removed);
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn a_directory_that_is_swapped_for_a_link_while_it_is_removed_leads_nowhere() {
    let place = Place::in_memory();
    let outside = place.directory.path().join("two");
    for name in 0..50 {
        fs::write(outside.join(name.to_string()), "canary").unwrap();
    }
    let stop = AtomicBool::new(false);
    for _ in 0..20 {
        let session = place.open(&SessionChoice::Fresh);
        let upper = place.store.upper_of(session.id());
        for name in 0..50 {
            fs::create_dir_all(upper.join(name.to_string()).join("below")).unwrap();
        }
        symlink(&outside, upper.join("link")).unwrap();
        // By descriptor, as what still runs in a session would: the removal renames the session.
        let held = OwnedFd::from(File::open(&upper).unwrap());
        stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for name in 0..50 {
                        let name = name.to_string();
                        let swap =
                            || renameat_with(&held, "link", &held, &name, RenameFlags::EXCHANGE);
                        // There and back, as long as both are there.
                        let _swapped = swap().and_then(|()| swap());
                    }
                }
            });
            // It may fail where things move under its hands; it may not go elsewhere.
            drop(session.remove());
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 50);
    }
    place.store.prune(&PruneOptions::default(), SystemTime::now()).unwrap();
    assert_eq!(place.names(), Vec::<String>::new());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 50);
}

#[test]
fn what_a_crash_left_of_a_discard_is_made_whole() {
    let place = Place::new();
    let id = place.filled();
    let session = place.store.upper_of(&id).join("..").canonicalize().unwrap();
    // Between the exchange and the removal of the old layer, and without a work directory.
    fs::create_dir(session.join("upper.aside")).unwrap();
    let (upper, aside) = (session.join("upper"), session.join("upper.aside"));
    renameat_with(CWD, &upper, CWD, &aside, RenameFlags::EXCHANGE).unwrap();
    fs::remove_dir(session.join("work")).unwrap();
    let open = place.store.lock(&id).unwrap();
    assert!(!open.holds_anything().unwrap());
    let mut names: Vec<_> = fs::read_dir(&session)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["base", "lock", "meta.json", "upper", "work"]);
}

#[test]
fn discarding_empties_the_base_as_well() {
    let place = Place::new();
    let id = place.filled();
    let base = place.store.upper_of(&id).join("../base");
    fs::write(base.join("file"), "before").unwrap();
    place.store.lock(&id).unwrap().discard().unwrap();
    assert_eq!(fs::read_dir(base).unwrap().count(), 0);
    let summary = place.store.find(&id).unwrap().summary;
    assert_eq!(summary, Some(StoredSummary::default()));
}

#[test]
fn a_removal_that_cannot_go_on_leaves_no_session() {
    let place = Place::new();
    let id = place.filled();
    let sessions = place.directory.path().join("state/sessions");
    let open = place.store.lock(&id).unwrap();
    // Its name aside is taken, so nothing is begun at all.
    fs::create_dir_all(sessions.join(format!(".gone-{id}/x"))).unwrap();
    assert!(matches!(open.remove(), Err(SessionError::Io { operation: "removing", .. })));
    assert_eq!(fs::read_to_string(place.store.upper_of(&id).join("file")).unwrap(), "x");
    place.store.prune(&PruneOptions::default(), SystemTime::now()).unwrap();
    place.store.lock(&id).unwrap().remove().unwrap();
    assert_eq!(place.names(), Vec::<String>::new());
}
