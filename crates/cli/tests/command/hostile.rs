//! More attempts of a hostile session, over several applies and with names that are our own. Each goes with a control.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use pretty_assertions::assert_eq;

use crate::apply::{applied, changed, read};
use crate::harness::{Ended, World};

/// Runs an attempt with its control, of which something is left.
fn attempt(world: &World, script: &str) -> Ended {
    changed(world, &format!("{script}\necho control >control"));
    let ended = applied(world, &[], 1);
    assert_eq!(read(world, "control").as_deref(), Some("control\n"), "{}", ended.stderr);
    ended
}

fn is_there(world: &World, path: &str) -> bool {
    world.project().join(path).symlink_metadata().is_ok()
}

#[test]
fn a_symlink_that_was_applied_does_not_lead_out_by_what_comes_later() {
    let world = World::new();
    world.write("home/outside/secret", "secret\n");
    changed(&world, "mkdir inner; echo x >inner/file; ln -s inner link");
    applied(&world, &[], 0);
    assert_eq!(read(&world, "link/file").unwrap(), "x\n");
    let outside = world.home().join("outside");
    attempt(&world, &format!("rm -r inner; ln -s {} inner", outside.display()));
    assert!(read(&world, "link/secret").is_none());
}

#[test]
fn a_file_in_the_place_of_a_directory_that_became_a_symlink_is_not_written_through_it() {
    let world = World::new();
    world.write("home/outside/file", "theirs\n");
    changed(&world, "mkdir -p deep/er; echo evil >deep/er/file; echo control >control");
    fs::create_dir(world.project().join("deep")).unwrap();
    symlink(world.home().join("outside"), world.project().join("deep/er")).unwrap();
    applied(&world, &[], 1);
    assert_eq!(read(&world, "control").unwrap(), "control\n");
    assert_eq!(fs::read_to_string(world.home().join("outside/file")).unwrap(), "theirs\n");
}

#[test]
fn a_directory_with_the_name_of_our_own_is_an_ordinary_one() {
    let world = World::new();
    world.write("project/kept", "mine\n");
    let name = ".forge-apply-0000000000000-1";
    changed(&world, &format!("mkdir {name}; echo evil >{name}/new-0; echo evil >{name}/old-0"));
    applied(&world, &[], 0);
    applied(&world, &["--undo"], 0);
    assert!(!is_there(&world, name));
    assert_eq!(read(&world, "kept").unwrap(), "mine\n");
}

#[test]
fn a_file_or_a_symlink_that_is_called_git_is_not_made() {
    let world = World::new();
    attempt(
        &world,
        "mkdir a b c; echo 'gitdir: /tmp/evil' >a/.git; ln -s ../a b/.git; mkdir -p c/.GiT/hooks; echo evil >c/.GiT/hooks/x",
    );
    for path in ["a/.git", "b/.git", "c/.GiT"] {
        assert!(!is_there(&world, path), "{path}");
    }
}

#[test]
fn a_mode_or_a_move_of_what_tools_execute_needs_a_yes_too() {
    let world = World::new();
    world.write("project/.husky/pre-commit", "echo mine\n");
    world.write("project/hooks/pre-commit", "echo evil\n");
    let ended = attempt(&world, "chmod +x .husky/pre-commit; mv hooks .githooks");
    let hook = world.project().join(".husky/pre-commit");
    assert_eq!(fs::metadata(hook).unwrap().permissions().mode() & 0o111, 0);
    assert!(!is_there(&world, ".githooks"));
    assert!(ended.stderr.contains(".husky/pre-commit: not applied"), "{}", ended.stderr);
}

#[test]
fn a_symlink_to_what_tools_execute_or_by_its_name_needs_a_yes() {
    let world = World::new();
    attempt(
        &world,
        "mkdir scripts; echo evil >scripts/x; ln -s scripts .vscode; ln -s scripts/x .envrc",
    );
    assert!(!is_there(&world, ".vscode") && !is_there(&world, ".envrc"));
    assert!(is_there(&world, "scripts/x"));
}

#[test]
fn a_name_that_writes_from_right_to_left_is_shown_as_what_it_is() {
    let world = World::new();
    changed(&world, r#"echo x >"$(printf 'a\342\200\256txt.exe')""#);
    let listed = crate::apply::forge(&world, &["diff", "--name-only"]);
    assert_eq!(listed.stdout, "\"a\\u{202e}txt.exe\"\n");
    let ended = applied(&world, &[], 0);
    assert!(!ended.stdout.contains('\u{202e}'), "{}", ended.stdout);
}

#[test]
fn a_whiteout_over_everything_and_a_new_tree_in_its_place_is_asked_about() {
    let world = World::new();
    for number in 0..60 {
        world.write(&format!("project/src/{number}"), "mine\n");
    }
    attempt(&world, "rm -r src; mkdir src; echo evil >src/new");
    assert_eq!(read(&world, "src/0").unwrap(), "mine\n");
    assert_eq!(read(&world, "src/new").unwrap(), "evil\n");
}

#[test]
fn marks_of_the_overlay_that_a_session_sets_itself_delete_nothing() {
    let world = World::new();
    world.write("project/d/kept", "mine\n");
    let script = "python3 - <<'E'\nimport os\nopen('d/new','w').write('x')\n\
                  for name, value in (('opaque', b'y'), ('whiteout', b'y'), ('redirect', b'/')):\n    \
                  for path in ('d', 'd/new'):\n        \
                  try: os.setxattr(path, 'user.overlay.' + name, value)\n        \
                  except OSError: pass\n\
                  try: os.mknod('d/kept2', 0o020600, 0)\nexcept OSError: pass\nE";
    changed(&world, script);
    applied(&world, &[], 0);
    assert_eq!(read(&world, "d/kept").unwrap(), "mine\n");
    assert_eq!(read(&world, "d/new").unwrap(), "x");
}

#[test]
fn an_undo_writes_through_no_symlink_either() {
    let world = World::new();
    world.write("project/d/file", "1\n");
    world.write("home/outside/file", "theirs\n");
    changed(&world, "echo 2 >d/file; echo 2 >beside");
    applied(&world, &[], 0);
    fs::rename(world.project().join("d"), world.home().join("moved")).unwrap();
    symlink(world.home().join("outside"), world.project().join("d")).unwrap();
    applied(&world, &["--undo"], 1);
    assert!(!is_there(&world, "beside"));
    assert_eq!(fs::read_to_string(world.home().join("outside/file")).unwrap(), "theirs\n");
    applied(&world, &["--undo", "--force", "d/file"], 1);
    assert_eq!(fs::read_to_string(world.home().join("outside/file")).unwrap(), "theirs\n");
}
