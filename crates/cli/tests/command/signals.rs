//! Signals to forge while a command of `exec` runs.

use std::process::Child;

use pretty_assertions::assert_eq;
use rustix::process::Signal;

use crate::harness::{World, is_alive, send, wait, wait_for_file, wait_until};

/// Starts a command that writes the number of its process into a file, and waits until it has.
fn start(world: &World, script: &str) -> (Child, String) {
    let script =
        format!("{script}\necho $$ > pid.new; mv pid.new pid\nwhile :; do sleep 0.1; done");
    let child = world.exec_sh(&script).spawn().unwrap();
    let pid = wait_for_file(&world.project().join("pid"));
    (child, pid)
}

#[test]
fn the_first_interrupt_is_the_commands_and_its_code_is_returned() {
    let world = World::new();
    let (child, pid) = start(&world, "trap 'echo bye; exit 9' INT");
    send(&child, Signal::INT);
    let actual = wait(child);
    assert_eq!((actual.code, &*actual.stdout, &*actual.stderr), (Some(9), "bye\n", ""));
    assert!(!is_alive(&pid));
}

#[test]
fn an_interrupt_that_the_command_does_not_handle_is_130() {
    let world = World::new();
    let (child, pid) = start(&world, "");
    send(&child, Signal::INT);
    let actual = wait(child);
    assert_eq!((actual.code, &*actual.stderr), (Some(130), ""));
    assert!(!is_alive(&pid));
}

#[test]
fn the_second_interrupt_ends_a_command_that_ignores_the_first() {
    let world = World::new();
    let (child, pid) = start(&world, "trap 'echo heard > heard' INT; trap '' TERM");
    send(&child, Signal::INT);
    wait_for_file(&world.project().join("heard"));
    assert!(is_alive(&pid));
    send(&child, Signal::INT);
    let actual = wait(child);
    assert_eq!((actual.code, &*actual.stderr), (Some(130), ""));
    wait_until("the command is gone", || !is_alive(&pid));
}

#[test]
fn terminating_forge_ends_the_command() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        let world = World::new();
        let (child, pid) = start(&world, "exec 2>/dev/null\ntrap 'echo asked; exit 0' TERM");
        send(&child, signal);
        let actual = wait(child);
        assert_eq!((actual.code, &*actual.stdout, &*actual.stderr), (Some(code), "asked\n", ""));
        wait_until("the command is gone", || !is_alive(&pid));
    }
}

#[test]
fn a_reader_that_takes_nothing_holds_up_neither_signals_nor_the_end() {
    let world = World::new();
    let mut command = world.exec_sh("echo $$ > pid.new; mv pid.new pid; exec yes");
    let child = command.spawn().unwrap();
    let pid = wait_for_file(&world.project().join("pid"));
    // Nobody reads: the pipe of stdout fills, and the command waits.
    send(&child, Signal::TERM);
    let code = {
        let mut child = child;
        let mut code = None;
        wait_until("forge has ended", || {
            code = child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code()
    };
    assert_eq!(code, Some(143));
    wait_until("the command is gone", || !is_alive(&pid));
}

#[test]
fn a_hang_up_that_was_ignored_stays_ignored() {
    let world = World::new();
    let script = "trap '' HUP; exec \"$FORGE\" --local exec -- sh -c '
        echo $$ > pid.new; mv pid.new pid; while [ ! -e go ]; do sleep 0.05; done; echo done'";
    let child = world.shell(script).spawn().unwrap();
    wait_for_file(&world.project().join("pid"));
    send(&child, Signal::HUP);
    world.write("project/go", "");
    let actual = wait(child);
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "done\n"));
}
