//! The command port: run one command to its end.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use derive_setters::Setters;
use futures_core::Stream;
use thiserror::Error;

use crate::{
    ControlRequests, DiscardOutput, EnvironmentError, EnvironmentVariable, OutputLimits,
    OutputSink, RetainedOutput,
};

/// How long a command has between SIGTERM and SIGKILL when it is ended: two seconds.
pub const DEFAULT_TERMINATION_GRACE: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments, without a shell. A program without a slash is looked up in the
    /// environment's own `PATH`.
    Argv {
        /// The program.
        program: OsString,
        /// Its arguments, without the program itself.
        arguments: Vec<OsString>,
    },
    /// A text for the environment's shell (`sh -c TEXT`, with the shell of the description).
    Shell(OsString),
}

impl Program {
    /// A program with arguments.
    pub fn argv<A: Into<OsString>>(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self::Argv { program: program.into(), arguments }
    }

    /// A text for the shell.
    pub fn shell(text: impl Into<OsString>) -> Self {
        Self::Shell(text.into())
    }
}

/// How faithful the output has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fidelity {
    /// For reading: streamed as soon as it can be had. An environment whose transport works in lines
    /// (see [`Capabilities::streams_exact_bytes`](crate::Capabilities)) may lose a missing final
    /// newline or a carriage return before it, and may replace invalid UTF-8.
    #[default]
    Readable,
    /// Every byte as the command wrote it, in every environment.
    Exact,
}

/// A command to run. Everything but the program has a default.
#[derive(Debug, Clone, Setters)]
#[setters(strip_option, into)]
pub struct CommandRequest {
    /// What to run.
    #[setters(skip)]
    pub program: Program,
    /// Where to run it: absolute, or relative to the environment's working directory, which is also
    /// the default.
    pub working_directory: Option<PathBuf>,
    /// Variables on top of those that the environment gives every command; the last of a name wins.
    pub environment: Vec<EnvironmentVariable>,
    /// How long it may run. Default: no limit.
    pub time_limit: Option<Duration>,
    /// How long it has between SIGTERM and SIGKILL. Default: [`DEFAULT_TERMINATION_GRACE`].
    pub termination_grace: Duration,
    /// How much output the result keeps. Default: [`OutputLimits::default`].
    pub output_limits: OutputLimits,
    /// How faithful the output has to be. Default: [`Fidelity::Readable`].
    pub fidelity: Fidelity,
}

impl CommandRequest {
    /// Runs this program with every default.
    #[must_use]
    pub fn new(program: Program) -> Self {
        Self {
            program,
            working_directory: None,
            environment: Vec::new(),
            time_limit: None,
            termination_grace: DEFAULT_TERMINATION_GRACE,
            output_limits: OutputLimits::default(),
            fidelity: Fidelity::default(),
        }
    }
}

/// What a command reads.
pub enum Stdin {
    /// Nothing: it reads the end of file at once, as from `/dev/null`.
    Empty,
    /// These bytes as they come, then the end of file. An `Err` item ends the input there.
    ///
    /// The environment reads no further ahead than a pipe would, and stops when the command closes
    /// its stdin or ends; the rest of the stream is then dropped, which is no error.
    Stream(Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>),
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Stdin::Empty",
            Self::Stream(_) => "Stdin::Stream(..)",
        })
    }
}

/// What a running command is connected to.
pub struct CommandIo {
    /// What it reads.
    pub stdin: Stdin,
    /// Where its output goes as it comes.
    pub sink: Box<dyn OutputSink>,
    /// What the caller asks of it while it runs.
    pub control: ControlRequests,
}

impl CommandIo {
    /// Reads nothing, streams nowhere, is asked nothing: only the result counts.
    #[must_use]
    pub fn detached() -> Self {
        Self {
            stdin: Stdin::Empty,
            sink: Box::new(DiscardOutput),
            control: ControlRequests::none(),
        }
    }
}

impl fmt::Debug for CommandIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandIo").field("stdin", &self.stdin).finish_non_exhaustive()
    }
}

/// The number of a Unix signal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self(1);
    /// SIGINT, what Ctrl-C sends.
    pub const INT: Self = Self(2);
    /// SIGQUIT.
    pub const QUIT: Self = Self(3);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGPIPE.
    pub const PIPE: Self = Self(13);
    /// SIGTERM.
    pub const TERM: Self = Self(15);

    /// Takes a number from 1 to 64, the signals that Linux has.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        if number >= 1 && number <= 64 { Some(Self(number)) } else { None }
    }

    /// The number, from 1 to 64.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// The name without `SIG`, for the signals whose number is the same on every Unix.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "HUP",
            2 => "INT",
            3 => "QUIT",
            4 => "ILL",
            5 => "TRAP",
            6 => "ABRT",
            8 => "FPE",
            9 => "KILL",
            11 => "SEGV",
            13 => "PIPE",
            14 => "ALRM",
            15 => "TERM",
            _ => return None,
        })
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signal({self})")
    }
}

/// A limit of the environment that a command can run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// The size of one file.
    FileSize,
    /// The space for everything that the session writes.
    Disk,
}

/// How a command ended. Every way has a name; none is mapped onto another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It ended by itself with this code, 0 to 255.
    Exited(u8),
    /// A signal ended it that neither [`ControlRequest::Cancel`](crate::ControlRequest::Cancel) nor
    /// the time limit sent.
    Signalled(Signal),
    /// It ran for longer than its limit and was ended.
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The caller cancelled it and it was ended.
    Cancelled,
    /// The kernel ended it since the memory that the environment allows was used up. Said only
    /// where the kernel tells.
    OutOfMemory,
    /// It ran into another limit of the environment and was ended. Said only where the kernel or
    /// the environment tells.
    LimitExceeded(Resource),
    /// It has ended, and the environment does not know how: never taken for success.
    Unknown,
    /// The environment can no longer be reached; the command may still be running there.
    ContactLost {
        /// What names the command there, for a person who wants to look (`pid 4711`), where known.
        command: Option<String>,
        /// What went wrong, for a person.
        cause: String,
    },
}

impl Ending {
    /// Whether the command did what it was asked to: it exited by itself with 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Self::Exited(0)
    }
}

/// What it took to end a command that did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMethod {
    /// It ended within its grace period after SIGTERM.
    Terminate,
    /// It had to be killed.
    Kill,
}

/// Something about the environment that the caller and the model should know along with a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The environment had to be made anew before this command: files and background commands of
    /// before are gone.
    EnvironmentRecreated {
        /// Why, for a person.
        reason: String,
    },
}

/// The end of a command, with the output there was. Also partial output is here: of a command that
/// timed out, was cancelled, or whose contact was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandExit {
    /// How it ended.
    pub ending: Ending,
    /// What it wrote, within the request's limits.
    pub output: RetainedOutput,
    /// From its start to its end.
    pub elapsed: Duration,
    /// What it took to end it, where it did not end by itself.
    pub stopped_by: Option<StopMethod>,
    /// What else there is to know.
    pub notices: Vec<Notice>,
}

/// Why a command was not started. A command that was started always has a [`CommandExit`].
#[derive(Debug, Error)]
pub enum CommandError {
    /// There is no such program. The shells' code for it is 127.
    #[error("{program:?} was not found")]
    NotFound {
        /// The program as it was given.
        program: OsString,
    },
    /// The program is there and cannot be executed: not executable, a directory, a wrong format.
    /// The shells' code for it is 126.
    #[error("{program:?} cannot be executed")]
    NotExecutable {
        /// The program as it was given.
        program: OsString,
        /// The operating system's reason.
        #[source]
        source: Option<io::Error>,
    },
    /// The working directory is missing, is no directory, or cannot be entered.
    #[error("the working directory {path:?} cannot be used")]
    WorkingDirectory {
        /// The directory as it was asked for.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: Option<io::Error>,
    },
    /// The request cannot be carried out as it is: an empty program, a NUL byte, arguments that are
    /// too long for the kernel or that the environment's transport cannot carry.
    #[error("the command cannot be started: {reason}")]
    Invalid {
        /// What is wrong with it, for a person.
        reason: String,
    },
    /// The environment failed; the command did not run.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

/// Runs commands to their end.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Runs one command, streams its output to the sink as it comes, and waits for its end.
    ///
    /// Guarantees:
    /// * The command leads a process group (or a stronger grouping) of its own and has no
    ///   controlling terminal of the host.
    /// * All output goes to the sink in order of arrival per stream before this returns, and what
    ///   [`OutputLimits`] allow is in the result, whatever the ending.
    /// * Processes that the command leaves behind are ended with it (SIGKILL), and an output pipe
    ///   that one of them holds open does not delay the return. Whether that holds for daemons too
    ///   is a capability; see [`Capabilities`](crate::Capabilities).
    /// * At the time limit, and when the caller cancels: SIGTERM to the whole group, the grace
    ///   period, SIGKILL to the whole group. The limit counts from the start of the command, not
    ///   from the call; making the environment has a limit of its own.
    /// * A command that was started is never started again.
    ///
    /// Bounded by the request's time limit and grace, the sink, and the environment's start limit;
    /// without a time limit, by the command alone.
    ///
    /// # Errors
    /// [`CommandError`]: it did not run. Everything that happens after the start is an [`Ending`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the command with SIGKILL to its group, in remote environments too,
    /// in the background and without blocking. Output that was not yet given to the sink is lost.
    /// Whoever wants the output of a command they end sends
    /// [`ControlRequest::Cancel`](crate::ControlRequest::Cancel) and goes on waiting.
    async fn run(
        &self,
        request: CommandRequest,
        io: CommandIo,
    ) -> Result<CommandExit, CommandError>;
}
