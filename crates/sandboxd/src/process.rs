//! One process of a sandbox, from its start to long after its end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use forge_domain::{
    CommandController, CommandIo, CommandRequest, Ending, EnvironmentVariable, OutputLimits,
    Program, Signal, Stdin, VariableName,
};
use forge_infra_sandbox::{SandboxEnvironment, StartedInput};
use tokio::sync::{mpsc, watch};

use crate::failure::Failure;
use crate::log::{Keep, Log, SharedSink};
use crate::wire::{
    ExitEvent, OutputMode, ProcessResponse, StartProcessRequest, StdinMode, UserRequest, now_ms,
};

/// The longest time limit: clocks do not reach further.
const MAX_TIME_LIMIT: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How a process ended, and when.
#[derive(Debug, Clone)]
pub(crate) struct End {
    ending: Ending,
    at_ms: u64,
}

impl End {
    pub(crate) fn event(&self) -> ExitEvent {
        let plain =
            |exit_code, signal, reason| ExitEvent { exit_code, signal, oom_killed: false, reason };
        let kill = Some(Signal::KILL.number());
        match &self.ending {
            Ending::Exited(code) => plain(Some(i32::from(*code)), None, Some("exited")),
            Ending::Signalled(signal) => plain(None, Some(signal.number()), Some("signaled")),
            Ending::TimedOut { .. } => plain(None, kill, Some("timed_out")),
            // The sandbox was ended, or its disk was full.
            Ending::Cancelled | Ending::LimitExceeded(_) => plain(None, kill, Some("signaled")),
            Ending::OutOfMemory => {
                ExitEvent { oom_killed: true, ..plain(None, kill, Some("oom_killed")) }
            }
            // What the interface has for "not known".
            Ending::Unknown | Ending::ContactLost { .. } => plain(Some(-1), None, None),
        }
    }

    fn status(&self) -> &'static str {
        match &self.ending {
            Ending::Exited(_) | Ending::Unknown | Ending::ContactLost { .. } => "exited",
            Ending::OutOfMemory => "oom_killed",
            Ending::Signalled(_)
            | Ending::TimedOut { .. }
            | Ending::Cancelled
            | Ending::LimitExceeded(_) => "signaled",
        }
    }
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    command: String,
    args: Vec<String>,
    started_ms: u64,
    pub(crate) log: Arc<Log>,
    controller: CommandController,
    /// Whoever takes it away gives the process the end of its input.
    stdin: Mutex<Option<mpsc::Sender<Bytes>>>,
    /// Held by whoever writes, so that two bodies do not mix.
    writing: tokio::sync::Mutex<()>,
    end: watch::Sender<Option<End>>,
}

/// Where the output of processes goes and how much of it is kept.
#[derive(Debug, Clone)]
pub(crate) struct OutputPlace {
    pub(crate) directory: PathBuf,
    pub(crate) kept_bytes: u64,
}

impl Process {
    /// Starts one and follows it to its end, whoever asks meanwhile.
    ///
    /// # Cancel safety
    /// Dropping the future before it returns ends what it has started.
    pub(crate) async fn start(
        environment: &SandboxEnvironment,
        request: StartProcessRequest,
        place: &OutputPlace,
    ) -> Result<Arc<Self>, Failure> {
        refuse_unsupported(&request)?;
        if let Some(user) = &request.user {
            check_user(user)?;
        }
        let command = command_of(&request)?;
        let keep = match (
            request.stdout_mode.unwrap_or(OutputMode::Capture),
            request.stderr_mode.unwrap_or(OutputMode::Capture),
        ) {
            (OutputMode::Capture, OutputMode::Capture) => Keep::Both,
            (OutputMode::Capture, OutputMode::Discard) => Keep::Stdout,
            (OutputMode::Discard, OutputMode::Capture) => Keep::Stderr,
            (OutputMode::Discard, OutputMode::Discard) => Keep::Nothing,
        };
        let (input, stdin, stream) = match request.stdin_mode.unwrap_or(StdinMode::Closed) {
            StdinMode::Closed => (StartedInput::Nothing, None, Stdin::Empty),
            StdinMode::Pipe => {
                // One piece waits here and the rest with whoever sends it.
                let (sender, receiver) = mpsc::channel(1);
                let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
                    let bytes: Bytes = receiver.recv().await?;
                    Some((Ok(bytes), receiver))
                });
                (StartedInput::Stream, Some(sender), Stdin::Stream(Box::pin(stream)))
            }
        };
        let started = environment.start_command(&command, input).await?;
        let log = Log::new(keep, place.directory.clone(), place.kept_bytes);
        let sink = SharedSink::new(log.sink());
        let (controller, control) = CommandController::new();
        let process = Arc::new(Self {
            pid: started.pid(),
            command: request.command,
            args: request.args.unwrap_or_default(),
            started_ms: now_ms(),
            log,
            controller,
            stdin: Mutex::new(stdin),
            writing: tokio::sync::Mutex::default(),
            end: watch::Sender::new(None),
        });
        let io = CommandIo { stdin: stream, sink: Box::new(sink.clone()), control };
        let following = Arc::clone(&process);
        tokio::spawn(async move {
            let ending = match started.follow(io).await {
                Ok(exit) => exit.ending,
                // The sandbox was ended before anybody listened.
                Err(_) => Ending::Cancelled,
            };
            sink.finish().await;
            following.ended(ending);
        });
        Ok(process)
    }

    fn ended(&self, ending: Ending) {
        self.close_stdin();
        self.end.send_replace(Some(End { ending, at_ms: now_ms() }));
        // Whoever has read everything finds the end.
        self.log.close();
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.end.borrow().is_none()
    }

    /// Kills it, and waits for no reader of what it wrote.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        self.log.release();
    }

    /// Signals its group. `false` where it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let is_running = self.is_running();
        if is_running {
            self.controller.signal(signal);
        }
        is_running
    }

    fn stdin_sender(&self) -> Option<mpsc::Sender<Bytes>> {
        let stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        stdin.as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    /// A place to write to; `None` where nothing is read any more.
    pub(crate) async fn writer(&self) -> Option<StdinWriter<'_>> {
        let turn = self.writing.lock().await;
        // After the wait: it may have been closed meanwhile.
        self.stdin_sender().map(|sender| StdinWriter { sender, _turn: turn })
    }

    /// Gives it the end of its input, after what is being written. `false` where it never had one.
    pub(crate) fn close_stdin(&self) {
        drop(self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(crate) fn response(&self) -> ProcessResponse<'_> {
        let end = self.end();
        let event = end.as_ref().map(End::event);
        let event = event.as_ref();
        ProcessResponse {
            pid: self.pid,
            handle: self.pid,
            status: end.as_ref().map_or("running", End::status),
            exit_code: event.and_then(|event| event.exit_code),
            signal: event.and_then(|event| event.signal),
            oom_killed: event.is_some_and(|event| event.oom_killed),
            reason: event.and_then(|event| event.reason),
            stdin_writable: end.is_none() && self.stdin_sender().is_some(),
            command: &self.command,
            args: &self.args,
            started_at: self.started_ms,
            ended_at: end.as_ref().map(|end| end.at_ms),
        }
    }

    pub(crate) fn started_ms(&self) -> u64 {
        self.started_ms
    }
}

/// Writes to a process, alone as long as it lives.
#[derive(Debug)]
pub(crate) struct StdinWriter<'a> {
    sender: mpsc::Sender<Bytes>,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl StdinWriter<'_> {
    /// Waits until there is room. `false` where the process reads no more.
    pub(crate) async fn write(&self, bytes: Bytes) -> bool {
        self.sender.send(bytes).await.is_ok()
    }
}

fn refuse_unsupported(request: &StartProcessRequest) -> Result<(), Failure> {
    let unsupported = [
        (&request.name, "a process with a name"),
        (&request.restart, "a restart policy"),
        (&request.health_check, "a health check"),
    ];
    match unsupported.into_iter().find(|(value, _)| value.is_some()) {
        Some((_, what)) => Err(Failure::unsupported(what)),
        None => Ok(()),
    }
}

pub(crate) fn command_of(request: &StartProcessRequest) -> Result<CommandRequest, Failure> {
    let args = request.args.iter().flatten();
    let program = Program::argv(request.command.as_str(), args);
    let mut command = CommandRequest::new(program)
        .output_limits(OutputLimits::NOTHING)
        .termination_grace(Duration::ZERO);
    if let Some(directory) = request.working_dir.as_deref().filter(|text| !text.is_empty()) {
        command = command.working_directory(directory);
    }
    for (name, value) in request.env.iter().flatten() {
        let variable = VariableName::parse(name.as_str())
            .and_then(|name| EnvironmentVariable::new(name, value.as_str()))
            .map_err(|error| Failure::bad(error.to_string()))?;
        command.environment.push(variable);
    }
    if let Some(seconds) = request.timeout {
        let limit = Duration::try_from_secs_f64(seconds).map(|limit| limit.min(MAX_TIME_LIMIT));
        let too_long = seconds.is_finite() && seconds > 0.0;
        let limit = limit.ok().or(too_long.then_some(MAX_TIME_LIMIT));
        let limit = limit.filter(|limit| !limit.is_zero());
        let bad = || Failure::bad("timeout is not a number of seconds above 0");
        command = command.time_limit(limit.ok_or_else(bad)?);
    }
    Ok(command)
}

/// There is one user in a sandbox: the one that the server runs as.
pub(crate) fn check_user(user: &UserRequest) -> Result<(), Failure> {
    let (own_uid, own_gid) =
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let own_name = if own_uid == 0 { "root" } else { "forge" };
    let is_user = |text: &str| text == own_name || text.parse() == Ok(own_uid);
    let is_group = |text: &str| text == own_name || text.parse() == Ok(own_gid);
    let known = match user {
        UserRequest::Text(text) => match text.split_once(':') {
            Some((user, group)) => is_user(user) && is_group(group),
            None => is_user(text),
        },
        UserRequest::Spec { name, uid, gid } => {
            name.as_deref().is_none_or(is_user)
                && uid.is_none_or(|uid| uid == own_uid)
                && gid.is_none_or(|gid| gid == own_gid)
                && (name.is_some() || uid.is_some())
        }
    };
    if known {
        return Ok(());
    }
    let given = match user {
        UserRequest::Text(text) => format!("{text:?}"),
        UserRequest::Spec { name, uid, gid } => {
            format!("name {name:?}, uid {uid:?}, gid {gid:?}")
        }
    };
    Err(Failure::bad(format!(
        "the user {given} is not to be had: processes run as {own_name} ({own_uid}:{own_gid}){}",
        if own_uid == 0 { "" } else { ", and as root only where the server runs as root" }
    )))
}
