//! What a command does, for a real shell and for the fake alike.

use std::fmt::Write as _;
use std::time::Duration;

use forge_domain::{OutputStream, Program, Signal};
use serde::{Deserialize, Serialize};

/// One thing that a command does. Paths are relative to its working directory or absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Prints to stdout.
    Print(Vec<u8>),
    /// Prints to stderr.
    PrintError(Vec<u8>),
    /// Prints so many bytes `x` to stdout.
    PrintMany(u64),
    /// Prints the line `y` to stdout for ever.
    PrintForever,
    /// Copies stdin to stdout until its end.
    CopyStdin,
    /// Reads so many bytes of stdin and closes it.
    ReadAndCloseStdin(u64),
    /// Prints the value of a variable, without a newline.
    PrintVariable(String),
    /// Prints the working directory, without a newline.
    PrintDirectory,
    /// Prints a file to stdout.
    PrintFile(String),
    /// Waits for so many milliseconds.
    SleepMs(u64),
    /// Adds a byte to a file every 20 ms, for ever.
    TickForever(String),
    /// Writes a file.
    WriteFile(String, Vec<u8>),
    /// Makes a directory and its parents.
    MakeDirectory(String),
    /// Makes a symlink: target, path.
    Link(String, String),
    /// Makes a fifo.
    Fifo(String),
    /// Sets the permission bits of a file.
    Mode(u32, String),
    /// Removes a file.
    Remove(String),
    /// Prints a `t` for each of stdin, stdout and stderr that is a terminal, and a `-` for each other.
    PrintTerminals,
    /// Prints the size of the terminal: rows, a space, columns, a newline.
    PrintSize,
    /// From here on the terminal passes every byte on, in both directions, and shows none by itself.
    RawTerminal,
    /// Copies so many bytes of stdin to stdout.
    CopyBytes(u64),
    /// From here on, SIGTERM, SIGINT and SIGHUP do nothing.
    IgnoreSignals,
    /// From here on, this signal prints a text to stdout and exits with 0.
    OnSignal(i32, String),
    /// Leaves a child behind that does these things, with the same output.
    Leave(Vec<Self>),
    /// The same, in a session of its own, as daemons do.
    LeaveDaemon(Vec<Self>),
    /// Ends itself by a signal.
    KillSelf(i32),
    /// Ends with this code.
    Exit(u8),
}

/// A list of steps, one after the other; it ends with code 0 unless a step says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scenario {
    steps: Vec<Step>,
}

/// How a shell text begins that holds a scenario: a comment, for a real shell.
const MARK: &str = "#scenario ";

impl Scenario {
    /// A scenario of these steps.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect() }
    }

    /// Prints a text to stdout and ends.
    pub fn print(text: impl AsRef<[u8]>) -> Self {
        Self::new([Step::Print(text.as_ref().to_vec())])
    }

    /// Adds a step.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Adds a wait.
    #[must_use]
    pub fn then_sleep(self, time: Duration) -> Self {
        self.then(Step::SleepMs(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Adds a text on a stream.
    #[must_use]
    pub fn then_print(self, stream: OutputStream, text: impl AsRef<[u8]>) -> Self {
        let bytes = text.as_ref().to_vec();
        self.then(match stream {
            OutputStream::Stdout => Step::Print(bytes),
            OutputStream::Stderr => Step::PrintError(bytes),
        })
    }

    /// Adds an ending by a signal.
    #[must_use]
    pub fn then_kill_self(self, signal: Signal) -> Self {
        self.then(Step::KillSelf(signal.number()))
    }

    /// The scenario for the environment's shell.
    #[must_use]
    pub fn program(&self) -> Program {
        Program::shell(self.text())
    }

    /// The steps.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// A text for a POSIX shell: a comment that the fake reads, and code that a shell runs.
    #[must_use]
    pub fn text(&self) -> String {
        let steps = serde_json::to_string(&self.steps).unwrap();
        format!("{MARK}{steps}\n{}", code(&self.steps))
    }

    /// The scenario in a shell text, if it holds one.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        let steps = text.strip_prefix(MARK)?.lines().next()?;
        serde_json::from_str(steps).ok().map(|steps| Self { steps })
    }
}

fn code(steps: &[Step]) -> String {
    let mut code = String::new();
    for step in steps {
        code.push_str(&line(step));
        code.push('\n');
    }
    code
}

fn line(step: &Step) -> String {
    match step {
        Step::Print(bytes) => format!("printf {}", escaped(bytes)),
        Step::PrintError(bytes) => format!("printf {} >&2", escaped(bytes)),
        Step::PrintMany(bytes) => format!("head -c {bytes} /dev/zero | tr '\\0' x"),
        Step::PrintForever => "yes".to_owned(),
        Step::CopyStdin => "cat".to_owned(),
        Step::ReadAndCloseStdin(bytes) => format!("head -c {bytes} >/dev/null; exec 0<&-"),
        Step::PrintVariable(name) => format!("printf %s \"${name}\""),
        Step::PrintDirectory => "printf %s \"$(pwd)\"".to_owned(),
        Step::PrintFile(path) => format!("cat -- {}", quoted(path)),
        Step::SleepMs(ms) => format!("sleep {}.{:03}", ms / 1000, ms % 1000),
        Step::TickForever(path) => {
            format!("while :; do printf x >>{}; sleep 0.02; done", quoted(path))
        }
        Step::WriteFile(path, bytes) => format!("printf {} >{}", escaped(bytes), quoted(path)),
        Step::MakeDirectory(path) => format!("mkdir -p -- {}", quoted(path)),
        Step::Link(target, path) => format!("ln -s -- {} {}", quoted(target), quoted(path)),
        Step::Fifo(path) => format!("mkfifo -- {}", quoted(path)),
        Step::Mode(mode, path) => format!("chmod {mode:o} -- {}", quoted(path)),
        Step::Remove(path) => format!("rm -- {}", quoted(path)),
        Step::PrintTerminals => {
            "for n in 0 1 2; do if test -t $n; then printf t; else printf -- -; fi; done".to_owned()
        }
        Step::PrintSize => "stty size".to_owned(),
        Step::RawTerminal => "stty raw -echo".to_owned(),
        Step::CopyBytes(bytes) => format!("head -c {bytes}"),
        Step::IgnoreSignals => "trap '' TERM INT HUP".to_owned(),
        Step::OnSignal(signal, text) => {
            format!(
                "trap {} {signal}",
                quoted(&format!("printf {}; exit 0", escaped(text.as_bytes())))
            )
        }
        Step::Leave(steps) => format!("(\n{}) &", code(steps)),
        Step::LeaveDaemon(steps) => {
            // Without setsid(1), as on macOS, perl's is called; both are in the base systems.
            let inner = quoted(&code(steps));
            format!(
                "if command -v setsid >/dev/null; then setsid sh -c {inner} & \
                 else perl -MPOSIX -e 'setsid(); exec \"sh\", \"-c\", $ARGV[0]' {inner} & fi"
            )
        }
        Step::KillSelf(signal) => format!("kill -{signal} $$"),
        Step::Exit(code) => format!("exit {code}"),
    }
}

/// A word for `printf` that prints these bytes in every POSIX shell.
fn escaped(bytes: &[u8]) -> String {
    let mut word = String::from("'");
    for byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || b" ./-_:,".contains(byte);
        // A leading '-' would be read as an option.
        if plain && !(word == "'" && *byte == b'-') {
            word.push(char::from(*byte));
        } else {
            write!(word, "\\{byte:03o}").unwrap();
        }
    }
    word.push('\'');
    word
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_scenario_comes_back_out_of_its_text() {
        let expected = Scenario::print("a'b\n").then(Step::Leave(vec![Step::SleepMs(5)]));
        assert_eq!(Scenario::of_text(&expected.text()), Some(expected));
    }

    #[test]
    fn a_common_command_holds_no_scenario() {
        assert_eq!(Scenario::of_text("ls -la"), None);
    }

    #[test]
    fn every_byte_is_written_so_that_a_shell_prints_it() {
        let actual = escaped(&[b'-', b'a', b'\'', b'%', b'\\', 0, 255]);
        assert_eq!(actual, r"'\055a\047\045\134\000\377'");
    }
}
