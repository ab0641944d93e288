//! Sessions whose description is not what it was.

use pretty_assertions::assert_eq;

use super::*;

fn meta_of(place: &Place, id: &forge_domain::SessionId) -> PathBuf {
    place.store.upper_of(id).join("../meta.json")
}

fn only_damaged(place: &Place) -> DamagedSession {
    let mut damaged = place.store.list().unwrap().damaged;
    assert_eq!(damaged.len(), 1);
    damaged.remove(0)
}

#[test]
fn every_way_of_damage_is_told_and_loses_nothing() {
    let text = r#"{"version":1,"workspace":{"text":"/a"},"created":-1,"last_used":0,"forge":"x"}"#;
    let contents: [&[u8]; 5] =
        [b"\xff\xfe\x00\x01", b"null", b"[[[[", text.as_bytes(), &[b' '; 70_000]];
    for content in contents {
        let place = Place::new();
        let id = place.filled();
        fs::write(meta_of(&place, &id), content).unwrap();
        let named = place.store.open(&place.workspace(), &SessionChoice::Named(id.clone()));
        assert!(matches!(named, Err(SessionError::Damaged { .. })), "{named:?}");
        let damaged = only_damaged(&place);
        assert_eq!(damaged.path.file_name().unwrap().to_str(), Some(&*format!("damaged-{id}")));
        assert!(!damaged.reason.is_empty());
        assert_eq!(fs::read_to_string(damaged.path.join("upper/file")).unwrap(), "x");
    }
}

#[test]
fn a_description_of_every_length_is_whole_or_damaged() {
    let place = Place::new();
    let id = place.filled();
    let whole = fs::read(meta_of(&place, &id)).unwrap();
    for length in (0..whole.len()).step_by(7) {
        let place = Place::new();
        let id = place.filled();
        fs::write(meta_of(&place, &id), &whole[..length]).unwrap();
        assert_eq!(place.store.list().unwrap().sessions, []);
        assert!(only_damaged(&place).path.join("upper/file").exists());
    }
}

#[test]
fn a_description_that_is_missing_or_no_file_is_damage() {
    for what in ["missing", "directory", "link", "pipe"] {
        let place = Place::new();
        let id = place.filled();
        let meta = meta_of(&place, &id);
        fs::remove_file(&meta).unwrap();
        match what {
            "directory" => fs::create_dir(&meta).unwrap(),
            "link" => symlink("/etc/hostname", &meta).unwrap(),
            "pipe" => rustix::fs::mknodat(
                rustix::fs::CWD,
                &meta,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )
            .unwrap(),
            _ => {}
        }
        assert_ne!(place.open(&SessionChoice::Continue).id(), &id);
        assert!(only_damaged(&place).path.join("upper/file").exists(), "{what}");
    }
}

#[test]
fn one_that_is_in_use_is_not_moved_from_under_its_user() {
    let place = Place::new();
    let id = place.filled();
    let open = place.open(&SessionChoice::Named(id.clone()));
    fs::write(meta_of(&place, &id), "").unwrap();
    assert_eq!(only_damaged(&place).path, place.store.upper_of(&id).parent().unwrap());
    // Its user knows better, and writes it down.
    open.set_summary(StoredSummary { changed_files: 2, ignored_files: 0 }).unwrap();
    drop(open);
    assert_eq!(place.store.list().unwrap().damaged, []);
    assert_eq!(place.open(&SessionChoice::Continue).id(), &id);
}

#[test]
#[ignore = "needs an ordinary user: root may read everything"]
fn one_that_cannot_be_read_is_told_and_passed_over() {
    let place = Place::new();
    let id = place.filled();
    let meta = meta_of(&place, &id);
    fs::set_permissions(&meta, fs::Permissions::from_mode(0o000)).unwrap();
    assert_ne!(place.open(&SessionChoice::Continue).id(), &id);
    assert_eq!(only_damaged(&place).path, place.store.upper_of(&id).parent().unwrap());
    let named = place.store.open(&place.workspace(), &SessionChoice::Named(id.clone()));
    assert!(matches!(named, Err(SessionError::Io { .. })), "{named:?}");
    fs::set_permissions(&meta, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(place.open(&SessionChoice::Continue).id(), &id);
}

#[test]
fn what_is_no_session_among_them_is_left_alone() {
    let place = Place::new();
    let id = place.filled();
    let sessions = place.directory.path().join("state/sessions");
    fs::write(sessions.join("notes"), "mine").unwrap();
    fs::create_dir(sessions.join("lost+found")).unwrap();
    symlink("/etc", sessions.join("link")).unwrap();
    let listing = place.store.list().unwrap();
    assert_eq!(listing.damaged, []);
    assert_eq!(listing.sessions.len(), 1);
    place.store.prune(&PruneOptions::default(), SystemTime::now()).unwrap();
    assert_eq!(place.open(&SessionChoice::Continue).id(), &id);
    assert_eq!(place.names(), [id.as_str(), "link", "lost+found", "notes"]);
}

#[test]
fn a_session_whose_lock_is_missing_gets_one() {
    let place = Place::new();
    let id = place.filled();
    fs::remove_file(place.store.upper_of(&id).join("../lock")).unwrap();
    let open = place.open(&SessionChoice::Continue);
    assert_eq!(open.id(), &id);
    assert!(matches!(place.store.lock(&id), Err(SessionError::Busy { .. })));
}

#[test]
fn fields_that_a_later_forge_has_added_do_no_harm() {
    let place = Place::new();
    let id = place.filled();
    let meta = meta_of(&place, &id);
    let text = fs::read_to_string(&meta).unwrap();
    fs::write(&meta, text.replacen('{', r#"{"applied":["a"],"#, 1)).unwrap();
    assert_eq!(place.open(&SessionChoice::Continue).id(), &id);
}
