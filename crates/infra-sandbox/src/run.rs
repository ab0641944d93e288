//! A command in the session, from its start to its ending.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forge_command_io::{Pump, SpillMaker, Terminal, TerminalPump};
use forge_domain::{
    CommandController, CommandError, CommandExit, CommandIo, ControlRequest, ControlRequests,
    Ending, EnvironmentError, EnvironmentKind, OutputLimits, Resource, RetainedOutput, Signal,
    Stdin, StopMethod, TerminalIo,
};
use futures_util::StreamExt;
use rustix::net::SocketType;
use rustix::pipe::PipeFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::channel;
use crate::session::{CommandDescriptors, Session};
use crate::spec::{CommandEvent, CommandRequest, CommandSpec, EVENT_BYTES, LaunchStage};

/// What a run needs to know of its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunLimits {
    pub(crate) time_limit: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) output: OutputLimits,
    /// What a command is asked to end with.
    pub(crate) farewell: Signal,
}

impl RunLimits {
    /// Those of a request, for a command that is asked to end by SIGTERM.
    pub(crate) fn of(request: &forge_domain::CommandRequest) -> Self {
        Self {
            time_limit: request.time_limit,
            grace: request.termination_grace,
            output: request.output_limits,
            farewell: Signal::TERM,
        }
    }
}

/// What ends commands from outside.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// Cancelled when the environment is closed.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the session is taken down.
    pub(crate) ending: CancellationToken,
    /// Changes when the session has written more than it may.
    pub(crate) disk: watch::Receiver<u64>,
}

/// A command that is being executed. Dropping it ends the command.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The command's first process, as the command sees it.
    pub(crate) pid: u32,
    session: Arc<Session>,
    control: UnixStream,
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    memory_kills: u64,
}

/// A command that is being executed on a terminal. Dropping it ends the command.
#[derive(Debug)]
pub(crate) struct LaunchedOnTerminal {
    pub(crate) pid: u32,
    session: Arc<Session>,
    control: UnixStream,
    terminal: Terminal,
    memory_kills: u64,
}

/// Whether the command's stdin is a pipe, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    Nothing,
    Pipe,
}

/// Starts a command and waits until it is executed, or until it is known why not.
pub(crate) async fn launch(
    session: &Arc<Session>,
    command: &CommandSpec,
    input: Input,
) -> Result<Launched, CommandError> {
    let lost = |source| lost("the start of a command", source);
    let memory_kills = session.memory_kills();
    let (control, keeper) = channel::pair(SocketType::STREAM).map_err(lost)?;
    let (stdin, child_stdin) = match input {
        Input::Pipe => {
            let (reader, writer) = pipe_pair().map_err(lost)?;
            (Some(pipe::Sender::from_owned_fd(writer).map_err(lost)?), reader)
        }
        Input::Nothing => (None, nothing().map_err(lost)?),
    };
    let (stdout, child_stdout) = pipe_pair().map_err(lost)?;
    let (stderr, child_stderr) = pipe_pair().map_err(lost)?;
    let descriptors = CommandDescriptors {
        control: &keeper,
        streams: Some([&child_stdin, &child_stdout, &child_stderr]),
    };
    session.launch(command, &descriptors).map_err(lost)?;
    drop((keeper, child_stdin, child_stdout, child_stderr));
    let mut control = asynchronous(control).map_err(lost)?;
    let stdout = pipe::Receiver::from_owned_fd(stdout).map_err(lost)?;
    let stderr = pipe::Receiver::from_owned_fd(stderr).map_err(lost)?;
    match next_event(&mut control).await.map_err(lost)? {
        CommandEvent::Started { pid } => Ok(Launched {
            pid: pid.cast_unsigned(),
            session: Arc::clone(session),
            control,
            stdin,
            stdout,
            stderr,
            memory_kills,
        }),
        CommandEvent::Refused { stage, errno } => Err(refused(command, stage, errno)),
        CommandEvent::Ended { .. } => Err(lost(io::ErrorKind::InvalidData.into()).into()),
    }
}

/// The same for a command on a terminal, which the command's keeper makes.
pub(crate) async fn launch_on_terminal(
    session: &Arc<Session>,
    command: &CommandSpec,
) -> Result<LaunchedOnTerminal, CommandError> {
    let lost = |source| lost("the start of a command", source);
    let memory_kills = session.memory_kills();
    let (control, keeper) = channel::pair(SocketType::STREAM).map_err(lost)?;
    let descriptors = CommandDescriptors { control: &keeper, streams: None };
    session.launch(command, &descriptors).map_err(lost)?;
    drop(keeper);
    let control = asynchronous(control).map_err(lost)?;
    let (event, terminal) = first_event(&control).await.map_err(lost)?;
    match (event, terminal) {
        (CommandEvent::Started { pid }, Some(terminal)) => {
            let terminal = Terminal::new(terminal).map_err(lost)?;
            let (pid, session) = (pid.cast_unsigned(), Arc::clone(session));
            Ok(LaunchedOnTerminal { pid, session, control, terminal, memory_kills })
        }
        (CommandEvent::Refused { stage, errno }, _) => Err(refused(command, stage, errno)),
        (CommandEvent::Started { .. } | CommandEvent::Ended { .. }, _) => {
            Err(lost(io::ErrorKind::InvalidData.into()).into())
        }
    }
}

fn asynchronous(control: OwnedFd) -> io::Result<UnixStream> {
    let control = std::os::unix::net::UnixStream::from(control);
    control.set_nonblocking(true)?;
    UnixStream::from_std(control)
}

fn lost(operation: &str, source: io::Error) -> EnvironmentError {
    EnvironmentError::ContactLost {
        environment: EnvironmentKind::Sandbox,
        operation: operation.to_owned(),
        source: Some(Box::new(source)),
    }
}

fn refused(command: &CommandSpec, stage: LaunchStage, errno: i32) -> CommandError {
    let source = io::Error::from_raw_os_error(errno);
    let program = command.arguments.first().cloned().unwrap_or_default();
    match stage {
        LaunchStage::Sandbox => lost("the start of a command", source).into(),
        LaunchStage::Directory => CommandError::WorkingDirectory {
            path: command.directory.clone().into(),
            source: Some(source),
        },
        LaunchStage::NotFound => CommandError::NotFound { program },
        LaunchStage::Execute if source.kind() == io::ErrorKind::ArgumentListTooLong => {
            CommandError::Invalid { reason: "its arguments are too long for the kernel".to_owned() }
        }
        LaunchStage::Execute => CommandError::NotExecutable { program, source: Some(source) },
    }
}

/// Reading end, writing end.
fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// What a command reads that has no input.
fn nothing() -> io::Result<OwnedFd> {
    // Not the host's /dev/null: a command could change the mode of what it is given. An empty pipe
    // whose writing end is closed reads as its end as well.
    let (reader, writer) = pipe_pair()?;
    drop(writer);
    Ok(reader)
}

async fn next_event(control: &mut UnixStream) -> io::Result<CommandEvent> {
    let mut bytes = [0; EVENT_BYTES];
    control.read_exact(&mut bytes).await?;
    CommandEvent::decode(bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The first event, with the terminal that comes along with it.
async fn first_event(control: &UnixStream) -> io::Result<(CommandEvent, Option<OwnedFd>)> {
    loop {
        control.readable().await?;
        let receive = || channel::receive_at_most(EVENT_BYTES, control);
        let (bytes, mut descriptors) = match control.try_io(Interest::READABLE, receive) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            received => received?.ok_or(io::ErrorKind::UnexpectedEof)?,
        };
        // An event is written at once, and the first is all that there is then.
        let bytes = <[u8; EVENT_BYTES]>::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        let event = CommandEvent::decode(bytes).ok_or(io::ErrorKind::InvalidData)?;
        return Ok((event, descriptors.pop()));
    }
}

/// Follows a command to its end. Dropping the future ends it, by the end of its control socket.
pub(crate) async fn follow(
    launched: Launched,
    limits: RunLimits,
    io: CommandIo,
    spill: &SpillMaker,
    mut watch: Watch,
) -> CommandExit {
    let began = Instant::now();
    let Launched { session, control, stdin, stdout, stderr, memory_kills, .. } = launched;
    let ended = CancellationToken::new();
    let pump = Pump { sink: io.sink, limits: limits.output, spill, ended: ended.clone() };
    let supervision = async {
        let mut supervisor = Supervisor { control, requests: io.control, limits };
        let end = tokio::select! {
            biased;
            end = supervisor.run(&mut watch) => end,
            never = feed(stdin, io.stdin) => never,
        };
        ended.cancel();
        end
    };
    let (end, output) = tokio::join!(supervision, pump.run(stdout, stderr));
    exit(&session, began, memory_kills, end, output)
}

/// The same for a command on a terminal. Its end is told by `ended` before what is left is read.
pub(crate) async fn follow_on_terminal(
    launched: LaunchedOnTerminal,
    limits: RunLimits,
    io: TerminalIo,
    mut watch: Watch,
    ended: CancellationToken,
) -> CommandExit {
    let began = Instant::now();
    let LaunchedOnTerminal { session, control, terminal, memory_kills, .. } = launched;
    let (controller, requests) = CommandController::new();
    let pump = TerminalPump { terminal, io, controller, ended: ended.clone() };
    let supervision = async {
        let end = Supervisor { control, requests, limits }.run(&mut watch).await;
        ended.cancel();
        end
    };
    let (end, ()) = tokio::join!(supervision, pump.run());
    exit(&session, began, memory_kills, end, RetainedOutput::default())
}

fn exit(
    session: &Session,
    began: Instant,
    memory_kills: u64,
    end: End,
    output: RetainedOutput,
) -> CommandExit {
    let End { mut ending, stopped_by } = end;
    let killed = matches!(ending, Ending::Signalled(Signal::KILL) | Ending::Unknown);
    if killed && session.memory_kills() > memory_kills {
        ending = Ending::OutOfMemory;
    }
    let elapsed = began.elapsed();
    debug!(elapsed_ms = elapsed.as_millis(), ?ending, "A command ended.");
    CommandExit { ending, output, elapsed, stopped_by, notices: Vec::new() }
}

/// Gives the command its input and then the end of file. Never returns: the end of the input is not
/// the end of the command.
async fn feed(pipe: Option<pipe::Sender>, stdin: Stdin) -> End {
    if let (Some(mut pipe), Stdin::Stream(mut stream)) = (pipe, stdin) {
        while let Some(Ok(bytes)) = stream.next().await {
            // A broken pipe: the command wants no more.
            if pipe.write_all(&bytes).await.is_err() {
                break;
            }
        }
    }
    pending().await
}

/// How a command ended, and what that took.
#[derive(Debug)]
struct End {
    ending: Ending,
    stopped_by: Option<StopMethod>,
}

struct Supervisor {
    control: UnixStream,
    requests: ControlRequests,
    limits: RunLimits,
}

/// Why a command is being ended by us.
#[derive(Debug, Clone, Copy)]
enum Cause {
    TimeLimit(Duration),
    Cancelled,
    Disk,
}

enum Event {
    Ended(Ending),
    Signal(Signal),
    End(Cause),
}

impl Supervisor {
    async fn run(&mut self, watch: &mut Watch) -> End {
        let deadline =
            self.limits.time_limit.map(|limit| (limit, tokio::time::Instant::now() + limit));
        let mut events = EventReader::default();
        loop {
            match self.next(deadline, watch, &mut events).await {
                Event::Ended(ending) => return End { ending, stopped_by: None },
                Event::Signal(signal) => {
                    self.ask(CommandRequest::Signal(signal.number())).await;
                }
                Event::End(cause) => return self.end(cause, &mut events).await,
            }
        }
    }

    async fn next(
        &mut self,
        deadline: Option<(Duration, tokio::time::Instant)>,
        watch: &mut Watch,
        events: &mut EventReader,
    ) -> Event {
        let time_limit = async {
            match deadline {
                Some((limit, at)) => {
                    tokio::time::sleep_until(at).await;
                    limit
                }
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            ending = events.ending(&mut self.control) => Event::Ended(ending),
            request = next_request(&mut self.requests) => match request {
                ControlRequest::Signal(signal) => Event::Signal(signal),
                ControlRequest::Cancel => Event::End(Cause::Cancelled),
            },
            () = watch.closing.cancelled() => Event::End(Cause::Cancelled),
            () = watch.ending.cancelled() => Event::End(Cause::Cancelled),
            Ok(()) = watch.disk.changed() => Event::End(Cause::Disk),
            limit = time_limit => Event::End(Cause::TimeLimit(limit)),
        }
    }

    /// A keeper that is gone needs no request any more.
    async fn ask(&mut self, request: CommandRequest) {
        drop(self.control.write_all(&request.encode()).await);
    }

    /// SIGTERM or SIGHUP to all processes of the command, the grace period for all of them, SIGKILL to all.
    async fn end(&mut self, cause: Cause, events: &mut EventReader) -> End {
        let grace = match cause {
            // It goes on writing meanwhile.
            Cause::Disk => Duration::ZERO,
            Cause::TimeLimit(_) | Cause::Cancelled => self.limits.grace,
        };
        self.ask(CommandRequest::Terminate(self.limits.farewell.number())).await;
        let ended = tokio::time::timeout(grace, events.ending(&mut self.control)).await;
        let method = match ended {
            Ok(_) => StopMethod::Terminate,
            Err(_) => {
                self.ask(CommandRequest::Kill).await;
                events.ending(&mut self.control).await;
                StopMethod::Kill
            }
        };
        let ending = match cause {
            Cause::TimeLimit(limit) => Ending::TimedOut { limit },
            Cause::Cancelled => Ending::Cancelled,
            Cause::Disk => Ending::LimitExceeded(Resource::Disk),
        };
        End { ending, stopped_by: Some(method) }
    }
}

/// Reads events piece by piece, so that a read that is given up has lost nothing.
#[derive(Debug, Default)]
struct EventReader {
    bytes: [u8; EVENT_BYTES],
    filled: usize,
}

impl EventReader {
    /// The command's ending. Cancel safe.
    async fn ending(&mut self, control: &mut UnixStream) -> Ending {
        loop {
            match control.read(&mut self.bytes[self.filled..]).await {
                // The keeper is gone without a word: it was killed, and the command with it.
                Ok(0) | Err(_) => return Ending::Unknown,
                Ok(read) => self.filled += read,
            }
            if self.filled < EVENT_BYTES {
                continue;
            }
            self.filled = 0;
            if let Some(CommandEvent::Ended { status }) = CommandEvent::decode(self.bytes) {
                return of_status(status);
            }
        }
    }
}

/// The next thing that is asked; never, once nobody can ask any more.
async fn next_request(requests: &mut ControlRequests) -> ControlRequest {
    match requests.next().await {
        Some(request) => request,
        None => pending().await,
    }
}

fn of_status(status: i32) -> Ending {
    if libc::WIFEXITED(status) {
        return u8::try_from(libc::WEXITSTATUS(status)).map_or(Ending::Unknown, Ending::Exited);
    }
    match libc::WTERMSIG(status) {
        libc::SIGXFSZ => Ending::LimitExceeded(Resource::FileSize),
        signal => Signal::from_number(signal).map_or(Ending::Unknown, Ending::Signalled),
    }
}
