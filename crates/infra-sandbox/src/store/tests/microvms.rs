//! What sessions remember of microVMs, and what becomes of those that have one.

use std::path::Path;
use std::sync::Arc;

use forge_domain::{Base, Entry, Returned, ReturnedOrigin};
use pretty_assertions::assert_eq;

use super::*;

fn microvm(name: &str) -> StoredMicrovm {
    StoredMicrovm::new(name, "https://api.example", "default")
}

/// A session that was killed while its commands ran in a microVM.
fn killed(place: &Place) -> forge_domain::SessionId {
    let session = place.open(&SessionChoice::Fresh);
    session.add_microvm(microvm("forge-1")).unwrap();
    session.id().clone()
}

#[test]
fn a_microvm_is_on_record_until_it_is_gone() {
    let place = Place::new();
    let session = place.open(&SessionChoice::Fresh);
    let id = session.id().clone();
    let recorded = || place.store.find(&id).unwrap().microvms;
    session.add_microvm(microvm("forge-1")).unwrap();
    let [one] = &recorded()[..] else { panic!() };
    assert_eq!((one.id_or_name(), one.r#use), ("forge-1", MicrovmUse::Session));
    assert!(SystemTime::now().duration_since(one.asked_for()).unwrap() < Duration::from_secs(60));
    session.identify_microvm("forge-1", "sb1").unwrap();
    session.add_microvm(microvm("forge-2")).unwrap();
    session.keep_microvm("forge-1").unwrap();
    let all: Vec<_> =
        recorded().iter().map(|one| (one.id_or_name().to_owned(), one.r#use)).collect();
    let expected =
        [("sb1".to_owned(), MicrovmUse::Kept), ("forge-2".to_owned(), MicrovmUse::Session)];
    assert_eq!(all, expected);
    session.set_summary(StoredSummary::default()).unwrap();
    assert_eq!(recorded().len(), 2, "an account of the session leaves them");
    for name in ["forge-1", "forge-2"] {
        session.forget_microvm(name).unwrap();
    }
    assert_eq!(recorded(), []);
    assert_eq!(session.end().unwrap(), SessionEnd::Removed);
}

#[test]
fn a_session_with_a_microvm_is_neither_removed_nor_gone_on_with() {
    let place = Place::new();
    let id = killed(&place);
    let options = PruneOptions { with_changes_of: Some(place.workspace()) };
    let report = place.store.prune(&options, SystemTime::now()).unwrap();
    assert_eq!((report.removed, report.failed.len()), (vec![], 0));
    assert_ne!(place.open(&SessionChoice::Continue).id(), &id);
    let named = place.store.open(&place.workspace(), &SessionChoice::Named(id.clone()));
    assert!(matches!(named, Err(SessionError::Elsewhere { .. })), "{named:?}");
    let again = place.store.lock_for_microvms(&id).unwrap();
    assert_eq!(again.end().unwrap(), SessionEnd::Kept(None));
    let again = place.store.lock_for_microvms(&id).unwrap();
    again.forget_microvm("forge-1").unwrap();
    assert_eq!(again.end().unwrap(), SessionEnd::Removed);
}

#[test]
fn one_that_was_kept_on_purpose_is_in_nobodys_way() {
    let place = Place::new();
    let id = place.filled();
    let session = place.open(&SessionChoice::Named(id.clone()));
    session.add_microvm(microvm("forge-1")).unwrap();
    session.keep_microvm("forge-1").unwrap();
    drop(session);
    assert_eq!(place.open(&SessionChoice::Continue).id(), &id);
    assert!(!place.store.find(&id).unwrap().awaits_a_microvm());
}

#[test]
fn what_tells_its_changes_is_of_one_microvm_and_goes_with_a_discard() {
    let place = Place::new();
    let session = place.open(&SessionChoice::Fresh);
    session.add_microvm(microvm("forge-1")).unwrap();
    session.fill_microvm(b"early").unwrap_err();
    let fill = |state: &[u8]| {
        session.looks_at_the_host().unwrap();
        session.fill_microvm(state).unwrap();
    };
    assert_eq!(session.microvm_state().unwrap(), None);
    fill(b"one\ntwo");
    assert_eq!(session.microvm_state().unwrap().unwrap(), b"one\ntwo");
    session.add_microvm(microvm("forge-2")).unwrap();
    assert_eq!(session.microvm_state().unwrap(), None);
    fill(b"three");
    session.discard().unwrap();
    assert_eq!(session.microvm_state().unwrap(), None);
    assert_eq!(session.microvms().len(), 2);
}

/// What a file is taken to have been that the microVM of a killed process has changed, when the host had it at that time
/// with `before` and has changed it to `after` since.
fn base_of(after: Option<&str>) -> Option<Base> {
    let place = Place::new();
    let path = place.workspace().join("file");
    fs::write(&path, "before").unwrap();
    let session = place.open(&SessionChoice::Fresh);
    let id = session.id().clone();
    session.add_microvm(microvm("forge-1")).unwrap();
    // The clock for inodes goes in steps.
    std::thread::sleep(Duration::from_millis(50));
    session.looks_at_the_host().unwrap();
    session.fill_microvm(b"state").unwrap();
    drop(session);
    std::thread::sleep(Duration::from_millis(50));
    if let Some(after) = after {
        fs::write(&path, after).unwrap();
    }
    let again = Arc::new(place.store.lock_for_microvms(&id).unwrap());
    let receiver = again.receive().unwrap();
    let mut contents: &[u8] = b"session's";
    let file = Returned::File { mode: 0o644, contents: &mut contents };
    receiver.put(Path::new("file"), file, ReturnedOrigin::Workspace).unwrap();
    receiver.finish().unwrap();
    Some(again.layers_unmounted().unwrap().base(Path::new("file")))
}

#[test]
fn what_the_host_has_changed_since_the_kill_is_not_taken_for_what_the_microvm_had() {
    assert!(matches!(base_of(None), Some(Base::Known(Entry::File { size_bytes: 6, .. }))));
    assert_eq!(base_of(Some("by hand")), Some(Base::Unknown));
}
