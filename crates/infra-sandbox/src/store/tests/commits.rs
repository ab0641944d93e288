//! Commits of a microVM that a session keeps.

use std::io::{Read as _, Seek as _, Write as _};

use forge_domain::{GitObjectId, SessionRef, SessionRefName};
use pretty_assertions::assert_eq;

use super::*;

fn named(name: &str, digit: &str) -> SessionRef {
    let id = GitObjectId::parse(&digit.repeat(40)).unwrap();
    SessionRef { name: SessionRefName::parse(name).unwrap(), id }
}

fn commits(refs: &[(&str, &str)], branch: Option<&str>, bundle: &[u8]) -> KeptCommits {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bundle).unwrap();
    file.rewind().unwrap();
    KeptCommits {
        refs: refs.iter().map(|(name, digit)| named(name, digit)).collect(),
        branch: branch.map(str::to_owned),
        bundle: (!bundle.is_empty()).then_some((file, bundle.len() as u64)),
    }
}

#[test]
fn what_is_kept_is_read_again_and_replaced_as_a_whole() {
    let place = Place::new();
    let session = place.store.open_for_microvm(&place.workspace(), &SessionChoice::Fresh).unwrap();
    assert!(session.kept_commits().unwrap().is_none());
    let refs = [("HEAD", "a"), ("refs/heads/x", "a"), ("refs/stash", "b")];
    for bundle in [&b"# v2 git bundle\n\n\0\n"[..], b""] {
        session.keep_commits(commits(&refs, Some("x"), bundle)).unwrap();
        let kept = session.kept_commits().unwrap().unwrap();
        assert_eq!(
            (kept.refs, kept.branch.as_deref()),
            (commits(&refs, None, b"").refs, Some("x"))
        );
        let mut read = Vec::new();
        if let Some((mut file, length)) = kept.bundle {
            file.read_to_end(&mut read).unwrap();
            assert_eq!(length, bundle.len() as u64);
        }
        assert_eq!(read, bundle);
    }
    let id = session.id().clone();
    assert!(matches!(session.end().unwrap(), SessionEnd::Kept(_)), "it holds something");
    // What is checked out is named by its branch.
    let waiting = |place: &Place| match place.store.waiting_commits(&id).unwrap() {
        WaitingCommits::Refs(refs) => refs.iter().map(|one| one.name.to_string()).collect(),
        other => vec![format!("{other:?}")],
    };
    assert_eq!(waiting(&place), ["heads/x", "stash"]);
    place.store.note_brought(&id, &commits(&refs, None, b"").refs).unwrap();
    assert_eq!(waiting(&place), ["None"]);
    let session = place.store.lock(&id).unwrap();
    session.keep_commits(commits(&[("HEAD", "c")], None, b"")).unwrap();
    assert_eq!(waiting(&place), ["HEAD"]);
    session.discard().unwrap();
    assert!(session.kept_commits().unwrap().is_none());
    assert_eq!(session.end().unwrap(), SessionEnd::Removed);
}

#[test]
fn a_session_with_commits_goes_on_where_they_were_made_and_nowhere_else() {
    let place = Place::new();
    let elsewhere =
        |choice: &SessionChoice| place.store.open_for_microvm(&place.workspace(), choice);
    let session = elsewhere(&SessionChoice::Fresh).unwrap();
    session.keep_commits(commits(&[("refs/heads/x", "a")], None, b"")).unwrap();
    let of_microvm = session.id().clone();
    drop(session);
    let session = place.open(&SessionChoice::Continue);
    assert_ne!(session.id(), &of_microvm);
    fs::create_dir_all(place.store.upper_of(session.id()).join(".git/refs/heads")).unwrap();
    let of_sandbox = session.id().clone();
    drop(session);
    assert_eq!(place.open(&SessionChoice::Continue).id(), &of_sandbox);
    assert_eq!(elsewhere(&SessionChoice::Continue).unwrap().id(), &of_microvm);
    let named = place.store.open(&place.workspace(), &SessionChoice::Named(of_microvm));
    assert!(matches!(named, Err(SessionError::CommitsInMicrovm { .. })), "{named:?}");
    let named = elsewhere(&SessionChoice::Named(of_sandbox));
    assert!(matches!(named, Err(SessionError::CommitsInSandbox { .. })), "{named:?}");
}

#[test]
fn what_makes_no_sense_is_an_error_and_stays() {
    let place = Place::new();
    let id = place.filled();
    let path = place.store.path_of(&id).join("commits");
    for text in [
        "",
        "{}",
        "{\"version\":2,\"refs\":{},\"branch\":null}\n",
        "{\"version\":1,\"refs\":{\"x\":\"y\"},\"branch\":null}\n",
    ] {
        fs::write(&path, text).unwrap();
        place.store.kept_commits(&id).unwrap_err();
        assert!(place.store.waiting_commits(&id).is_err(), "{text}");
    }
    let options = PruneOptions { with_changes_of: None };
    place.store.prune(&options, SystemTime::now() + Duration::from_secs(100 * 24 * 3600)).unwrap();
    assert!(path.exists());
}
