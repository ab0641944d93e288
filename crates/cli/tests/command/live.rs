//! Changes after each turn and at the end of a run: `--apply`, and what the user edits meanwhile.

use std::fs;

use forge_scripted_model::{Answer, Call, Script};
use pretty_assertions::assert_eq;

use crate::apply::read;
use crate::harness::{Ended, Server, World, run};
use crate::terminal::Screen;

/// A model that runs a script in each turn and then answers.
fn works(script: &str) -> Script {
    Script::new([Answer::calls([Call::shell(script, "Work")]), Answer::text("Answered.")])
}

/// One that runs what the project's file `next` says, where git does not see it.
pub(crate) fn works_on(world: &World) -> Server {
    world.write("project/.gitignore", "next\n");
    Server::start(works("sh ./next"))
}

pub(crate) fn next(world: &World, script: &str) {
    world.write("project/next", &format!("{script}\n"));
}

/// One task that runs a script, not at a terminal.
fn task(world: &World, script: &str, arguments: &[&str]) -> Ended {
    let server = Server::start(works(script));
    let all = ["-m", "openai/scripted", "-p", "go"].iter().chain(arguments).copied();
    let mut command = world.forge(&all.collect::<Vec<_>>());
    server.tell(&mut command);
    run(&mut command)
}

fn exec(world: &World, arguments: &[&str], script: &str) -> Ended {
    let all = ["exec"].iter().chain(arguments).copied().chain(["-c", script]);
    run(&mut world.forge(&all.collect::<Vec<_>>()))
}

fn waiting(world: &World) -> String {
    run(&mut world.forge(&["diff", "--name-only"])).stdout
}

/// The same of what a [`Screen`] has left.
fn waiting_after(world: &World) -> String {
    let mut command = world.forge(&["diff", "--name-only"]);
    run(command.env("FORGE_STATE_DIR", world.home().join("state"))).stdout
}

pub(crate) const PROMPT: &str = "\"$FORGE\" -m openai/scripted";

#[test]
fn a_task_applies_what_is_clean_and_safe_where_that_was_said() {
    let world = World::new();
    world.write("project/file", "one\n");
    let ended = task(&world, "echo two > file; echo new > made", &["--apply", "auto"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout, "Answered.\n");
    assert!(ended.stderr.contains("2 changes were applied"), "{}", ended.stderr);
    assert_eq!(read(&world, "file").as_deref(), Some("two\n"));
    assert_eq!(waiting(&world), "");

    // What needs a yes of its own is left, named, and the code says so.
    let ended = task(&world, "echo three > file; echo x > .envrc", &["--apply", "auto"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(".envrc: not applied"), "{}", ended.stderr);
    assert_eq!(read(&world, "file").as_deref(), Some("three\n"));
    assert_eq!(read(&world, ".envrc"), None);
    assert_eq!(waiting(&world), ".envrc\n");
}

#[test]
fn without_a_terminal_changes_wait_unless_something_else_was_said() {
    for arguments in [&[][..], &["--apply", "ask"], &["--apply", "never"]] {
        let world = World::new();
        let ended = task(&world, "echo new > made", arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("1 changed file: forge diff"), "{}", ended.stderr);
        assert_eq!(read(&world, "made"), None, "{arguments:?}");
        assert_eq!(waiting(&world), "made\n", "{arguments:?}");
    }
}

#[test]
fn a_command_may_apply_too_and_keeps_its_exit_code() {
    let world = World::new();
    let ended = exec(&world, &["--apply", "auto"], "echo new > made; echo x > .envrc; exit 3");
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert_eq!(read(&world, "made").as_deref(), Some("new\n"));
    assert_eq!(waiting(&world), ".envrc\n");
}

#[test]
fn what_becomes_of_changes_can_be_set_by_the_user_and_not_by_a_project() {
    let world = World::new();
    world.write("home/.config/forge/config.toml", "apply = 'auto'\n");
    let ended = exec(&world, &[], "echo new > made");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(read(&world, "made").as_deref(), Some("new\n"));
    // A flag counts more.
    exec(&world, &["--apply", "never"], "echo more > made");
    assert_eq!(read(&world, "made").as_deref(), Some("new\n"));

    world.write("project/.forge/config.toml", "apply = 'auto'\n");
    let ended = exec(&world, &[], "true");
    assert_eq!(ended.code, Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains("a project cannot set this"), "{}", ended.stderr);
}

#[test]
fn after_a_turn_the_user_is_asked_and_what_was_edited_meanwhile_is_seen_by_the_next() {
    let world = World::new();
    world.write("project/file", "one\n");
    let server = works_on(&world);
    next(&world, "echo two >> file; echo new > made");
    let mut screen = Screen::running(&world, &server, PROMPT);
    screen.enter("turn one");
    screen.expect("Answered.");
    screen.expect("M file");
    screen.expect("A made");
    screen.expect("Apply 2 changes?");
    assert_eq!(read(&world, "file").as_deref(), Some("one\n"), "nothing before the yes");
    screen.send("y\n");
    screen.expect("2 changes were applied");
    assert_eq!(read(&world, "file").as_deref(), Some("one\ntwo\n"));

    // As an editor does: another file takes the place of the one that was there.
    world.write("project/edited", "one\ntwo\nthree by hand\n");
    fs::rename(world.project().join("edited"), world.project().join("file")).unwrap();
    fs::remove_file(world.project().join("made")).unwrap();
    next(&world, "cat file made 2>&1; echo more > later");
    screen.enter("turn two");
    screen.expect("three by hand");
    screen.expect("No such file");
    screen.expect("Apply 1 change?");
    screen.send("n\n");
    // Known by now, it is not asked about again at the end.
    screen.enter("/diff");
    screen.expect("+++ b/later");
    screen.enter("/quit");
    let rest = screen.expect("all-done");
    assert!(rest.contains("code=0") && !rest.contains("Apply"), "{rest}");
    assert_eq!(read(&world, "later"), None);
    assert_eq!(waiting_after(&world), "later\n");
    assert_eq!(read(&world, "file").as_deref(), Some("one\ntwo\nthree by hand\n"));
}

#[test]
fn within_a_conversation_changes_are_applied_and_taken_back() {
    let world = World::new();
    let server = Server::start(works("echo new > made"));
    let mut screen = Screen::running(&world, &server, &format!("{PROMPT} --apply never"));
    screen.enter("/apply");
    screen.expect("nothing waits");
    screen.enter("turn one");
    screen.expect("1 change waits");
    screen.enter("/apply");
    screen.expect("Apply 1 change?");
    screen.send("y\n");
    screen.expect("1 change was applied");
    assert_eq!(read(&world, "made").as_deref(), Some("new\n"));
    screen.enter("/undo");
    screen.expect("1 path is as before");
    assert_eq!(read(&world, "made"), None);
    screen.enter("/undo");
    screen.expect("nothing was applied that could be undone");
    screen.enter("/quit");
    screen.expect("code=0");
    assert_eq!(waiting_after(&world), "made\n");
}

#[test]
fn an_interrupt_at_the_question_is_a_no_and_the_conversation_goes_on() {
    let world = World::new();
    let server = Server::start(works("echo new > made"));
    let mut screen = Screen::running(&world, &server, PROMPT);
    screen.enter("turn one");
    screen.expect("Apply 1 change?");
    screen.send("\x03");
    screen.enter("turn two");
    screen.expect("Answered.");
    screen.enter("/quit");
    screen.expect("code=0");
    assert_eq!(read(&world, "made"), None);
    assert_eq!(waiting_after(&world), "made\n");
}

#[test]
fn at_a_terminal_a_task_asks_at_its_end() {
    let world = World::new();
    let server = Server::start(works("echo new > made"));
    let mut screen = Screen::running(&world, &server, &format!("{PROMPT} -p go"));
    screen.expect("Answered.");
    screen.expect("Apply 1 change?");
    screen.send("y\n");
    screen.expect("1 change was applied");
    screen.expect("code=0");
    assert_eq!(read(&world, "made").as_deref(), Some("new\n"));
}

#[test]
fn what_both_sides_changed_is_said_before_the_next_turn() {
    let world = World::new();
    world.write("project/file", "one\n");
    let server = works_on(&world);
    next(&world, "echo session > file");
    let mut screen = Screen::running(&world, &server, &format!("{PROMPT} --apply never"));
    screen.enter("turn one");
    screen.expect("1 change waits");
    world.write("project/file", "by hand\n");
    next(&world, "cat file");
    screen.enter("turn two");
    screen.expect("file was changed by you and in the session");
    screen.expect("| session");
    screen.enter("/quit");
    screen.expect("code=0");
    assert_eq!(read(&world, "file").as_deref(), Some("by hand\n"));
}

#[test]
fn an_interrupt_at_the_terminal_is_for_the_command_and_not_for_its_sandbox() {
    let world = World::new();
    let server = Server::start(works("true"));
    let script = "trap 'echo caught > made; exit 7' INT; echo ready; while :; do sleep 0.05; done";
    let mut screen =
        Screen::running(&world, &server, &format!("\"$FORGE\" exec -c {}", quoted(script)));
    screen.expect("ready");
    screen.send("\x03");
    screen.expect("code=7");
    assert_eq!(waiting_after(&world), "made\n");
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
