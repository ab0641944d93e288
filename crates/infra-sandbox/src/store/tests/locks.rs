//! Sessions between several users of them. Two openings of a lock file exclude each other within one
//! process, too, so threads stand for processes; a dropped lock stands for a kill.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use pretty_assertions::assert_eq;

use super::*;

fn mode_of(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn of_several_that_continue_at_once_each_gets_a_session_of_its_own() {
    let place = Place::new();
    let filled: BTreeSet<_> = (0..2).map(|_| place.filled()).collect();
    let start = Barrier::new(6);
    let open: Vec<OpenSession> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    place.open(&SessionChoice::Continue)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let ids: BTreeSet<_> = open.iter().map(|session| session.id().clone()).collect();
    assert_eq!(ids.len(), 6);
    let continued: BTreeSet<_> = open
        .iter()
        .filter(|session| session.is_continued())
        .map(|session| session.id().clone())
        .collect();
    assert_eq!(continued, filled);
}

#[test]
fn somebody_who_only_looks_never_makes_a_session_busy() {
    let place = Place::new();
    let id = place.filled();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    place.store.list().unwrap();
                }
            });
        }
        let opened: Vec<_> = (0..200)
            .map(|_| place.store.open(&place.workspace(), &SessionChoice::Named(id.clone())).err())
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(opened.iter().all(Option::is_none), "{opened:?}");
    });
}

#[test]
fn after_a_kill_a_session_is_gone_on_with_and_its_account_is_not_believed() {
    let place = Place::new();
    let id = place.filled();
    let counted = Some(StoredSummary { changed_files: 1, ignored_files: 0 });
    assert_eq!(place.store.find(&id).unwrap().summary, counted);
    drop(place.open(&SessionChoice::Continue));
    let killed = place.store.find(&id).unwrap();
    assert_eq!((killed.state, killed.summary), (SessionState::Idle, None));
    let again = place.open(&SessionChoice::Continue);
    assert_eq!((again.id(), again.is_continued()), (&id, true));
    assert_eq!(again.end().unwrap(), SessionEnd::Kept(None));
}

#[test]
fn the_same_account_again_is_not_written_again_and_is_believed() {
    let place = Place::new();
    let id = place.filled();
    let written = fs::metadata(place.store.upper_of(&id).join("../meta.json")).unwrap();
    let summary = StoredSummary { changed_files: 1, ignored_files: 0 };
    let before = place.store.find(&id).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let open = place.open(&SessionChoice::Continue);
    open.set_summary(summary).unwrap();
    assert_eq!(open.end().unwrap(), SessionEnd::Kept(Some(summary)));
    let after = place.store.find(&id).unwrap();
    assert_eq!(after.summary, Some(summary));
    assert!(after.last_used > before.last_used);
    let again = fs::metadata(place.store.upper_of(&id).join("../meta.json")).unwrap();
    assert_eq!(again.modified().unwrap(), written.modified().unwrap());
}

#[test]
fn an_empty_session_that_a_kill_left_is_not_gone_on_with() {
    let place = Place::new();
    let left = place.open(&SessionChoice::Fresh).id().clone();
    let other = place.open(&SessionChoice::Continue);
    assert_ne!(other.id(), &left);
    assert_eq!(place.names(), [other.id().as_str()]);
}

#[test]
fn the_newest_of_several_is_gone_on_with() {
    let place = Place::new();
    let older = place.filled();
    let newer = place.filled();
    let long_ago = SystemTime::now() - Duration::from_secs(60 * 60);
    let session = place.store.upper_of(&older).join("..");
    let text = fs::read_to_string(session.join("meta.json")).unwrap();
    let mut meta: serde_json::Value = serde_json::from_str(&text).unwrap();
    meta["last_used"] = meta::seconds(long_ago).into();
    fs::write(session.join("meta.json"), meta.to_string()).unwrap();
    fs::File::options()
        .write(true)
        .open(session.join("lock"))
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    assert_eq!(place.store.newest(&place.workspace()).unwrap().unwrap().id, newer);
    let first = place.open(&SessionChoice::Continue);
    let second = place.open(&SessionChoice::Continue);
    assert_eq!((first.id(), second.id()), (&newer, &older));
}

#[test]
fn texts_that_lead_elsewhere_name_no_session() {
    let place = Place::new();
    let id = place.filled();
    let state = place.directory.path().join("state");
    // As much like a session as it can be.
    for name in ["lock", "meta.json"] {
        fs::copy(place.store.upper_of(&id).join("..").join(name), state.join(name)).unwrap();
        fs::copy(state.join(name), state.join("sessions").join(name)).unwrap();
    }
    for text in ["..", ".", ".new-20200101-000000-aaaa", "damaged-20200101-000000-aaaa", "lock"] {
        let named = forge_domain::SessionId::parse(text).unwrap();
        for outcome in [
            place.store.find(&named).map(drop),
            place.store.lock(&named).map(drop),
            place.store.open(&place.workspace(), &SessionChoice::Named(named.clone())).map(drop),
        ] {
            assert!(matches!(outcome, Err(SessionError::NotFound { .. })), "{text}: {outcome:?}");
        }
    }
    assert!(state.join("meta.json").exists());
}

#[test]
fn what_is_made_is_closed_to_others_and_the_upper_layer_is_like_the_workspace() {
    let place = Place::new();
    fs::set_permissions(place.workspace(), fs::Permissions::from_mode(0o1750)).unwrap();
    let session = place.open(&SessionChoice::Fresh);
    let upper = place.store.upper_of(session.id());
    let state = place.directory.path().join("state");
    for path in [state.clone(), state.join("sessions"), upper.join("..")] {
        assert_eq!(mode_of(&path), 0o700, "{}", path.display());
    }
    for name in ["work", "base"] {
        assert_eq!(mode_of(&upper.join("..").join(name)), 0o700, "{name}");
    }
    assert_eq!(mode_of(&upper), 0o1750);
    // What ran in it may have closed it; discarding takes that back.
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o000)).unwrap();
    session.discard().unwrap();
    assert_eq!(mode_of(&upper), 0o1750);
}

#[test]
#[ignore = "needs root"]
fn the_upper_layer_belongs_to_whom_the_workspace_belongs() {
    use std::os::unix::fs::{MetadataExt, chown};
    let place = Place::new();
    chown(place.workspace(), Some(1234), Some(2345)).unwrap();
    let session = place.open(&SessionChoice::Fresh);
    let upper = fs::metadata(place.store.upper_of(session.id())).unwrap();
    assert_eq!((upper.uid(), upper.gid()), (1234, 2345));
}

#[test]
fn where_no_session_can_be_made_nothing_is_left_of_it() {
    let place = Place::new();
    let gone = place.directory.path().join("gone");
    let refused = place.store.open(&gone, &SessionChoice::Continue).unwrap_err();
    assert!(matches!(&refused, SessionError::Io { path, .. } if *path == gone), "{refused:?}");
    assert_eq!(place.names(), Vec::<String>::new());
    fs::write(place.directory.path().join("file"), "").unwrap();
    let store = SessionStore::new(place.directory.path().join("file"));
    let refused = store.open(&place.workspace(), &SessionChoice::Continue).unwrap_err();
    assert!(matches!(&refused, SessionError::Io { operation: "making", .. }), "{refused:?}");
}

#[test]
fn a_store_that_was_not_opened_yet_is_empty_and_stays_unmade() {
    let place = Place::new();
    assert_eq!(place.store.list().unwrap(), Listing::default());
    assert_eq!(place.store.newest(&place.workspace()).unwrap(), None);
    let report = place.store.prune(&PruneOptions::default(), SystemTime::now()).unwrap();
    assert_eq!((report.removed.len(), report.halves), (0, 0));
    assert!(!place.directory.path().join("state").exists());
}

#[test]
fn a_copy_of_the_lock_in_a_child_that_is_about_to_be_executed_keeps_nobody_out() {
    let place = Place::new();
    let id = place.filled();
    let open = place.open(&SessionChoice::Named(id.clone()));
    let copy = open.share_lock().try_clone_to_owned().unwrap();
    open.end().unwrap();
    drop(place.open(&SessionChoice::Named(id)));
    drop(copy);
}

#[test]
fn a_helper_that_lives_on_keeps_the_lock() {
    let place = Place::new();
    let id = place.filled();
    let open = place.open(&SessionChoice::Named(id.clone()));
    let copy = open.share_lock().try_clone_to_owned().unwrap();
    drop(open);
    assert!(matches!(place.store.lock(&id), Err(SessionError::Busy { .. })));
    drop(copy);
    place.store.lock(&id).unwrap();
}

#[test]
fn a_helper_whose_owner_was_killed_is_waited_for() {
    let place = Place::new();
    let id = place.filled();
    let open = place.open(&SessionChoice::Named(id.clone()));
    let copy = open.share_lock().try_clone_to_owned().unwrap();
    drop(open);
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let lock = place.store.upper_of(&id).join("../lock");
    fs::write(lock, ended.id().to_string()).unwrap();
    let helper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(copy);
    });
    let next = place.open(&SessionChoice::Continue);
    assert_eq!((next.id(), next.is_continued()), (&id, true));
    helper.join().unwrap();
}
