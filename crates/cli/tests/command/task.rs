//! `forge -p`: a task with a scripted model.

use std::fs;
use std::io::{BufRead, BufReader};

use forge_scripted_model::{Answer, Call, Fault, FaultKind, Script};
use pretty_assertions::assert_eq;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Ended, Server, World, ended, is_alive, run, run_with_stdin, send, wait, wait_for_file,
    wait_until,
};

/// One shell command, then a last word.
fn one_command(command: &str) -> Script {
    Script::new([Answer::calls([Call::shell(command, "Try it")]), Answer::text("Finished.")])
}

/// The lines of stream-json, each checked against the committed schema.
fn lines(stdout: &str) -> Vec<Value> {
    let schema = include_str!("../../schema/stream-json.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        if let Err(error) = schema.validate(line) {
            panic!("{line} does not follow the schema: {error}");
        }
    }
    lines
}

fn types(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["type"].as_str().unwrap()).collect()
}

#[test]
fn the_answer_and_nothing_else_is_on_stdout() {
    let world = World::new();
    let server = Server::start(one_command("echo from-the-command | tee made"));
    let actual = run(&mut world.task(&server, &["-p", "go"]));
    let expected = Ended { code: Some(0), stdout: "Finished.\n".to_owned(), stderr: String::new() };
    assert_eq!(actual, expected);
    assert_eq!(fs::read_to_string(world.project().join("made")).unwrap(), "from-the-command\n");
    assert!(server.results()[0].contains("from-the-command"), "{:?}", server.results());
}

#[test]
fn with_v_tool_calls_and_their_output_are_on_stderr() {
    let world = World::new();
    let server = Server::start(one_command("printf 'one\\n\\033]0;title\\007two\\n'"));
    let actual = run(world.task(&server, &["-v", "-p", "go"]).env("LANG", "C.UTF-8"));
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "Finished.\n"));
    assert!(actual.stderr.contains("● shell printf"), "{}", actual.stderr);
    assert!(actual.stderr.contains("  │ one\n  │ two\n  └ "), "{}", actual.stderr);
    assert!(!actual.stderr.contains('\x1b'), "{:?}", actual.stderr);
}

#[test]
fn fifty_commands_run_in_order_and_their_results_reach_the_model() {
    let world = World::new();
    let server = Server::start(Script::shell_commands(50));
    let actual = run(&mut world.task(&server, &["-p", "go"]));
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "All 50 commands ran.\n"));
    let expected: String = (1..=50).map(|n| format!("step-{n}\n")).collect();
    assert_eq!(fs::read_to_string(world.project().join("steps.log")).unwrap(), expected);
    for (at, result) in server.results().iter().enumerate() {
        assert!(result.contains(&format!("step-{}\n", at + 1)), "{at}: {result}");
    }
}

#[test]
fn fifty_commands_run_over_the_anthropic_format_too() {
    let world = World::new();
    let server = Server::start(Script::shell_commands(50));
    let mut command = world.forge(&["--local", "-m", "anthropic/scripted", "-p", "go"]);
    command.env("ANTHROPIC_API_KEY", "not-a-key").env("ANTHROPIC_BASE_URL", server.base_url());
    let actual = run(&mut command);
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "All 50 commands ran.\n"));
    let expected: String = (1..=50).map(|n| format!("step-{n}\n")).collect();
    assert_eq!(fs::read_to_string(world.project().join("steps.log")).unwrap(), expected);
    assert_eq!(server.results().len(), 50);
}

#[test]
fn a_tool_that_does_not_exist_is_told_to_the_model_and_the_task_goes_on() {
    let world = World::new();
    let call = Call::new("shel", r#"{"command":"true"}"#);
    let server = Server::start(Script::new([Answer::calls([call]), Answer::text("Oh.")]));
    let actual = run(&mut world.task(&server, &["-p", "go"]));
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "Oh.\n"));
    let result = &server.results()[0];
    assert!(result.contains("`shell`") && result.contains("shel"), "{result}");
}

#[test]
fn the_most_detailed_log_holds_no_key_and_no_value_of_a_variable() {
    let world = World::new();
    let server = Server::start(one_command("echo \"$TOKEN\" | wc -c"));
    let mut command = world.task(&server, &["-vvv", "--env", "TOKEN=t0ken-value", "-p", "go"]);
    let actual = run(command.env("OPENAI_API_KEY", "sk-s3cret-key").env("OTHER", "0ther-value"));
    assert_eq!(actual.code, Some(0), "{}", actual.stderr);
    assert!(actual.stderr.lines().count() > 5, "a log was expected: {}", actual.stderr);
    for secret in ["s3cret", "t0ken-value", "0ther-value"] {
        assert!(!actual.stderr.contains(secret), "{secret}: {}", actual.stderr);
    }
}

#[test]
fn stream_json_follows_its_schema_and_ends_with_the_result() {
    let world = World::new();
    let server = Server::start(one_command("printf 'é\\377'; printf err >&2"));
    let actual = run(&mut world.task(&server, &["-p", "go", "--output-format", "stream-json"]));
    assert_eq!((actual.code, &*actual.stderr), (Some(0), ""));
    let lines = lines(&actual.stdout);
    let types = types(&lines);
    assert_eq!((types[0], types[types.len() - 1]), ("start", "result"));
    for expected in ["tool_started", "tool_output", "tool_finished", "text"] {
        assert!(types.contains(&expected), "{types:?}");
    }
    assert_eq!(lines[0]["environment"], "local");
    assert_eq!(lines[0]["workspace"], world.project().to_str().unwrap());
    let last = lines.last().unwrap();
    assert_eq!((&last["outcome"], &last["exit_code"]), (&"done".into(), &0.into()));
    assert_eq!((&last["text"], &last["tool_calls"]), (&"Finished.".into(), &1.into()));
    let output = lines.iter().find(|line| line["stream"] == "stdout").unwrap();
    assert_eq!(output["base64"], "w6n/");
}

#[test]
fn json_is_one_object() {
    let world = World::new();
    let server = Server::start(one_command("true"));
    let actual = run(&mut world.task(&server, &["-p", "go", "--output-format", "json"]));
    let lines = lines(&actual.stdout);
    assert_eq!(types(&lines), ["result"]);
    assert_eq!(actual.code, Some(0));
}

#[test]
fn a_failure_is_an_error_line_and_a_message() {
    let world = World::new();
    let fault = Fault::always(FaultKind::status(401, r#"{"error":{"message":"bad key"}}"#));
    let server = Server::start(Script::default().with_fault(fault));
    let actual = run(&mut world.task(&server, &["-p", "go", "--output-format", "stream-json"]));
    assert_eq!(actual.code, Some(1));
    assert!(
        actual.stderr.starts_with("error: openai/scripted refused the key (status 401)"),
        "{}",
        actual.stderr
    );
    assert!(!actual.stderr.contains("not-a-key"), "{}", actual.stderr);
    let lines = lines(&actual.stdout);
    assert_eq!(types(&lines), ["start", "error"]);
    assert_eq!(lines[1]["exit_code"], 1);
}

#[test]
fn piped_text_is_added_to_the_task_and_a_dash_stands_for_it() {
    let world = World::new();
    let server = Server::start(Script::new([Answer::text("ok")]));
    let actual =
        run_with_stdin(&mut world.task(&server, &["-p", "what is this?"]), b"piped text\n");
    assert_eq!(ended(actual).code, Some(0));
    let request = server.last_request();
    assert!(request.contains("what is this?\\n\\npiped text"), "{request}");
    let actual = run_with_stdin(&mut world.task(&server, &["-p", "-"]), b"the whole task");
    assert_eq!(ended(actual).code, Some(0));
    assert!(server.last_request().contains("\"the whole task\""));
}

#[test]
fn a_prompt_of_ten_megabytes_reaches_the_model() {
    let world = World::new();
    let server = Server::start(Script::new([Answer::text("long")]));
    let prompt = "0123456789".repeat(1024 * 1024);
    let actual = run_with_stdin(&mut world.task(&server, &["-p", "-"]), prompt.as_bytes());
    assert_eq!((actual.status.code(), &*actual.stdout), (Some(0), &b"long\n"[..]));
    assert!(server.last_request().len() > prompt.len());
}

#[test]
fn stdin_that_is_too_long_or_not_utf8_and_an_empty_task_are_refused() {
    let world = World::new();
    let server = Server::start(Script::default());
    let refused = |stdin: &[u8]| {
        let actual = ended(run_with_stdin(&mut world.task(&server, &["-p", "-"]), stdin));
        assert_eq!((actual.code, &*actual.stdout), (Some(2), ""));
        actual.stderr
    };
    assert!(
        refused(&vec![b'x'; 17 * 1024 * 1024]).starts_with("error: stdin holds more than 16 MiB")
    );
    assert_eq!(refused(b"ab\xff"), "error: stdin is not valid UTF-8 (byte 2)\n");
    assert_eq!(refused(b" \n"), "error: the task is empty\n");
    let actual = run(&mut world.task(&server, &["-p", ""]));
    assert_eq!((actual.code, &*actual.stderr), (Some(2), "error: the task is empty\n"));
}

#[test]
fn a_task_that_is_given_up_exits_with_one() {
    let world = World::new();
    let server = Server::start(Script::shell_commands(5));
    let actual = run(&mut world.task(&server, &["-p", "go", "--max-turns", "2"]));
    assert_eq!(actual.code, Some(1));
    assert!(actual.stderr.contains("given up after 2 answers"), "{actual:?}");
    let server = Server::start(Script::repeat_failing_call());
    let actual = run(&mut world.task(&server, &["-p", "go"]));
    assert_eq!(actual.code, Some(1));
    assert!(actual.stderr.contains("the same call of shell failed"), "{actual:?}");
}

#[test]
fn the_limits_of_a_command_and_of_a_task_hold() {
    let world = World::new();
    let server = Server::start(one_command("echo before; sleep 600"));
    let actual = run(&mut world.task(&server, &["-p", "go", "--timeout", "1s"]));
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "Finished.\n"));
    assert!(server.results()[0].contains("before"), "{:?}", server.results());
    let actual = run(&mut world.task(&server, &["-p", "go", "--task-timeout", "1s"]));
    assert_eq!(actual.code, Some(1));
    assert!(actual.stderr.contains("took longer than 1s"), "{actual:?}");
}

#[test]
fn an_interrupt_ends_the_command_and_the_task() {
    let world = World::new();
    let server = Server::start(one_command("echo $$ > pid.new; mv pid.new pid; sleep 600"));
    let mut command = world.task(&server, &["-p", "go", "--output-format", "stream-json"]);
    let child = command.spawn().unwrap();
    let pid = wait_for_file(&world.project().join("pid"));
    send(&child, Signal::INT);
    let actual = wait(child);
    assert_eq!((actual.code, &*actual.stderr), (Some(130), ""));
    assert!(!is_alive(&pid));
    let lines = lines(&actual.stdout);
    assert_eq!(lines.last().unwrap()["outcome"], "cancelled");
}

#[test]
fn a_second_interrupt_and_a_termination_leave_nothing_running() {
    for (signals, code) in
        [(&[Signal::INT, Signal::INT][..], 130), (&[Signal::TERM], 143), (&[Signal::HUP], 129)]
    {
        let world = World::new();
        let server = Server::start(one_command(
            "trap 'echo heard > heard' TERM; echo $$ > pid.new; mv pid.new pid
             while :; do sleep 0.1; done",
        ));
        let child = world.task(&server, &["-p", "go"]).spawn().unwrap();
        let pid = wait_for_file(&world.project().join("pid"));
        send(&child, signals[0]);
        wait_for_file(&world.project().join("heard"));
        for signal in &signals[1..] {
            send(&child, *signal);
        }
        assert_eq!(wait(child).code, Some(code));
        wait_until("the command is gone", || !is_alive(&pid));
    }
}

#[test]
fn a_reader_that_leaves_early_ends_the_task() {
    let world = World::new();
    let commands = (0..200).map(|n| Answer::calls([Call::shell(&format!("echo {n}"), "Count")]));
    let server = Server::start(Script::new(commands.chain([Answer::text("never seen")])));
    let mut command = world.task(&server, &["-p", "go", "--output-format", "stream-json"]);
    let mut child = command.spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let actual = wait(child);
    assert_eq!((actual.code, &*actual.stderr), (Some(141), ""));
}

#[test]
fn escape_sequences_of_the_model_do_not_reach_stdout_as_text() {
    let world = World::new();
    let server = Server::start(Script::new([Answer::text("a\u{1b}]52;c;aGk=\u{7}b\u{1b}[2Jc")]));
    let actual = run(&mut world.task(&server, &["-p", "go"]));
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "abc\n"));
}

#[test]
fn the_models_commands_read_nothing_and_get_no_keys() {
    let world = World::new();
    let server = Server::start(one_command("cat; echo key=${OPENAI_API_KEY-none}"));
    let actual = run_with_stdin(&mut world.task(&server, &["-p", "go"]), b"for the prompt");
    assert_eq!(actual.status.code(), Some(0));
    let results = server.results();
    assert!(
        results[0].contains("key=none") && !results[0].contains("for the prompt"),
        "{results:?}"
    );
}

#[test]
fn questions_without_a_terminal_are_refused() {
    let world = World::new();
    let server = Server::start(Script::default());
    let mut command = world.shell("exec setsid \"$FORGE\" --local -m openai/x -p go --ask always");
    server.tell(&mut command);
    let actual = run(&mut command);
    assert_eq!(actual.code, Some(2));
    assert!(actual.stderr.contains("there is no terminal to ask on"), "{actual:?}");
}
