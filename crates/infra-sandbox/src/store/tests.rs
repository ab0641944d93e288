use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pretty_assertions::assert_eq;
use tempfile::TempDir;

use super::*;

mod commits;
mod damage;
mod locks;
mod microvms;
mod pruning;
mod receiving;
mod removing;

/// A state directory and two workspaces.
struct Place {
    directory: TempDir,
    store: SessionStore,
}

impl Place {
    fn new() -> Self {
        Self::of(tempfile::tempdir().unwrap())
    }

    /// In memory where there is such a directory: for what makes many directories, which a busy disk is
    /// slow with.
    fn in_memory() -> Self {
        Self::of(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn of(directory: TempDir) -> Self {
        for name in ["one", "two"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let store = SessionStore::new(directory.path().join("state"));
        Self { directory, store }
    }

    fn workspace(&self) -> PathBuf {
        self.directory.path().join("one")
    }

    fn open(&self, choice: &SessionChoice) -> OpenSession {
        self.store.open(&self.workspace(), choice).unwrap()
    }

    /// A session that holds a file, closed.
    fn filled(&self) -> forge_domain::SessionId {
        let session = self.open(&SessionChoice::Fresh);
        let id = session.id().clone();
        fs::write(self.store.upper_of(&id).join("file"), "x").unwrap();
        let kept = session.set_summary(StoredSummary { changed_files: 1, ignored_files: 0 });
        kept.unwrap();
        assert!(matches!(session.end().unwrap(), SessionEnd::Kept(_)));
        id
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("state/sessions")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_session_that_holds_nothing_leaves_nothing_behind() {
    let place = Place::new();
    assert_eq!(place.open(&SessionChoice::Continue).end().unwrap(), SessionEnd::Removed);
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn a_session_that_holds_anything_is_gone_on_with_in_its_workspace_only() {
    let place = Place::new();
    let id = place.filled();
    let again = place.open(&SessionChoice::Continue);
    assert_eq!((again.id(), again.is_continued()), (&id, true));
    drop(again);
    let other = place.store.open(&place.directory.path().join("two"), &SessionChoice::Continue);
    assert_ne!(other.unwrap().id(), &id);
    let fresh = place.open(&SessionChoice::Fresh);
    assert_eq!((fresh.id() == &id, fresh.is_continued()), (false, false));
}

#[test]
fn one_that_is_in_use_is_passed_over_and_refused_by_name() {
    let place = Place::new();
    let id = place.filled();
    let held = place.open(&SessionChoice::Named(id.clone()));
    let other = place.open(&SessionChoice::Continue);
    assert_ne!(other.id(), &id);
    let pid = i32::try_from(std::process::id()).unwrap();
    match place.store.open(&place.workspace(), &SessionChoice::Named(id.clone())) {
        Err(SessionError::Busy { id: busy, pid: owner }) => {
            assert_eq!((busy, owner), (id.clone(), Some(pid)));
        }
        other => panic!("{other:?}"),
    }
    let state = place.store.find(&id).unwrap().state;
    assert_eq!(state, SessionState::Running(Some(pid)));
    drop(held);
    assert_eq!(place.store.find(&id).unwrap().state, SessionState::Idle);
}

#[test]
fn one_of_another_workspace_is_refused_by_name() {
    let place = Place::new();
    let id = place.filled();
    let other = place.directory.path().join("two");
    let refused = place.store.open(&other, &SessionChoice::Named(id)).unwrap_err();
    assert!(matches!(refused, SessionError::OtherWorkspace { .. }), "{refused:?}");
}

#[test]
fn a_beginning_of_an_id_will_do_where_it_is_the_only_one() {
    let place = Place::new();
    let id = place.filled();
    assert_eq!(place.store.resolve(id.as_str()).unwrap(), id);
    assert_eq!(place.store.resolve(&id.as_str()[..18]).unwrap(), id);
    assert!(matches!(place.store.resolve("202"), Err(SessionError::NotFound { .. })));
    let second = place.filled();
    let common = &id.as_str()[..5];
    assert!(second.as_str().starts_with(common));
    assert!(matches!(place.store.resolve(common), Err(SessionError::Ambiguous { .. })));
}

#[test]
fn a_damaged_one_is_set_aside_and_never_deleted() {
    for content in ["", "{", "\u{0}\u{1}", "[]", r#"{"version":1}"#, r#"{"version":"x"}"#] {
        let place = Place::new();
        let id = place.filled();
        fs::write(place.store.upper_of(&id).join("../meta.json"), content).unwrap();
        let open = place.open(&SessionChoice::Continue);
        assert_ne!(open.id(), &id);
        let listing = place.store.list().unwrap();
        assert_eq!(listing.damaged.len(), 1, "{content:?}");
        assert!(listing.damaged[0].path.join("upper/file").exists());
        place.store.prune(&PruneOptions::default(), SystemTime::now()).unwrap();
        assert!(listing.damaged[0].path.join("upper/file").exists());
    }
}

#[test]
fn one_of_a_newer_forge_is_left_as_it_is() {
    let place = Place::new();
    let id = place.filled();
    let meta = place.store.upper_of(&id).join("../meta.json");
    let content = r#"{"version":99,"something":"else"}"#;
    fs::write(&meta, content).unwrap();
    assert_ne!(place.open(&SessionChoice::Continue).id(), &id);
    assert_eq!(place.store.list().unwrap().newer, std::slice::from_ref(&id));
    assert!(matches!(place.store.find(&id), Err(SessionError::Newer { .. })));
    assert_eq!(fs::read_to_string(meta).unwrap(), content);
}

#[test]
fn discarding_empties_every_layer_and_keeps_the_session() {
    let place = Place::new();
    let id = place.filled();
    let session = place.open(&SessionChoice::Named(id.clone()));
    session.outside_layer(crate::store::LayerPlace::Disk).unwrap();
    fs::write(place.store.upper_of(&id).join("../git-upper/object"), "x").unwrap();
    let mode = fs::metadata(place.store.upper_of(&id)).unwrap().permissions().mode();
    session.discard().unwrap();
    assert!(!session.holds_anything().unwrap());
    assert_eq!(fs::metadata(place.store.upper_of(&id)).unwrap().permissions().mode(), mode);
    assert_eq!(session.end().unwrap(), SessionEnd::Removed);
}

#[test]
fn prune_removes_what_nobody_misses_and_says_what_stays() {
    let place = Place::new();
    // What the rules ignore is looked up once more before it goes.
    fs::write(place.workspace().join(".gitignore"), "file\n").unwrap();
    let (changed, ignored) = (place.filled(), place.filled());
    let open = place.open(&SessionChoice::Named(ignored.clone()));
    open.set_summary(StoredSummary { changed_files: 0, ignored_files: 9 }).unwrap();
    drop(open);
    let day = Duration::from_secs(24 * 60 * 60);
    let pruned = |later: Duration| {
        let report =
            place.store.prune(&PruneOptions::default(), SystemTime::now() + later).unwrap();
        assert_eq!(report.with_changes.iter().map(|s| &s.id).collect::<Vec<_>>(), [&changed]);
        report.removed.into_iter().map(|pruned| pruned.session.id).collect::<Vec<_>>()
    };
    assert_eq!(pruned(6 * day), []);
    assert_eq!(pruned(8 * day), [ignored]);
    let options = PruneOptions { with_changes_of: Some(place.workspace()) };
    let report = place.store.prune(&options, SystemTime::now()).unwrap();
    assert_eq!(report.removed.len(), 1);
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn halves_that_a_crash_left_are_no_sessions_and_are_removed() {
    let place = Place::new();
    let id = place.filled();
    let sessions = place.directory.path().join("state/sessions");
    fs::create_dir(sessions.join(".new-20200101-000000-aaaa")).unwrap();
    fs::create_dir_all(sessions.join(".gone-20200101-000000-bbbb/upper/a")).unwrap();
    assert_eq!(place.store.list().unwrap().sessions.len(), 1);
    let later = SystemTime::now() + Duration::from_secs(2 * 60 * 60);
    place.store.prune(&PruneOptions::default(), later).unwrap();
    assert_eq!(place.names(), [id.as_str()]);
}

#[test]
fn what_a_session_wrote_is_removed_without_leaving_it() {
    let place = Place::new();
    let canary = place.directory.path().join("two/canary");
    fs::write(&canary, "x").unwrap();
    let session = place.open(&SessionChoice::Fresh);
    let upper = place.store.upper_of(session.id());
    symlink(place.directory.path().join("two"), upper.join("link")).unwrap();
    fs::create_dir_all(upper.join("closed/inner")).unwrap();
    fs::create_dir(upper.join("../work/work")).unwrap();
    for closed in ["closed/inner", "closed", "../work/work"] {
        fs::set_permissions(upper.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let mut deep = upper.clone();
    for _ in 0..100 {
        deep.push("d".repeat(20));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(upper.join("n".repeat(255)), "").unwrap();
    session.remove().unwrap();
    assert_eq!(place.names(), Vec::<String>::new());
    assert!(canary.exists());
}

#[test]
fn a_state_directory_that_others_can_write_to_is_refused() {
    let place = Place::new();
    let state = place.directory.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = place.store.open(&place.workspace(), &SessionChoice::Continue).unwrap_err();
    assert!(matches!(refused, SessionError::Unsafe { .. }), "{refused:?}");
}

#[test]
fn a_workspace_of_odd_bytes_comes_back() {
    use std::os::unix::ffi::OsStringExt;
    let place = Place::new();
    let name = std::ffi::OsString::from_vec(vec![b'a', 0xff, b'\n']);
    let workspace = place.directory.path().join(name);
    fs::create_dir(&workspace).unwrap();
    let session = place.store.open(&workspace, &SessionChoice::Fresh).unwrap();
    assert_eq!(place.store.find(session.id()).unwrap().workspace, workspace);
}
