//! A command of git, run to its end in bounded time and memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use forge_domain::CommitsError;
use rustix::process::{Pid, Signal, kill_process_group};

/// No command runs for longer.
const TIME_LIMIT: Duration = Duration::from_secs(5 * 60);

/// No command says more; a ref takes about a hundred bytes.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024 * 1024;
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;

/// What a command reads.
pub(crate) enum Input {
    Nothing,
    Bytes(Vec<u8>),
    File(File),
}

/// Where its output goes.
pub(crate) enum Output {
    Kept,
    File(File),
    /// To a file; a command that writes more is ended.
    Limited(File, u64),
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Empty where it went to a file.
    pub(crate) stdout: Vec<u8>,
    /// What went wrong, for people: the last line of what it said.
    pub(crate) message: String,
}

impl Ended {
    /// The output of a command that did what it was asked to.
    pub(crate) fn success(self, command: &'static str) -> Result<Vec<u8>, CommitsError> {
        match self.status.success() {
            true => Ok(self.stdout),
            false => Err(CommitsError::Git { command, reason: self.message }),
        }
    }

    /// The same of a command that looks at what came out of a session.
    pub(crate) fn accepted(self) -> Result<Vec<u8>, CommitsError> {
        match self.status.success() {
            true => Ok(self.stdout),
            false => Err(CommitsError::Refused { reason: self.message }),
        }
    }
}

/// Runs it. Its name is for messages.
pub(crate) fn run(
    mut command: Command,
    name: &'static str,
    input: Input,
    output: Output,
) -> Result<Ended, CommitsError> {
    let bytes = match input {
        Input::Nothing => Vec::new(),
        Input::Bytes(bytes) => {
            command.stdin(Stdio::piped());
            bytes
        }
        Input::File(file) => {
            command.stdin(Stdio::from(file));
            Vec::new()
        }
    };
    let mut limit = None;
    match output {
        Output::Kept => {}
        Output::File(file) => {
            command.stdout(Stdio::from(file));
        }
        Output::Limited(file, max_bytes) => {
            limit = file.try_clone().ok().map(|file| (file, max_bytes));
            command.stdout(Stdio::from(file));
        }
    }
    let is_too_much = || {
        let length = |file: &File| file.metadata().map_or(0, |found| found.len());
        limit.as_ref().is_some_and(|(file, max_bytes)| length(file) > *max_bytes)
    };
    let mut child = command.spawn().map_err(|source| {
        let path = command.get_program().into();
        CommitsError::Io { operation: "starting", path, source }
    })?;
    let stdin = child.stdin.take();
    let writer = thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A command that ended early says why by itself.
            drop(stdin.write_all(&bytes));
        }
    });
    let stdout = reader(child.stdout.take(), MAX_OUTPUT_BYTES);
    let stderr = reader(child.stderr.take(), MAX_MESSAGE_BYTES);
    let status = wait(&mut child, is_too_much);
    if status.is_none() {
        end(&mut child);
    }
    // What reads and writes its pipes ends with it.
    drop(writer.join());
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    let status = status.ok_or(CommitsError::TimedOut { command: name })?;
    let text = String::from_utf8_lossy(&stderr);
    let message = said(&text).unwrap_or_else(|| status.to_string());
    if stdout.len() as u64 > MAX_OUTPUT_BYTES {
        return Err(CommitsError::Git { command: name, reason: "it said too much".to_owned() });
    }
    Ok(Ended { status, stdout, message })
}

/// The first line that says what went wrong, else the last one that says anything.
fn said(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let wrong = lines.clone().find_map(|line| {
        let kinds = ["error: ", "fatal: "];
        kinds.iter().find_map(|kind| line.strip_prefix(kind))
    });
    wrong.or_else(|| lines.next_back()).map(str::to_owned)
}

fn reader<R: Read + Send + 'static>(
    pipe: Option<R>,
    max_bytes: u64,
) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // One byte more tells that there was more; the rest is read, so that nobody waits for it.
            drop(pipe.by_ref().take(max_bytes + 1).read_to_end(&mut bytes));
            drop(io::copy(&mut pipe, &mut io::sink()));
        }
        bytes
    })
}

/// Its end; `None` where that did not come in time, or before it had written too much.
fn wait(child: &mut Child, is_too_much: impl Fn() -> bool) -> Option<ExitStatus> {
    let begin = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if begin.elapsed() < TIME_LIMIT && !is_too_much() => thread::sleep(pause),
            Ok(None) | Err(_) => return None,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Ends it, and what it has started.
fn end(child: &mut Child) {
    if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
        // It may have ended just now.
        let _ = kill_process_group(group, Signal::KILL);
    }
    drop(child.kill());
    drop(child.wait());
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn of_what_a_command_said_the_trouble_is_kept() {
        let text = "remote: hm\nerror: object 12: hasDotgit\nfatal: fsck error\n";
        assert_eq!(said(text).unwrap(), "object 12: hasDotgit");
        assert_eq!(said("a\nb\n\n").unwrap(), "b");
        assert_eq!(said("\n"), None);
    }
}
