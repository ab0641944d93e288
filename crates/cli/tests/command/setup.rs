//! `[setup]` of a project: run once in each new environment, by whoever agreed to it.

use std::fs;

use forge_scripted_model::{Answer, Call, Script};
use pretty_assertions::assert_eq;
use rustix::process::Signal;

use crate::harness::{Ended, Server, World, run, send, wait};
use crate::serve::Serving;
use crate::terminal::Screen;

/// Says in the project, how often it was run.
const COUNTED: &str = "[setup]\nrun = \"echo to-stdout; echo to-stderr >&2; echo once >>ran\"\n";

fn with_setup(text: &str) -> World {
    let world = World::new();
    world.write("project/.forge/config.toml", text);
    world
}

fn agree(world: &World, when: &str) {
    let text = format!("[setup]\nwhen = \"{when}\"\n");
    world.write("home/.config/forge/config.toml", &text);
}

fn exec(world: &World, arguments: &[&str]) -> Ended {
    run(&mut world.forge(&[&["exec"], arguments, &["-c", "cat ran || true"]].concat()))
}

#[test]
fn nobody_who_was_not_asked_has_agreed() {
    let world = with_setup(COUNTED);
    let actual = exec(&world, &[]);
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), ""));
    assert!(actual.stderr.contains("was not run, since nobody has agreed to it"), "{actual:?}");
    agree(&world, "never");
    let actual = exec(&world, &[]);
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), ""));
    assert!(!actual.stderr.contains("setup"), "{actual:?}");
}

#[test]
fn it_is_run_once_in_each_session_and_its_output_goes_to_stderr() {
    let world = with_setup(COUNTED);
    agree(&world, "always");
    let actual = exec(&world, &[]);
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), "once\n"));
    for said in ["note: setting up, as .forge/config.toml says: echo", "to-stdout\n", "to-stderr\n"]
    {
        assert!(actual.stderr.contains(said), "{said}: {actual:?}");
    }
    let again = exec(&world, &[]);
    assert_eq!(again.stdout, "once\n");
    assert!(!again.stderr.contains("setting up"), "{again:?}");
    assert_eq!(exec(&world, &["--fresh"]).stdout, "once\n");
    // The session of the first two is gone on with, and is empty then.
    let list = run(&mut world.forge(&["session", "list", "--json"])).stdout;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    for session in list.as_array().unwrap() {
        let id = session["id"].as_str().unwrap();
        assert_eq!(run(&mut world.forge(&["discard", "--force", id])).code, Some(0));
    }
    assert_eq!(exec(&world, &[]).stdout, "once\n");
}

#[test]
fn another_text_is_another_setup() {
    let world = with_setup(COUNTED);
    agree(&world, "always");
    assert_eq!(exec(&world, &[]).stdout, "once\n");
    world.write("project/.forge/config.toml", "[setup]\nrun = \"echo other >>ran\"\n");
    assert_eq!(exec(&world, &[]).stdout, "once\nother\n");
    assert_eq!(exec(&world, &[]).stdout, "once\nother\n");
}

#[test]
fn where_it_fails_nothing_else_is_run_and_it_is_tried_again() {
    let world = with_setup("[setup]\nrun = \"echo why >&2; test -e ready\"\n");
    agree(&world, "always");
    for _ in 0..2 {
        let actual = run(&mut world.forge(&["exec", "--", "touch", "made"]));
        assert_eq!(actual.code, Some(125));
        assert!(actual.stderr.contains("why\n"), "{actual:?}");
        assert!(
            actual
                .stderr
                .contains("error: the setup of .forge/config.toml failed: it exited with 1")
        );
    }
    let model = Server::start(Script::new([
        Answer::calls([Call::shell("touch made", "Make")]),
        Answer::text("Done."),
    ]));
    let mut task = world.forge(&["-m", "openai/scripted", "-p", "go"]);
    model.tell(&mut task);
    let actual = run(&mut task);
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(125), ""), "{}", actual.stderr);
    assert!(
        actual.stderr.contains("why\nerror: the setup of .forge/config.toml failed: it exited")
    );
    world.write("project/ready", "");
    let actual = run(&mut world.forge(&["exec", "--", "ls"]));
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), "ready\n"), "{}", actual.stderr);
}

#[test]
fn an_answer_at_the_terminal_holds_from_then_on() {
    let world = with_setup(COUNTED);
    let model = Server::start(Script::new([Answer::text("Done.")]));
    let program = "\"$FORGE\" exec -c 'cat ran; echo and-on'";
    let mut screen = Screen::running(&world, &model, program);
    screen.expect("echo once >>ran");
    screen.expect("[y]es, [n]o: ");
    screen.send("perhaps\r");
    screen.expect("y or n: ");
    screen.send("y\r");
    screen.expect("once\r\nand-on");
    screen.expect("code=0");
    screen.expect("all-done");
    // Without a terminal too, and in another session.
    let mut fresh = world.forge(&["exec", "--fresh", "--", "cat", "ran"]);
    let actual = run(fresh.env("FORGE_STATE_DIR", world.home().join("state")));
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), "once\n"), "{}", actual.stderr);

    let world = with_setup(COUNTED);
    for asks in [true, false] {
        let mut screen = Screen::running(&world, &model, "\"$FORGE\" exec -- echo on-and-on");
        if asks {
            screen.expect("[y]es, [n]o: ");
            screen.send("n\r");
        }
        screen.expect("on-and-on\r\n");
        screen.expect("code=0");
        let shown = screen.expect("all-done");
        assert!(!shown.contains("[y]es"), "{shown}");
    }
    assert_eq!(fs::read_dir(world.home().join("state/setups")).unwrap().count(), 1);
}

#[test]
fn a_conversation_is_set_up_by_its_first_tool_and_goes_on_where_that_failed() {
    let world = with_setup("[setup]\nrun = \"echo made >made; exit 3\"\n");
    agree(&world, "always");
    let model = Server::start(Script::new([
        Answer::calls([Call::shell("cat made", "Look")]),
        Answer::text("Seen."),
    ]));
    let program = "\"$FORGE\" -m openai/scripted --apply never";
    let mut screen = Screen::running(&world, &model, program);
    screen.enter("look");
    screen.expect("setting up, as .forge/config.toml says: ");
    screen.expect("failed: it exited with 3");
    screen.enter("look again");
    let shown = screen.expect("Seen.");
    assert!(!shown.contains("setting up"), "{shown}");
    screen.enter("/quit");
    screen.expect("all-done");
    let results = model.results();
    assert!(results[0].contains("not carried out: the environment could not be set up"));
    assert!(results[1].contains("made\n"), "{results:?}");
}

#[test]
fn each_microvm_has_it_once() {
    let world = with_setup(COUNTED);
    agree(&world, "always");
    let serving = Serving::start(&world, &["--api-key", "k3y"]);
    let client = serving.client();
    let forge = |arguments: &[&str]| {
        let options: Vec<&str> = client.split(' ').chain(arguments.iter().copied()).collect();
        world.forge(&options)
    };
    let model = Server::start(Script::new([
        Answer::calls([Call::shell("cat ran", "Look")]),
        Answer::calls([Call::shell("cat ran", "Look again")]),
        Answer::text("Done."),
    ]));
    let mut task = forge(&["--fresh", "-m", "openai/scripted", "-p", "go"]);
    model.tell(&mut task);
    let actual = run(&mut task);
    assert_eq!(actual.code, Some(0), "{}", actual.stderr);
    for result in model.results() {
        assert_eq!(result.matches("once\n").count(), 1, "{result}");
    }
    let actual = run(&mut forge(&["exec", "--fresh", "--", "cat", "ran"]));
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), "once\n"), "{}", actual.stderr);
    send(&serving.child, Signal::TERM);
    assert_eq!(wait(serving.child).code, Some(0));
}

#[test]
fn a_turn_without_tools_sets_nothing_up() {
    let world = with_setup(COUNTED);
    agree(&world, "always");
    let model = Server::start(Script::new([Answer::text("Hello.")]));
    let mut task = world.forge(&["-m", "openai/scripted", "-p", "hello"]);
    model.tell(&mut task);
    let actual = run(&mut task);
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), "Hello.\n"), "{}", actual.stderr);
    assert!(!actual.stderr.contains("setting up"), "{}", actual.stderr);
    assert_eq!(exec(&world, &[]).stdout, "once\n");
}

#[test]
fn ctrl_c_ends_it_and_the_task() {
    let world = with_setup("[setup]\nrun = \"echo begun; sleep 1000\"\n");
    agree(&world, "always");
    let model = Server::start(Script::new([Answer::calls([Call::shell("touch made", "Make")])]));
    let program = "\"$FORGE\" -m openai/scripted -p go";
    let mut screen = Screen::running(&world, &model, program);
    screen.expect("setting up, as .forge/config.toml says: echo begun; sleep 1000");
    screen.expect("begun\r\n");
    screen.send("\x03");
    screen.expect("code=130");
    screen.expect("all-done");
}

#[test]
fn this_host_is_never_set_up() {
    let world = with_setup(COUNTED);
    agree(&world, "always");
    let actual = run(&mut world.forge(&["--local", "exec", "--", "ls"]));
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), ""), "{}", actual.stderr);
}
