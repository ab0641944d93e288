//! What went wrong once.

use std::path::PathBuf;

use forge_api::planning::Resolution;

use super::model::{Edit, Event, Kind, Text, World, live};

const A: usize = 0;
const B: usize = 1;
const DX: usize = 2;
const DY: usize = 3;
const DEEP: usize = 4;
const D: usize = 6;

fn text(first: u8) -> Text {
    Text { lines: [first, 0, 0, 0, 0, 0], kind: Kind::Plain }
}

fn used(at: usize, edit: Edit) -> Event {
    Event::Use { edits: vec![(at, edit)], meanwhile: None }
}

fn apply(paths: &[usize], kill: Option<u64>) -> Event {
    Event::Apply { paths: paths.to_vec(), way: Resolution::Leave, kill }
}

fn undo(kill: Option<u64>) -> Event {
    Event::Undo { paths: Vec::new(), kill }
}

/// A project with `a`, `d/x` and `d/y`.
fn lived(events: &[Event]) -> (PathBuf, World) {
    let world = live(events);
    (world.project(), world)
}

#[test]
fn what_the_session_wrote_as_it_was_is_not_brought_over_what_the_host_makes_of_it_later() {
    let host = Event::Host(A, Some(text(2)));
    let (project, _world) =
        lived(&[used(A, Edit::Touch), host, used(DX, Edit::Remove), apply(&[], None)]);
    let found = std::fs::read_to_string(project.join("a")).unwrap();
    assert!(found.starts_with("line 0 2\n"), "{found}");
    assert!(!project.join("d/x").exists());
}

#[test]
fn what_the_host_puts_into_a_directory_that_the_session_removed_before_stays() {
    for remove in
        [vec![used(D, Edit::Remove)], vec![used(D, Edit::Remove), used(D, Edit::Directory)]]
    {
        let host = Event::Host(DX, Some(text(2)));
        let mut events = remove;
        events.extend([Event::Host(DX, None), used(A, Edit::Touch), host]);
        events.extend([used(A, Edit::Touch), apply(&[], None)]);
        let (project, _world) = lived(&events);
        assert!(project.join("d/x").exists());
        assert!(!project.join("d/y").exists());
    }
}

#[test]
fn what_the_host_has_in_the_place_of_a_file_of_the_sessions_stays() {
    for edit in [Edit::Touch, Edit::Remove, Edit::Replace(text(1))] {
        let made = Event::Host(DX, Some(text(2)));
        let (project, _world) = lived(&[
            // `d` is a file for both.
            Event::Host(D, Some(text(0))),
            used(D, edit),
            Event::Host(D, None),
            made,
            used(A, Edit::Touch),
            apply(&[], None),
        ]);
        assert!(project.join("d/x").exists());
    }
}

#[test]
fn a_session_learns_of_an_undo_that_was_killed_before_it_could_be_told() {
    for at in 0..70 {
        drop(live(&[used(A, Edit::Write(text(1))), apply(&[], None), undo(Some(at))]));
    }
}

#[test]
fn an_undo_puts_nothing_into_a_directory_that_is_not_there_any_more() {
    let replaced = used(D, Edit::Replace(text(0)));
    drop(live(&[replaced, apply(&[], None), Event::Host(D, None), undo(None)]));
}

#[test]
fn a_directory_of_which_another_path_is_applied_is_not_removed_before_what_takes_its_place() {
    let replaced = used(D, Edit::Replace(text(0)));
    let (project, _world) = lived(&[replaced, apply(&[DX, DY], None), apply(&[], None)]);
    assert!(project.join("d").is_file());
}

#[test]
fn what_the_session_makes_in_a_directory_that_it_made_anew_is_applied() {
    let (project, _world) =
        lived(&[used(D, Edit::Directory), used(DY, Edit::Replace(text(1))), apply(&[], None)]);
    assert!(project.join("d/y").exists() && !project.join("d/x").exists());
}

#[test]
fn an_apply_is_taken_back_after_its_session_was_discarded() {
    let (project, _world) =
        lived(&[used(A, Edit::Write(text(1))), apply(&[], None), Event::Discard, undo(None)]);
    let found = std::fs::read_to_string(project.join("a")).unwrap();
    assert!(found.starts_with("line 0 0\n"), "{found}");
}

#[test]
fn what_the_session_deletes_in_a_directory_that_it_made_anew_is_a_change() {
    let (project, _world) = lived(&[
        Event::Use {
            edits: vec![(D, Edit::Directory), (DEEP, Edit::Replace(text(1)))],
            meanwhile: None,
        },
        apply(&[], None),
        used(DEEP, Edit::Remove),
        apply(&[], None),
    ]);
    assert!(!project.join("d/e/z").exists());
}

#[test]
fn what_an_undo_brings_back_into_a_directory_waits_after_another_use_too() {
    let (project, _world) = lived(&[
        used(D, Edit::Replace(text(0))),
        apply(&[], None),
        used(A, Edit::Touch),
        undo(None),
        apply(&[], None),
    ]);
    assert!(project.join("d").is_file());
}

#[test]
fn what_was_applied_by_a_program_that_was_killed_then_waits_after_an_undo() {
    for at in (30..70).step_by(3) {
        let (project, _world) = lived(&[
            used(D, Edit::Replace(text(0))),
            apply(&[], Some(at)),
            undo(None),
            apply(&[], None),
        ]);
        assert!(project.join("d").is_file());
    }
}

#[test]
fn what_somebody_has_taken_back_by_hand_is_not_in_the_way_of_an_undo() {
    let made = used(1, Edit::Replace(text(0)));
    let by_hand = Event::Host(1, None);
    drop(live(&[
        used(A, Edit::Write(text(1))),
        apply(&[], None),
        made,
        apply(&[], None),
        by_hand,
        undo(None),
        undo(None),
    ]));
}

#[test]
fn a_file_in_the_place_of_a_directory_whose_removal_was_applied_is_new() {
    let (project, _world) = lived(&[
        used(D, Edit::Remove),
        apply(&[], None),
        used(D, Edit::Replace(text(0))),
        apply(&[], None),
    ]);
    assert!(project.join("d").is_file());
}

#[test]
fn what_the_host_makes_where_both_had_removed_a_directory_stays() {
    for edit in [Edit::Remove, Edit::Replace(text(0))] {
        let (project, _world) = lived(&[
            used(D, edit),
            Event::Host(D, None),
            used(1, Edit::Replace(text(0))),
            Event::Host(DEEP, Some(text(0))),
            used(A, Edit::Replace(text(0))),
            apply(&[], None),
        ]);
        assert!(project.join("d/e/z").exists());
    }
}

#[test]
fn a_change_of_mode_that_the_host_has_already_is_dealt_with_and_no_apply() {
    let executable = |first| Text { kind: Kind::Executable, ..text(first) };
    for at in (0..70).step_by(3) {
        let (project, _world) = lived(&[
            used(A, Edit::Write(executable(0))),
            Event::Host(A, Some(executable(2))),
            apply(&[], Some(at)),
            apply(&[], None),
        ]);
        let found = std::fs::read_to_string(project.join("a")).unwrap();
        assert!(found.starts_with("line 0 2\n"), "{found}");
    }
}

#[test]
fn what_the_host_made_long_before_the_session_removed_its_own_is_seen_in_the_session() {
    let removed = vec![(B, Edit::Remove), (A, Edit::Write(text(1)))];
    drop(live(&[
        used(B, Edit::Replace(text(0))),
        Event::Host(B, Some(text(2))),
        Event::Pause,
        Event::Use { edits: removed, meanwhile: None },
        used(DX, Edit::Touch),
    ]));
}

#[test]
fn what_the_user_has_kept_is_seen_in_the_session_however_old_it_is() {
    drop(live(&[
        used(A, Edit::Write(text(1))),
        Event::Host(A, Some(text(2))),
        Event::Pause,
        Event::Apply { paths: Vec::new(), way: Resolution::Ours, kill: None },
        used(DX, Edit::Touch),
    ]));
}

#[test]
fn what_both_sides_have_dropped_is_remembered_where_a_program_was_killed_too() {
    for at in 0..12 {
        drop(live(&[
            Event::Use {
                edits: vec![(D, Edit::Replace(text(0))), (B, Edit::Directory)],
                meanwhile: None,
            },
            Event::Host(D, None),
            Event::Apply { paths: Vec::new(), way: Resolution::Ours, kill: None },
            undo(Some(at)),
            used(DX, Edit::Replace(text(0))),
            apply(&[], None),
        ]));
    }
}

#[test]
fn what_the_user_wrote_meanwhile_is_a_conflict_again_after_the_undo_of_a_killed_apply() {
    for at in (30..70).step_by(3) {
        let (project, _world) = lived(&[
            Event::Use {
                edits: vec![(D, Edit::Replace(text(0)))],
                meanwhile: Some((DX, Some(text(2)))),
            },
            Event::Apply { paths: Vec::new(), way: Resolution::Theirs, kill: Some(at) },
            undo(None),
            apply(&[], None),
        ]);
        let found = std::fs::read_to_string(project.join("d/x")).unwrap();
        assert!(found.starts_with("line 0 2\n"), "{found}");
    }
}

#[test]
fn what_both_sides_made_alike_in_a_directory_that_the_session_made_anew_is_where_both_begin() {
    let (project, _world) = lived(&[
        used(D, Edit::Directory),
        Event::Use {
            edits: vec![(DEEP, Edit::Replace(text(2)))],
            meanwhile: Some((DEEP, Some(text(2)))),
        },
        used(DEEP, Edit::Replace(text(1))),
        apply(&[], None),
    ]);
    let found = std::fs::read_to_string(project.join("d/e/z")).unwrap();
    assert!(found.starts_with("line 0 1\n"), "{found}");
}

#[test]
fn what_takes_the_place_of_a_directory_is_new_after_the_undo_of_the_apply_that_made_that() {
    for kill in [None].into_iter().chain((30..70).step_by(3).map(Some)) {
        let (project, _world) = lived(&[
            Event::Host(D, None),
            used(DX, Edit::Replace(text(0))),
            apply(&[], kill),
            used(D, Edit::Replace(text(0))),
            undo(None),
            apply(&[], None),
        ]);
        assert!(project.join("d").is_file());
    }
}

#[test]
fn what_both_sides_put_in_the_place_of_a_directory_of_one_of_them_waits_where_the_host_drops_it() {
    let made = vec![Event::Host(D, None), used(DX, Edit::Replace(text(0)))];
    let removed = vec![used(D, Edit::Remove)];
    for mut events in [made, removed] {
        events.extend([
            Event::Host(D, Some(text(1))),
            used(D, Edit::Replace(text(1))),
            Event::Host(D, None),
        ]);
        drop(live(&events));
        events.push(apply(&[], None));
        drop(live(&events));
    }
}

#[test]
fn what_the_host_put_into_a_directory_that_the_session_had_made_is_seen_and_can_be_removed() {
    for pause in [vec![], vec![used(A, Edit::Touch)]] {
        let mut events = vec![Event::Host(D, None), used(DX, Edit::Replace(text(0)))];
        events.push(Event::Host(DY, Some(text(0))));
        events.extend(pause);
        events.extend([used(D, Edit::Replace(text(0))), apply(&[], None)]);
        drop(live(&events));
    }
}

#[test]
fn what_the_host_put_where_both_had_dropped_something_is_seen_and_can_be_replaced() {
    drop(live(&[
        used(D, Edit::Replace(text(0))),
        apply(&[], None),
        Event::Host(D, None),
        Event::Use {
            edits: vec![(A, Edit::Replace(text(1)))],
            meanwhile: Some((DX, Some(text(0)))),
        },
        used(D, Edit::Replace(text(1))),
        apply(&[], None),
    ]));
}

#[test]
fn what_the_host_puts_into_a_directory_that_an_undo_brought_back_stays() {
    let replace = || used(D, Edit::Replace(text(0)));
    for between in [vec![], vec![used(A, Edit::Replace(text(0)))]] {
        let mut events = vec![replace(), apply(&[], None)];
        events.extend(between);
        events.extend([undo(None), Event::Host(DEEP, Some(text(0)))]);
        events.extend([used(A, Edit::Replace(text(0))), apply(&[], None)]);
        let (project, _world) = lived(&events);
        assert!(project.join("d/e/z").exists());
    }
}

#[test]
fn a_directory_that_the_host_put_in_the_place_of_a_file_of_both_is_seen_and_can_be_replaced() {
    drop(live(&[
        used(D, Edit::Replace(text(0))),
        apply(&[], None),
        used(A, Edit::Replace(text(0))),
        Event::Host(D, None),
        Event::Host(DX, Some(text(1))),
        used(D, Edit::Replace(text(2))),
        apply(&[], None),
    ]));
}

#[test]
fn what_the_host_puts_into_a_directory_in_whose_place_the_session_has_a_file_stays() {
    let (project, _world) = lived(&[
        used(D, Edit::Replace(text(0))),
        Event::Host(DEEP, Some(text(0))),
        Event::Pause,
        used(A, Edit::Replace(text(0))),
        apply(&[], None),
    ]);
    assert!(project.join("d/e/z").exists());
}
