//! A running command, from its start to its ending.

use std::future::pending;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use forge_command_io::{Pump, SpillMaker, Terminal, TerminalPump};
use forge_domain::{
    CommandController, CommandExit, CommandIo, CommandRequest, ControlRequest, ControlRequests,
    Ending, OutputLimits, Resource, RetainedOutput, Signal, Stdin, StopMethod, TerminalIo,
};
use futures_util::StreamExt;
use rustix::process::Signal as OsSignal;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::group::Group;
use crate::launch::Launched;

/// How often a group is asked whether it still has members, once it was told to end.
const MEMBERS_INTERVAL: Duration = Duration::from_millis(10);

/// What a run needs to know of its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunLimits {
    pub(crate) time_limit: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) output: OutputLimits,
    /// What a command is asked to end with.
    pub(crate) farewell: OsSignal,
}

impl RunLimits {
    /// Those of a request, for a command that is asked to end by SIGTERM.
    pub(crate) fn of(request: &CommandRequest) -> Self {
        Self {
            time_limit: request.time_limit,
            grace: request.termination_grace,
            output: request.output_limits,
            farewell: OsSignal::TERM,
        }
    }
}

/// Follows a command to its end. Dropping the future kills it, by the drop of its [`Group`].
pub(crate) async fn follow(
    launched: Launched,
    limits: RunLimits,
    io: CommandIo,
    spill: &SpillMaker,
    closing: &CancellationToken,
) -> CommandExit {
    let began = Instant::now();
    let Launched { mut child, group } = launched;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let ended = CancellationToken::new();
    let pump = Pump { sink: io.sink, limits: limits.output, spill, ended: ended.clone() };
    let output = async {
        match (stdout, stderr) {
            (Some(stdout), Some(stderr)) => pump.run(stdout, stderr).await,
            // Both were asked for at the start, so both are there.
            _ => RetainedOutput::default(),
        }
    };
    let supervision = async {
        let mut supervisor = Supervisor { child, group, control: io.control, limits };
        let (ending, stopped_by) = tokio::select! {
            biased;
            end = supervisor.run(closing) => end,
            () = feed(stdin, io.stdin) => unreachable_end(),
        };
        supervisor.group.sweep();
        ended.cancel();
        (ending, stopped_by)
    };
    let (end, output) = tokio::join!(supervision, output);
    exit(began, end, output)
}

/// Follows a command on a terminal to its end. Dropping the future kills it in the same way.
pub(crate) async fn follow_on_terminal(
    launched: Launched,
    terminal: Terminal,
    limits: RunLimits,
    io: TerminalIo,
    closing: &CancellationToken,
) -> CommandExit {
    let began = Instant::now();
    let Launched { child, group } = launched;
    let ended = CancellationToken::new();
    let (controller, control) = CommandController::new();
    let pump = TerminalPump { terminal, io, controller, ended: ended.clone() };
    let supervision = async {
        let mut supervisor = Supervisor { child, group, control, limits };
        let end = supervisor.run(closing).await;
        supervisor.group.sweep();
        ended.cancel();
        end
    };
    let (end, ()) = tokio::join!(supervision, pump.run());
    exit(began, end, RetainedOutput::default())
}

fn exit(
    began: Instant,
    (ending, stopped_by): (Ending, Option<StopMethod>),
    output: RetainedOutput,
) -> CommandExit {
    let elapsed = began.elapsed();
    debug!(elapsed_ms = elapsed.as_millis(), ?ending, "A command ended.");
    CommandExit { ending, output, elapsed, stopped_by, notices: Vec::new() }
}

/// [`feed`] never returns; the type of its branch has to be that of the other.
fn unreachable_end() -> (Ending, Option<StopMethod>) {
    (Ending::Unknown, None)
}

/// Gives the command its input and then the end of file. Never returns: the end of the input is not
/// the end of the command.
async fn feed(pipe: Option<ChildStdin>, stdin: Stdin) {
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

struct Supervisor {
    child: Child,
    group: Group,
    control: ControlRequests,
    limits: RunLimits,
}

/// Why a command is being ended by us.
#[derive(Debug, Clone, Copy)]
enum Cause {
    TimeLimit(Duration),
    Cancelled,
}

enum Event {
    Exited(Ending),
    Signal(Signal),
    End(Cause),
}

impl Supervisor {
    async fn run(&mut self, closing: &CancellationToken) -> (Ending, Option<StopMethod>) {
        let deadline =
            self.limits.time_limit.map(|limit| (limit, tokio::time::Instant::now() + limit));
        loop {
            match self.next(deadline, closing).await {
                Event::Exited(ending) => return (ending, None),
                Event::Signal(signal) => self.forward(signal),
                Event::End(cause) => return self.end(cause).await,
            }
        }
    }

    async fn next(
        &mut self,
        deadline: Option<(Duration, tokio::time::Instant)>,
        closing: &CancellationToken,
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
            status = self.child.wait() => Event::Exited(ending(status)),
            request = next_request(&mut self.control) => match request {
                ControlRequest::Signal(signal) => Event::Signal(signal),
                ControlRequest::Cancel => Event::End(Cause::Cancelled),
            },
            () = closing.cancelled() => Event::End(Cause::Cancelled),
            limit = time_limit => Event::End(Cause::TimeLimit(limit)),
        }
    }

    fn forward(&self, signal: Signal) {
        if let Some(signal) = OsSignal::from_named_raw(signal.number()) {
            self.group.signal(signal);
        }
    }

    /// SIGTERM or SIGHUP to the group, the grace period for all of it, SIGKILL to the group.
    async fn end(&mut self, cause: Cause) -> (Ending, Option<StopMethod>) {
        self.group.signal(self.limits.farewell);
        // A stopped process takes no signal before it goes on.
        self.group.signal(OsSignal::CONT);
        let grace_ends = tokio::time::Instant::now() + self.limits.grace;
        let all_ended = async {
            drop(self.child.wait().await);
            // The leader may end at once and leave children that are still tidying up.
            while self.group.has_members() {
                tokio::time::sleep(MEMBERS_INTERVAL).await;
            }
        };
        let method = match tokio::time::timeout_at(grace_ends, all_ended).await {
            Ok(()) => StopMethod::Terminate,
            Err(_) => {
                self.group.signal(OsSignal::KILL);
                drop(self.child.wait().await);
                StopMethod::Kill
            }
        };
        let ending = match cause {
            Cause::TimeLimit(limit) => Ending::TimedOut { limit },
            Cause::Cancelled => Ending::Cancelled,
        };
        (ending, Some(method))
    }
}

/// The next thing that is asked; never, once nobody can ask any more.
async fn next_request(control: &mut ControlRequests) -> ControlRequest {
    match control.next().await {
        Some(request) => request,
        None => pending().await,
    }
}

fn ending(status: std::io::Result<ExitStatus>) -> Ending {
    let Ok(status) = status else { return Ending::Unknown };
    if let Some(code) = status.code() {
        return u8::try_from(code).map_or(Ending::Unknown, Ending::Exited);
    }
    match status.signal() {
        Some(signal) if signal == OsSignal::XFSZ.as_raw() => {
            Ending::LimitExceeded(Resource::FileSize)
        }
        Some(signal) => Signal::from_number(signal).map_or(Ending::Unknown, Ending::Signalled),
        None => Ending::Unknown,
    }
}
