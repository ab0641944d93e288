//! `forge completions`.

use std::io::{BufRead, BufReader};

use pretty_assertions::assert_eq;

use crate::harness::{World, run, run_with_stdin, wait};

#[test]
fn there_is_a_script_for_each_shell() {
    let world = World::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let actual = run(&mut world.forge(&["completions", shell]));
        assert_eq!((actual.code, &*actual.stderr), (Some(0), ""), "{shell}");
        assert!(actual.stdout.contains("output-format"), "{shell}");
    }
}

#[test]
fn bash_can_read_its_script() {
    let world = World::new();
    let script = run(&mut world.forge(&["completions", "bash"])).stdout;
    let actual = run_with_stdin(&mut world.shell("bash -n"), script.as_bytes());
    assert_eq!(String::from_utf8_lossy(&actual.stderr), "");
    assert_eq!(actual.status.code(), Some(0));
}

#[test]
fn a_reader_that_leaves_early_is_no_error_message() {
    let world = World::new();
    let mut child = world.forge(&["completions", "zsh"]).spawn().unwrap();
    let mut reader = BufReader::with_capacity(16, child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let actual = wait(child);
    assert_eq!(actual.stderr, "");
    // The whole script may have fitted into the pipe before the reader left.
    assert!(matches!(actual.code, Some(0 | 141)), "{actual:?}");
}
