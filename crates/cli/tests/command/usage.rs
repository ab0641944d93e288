//! What is asked for and cannot be: one clear message, the right code.

use pretty_assertions::assert_eq;

use crate::harness::{Ended, World, bytes, run};

fn refused(world: &World, arguments: &[&str], code: i32) -> String {
    let Ended { code: actual, stdout, stderr } = run(&mut world.forge(arguments));
    assert_eq!((actual, &*stdout), (Some(code), ""), "{arguments:?}: {stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    stderr
}

#[test]
fn a_mistyped_subcommand_is_no_prompt_and_the_right_one_is_named() {
    let world = World::new();
    let actual = refused(&world, &["--local", "exce", "--", "ls"], 2);
    assert!(actual.contains("a similar subcommand exists: 'exec'"), "{actual}");
}

#[test]
fn a_mistyped_option_is_answered_with_the_right_one() {
    let world = World::new();
    let actual = refused(&world, &["--lokal", "-p", "go"], 2);
    assert!(actual.contains("'--local'"), "{actual}");
    let actual = refused(&world, &["--local", "exec", "--timeuot", "5s", "--", "ls"], 125);
    assert!(actual.contains("'--timeout'"), "{actual}");
    let actual = refused(&world, &["--lokal", "exec", "--", "ls"], 125);
    assert!(actual.contains("'--local'"), "{actual}");
    refused(&world, &["--lokal", "-p", "exec"], 2);
    let actual = refused(&world, &["--executor", "locl", "-p", "go"], 2);
    assert!(actual.contains("'local'"), "{actual}");
}

#[test]
fn exec_without_a_command_or_with_two_is_refused() {
    let world = World::new();
    refused(&world, &["--local", "exec"], 125);
    refused(&world, &["--local", "exec", "-c", "ls", "ls"], 125);
    refused(&world, &["--local", "-p", "go", "exec", "ls"], 125);
}

#[test]
fn an_output_format_of_tasks_is_refused_by_exec() {
    let world = World::new();
    let actual = refused(&world, &["--local", "exec", "--output-format", "json", "ls"], 125);
    assert!(actual.starts_with("error: --output-format is for tasks"), "{actual}");
}

#[test]
fn a_malformed_env_is_refused_without_its_value() {
    let world = World::new();
    let actual = refused(&world, &["--local", "--env", "=s3cret", "exec", "ls"], 125);
    assert_eq!(
        actual,
        "error: --env takes NAME or NAME=VALUE: the name of an environment variable is empty\n"
    );
}

#[test]
fn without_a_key_the_variables_and_where_to_get_one_are_named() {
    let world = World::new();
    let actual = refused(&world, &["--local", "-p", "go"], 2);
    for part in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY", "https://", "ollama/"]
    {
        assert!(actual.contains(part), "{part}: {actual}");
    }
    let actual = refused(&world, &["--local", "-m", "anthropic/x", "-p", "go"], 2);
    assert!(actual.contains("ANTHROPIC_API_KEY") && !actual.contains("OPENAI"), "{actual}");
}

#[test]
fn a_model_that_cannot_be_is_answered_with_what_can() {
    let world = World::new();
    let actual = refused(&world, &["--local", "-m", "opneai/gpt-5", "-p", "go"], 2);
    assert!(actual.contains("opneai") && actual.contains("openai"), "{actual}");
    let actual = refused(&world, &["--local", "-m", "gpt-5", "-p", "go"], 2);
    assert!(actual.contains("hint: write it as provider/name"), "{actual}");
}

#[test]
fn a_server_that_cannot_be_reached_is_told_with_its_address_and_the_cause() {
    let world = World::new();
    let mut command = world.forge(&["--local", "-m", "openai/x", "-p", "go"]);
    command.env("OPENAI_API_KEY", "not-a-key").env("OPENAI_BASE_URL", "http://127.0.0.1:1/v1");
    let actual = run(&mut command);
    assert_eq!((actual.code, &*actual.stdout), (Some(1), ""));
    assert!(
        actual.stderr.starts_with("error: openai/x cannot be reached at http://127.0.0.1:1"),
        "{actual:?}"
    );
    assert!(actual.stderr.to_lowercase().contains("connection refused"), "{actual:?}");
    assert!(actual.stderr.contains("hint: "), "{actual:?}");
    assert!(!actual.stderr.contains("not-a-key"), "{actual:?}");
}

#[test]
fn a_missing_directory_and_a_file_are_no_place_to_work() {
    let world = World::new();
    world.write("project/file", "");
    let actual = refused(&world, &["--local", "-C", "missing", "exec", "ls"], 125);
    assert_eq!(actual, "error: the directory \"missing\" does not exist\n");
    let actual = refused(&world, &["--local", "-C", "file", "exec", "ls"], 125);
    assert_eq!(actual, "error: \"file\" is not a directory\n");
}

#[test]
fn interactive_mode_needs_a_terminal() {
    let world = World::new();
    let actual = refused(&world, &["--local"], 2);
    assert!(actual.contains("needs a terminal; give the task with -p"), "{actual}");
}

#[test]
fn a_prompt_that_is_not_utf8_is_refused() {
    let world = World::new();
    let actual = run(world.forge(&["--local", "-p"]).arg(bytes(b"a\xff")));
    assert_eq!(actual.code, Some(2));
    assert!(actual.stderr.starts_with("error: invalid UTF-8"), "{actual:?}");
}

#[test]
fn a_duration_is_explained() {
    let world = World::new();
    let actual = refused(&world, &["--local", "--timeout", "soon", "exec", "ls"], 125);
    assert!(actual.contains("write it as 90s, 5m or 1h"), "{actual}");
}

#[test]
fn a_mistake_in_the_configuration_is_told_with_its_place() {
    let world = World::new();
    world.write("home/.config/forge/config.toml", "executor = 'local'\ntiemout = '5s'\n");
    let actual = refused(&world, &["exec", "ls"], 125);
    assert!(actual.contains("config.toml:2:1: unknown field `tiemout`"), "{actual}");
    assert!(actual.contains("`timeout`"), "{actual}");
}

#[test]
fn a_configuration_that_is_named_must_be_there() {
    let world = World::new();
    let mut command = world.forge(&["--local", "exec", "ls"]);
    let actual = run(command.env("FORGE_CONFIG", "/no/such/file"));
    assert_eq!(actual.code, Some(125));
    assert!(actual.stderr.contains("/no/such/file cannot be read: No such file"), "{actual:?}");
}

#[test]
fn a_project_cannot_choose_an_environment_or_forward_variables() {
    let world = World::new();
    for text in ["executor = 'local'\n", "env = ['HOME']\n", "ask = 'never'\n"] {
        world.write("project/.forge/config.toml", text);
        let actual = refused(&world, &["exec", "ls"], 125);
        assert!(actual.contains("a project cannot set this"), "{actual}");
    }
}

#[test]
fn the_help_fits_sixty_columns() {
    let world = World::new();
    for arguments in [&["-h"][..], &["--help"], &["exec", "-h"], &["exec", "--help"]] {
        let actual = run(world.forge(arguments).env("COLUMNS", "60"));
        assert_eq!((actual.code, &*actual.stderr), (Some(0), ""));
        let longest = actual.stdout.lines().max_by_key(|line| line.chars().count()).unwrap();
        assert!(longest.chars().count() <= 60, "{longest}");
    }
}

#[test]
fn the_help_is_as_committed() {
    let world = World::new();
    let actual = run(world.forge(&["-h"]).env("COLUMNS", "60"));
    snapbox::assert_data_eq!(actual.stdout, snapbox::file!["help.txt"].raw());
}

#[test]
fn the_version_is_one_line() {
    let world = World::new();
    let actual = run(&mut world.forge(&["--version"]));
    let expected = concat!("forge ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!((actual.code, &*actual.stdout), (Some(0), expected));
}

#[test]
fn colour_is_for_terminals_and_for_those_who_ask() {
    let world = World::new();
    let plain = run(&mut world.forge(&["--nope"]));
    assert!(!plain.stderr.contains('\x1b'), "{plain:?}");
    let colored = run(&mut world.forge(&["--color", "always", "--nope"]));
    assert!(colored.stderr.contains("\x1b["), "{colored:?}");
    let colored = run(&mut world.forge(&["--color=always", "--local", "exec", "no-such-program"]));
    assert!(colored.stderr.contains("\x1b["), "{colored:?}");
}
