//! From a request to what it does in the fake.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forge_domain::{CommandError, CommandRequest, DEFAULT_TERMINAL_KIND, OutputLimits, Program};

use super::environment::Inner;
use super::tree::{Last, Node, WORKSPACE};
use crate::{Scenario, Step};

/// A command that is ready to run.
pub(super) struct Prepared {
    pub(super) scenario: Scenario,
    pub(super) directory: PathBuf,
    pub(super) variables: HashMap<OsString, OsString>,
    pub(super) limits: OutputLimits,
    pub(super) time_limit: Option<Duration>,
    pub(super) grace: Duration,
}

/// Finds out what a request does, or why it cannot be started.
pub(super) fn prepare(inner: &Inner, request: &CommandRequest) -> Result<Prepared, CommandError> {
    let directory = match &request.working_directory {
        Some(directory) => Path::new(WORKSPACE).join(directory),
        None => PathBuf::from(WORKSPACE),
    };
    let resolved = inner.tree().resolve(&directory, &directory, Last::Follow).ok();
    let usable = resolved.filter(|path| inner.tree().get(path) == Some(&Node::Directory));
    let Some(usable) = usable else {
        return Err(CommandError::WorkingDirectory { path: directory, source: None });
    };
    let variables = inner.variables.iter().chain(&request.environment).map(|variable| {
        (variable.name().as_os_str().to_owned(), variable.value().expose().to_owned())
    });
    Ok(Prepared {
        scenario: scenario(inner, &request.program, &usable)?,
        directory: usable,
        variables: variables.collect(),
        limits: request.output_limits,
        time_limit: request.time_limit,
        grace: request.termination_grace,
    })
}

/// Says which kind of terminal it is, where nobody has.
pub(super) fn with_terminal_kind(mut prepared: Prepared) -> Prepared {
    let kind = || DEFAULT_TERMINAL_KIND.into();
    prepared.variables.entry("TERM".into()).or_insert_with(kind);
    prepared
}

fn scenario(inner: &Inner, program: &Program, directory: &Path) -> Result<Scenario, CommandError> {
    let words: Vec<&OsStr> = match program {
        Program::Argv { program, arguments } => {
            std::iter::once(program).chain(arguments).map(OsString::as_os_str).collect()
        }
        Program::Shell(text) => vec![text.as_os_str()],
    };
    if words.iter().any(|word| word.as_encoded_bytes().contains(&0)) {
        return Err(CommandError::Invalid { reason: "a word of it holds a NUL byte".to_owned() });
    }
    if words.first().is_none_or(|word| word.is_empty()) && matches!(program, Program::Argv { .. }) {
        return Err(CommandError::Invalid { reason: "the program is empty".to_owned() });
    }
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let text = words.join(" ");
    inner.record(text.clone());
    if let Some(scenario) = inner.scripted(&text) {
        return Ok(scenario);
    }
    match program {
        Program::Argv { program, .. } if words[0].contains('/') => {
            file_scenario(inner, program, directory)
        }
        Program::Argv { program, .. } => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            common(&words).ok_or_else(|| CommandError::NotFound { program: program.clone() })
        }
        Program::Shell(_) => {
            let words: Vec<&str> = text.split_whitespace().collect();
            let unknown = || {
                let name = words.first().copied().unwrap_or_default();
                let message = format!("sh: {name}: not found\n");
                Scenario::new([Step::PrintError(message.into_bytes()), Step::Exit(127)])
            };
            Ok(Scenario::of_text(&text).or_else(|| common(&words)).unwrap_or_else(unknown))
        }
    }
}

/// A program that lies in the tree: a script that holds a scenario.
fn file_scenario(
    inner: &Inner,
    program: &OsStr,
    directory: &Path,
) -> Result<Scenario, CommandError> {
    let not_executable =
        || CommandError::NotExecutable { program: program.to_owned(), source: None };
    let path = directory.join(program);
    let tree = inner.tree();
    let path = tree.resolve(&path, &path, Last::Follow).map_err(|_| not_executable())?;
    match tree.get(&path) {
        None => Err(CommandError::NotFound { program: program.to_owned() }),
        Some(Node::File { bytes, mode }) if mode & 0o111 != 0 => {
            let text = String::from_utf8_lossy(bytes);
            let script = text.strip_prefix("#!/bin/sh\n").and_then(Scenario::of_text);
            script.ok_or_else(not_executable)
        }
        Some(_) => Err(not_executable()),
    }
}

fn common(words: &[&str]) -> Option<Scenario> {
    let steps = match words {
        [] | ["true"] => Vec::new(),
        ["false"] => vec![Step::Exit(1)],
        ["exit", code] => vec![Step::Exit(code.parse().ok()?)],
        ["echo", rest @ ..] => vec![Step::Print(format!("{}\n", rest.join(" ")).into_bytes())],
        ["pwd"] => vec![Step::PrintDirectory, Step::Print(b"\n".to_vec())],
        ["cat"] => vec![Step::CopyStdin],
        ["cat", paths @ ..] => {
            paths.iter().map(|path| Step::PrintFile((*path).to_owned())).collect()
        }
        ["printenv", name] => {
            vec![Step::PrintVariable((*name).to_owned()), Step::Print(b"\n".to_vec())]
        }
        ["sleep", seconds] => {
            let ms = seconds.parse::<f64>().ok()? * 1000.0;
            vec![Step::SleepMs(Duration::from_secs_f64(ms / 1000.0).as_millis().try_into().ok()?)]
        }
        _ => return None,
    };
    Some(Scenario::new(steps))
}
