//! The port for commands on a terminal: an interactive shell, an editor.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures_channel::mpsc;
use futures_core::Stream;

use crate::{CommandError, CommandExit, CommandRequest, OutputSink, Signal};

/// The kind of terminal (`TERM`) that a command finds where nobody says another.
pub const DEFAULT_TERMINAL_KIND: &str = "xterm-256color";

/// The size of a terminal in characters: 1 to 1000 columns and 1 to 500 rows, which every environment
/// can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TerminalSize {
    columns: u16,
    rows: u16,
}

impl TerminalSize {
    /// The most columns.
    pub const MAX_COLUMNS: u16 = 1000;
    /// The most rows.
    pub const MAX_ROWS: u16 = 500;

    /// Takes a size; what is beyond a bound becomes that bound.
    #[must_use]
    pub fn new(columns: u16, rows: u16) -> Self {
        Self { columns: columns.clamp(1, Self::MAX_COLUMNS), rows: rows.clamp(1, Self::MAX_ROWS) }
    }

    /// How many characters are in a row.
    #[must_use]
    pub fn columns(self) -> u16 {
        self.columns
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(self) -> u16 {
        self.rows
    }
}

impl Default for TerminalSize {
    /// 80 columns and 24 rows.
    fn default() -> Self {
        Self::new(80, 24)
    }
}

/// What is asked of a command on a terminal while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminalRequest {
    /// The terminal has this size now. The processes in its foreground are told (SIGWINCH).
    Resize(TerminalSize),
    /// Send this signal to the command and the processes of its own group. What a shell with job control
    /// has put into other groups is reached by keys alone: the byte 0x03, and so on.
    Signal(Signal),
    /// End the command: hang up (SIGHUP), the grace period, SIGKILL. Its ending is
    /// [`Ending::Cancelled`](crate::Ending::Cancelled).
    Cancel,
}

/// The caller's end: asks things of a command on a terminal. Clones speak to the same command.
///
/// Dropping it asks nothing. A request to a command that has ended goes nowhere, silently.
#[derive(Debug, Clone)]
pub struct TerminalController {
    requests: mpsc::UnboundedSender<TerminalRequest>,
}

impl TerminalController {
    /// Makes a controller and the stream that goes into the command's [`TerminalIo`].
    #[must_use]
    pub fn new() -> (Self, TerminalRequests) {
        let (sender, receiver) = mpsc::unbounded();
        (Self { requests: sender }, TerminalRequests { receiver: Some(receiver) })
    }

    /// Gives the terminal another size.
    pub fn resize(&self, size: TerminalSize) {
        self.send(TerminalRequest::Resize(size));
    }

    /// Sends a signal; see [`TerminalRequest::Signal`].
    pub fn signal(&self, signal: Signal) {
        self.send(TerminalRequest::Signal(signal));
    }

    /// Ends the command; see [`TerminalRequest::Cancel`].
    pub fn cancel(&self) {
        self.send(TerminalRequest::Cancel);
    }

    fn send(&self, request: TerminalRequest) {
        // A closed channel means that the command has ended: there is nobody left to ask.
        drop(self.requests.unbounded_send(request));
    }
}

/// The command's end: a stream of requests. It ends when every controller is gone, which asks nothing.
#[derive(Debug)]
pub struct TerminalRequests {
    receiver: Option<mpsc::UnboundedReceiver<TerminalRequest>>,
}

impl TerminalRequests {
    /// A stream on which nobody ever asks anything; it is over at once.
    #[must_use]
    pub fn none() -> Self {
        Self { receiver: None }
    }
}

impl Stream for TerminalRequests {
    type Item = TerminalRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.receiver {
            Some(receiver) => Pin::new(receiver).poll_next(context),
            None => Poll::Ready(None),
        }
    }
}

/// What is typed: bytes as a terminal sends them for keys. Its end says that nobody types any more, and
/// is no end of file; that is the key Ctrl-D, the byte 0x04.
pub type TerminalInput = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// What a command on a terminal is connected to.
pub struct TerminalIo {
    /// What is typed. The environment reads no further ahead than the terminal takes.
    pub input: TerminalInput,
    /// Where goes what is to be shown: everything comes as [`OutputStream::Stdout`]. A sink that is
    /// closed is a terminal that is gone: the command is ended as by [`TerminalRequest::Cancel`].
    ///
    /// [`OutputStream::Stdout`]: crate::OutputStream::Stdout
    pub sink: Box<dyn OutputSink>,
    /// What the caller asks of the command while it runs.
    pub control: TerminalRequests,
}

impl fmt::Debug for TerminalIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TerminalIo").finish_non_exhaustive()
    }
}

/// Runs commands on a terminal.
#[async_trait]
pub trait Terminals: Send + Sync {
    /// Runs one command on a terminal of its own (a pseudo-terminal), shows what it prints, and waits for
    /// its end.
    ///
    /// Guarantees:
    /// * Its stdin, stdout and stderr are the terminal, which is its controlling terminal and belongs to
    ///   the environment: never one of the host's. It has the given size when the command begins.
    /// * The terminal begins as terminals do: it echoes, works in lines, and makes signals of the keys
    ///   Ctrl-C, Ctrl-\ and Ctrl-Z (bytes 0x03, 0x1c, 0x1a), which reach the processes in its foreground.
    ///   The command may change that.
    /// * `TERM` is what the request says, else what the environment's own variables say, else
    ///   [`DEFAULT_TERMINAL_KIND`].
    /// * Every byte arrives, in both directions, as the terminal takes and makes it. The command waits
    ///   for the sink. What was asked before something was typed is there before it.
    /// * What the command printed before its end has gone to the sink before this returns. The result
    ///   holds no output: [`CommandRequest::output_limits`] and [`CommandRequest::fidelity`] do not apply.
    /// * Processes that it leaves behind are ended with it, as in [`Commands::run`](crate::Commands::run).
    /// * At the time limit, and when the caller cancels: the terminal hangs up (SIGHUP, since interactive
    ///   shells ignore SIGTERM), the grace period, SIGKILL to everything. [`StopMethod::Terminate`] says
    ///   that it ended within its grace.
    /// * A command that was started is never started again.
    ///
    /// Bounded by the request's time limit and grace, the sink, and the environment's start limit;
    /// without a time limit, by the command alone.
    ///
    /// [`StopMethod::Terminate`]: crate::StopMethod::Terminate
    ///
    /// # Errors
    /// [`CommandError`]: it did not run. Everything that happens after the start is an
    /// [`Ending`](crate::Ending).
    ///
    /// # Cancel safety
    /// Dropping the future ends the command with SIGKILL, and everything that it started, in remote
    /// environments too, in the background and without blocking.
    async fn run_on_terminal(
        &self,
        request: CommandRequest,
        size: TerminalSize,
        io: TerminalIo,
    ) -> Result<CommandExit, CommandError>;
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_size_stays_within_its_bounds() {
        let actual = [(80, 24), (0, 0), (u16::MAX, u16::MAX)]
            .map(|(columns, rows)| TerminalSize::new(columns, rows))
            .map(|size| (size.columns(), size.rows()));
        assert_eq!(actual, [(80, 24), (1, 1), (1000, 500)]);
        assert_eq!(TerminalSize::default(), TerminalSize::new(80, 24));
    }
}
