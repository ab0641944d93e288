//! What goes wrong around an apply: the disk, other processes, the state of forge, and a project that is elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pretty_assertions::assert_eq;

use crate::apply::{applied, changed, forge, read};
use crate::diff::tree;
use crate::harness::{World, run};

fn sessions(world: &World) -> PathBuf {
    world.home().join(".local/state/forge/sessions")
}

/// The id of the only session.
fn id(world: &World) -> String {
    let session = fs::read_dir(sessions(world)).unwrap().next().unwrap().unwrap();
    session.file_name().into_string().unwrap()
}

#[test]
fn a_disk_that_is_full_or_read_only_is_said_and_nothing_is_changed() {
    let world = World::new();
    let script = "set -e
        mkdir \"$HOME/small\"; mount -t tmpfs -o size=256k none \"$HOME/small\"; cd \"$HOME/small\"
        echo mine >a
        \"$FORGE\" exec -c 'echo theirs >a; head -c 1000000 /dev/zero >large' 2>/dev/null
        code=0; \"$FORGE\" apply || code=$?; echo full $code $(cat a) $(ls -A)
        \"$FORGE\" apply a; echo $(cat a); \"$FORGE\" apply --undo
        mount -o remount,ro none .
        code=0; \"$FORGE\" apply a || code=$?; echo read-only $code $(cat a) $(ls -A)";
    let mut command = world.shell("exec unshare --user --map-root-user --mount sh -c \"$SCRIPT\"");
    let ended = run(command.env("FORGE", env!("CARGO_BIN_EXE_forge")).env("SCRIPT", script));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().filter(|line| !line.starts_with("M ")).collect();
    assert_eq!(lines, ["full 125 mine a", "theirs", "read-only 125 mine a"], "{}", ended.stderr);
    for text in ["No space left on device", "Read-only file system", "nothing was changed"] {
        assert!(ended.stderr.contains(text), "{text}: {}", ended.stderr);
    }
}

#[test]
fn two_applies_to_one_project_exclude_each_other() {
    let world = World::new();
    changed(&world, "echo x >made");
    applied(&world, &[], 0);
    changed(&world, "echo y >made");
    let applies = world.home().join(".local/state/forge/applies");
    let tree = fs::read_dir(&applies).unwrap().next().unwrap().unwrap().path();
    let lock = fs::File::open(tree.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let busy = applied(&world, &[], 125);
    assert!(busy.stderr.contains("another forge applies changes"), "{}", busy.stderr);
    assert_eq!(read(&world, "made").unwrap(), "x\n");
    drop(lock);
    applied(&world, &[], 0);
    assert_eq!(read(&world, "made").unwrap(), "y\n");
}

#[test]
fn an_undo_works_after_the_session_was_discarded_or_another_one_has_changes() {
    let world = World::new();
    world.write("project/a", "1\n");
    changed(&world, "echo 2 >a");
    let first = id(&world);
    applied(&world, &[], 0);
    assert_eq!(forge(&world, &["discard"]).code, Some(0));
    changed(&world, "echo new >b");
    let ended = applied(&world, &["--undo"], 0);
    assert_eq!((ended.stdout.as_str(), read(&world, "a").as_deref()), ("M a\n", Some("1\n")));
    let again = applied(&world, &["--undo", &first], 1);
    assert!(again.stderr.contains("nothing was applied"), "{}", again.stderr);
}

#[test]
fn discard_asks_only_where_something_would_be_lost() {
    let world = World::new();
    changed(&world, "echo x >made");
    let refused = forge(&world, &["discard"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(forge(&world, &["diff", "--name-only"]).stdout, "made\n");
    applied(&world, &[], 0);
    let ended = forge(&world, &["discard"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(read(&world, "made").unwrap(), "x\n");
}

#[test]
fn the_session_of_a_project_that_is_gone_can_be_discarded_by_its_name() {
    let world = World::new();
    changed(&world, "echo x >made");
    let (id, project) = (id(&world), world.project());
    let mut unasked = world.forge(&["discard", &id]);
    let mut forced = world.forge(&["discard", "--force", &id]);
    fs::rename(&project, world.home().join("moved")).unwrap();
    let ended = run(unasked.current_dir(world.home()));
    assert_eq!(ended.code, Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains(&project.display().to_string()), "{}", ended.stderr);
    let ended = run(forced.current_dir(world.home()));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(fs::read_dir(sessions(&world)).unwrap().count(), 0);
}

#[test]
fn a_session_is_applied_from_another_directory_to_its_own_project() {
    let world = World::new();
    changed(&world, "mkdir sub; echo x >sub/made");
    let id = id(&world);
    let mut elsewhere = world.forge(&["apply", &id]);
    let ended = run(elsewhere.current_dir(world.home()));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "A sub/made\n"), "{}", ended.stderr);
    assert_eq!(fs::read_dir(world.home()).unwrap().count(), 1);
    let project = world.project();
    let mut elsewhere = world.forge(&["apply", "--undo", "-C", project.to_str().unwrap()]);
    let ended = run(elsewhere.current_dir(world.home()));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!project.join("sub").exists());
}

#[test]
fn a_session_of_a_newer_forge_or_a_damaged_one_is_said_and_left_alone() {
    let world = World::new();
    changed(&world, "echo x >made");
    let id = id(&world);
    let meta = sessions(&world).join(&id).join("meta.json");
    let text = fs::read_to_string(&meta).unwrap();
    fs::write(&meta, text.replace("\"version\": 1", "\"version\": 99")).unwrap();
    let newer = forge(&world, &["session", "list"]);
    assert!(newer.stderr.contains("newer forge"), "{}", newer.stderr);
    let nothing = applied(&world, &[], 0);
    assert!(nothing.stderr.contains("nothing to apply"), "{}", nothing.stderr);
    fs::write(&meta, &text).unwrap();
    applied(&world, &["--dry-run"], 0);
    fs::write(&meta, "{").unwrap();
    applied(&world, &[], 0);
    let kept = sessions(&world).join(format!("damaged-{id}/upper/made"));
    assert_eq!(fs::read_to_string(kept).unwrap(), "x\n");
    assert!(read(&world, "made").is_none());
}

#[test]
fn a_journal_that_cannot_be_read_is_named_and_nothing_is_done() {
    let world = World::new();
    changed(&world, "echo x >made");
    applied(&world, &[], 0);
    changed(&world, "echo y >made");
    let applies = world.home().join(".local/state/forge/applies");
    let tree = fs::read_dir(&applies).unwrap().next().unwrap().unwrap().path();
    let ids = fs::read_dir(&tree).unwrap().flatten().map(|entry| entry.path());
    let journal = ids.map(|path| path.join("journal.json")).find(|path| path.exists()).unwrap();
    fs::write(&journal, "{").unwrap();
    let name = journal.parent().unwrap().file_name().unwrap().to_str().unwrap();
    fs::write(tree.join("pending"), name).unwrap();
    let ended = forge(&world, &["apply"]);
    assert_eq!(ended.code, Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains(&tree.display().to_string()), "{}", ended.stderr);
    assert_eq!(read(&world, "made").unwrap(), "x\n");
}

#[test]
fn a_directory_in_the_place_of_a_file_and_the_reverse_are_left_on_either_side() {
    let world = World::new();
    world.write("project/file", "1\n");
    world.write("project/directory/in", "1\n");
    changed(&world, "echo 2 >file; echo 2 >directory/in; echo 2 >directory/new");
    fs::remove_file(world.project().join("file")).unwrap();
    world.write("project/file/mine", "mine\n");
    fs::remove_dir_all(world.project().join("directory")).unwrap();
    world.write("project/directory", "mine\n");
    let before = tree(&world.project());
    let ended = applied(&world, &[], 1);
    assert_eq!(tree(&world.project()), before, "{}", ended.stderr);
    for path in ["file", "directory/in", "directory/new"] {
        assert!(ended.stderr.contains(&format!("warning: {path}: ")), "{path}: {}", ended.stderr);
    }
}

#[test]
fn a_file_that_was_made_unreadable_meanwhile_is_left() {
    let world = World::new();
    world.write("project/closed", "1\n");
    changed(&world, "echo 2 >closed; echo 2 >open");
    let path = world.project().join("closed");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let ended = applied(&world, &[], i32::from(!is_root));
    assert_eq!(read(&world, "open").unwrap(), "2\n");
    if !is_root {
        assert!(
            ended.stderr.contains("closed: not applied: it cannot be read"),
            "{}",
            ended.stderr
        );
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn a_file_that_is_renamed_or_only_in_its_letter_case_comes_over_and_back() {
    let world = World::new();
    world.write("project/readme", "1\n");
    world.write("project/elsewhere", "2\n");
    let before = tree(&world.project());
    changed(&world, "mv readme README; mkdir sub; mv elsewhere sub/here; echo more >>sub/here");
    let ended = applied(&world, &[], 0);
    assert_eq!(ended.stdout, "D readme\nD elsewhere\nA README\nA sub/here\n");
    assert!(read(&world, "readme").is_none() && read(&world, "README").is_some());
    assert_eq!(read(&world, "sub/here").unwrap(), "2\nmore\n");
    applied(&world, &["--undo"], 0);
    assert_eq!(tree(&world.project()), before);
}

#[test]
fn a_path_of_four_kibibytes_is_refused_and_a_shorter_one_comes_over() {
    let world = World::new();
    let name = "n".repeat(200);
    // Each of 19 names and a slash: 3819 bytes; with two more beneath it, more than 4000.
    let script = format!(
        "for n in $(seq 19); do mkdir {name}; cd {name}; done; echo x >fits; mkdir {name}; cd {name}; echo x >{name}"
    );
    changed(&world, &script);
    let ended = applied(&world, &[], 1);
    assert!(ended.stderr.contains("the path is too long"), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    assert!(ended.stdout.ends_with("/fits\n"), "{}", ended.stdout);
    applied(&world, &["--undo"], 0);
    assert_eq!(fs::read_dir(world.project()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_keeps_even_its_owner_out_comes_over_and_back() {
    let world = World::new();
    world.write("project/there/old", "1\n");
    changed(
        &world,
        "mkdir -p made/deep; echo x >made/deep/f; echo y >there/new; rm there/old; chmod 555 made made/deep there",
    );
    applied(&world, &[], 0);
    let mode = |path: &str| {
        let metadata = fs::metadata(world.project().join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(["made", "made/deep", "there"].map(mode), [0o555; 3]);
    assert_eq!(read(&world, "made/deep/f").unwrap(), "x\n");
    applied(&world, &["--undo"], 0);
    assert_eq!((mode("there"), read(&world, "there/old").as_deref()), (0o755, Some("1\n")));
    assert!(!world.project().join("made").exists());
}

#[test]
fn local_says_that_it_has_no_review() {
    let world = World::new();
    let ended = run(&mut world.forge(&["--local", "exec", "-v", "--", "true"]));
    assert_eq!(ended.stderr.matches("has no review").count(), 1, "{}", ended.stderr);
    let silent = run(&mut world.forge(&["--local", "exec", "--", "true"]));
    assert_eq!(silent.stderr, "");
}

#[test]
fn a_large_change_set_is_planned_applied_and_taken_back_in_time() {
    let world = World::new();
    world.write("project/kept", "x\n");
    changed(
        &world,
        "python3 -c \"import os
for d in range(100):
    os.makedirs(f'new/{d}')
    for f in range(60): open(f'new/{d}/{f}', 'w').write(f'{d} {f}\\n')\"",
    );
    let begin = std::time::Instant::now();
    let ended = applied(&world, &[], 0);
    assert_eq!(ended.stdout.lines().count(), 6000);
    applied(&world, &["--undo"], 0);
    assert_eq!(fs::read_dir(world.project()).unwrap().count(), 1);
    // Each takes about a second, on a slow disk some more; what grows with the square takes minutes.
    assert!(begin.elapsed() < crate::harness::PATIENCE, "{:?}", begin.elapsed());
}

#[test]
fn a_directory_that_the_host_swapped_for_another_meanwhile_is_no_base() {
    use std::io::Write;
    let world = World::new();
    world.write("project/d/file", "one\n");
    world.write("project/other/file", "mine\n");
    let script = "echo theirs >d/file; touch changed; read -r go";
    let mut child =
        world.forge(&["exec", "-c", script]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    crate::harness::wait_until("it was changed", || {
        let sessions = fs::read_dir(sessions(&world)).map(|all| all.flatten().collect::<Vec<_>>());
        sessions.unwrap_or_default().iter().any(|entry| entry.path().join("upper/changed").exists())
    });
    fs::rename(world.project().join("d"), world.project().join("aside")).unwrap();
    fs::rename(world.project().join("other"), world.project().join("d")).unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(crate::harness::wait(child).code, Some(0));
    let ended = applied(&world, &[], 1);
    assert!(ended.stderr.contains("d/file: left as it is"), "{}", ended.stderr);
    assert_eq!(read(&world, "d/file").unwrap(), "mine\n");
}
