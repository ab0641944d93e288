//! What pruning takes and what it never does.

use std::path::Path;

use pretty_assertions::assert_eq;

use forge_domain::{GitObjectId, SessionRef, SessionRefName};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A session that was closed with this account; nothing that `upper` wrote is ignored.
fn closed(
    place: &Place,
    summary: StoredSummary,
    write: impl FnOnce(&Path),
) -> forge_domain::SessionId {
    let session = place.open(&SessionChoice::Fresh);
    let id = session.id().clone();
    write(&place.store.upper_of(&id));
    session.set_summary(summary).unwrap();
    assert_eq!(session.end().unwrap(), SessionEnd::Kept(Some(summary)));
    id
}

fn ignored_only(place: &Place, write: impl FnOnce(&Path)) -> forge_domain::SessionId {
    closed(place, StoredSummary { changed_files: 0, ignored_files: 1 }, write)
}

/// The ids that stay since they hold changes, and why the others went.
fn prune(place: &Place, later: Duration) -> (Vec<String>, Vec<&'static str>) {
    let report = place.store.prune(&PruneOptions::default(), SystemTime::now() + later).unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    (
        report.with_changes.iter().map(|session| session.id.to_string()).collect(),
        report.removed.iter().map(|pruned| pruned.reason).collect(),
    )
}

#[test]
fn commits_that_no_file_shows_are_kept() {
    let place = Place::new();
    let inside = ignored_only(&place, |upper| {
        fs::create_dir_all(upper.join(".git/objects/ab")).unwrap();
    });
    let outside = ignored_only(&place, |upper| {
        fs::create_dir_all(upper.join("../git-upper/refs/heads")).unwrap();
    });
    let (kept, removed) = prune(&place, 30 * DAY);
    let mut expected = [inside.to_string(), outside.to_string()];
    expected.sort_by_key(|id| kept.iter().position(|kept| kept == id));
    assert_eq!((kept, removed), (expected.to_vec(), vec![]));
}

#[test]
fn commits_wait_until_they_were_brought_over_and_again_when_there_are_new_ones() {
    let place = Place::new();
    let (main, side, packed) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
    fs::create_dir_all(place.workspace().join(".git/refs/heads")).unwrap();
    fs::write(place.workspace().join(".git/refs/heads/same"), format!("{side}\n")).unwrap();
    let id = ignored_only(&place, |upper| {
        fs::create_dir_all(upper.join(".git/objects/ab")).unwrap();
        fs::create_dir_all(upper.join(".git/refs/heads/deep")).unwrap();
        fs::create_dir_all(upper.join(".git/refs/remotes/origin")).unwrap();
        fs::write(upper.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(upper.join(".git/refs/heads/main"), format!("{main}\n")).unwrap();
        fs::write(upper.join(".git/refs/heads/same"), format!("{side}\n")).unwrap();
        fs::write(upper.join(".git/refs/heads/deep/x"), format!("{side}\n")).unwrap();
        fs::write(upper.join(".git/refs/heads/deep/y.lock"), format!("{side}\n")).unwrap();
        fs::write(upper.join(".git/refs/remotes/origin/x"), format!("{main}\n")).unwrap();
        symlink("/etc/passwd", upper.join(".git/refs/heads/link")).unwrap();
        let lines = format!(
            "# pack-refs with: peeled\n{packed} refs/tags/v1\n^{main}\n{side} refs/heads/main\n"
        );
        fs::write(upper.join(".git/packed-refs"), lines).unwrap();
    });
    let named = |name: &str, id: &str| SessionRef {
        name: SessionRefName::parse(name).unwrap(),
        id: GitObjectId::parse(id).unwrap(),
    };
    let all = vec![
        named("refs/heads/deep/x", &side),
        named("refs/heads/main", &main),
        named("refs/tags/v1", &packed),
    ];
    let waiting = || place.store.waiting_commits(&id).unwrap();
    assert_eq!(waiting(), WaitingCommits::Refs(all.clone()));
    assert_eq!(prune(&place, 30 * DAY), (vec![id.to_string()], vec![]));

    place.store.note_brought(&id, &all).unwrap();
    assert_eq!(waiting(), WaitingCommits::None);
    let upper = place.store.upper_of(&id);
    fs::write(upper.join(".git/HEAD"), format!("{packed}\n")).unwrap();
    assert_eq!(waiting(), WaitingCommits::Refs(vec![named("HEAD", &packed)]));
    assert_eq!(prune(&place, 30 * DAY), (vec![id.to_string()], vec![]));
    fs::create_dir(upper.join(".git/reftable")).unwrap();
    assert_eq!(waiting(), WaitingCommits::Unknown);
    fs::remove_dir(upper.join(".git/reftable")).unwrap();
    fs::write(upper.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    let removed = prune(&place, 30 * DAY).1;
    assert_eq!(removed, ["it held ignored files only and was not used for seven days"]);
}

#[test]
fn a_discard_forgets_what_was_brought_over() {
    let place = Place::new();
    let id = ignored_only(&place, |upper| fs::write(upper.join("x"), "").unwrap());
    place.store.note_brought(&id, &[]).unwrap();
    place.store.lock(&id).unwrap().discard().unwrap();
    assert!(!place.store.path_of(&id).join("brought.json").exists());
}

#[test]
fn an_index_alone_is_no_commit() {
    let place = Place::new();
    ignored_only(&place, |upper| {
        fs::create_dir(upper.join(".git")).unwrap();
        fs::write(upper.join(".git/index"), "").unwrap();
        fs::create_dir_all(upper.join("../git-upper/worktrees/a")).unwrap();
    });
    let (kept, removed) = prune(&place, 8 * DAY);
    assert_eq!(kept, Vec::<String>::new());
    assert_eq!(removed, ["it held ignored files only and was not used for seven days"]);
}

#[test]
fn an_account_that_is_wrong_removes_no_changes() {
    let place = Place::new();
    ignored_only(&place, |upper| fs::write(upper.join("new"), "work").unwrap());
    let (_, removed) = prune(&place, 30 * DAY);
    assert_eq!(removed, Vec::<&str>::new());
    assert_eq!(place.names().len(), 1);
}

#[test]
fn one_that_was_killed_is_kept() {
    let place = Place::new();
    let id = ignored_only(&place, |upper| fs::write(upper.join("new"), "work").unwrap());
    drop(place.open(&SessionChoice::Named(id.clone())));
    assert_eq!(prune(&place, 30 * DAY), (vec![id.to_string()], vec![]));
}

#[test]
fn where_the_workspace_is_gone_ignored_files_go_and_changes_stay() {
    let place = Place::new();
    let changed = place.filled();
    ignored_only(&place, |upper| fs::create_dir(upper.join("target")).unwrap());
    assert_eq!(prune(&place, Duration::ZERO).1, Vec::<&str>::new());
    fs::remove_dir(place.workspace()).unwrap();
    let (kept, removed) = prune(&place, Duration::ZERO);
    assert_eq!(kept, [changed.to_string()]);
    assert_eq!(removed, ["it held ignored files only and its workspace is gone"]);
    assert_eq!(place.names(), [changed.as_str()]);
}

#[test]
fn one_that_is_in_use_is_left_alone_whatever_was_asked_for() {
    let place = Place::new();
    let open = place.open(&SessionChoice::Fresh);
    let options = PruneOptions { with_changes_of: Some(place.workspace()) };
    let report = place.store.prune(&options, SystemTime::now() + 30 * DAY).unwrap();
    assert_eq!((report.removed.len(), report.with_changes.len()), (0, 0));
    assert_eq!(place.names(), [open.id().as_str()]);
}

#[test]
fn asking_for_one_workspace_keeps_the_changes_of_another() {
    let place = Place::new();
    let one = place.filled();
    let options = PruneOptions { with_changes_of: Some(place.directory.path().join("two")) };
    let report = place.store.prune(&options, SystemTime::now()).unwrap();
    let kept: Vec<_> = report.with_changes.iter().map(|session| &session.id).collect();
    assert_eq!((kept, report.removed.len()), (vec![&one], 0));
}

#[test]
fn an_empty_one_that_a_kill_left_is_removed() {
    let place = Place::new();
    drop(place.open(&SessionChoice::Fresh));
    assert_eq!(prune(&place, Duration::ZERO), (vec![], vec!["it held nothing"]));
}

#[test]
fn a_start_removes_old_halves_and_leaves_young_ones() {
    let place = Place::new();
    place.open(&SessionChoice::Fresh).end().unwrap();
    let sessions = place.directory.path().join("state/sessions");
    for name in [".new-20200101-000000-aaaa", ".gone-20200101-000000-bbbb"] {
        fs::create_dir(sessions.join(name)).unwrap();
    }
    let open = place.open(&SessionChoice::Continue);
    assert_eq!(
        place.names(),
        [".gone-20200101-000000-bbbb", ".new-20200101-000000-aaaa", open.id().as_str()]
    );
    place.store.sweep_old(SystemTime::now() + Duration::from_secs(2 * 60 * 60));
    assert_eq!(place.names(), [open.id().as_str()]);
}

#[test]
fn what_somebody_is_removing_is_left_to_them() {
    let place = Place::new();
    let open = place.open(&SessionChoice::Fresh);
    let sessions = place.directory.path().join("state/sessions");
    let gone = sessions.join(format!(".gone-{}", open.id()));
    fs::rename(sessions.join(open.id().as_str()), &gone).unwrap();
    let report = place.store.prune(&PruneOptions::default(), SystemTime::now()).unwrap();
    assert!(gone.join("lock").exists());
    assert_eq!(report.halves, 0);
    drop(open);
    let report = place.store.prune(&PruneOptions::default(), SystemTime::now()).unwrap();
    assert_eq!((report.halves, place.names()), (1, vec![]));
}

#[test]
fn a_state_directory_that_others_can_write_to_is_not_pruned() {
    let place = Place::new();
    let id = place.filled();
    let state = place.directory.path().join("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o775)).unwrap();
    let refused = place.store.prune(&PruneOptions::default(), SystemTime::now()).unwrap_err();
    assert!(matches!(refused, SessionError::Unsafe { .. }), "{refused:?}");
    assert!(matches!(place.store.lock(&id), Err(SessionError::Unsafe { .. })));
}
