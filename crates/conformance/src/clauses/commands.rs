//! Commands: what is run, where, and with what.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use forge_domain::{
    CommandError, CommandIo, CommandRequest, Ending, EnvironmentVariable, Fidelity, Program,
    Signal, VariableName,
};
use futures_util::future::join_all;
use pretty_assertions::assert_eq;

pub use super::endings::*;
use super::probe::{Environment, request, run, run_request, stdout, text, write};
pub use super::streams::*;
use crate::{Scenario, Step};

fn argv(program: &str, arguments: &[&str]) -> CommandRequest {
    CommandRequest::new(Program::argv(program, arguments.iter().copied()))
}

fn variable(name: &str, value: impl Into<OsString>) -> EnvironmentVariable {
    EnvironmentVariable::new(VariableName::parse(name).unwrap(), value).unwrap()
}

async fn refused(environment: &Environment, request: CommandRequest) -> CommandError {
    environment.run(request, CommandIo::detached()).await.unwrap_err()
}

/// Codes 0 to 255 come back as they are.
pub async fn exit_codes_come_back(environment: Environment) {
    for code in [0, 1, 2, 126, 127, 128, 255] {
        let exit = run(&environment, &Scenario::new([Step::Exit(code)])).await;
        assert_eq!(exit.ending, Ending::Exited(code));
        assert_eq!(exit.stopped_by, None);
    }
}

/// A signal is an ending of its own, never a code.
pub async fn signals_come_back(environment: Environment) {
    for signal in [Signal::KILL, Signal::TERM] {
        let exit = run(&environment, &Scenario::default().then_kill_self(signal)).await;
        assert_eq!(exit.ending, Ending::Signalled(signal));
        assert_eq!(exit.stopped_by, None);
    }
}

/// An argv is passed on word by word; no shell looks at it.
pub async fn an_argv_needs_no_quoting(environment: Environment) {
    let exit = run_request(&environment, argv("echo", &["a b", "$HOME", "*", "'"])).await;
    assert_eq!(text(&exit), "a b $HOME * '\n");
}

/// An empty argument is an argument.
pub async fn an_empty_argument_stays_one(environment: Environment) {
    let exit = run_request(&environment, argv("echo", &["a", "", "b"])).await;
    assert_eq!(text(&exit), "a  b\n");
}

/// What does not exist was not started.
pub async fn a_missing_program_is_not_found(environment: Environment) {
    for program in ["no-such-program-anywhere", "./no-such-program", "/no/such/program"] {
        let error = refused(&environment, argv(program, &[])).await;
        assert!(
            matches!(&error, CommandError::NotFound { program: p } if p == program),
            "{error:?}"
        );
    }
}

/// A file without the right to execute is found and cannot be executed.
pub async fn a_program_without_the_right_is_not_executable(environment: Environment) {
    write(&environment, "plain", b"#!/bin/sh\necho no\n").await;
    let error = refused(&environment, argv("./plain", &[])).await;
    assert!(matches!(error, CommandError::NotExecutable { .. }), "{error:?}");
}

/// Nor can a directory.
pub async fn a_directory_is_not_executable(environment: Environment) {
    run(&environment, &Scenario::new([Step::MakeDirectory("directory".into())])).await;
    let error = refused(&environment, argv("./directory", &[])).await;
    assert!(matches!(error, CommandError::NotExecutable { .. }), "{error:?}");
}

/// A missing working directory is named, whatever the program.
pub async fn a_missing_directory_is_named(environment: Environment) {
    for program in ["echo", "no-such-program-anywhere"] {
        let request = argv(program, &[]).working_directory("nowhere");
        let error = refused(&environment, request).await;
        let CommandError::WorkingDirectory { path, .. } = &error else { panic!("{error:?}") };
        assert!(path.ends_with("nowhere"), "{path:?}");
    }
}

/// A file is no working directory.
pub async fn a_file_as_directory_is_named(environment: Environment) {
    write(&environment, "file", b"").await;
    let error = refused(&environment, argv("echo", &[]).working_directory("file")).await;
    assert!(matches!(error, CommandError::WorkingDirectory { .. }), "{error:?}");
}

/// No program is no command.
pub async fn an_empty_program_is_invalid(environment: Environment) {
    let error = refused(&environment, argv("", &[])).await;
    assert!(matches!(error, CommandError::Invalid { .. }), "{error:?}");
}

/// The kernel's strings end at NUL, so none can hold one.
pub async fn a_nul_byte_is_invalid(environment: Environment) {
    for request in [
        argv("echo\0", &[]),
        argv("echo", &["a\0b"]),
        CommandRequest::new(Program::shell("echo a\0b")),
    ] {
        let error = refused(&environment, request).await;
        assert!(matches!(error, CommandError::Invalid { .. }), "{error:?}");
    }
}

/// A script that was written through the file port and made executable runs.
pub async fn a_written_script_runs(environment: Environment) {
    let script = format!("#!/bin/sh\n{}", Scenario::print("ran").text());
    write(&environment, "script", script.as_bytes()).await;
    run(&environment, &Scenario::new([Step::Mode(0o755, "script".into())])).await;
    let request = argv("./script", &[]).fidelity(Fidelity::Exact);
    let exit = run_request(&environment, request).await;
    assert_eq!((exit.ending.clone(), text(&exit)), (Ending::Exited(0), "ran".to_owned()));
}

/// Without a directory in the request, commands run in the description's.
pub async fn commands_start_in_the_working_directory(environment: Environment) {
    let expected = environment.describe().await.unwrap().working_directory;
    let exit = run(&environment, &Scenario::new([Step::PrintDirectory])).await;
    assert_eq!(stdout(&exit), expected.as_os_str().as_bytes());
}

/// A relative directory counts from there.
pub async fn a_relative_directory_is_taken_from_there(environment: Environment) {
    run(&environment, &Scenario::new([Step::MakeDirectory("a/b".into())])).await;
    let expected = environment.describe().await.unwrap().working_directory.join("a/b");
    let request =
        request(&Scenario::new([Step::PrintDirectory])).working_directory(PathBuf::from("a/b"));
    let exit = run_request(&environment, request).await;
    assert_eq!(stdout(&exit), expected.as_os_str().as_bytes());
}

/// A variable of the request reaches the command.
pub async fn variables_reach_the_command(environment: Environment) {
    let scenario = Scenario::new([Step::PrintVariable("CLAUSE".into())]);
    let request = request(&scenario).environment(vec![variable("CLAUSE", "holds")]);
    assert_eq!(text(&run_request(&environment, request).await), "holds");
}

/// Of two with one name, the last counts.
pub async fn the_last_variable_of_a_name_wins(environment: Environment) {
    let scenario = Scenario::new([Step::PrintVariable("CLAUSE".into())]);
    let variables = vec![variable("CLAUSE", "first"), variable("CLAUSE", "last")];
    let exit = run_request(&environment, request(&scenario).environment(variables)).await;
    assert_eq!(text(&exit), "last");
}

/// Newlines, quotes, an equals sign, the empty text.
pub async fn a_variable_holds_any_text(environment: Environment) {
    for value in ["a\nb", "a=b", "'\"$x`", "", "  "] {
        let scenario = Scenario::new([Step::PrintVariable("CLAUSE".into())]);
        let request = request(&scenario).environment(vec![variable("CLAUSE", value)]);
        assert_eq!(text(&run_request(&environment, request).await), value);
    }
    let odd = OsString::from_vec(vec![b'a', 0x80, 0xff]);
    let scenario = Scenario::new([Step::PrintVariable("CLAUSE".into())]);
    let request = request(&scenario).environment(vec![variable("CLAUSE", odd.clone())]);
    assert_eq!(stdout(&run_request(&environment, request).await), odd.as_bytes());
}

/// Twenty commands at the same time, each with its own output, also as the first use.
pub async fn twenty_commands_run_at_once(environment: Environment) {
    let one = |number: usize| {
        let environment = environment.clone();
        async move {
            let scenario = Scenario::default()
                .then(Step::SleepMs(50))
                .then(Step::Print(format!("{number}").into_bytes()));
            text(&run(&environment, &scenario).await)
        }
    };
    let actual = join_all((0..20).map(one)).await;
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(actual, expected);
}

/// Commands share one tree.
pub async fn what_a_command_writes_the_next_one_reads(environment: Environment) {
    run(&environment, &Scenario::new([Step::WriteFile("shared".into(), b"one".to_vec())])).await;
    let exit = run(&environment, &Scenario::new([Step::PrintFile("shared".into())])).await;
    assert_eq!(text(&exit), "one");
}
