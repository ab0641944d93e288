//! `forge exec`: streams, codes, variables.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;

use pretty_assertions::assert_eq;

use crate::harness::{World, bytes, run, run_with_stdin, wait};

#[test]
fn the_commands_streams_and_code_are_its_own_and_nothing_is_added() {
    let world = World::new();
    let actual = run(&mut world.exec_sh("printf out; printf err >&2; exit 7"));
    assert_eq!((actual.code, &*actual.stdout, &*actual.stderr), (Some(7), "out", "err"));
}

#[test]
fn a_shell_text_runs_in_the_shell() {
    let world = World::new();
    let actual = run(&mut world.forge(&["exec", "--local", "-c", "echo $((6 * 7)) | cat"]));
    assert_eq!((actual.code, &*actual.stdout, &*actual.stderr), (Some(0), "42\n", ""));
}

#[test]
fn arguments_pass_through_also_where_they_look_like_options_or_are_not_utf8() {
    let world = World::new();
    let mut command = world.forge(&["--local", "exec", "printf", "%s|", "--local", "-v", ""]);
    command.arg(bytes(b"a\xffb"));
    let actual = command.output().unwrap();
    assert_eq!(actual.stdout, b"--local|-v||a\xffb|");
    assert_eq!(actual.status.code(), Some(0));
}

#[test]
fn stdin_of_any_size_reaches_the_command_byte_by_byte() {
    let world = World::new();
    let mut random = Vec::new();
    File::open("/dev/urandom").unwrap().take(5_000_000).read_to_end(&mut random).unwrap();
    for stdin in [&b""[..], b"x", b"no newline\0\xff\r", &random] {
        let actual = run_with_stdin(&mut world.forge(&["--local", "exec", "cat"]), stdin);
        assert!(actual.stdout == stdin, "{} bytes came back", actual.stdout.len());
        assert_eq!(actual.status.code(), Some(0));
    }
}

#[test]
fn stdin_may_be_a_file_or_closed() {
    let world = World::new();
    world.write("project/input", "from a file\n");
    let input = File::open(world.project().join("input")).unwrap();
    let actual = run(world.forge(&["--local", "exec", "cat"]).stdin(input));
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "from a file\n"));
    let actual = run(&mut world.shell("\"$FORGE\" --local exec -- cat <&-"));
    assert_eq!((actual.code, &*actual.stdout, &*actual.stderr), (Some(0), "", ""));
}

#[test]
fn a_command_that_reads_nothing_ends_though_stdin_stays_open() {
    let world = World::new();
    let mut command = world.forge(&["--local", "exec", "true"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    let actual = wait(child);
    drop(stdin);
    assert_eq!((actual.code, &*actual.stderr), (Some(0), ""));
}

#[test]
fn stdout_and_stderr_are_exact_in_bulk() {
    let world = World::new();
    let actual =
        world.exec_sh("head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2").output().unwrap();
    assert_eq!((actual.stdout.len(), actual.stderr.len()), (3_000_000, 2_000_000));
}

#[test]
fn a_reader_that_leaves_early_ends_the_command_as_in_a_shell() {
    let world = World::new();
    let mut child = world.forge(&["--local", "exec", "yes"]).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    drop(reader);
    let actual = wait(child);
    assert_eq!((&*line, actual.code, &*actual.stderr), ("y\n", Some(141), ""));
}

#[test]
fn a_full_disk_is_told() {
    let world = World::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let actual = run(world.forge(&["--local", "exec", "echo", "x"]).stdout(full));
    assert_eq!(actual.code, Some(125));
    assert!(actual.stderr.starts_with("error: writing to stdout failed: "), "{actual:?}");
}

#[test]
fn what_cannot_run_has_the_codes_of_the_shells() {
    let world = World::new();
    world.write("project/text", "no program\n");
    let missing = run(&mut world.forge(&["--local", "exec", "no-such-program"]));
    assert_eq!((missing.code, &*missing.stdout), (Some(127), ""));
    assert_eq!(missing.stderr, "error: \"no-such-program\" was not found\n");
    let text = run(&mut world.forge(&["--local", "exec", "./text"]));
    assert_eq!(text.code, Some(126));
    assert!(text.stderr.starts_with("error: \"./text\" cannot be executed"), "{text:?}");
}

#[test]
fn a_signal_that_ends_the_command_shows_in_the_code() {
    let world = World::new();
    let actual = run(&mut world.exec_sh("kill -TERM $$"));
    assert_eq!((actual.code, &*actual.stderr), (Some(143), ""));
}

#[test]
fn the_time_limit_ends_the_command_and_keeps_its_output() {
    let world = World::new();
    let actual = run(&mut world.forge(&[
        "--local",
        "exec",
        "--timeout",
        "1s",
        "--",
        "sh",
        "-c",
        "echo before; sleep 600; echo after",
    ]));
    assert_eq!((actual.code, &*actual.stdout), (Some(124), "before\n"));
    assert_eq!(actual.stderr, "warning: the command ran for longer than 1s and was ended\n");
}

#[test]
fn commands_get_the_users_variables_but_no_keys() {
    let world = World::new();
    let mut command = world.forge(&["--local", "exec", "env"]);
    command
        .env("PLAIN", "seen")
        .env("OPENAI_API_KEY", "s3cret")
        .env("TENSORLAKE_API_KEY", "s3cret");
    let actual = run(&mut command);
    assert!(actual.stdout.contains("PLAIN=seen\n"), "{actual:?}");
    assert!(!actual.stdout.contains("s3cret") && !actual.stdout.contains("_API_KEY"), "{actual:?}");
}

#[test]
fn env_forwards_by_name_sets_by_value_and_warns_of_what_is_not_set() {
    let world = World::new();
    let mut command = world.forge(&[
        "--env",
        "OPENAI_API_KEY",
        "--local",
        "exec",
        "--env",
        "SET=a=b",
        "--env",
        "MISSING",
        "--",
        "sh",
        "-c",
        "echo $OPENAI_API_KEY $SET ${MISSING-unset}",
    ]);
    let actual = run(command.env("OPENAI_API_KEY", "k"));
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "k a=b unset\n"));
    assert_eq!(
        actual.stderr,
        "warning: --env MISSING: it is not set here, so commands do not get it\n"
    );
}

#[test]
fn the_command_runs_where_dash_c_says() {
    let world = World::new();
    world.write("project/inside/file", "");
    let actual = run(&mut world.forge(&["--local", "-C", "inside", "exec", "pwd"]));
    let expected = format!("{}\n", world.project().join("inside").display());
    assert_eq!((actual.code, actual.stdout), (Some(0), expected));
}

#[test]
fn the_configuration_can_choose_the_environment() {
    let world = World::new();
    world.write("home/.config/forge/config.toml", "executor = 'local'\nenv = ['A=from-config']\n");
    let actual = run(&mut world.forge(&["exec", "-c", "echo $A"]));
    assert_eq!((actual.code, &*actual.stdout, &*actual.stderr), (Some(0), "from-config\n", ""));
}

#[test]
fn a_script_of_the_project_runs_by_its_path() {
    let world = World::new();
    world.write("project/script", "#!/bin/sh\necho \"$@\"\n");
    let path = world.project().join("script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let actual = world.forge(&["--local", "exec", "./script", "a b"]).output().unwrap();
    assert_eq!(actual.stdout, b"a b\n");
    assert_eq!(actual.status.signal(), None);
}
