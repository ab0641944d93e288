//! `forge exec`: one command, its streams passed through byte by byte, its exit code returned.

use std::ffi::OsString;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_api::{
    CommandController, CommandExit, CommandIo, CommandRequest, Commands, Ending, Fidelity,
    ForgeAPI, Lifecycle, Notice, OutputLimits, OutputSink, OutputStream, Program, Signal,
    SinkClosed,
};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::banner;
use crate::closing::{self, Closing, End};
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::settings::Settings;
use crate::setup;
use crate::signals::{Arrival, Signals};
use crate::stdin;
use crate::terminal::Paint;
use crate::writer::{WriteError, Writer};

/// How long, past the end that was due, a reader that takes nothing may hold up the end.
const STALLED_READER_GRACE: Duration = Duration::from_secs(1);

/// Longer than anybody waits.
const FAR_FUTURE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Runs the command.
///
/// # Errors
/// The command was not started, or its output could not be written.
pub(crate) async fn run(
    settings: Settings,
    shell: Option<OsString>,
    argv: Vec<OsString>,
) -> Result<Conclusion, Failure> {
    let paint = Paint::choose(settings.color, OutputStream::Stderr);
    let mut signals = Signals::listen()
        .map_err(|source| Failure::System { what: "signals cannot be handled", source })?;
    let api = ForgeAPI::init(settings.forge()?).await?;

    let program = match shell {
        Some(text) => Program::Shell(text),
        None => {
            let mut argv = argv.into_iter();
            Program::argv(argv.next().unwrap_or_default(), argv)
        }
    };
    let mut request =
        CommandRequest::new(program).fidelity(Fidelity::Exact).output_limits(OutputLimits::NOTHING);
    request.time_limit = settings.timeout;

    let streams = Arc::new(Streams::new());
    let (controller, control) = CommandController::new();
    let io = CommandIo {
        stdin: stdin::for_command(),
        sink: Box::new(PassThrough(Arc::clone(&streams))),
        control,
    };
    let mut stopping = Stopping::new(controller, settings.timeout, request.termination_grace);
    let prepared = CancellationToken::new();
    let exit = {
        let mut whole = pin!(async {
            api.executor().prepare().await?;
            setup::run(&api, &settings, paint).await?;
            prepared.cancel();
            if settings.verbose > 0 {
                let banner = banner::line(&api, &settings.choice).await?;
                failure::note(&banner, paint);
            }
            let exit = api.executor().run(request, io).await?;
            streams.flush(&exit.ending).await;
            Ok::<_, Failure>(exit)
        });
        loop {
            tokio::select! {
                exit = &mut whole => break Some(exit),
                arrival = signals.next() => {
                    if stopping.react(arrival) == Reaction::EndAtOnce {
                        break None;
                    }
                }
                () = prepared.cancelled(), if !stopping.counts => stopping.count(),
                () = sleep_until(stopping.deadline), if !streams.given_up.is_cancelled() => {
                    streams.given_up.cancel();
                }
                () = sleep_until(stopping.deadline + STALLED_READER_GRACE * 2),
                    if stopping.ended_by.is_some() => break None,
            }
        }
        // Leaving this block drops a command that is still running, which kills it.
    };
    let closing = Closing {
        choice: &settings.choice,
        end: End::of_command(&settings, stopping.ended_by.is_some()),
        verbose: settings.verbose,
        #[cfg(target_os = "linux")]
        pending: crate::pending::Pending::default(),
        paint,
    };
    // The exit code is the command's, whatever was applied, unless forge itself was ended.
    let closed = closing::close(&api, closing, &mut signals).await;
    let ended_by = stopping.ended_by.or(closed.ended_by);
    if let Some(trouble) = streams.take_trouble() {
        return Err(trouble.into());
    }
    match exit {
        None => Ok(Conclusion::Ended(ended_by.unwrap_or(Signal::INT))),
        Some(exit) => Ok(conclude(exit?, ended_by, paint)),
    }
}

/// Says on stderr what the exit code alone does not tell.
pub(crate) fn conclude(exit: CommandExit, ended_by: Option<Signal>, paint: Paint) -> Conclusion {
    for notice in exit.notices {
        match notice {
            Notice::EnvironmentRecreated { reason } => failure::warn(
                &format!("the environment had to be made anew before the command: {reason}"),
                paint,
            ),
        }
    }
    if let Some(signal) = ended_by {
        return Conclusion::Ended(signal);
    }
    let remark = match &exit.ending {
        Ending::Exited(_) | Ending::Signalled(_) | Ending::Cancelled => None,
        Ending::TimedOut { limit } => Some(format!(
            "the command ran for longer than {} and was ended",
            humantime::format_duration(*limit)
        )),
        Ending::OutOfMemory => Some("the command used up its memory and was ended".to_owned()),
        Ending::LimitExceeded(resource) => Some(format!(
            "the command reached the limit of {} and was ended",
            match resource {
                forge_api::Resource::FileSize => "a file's size",
                forge_api::Resource::Disk => "the disk space",
            }
        )),
        Ending::Unknown => Some("the command ended, and nobody knows how".to_owned()),
        Ending::ContactLost { command, cause } => Some(match command {
            Some(command) => format!("contact with the command ({command}) was lost: {cause}"),
            None => format!("contact with the command was lost: {cause}"),
        }),
    };
    if let Some(remark) = remark {
        failure::warn(&remark, paint);
    }
    Conclusion::CommandEnded(exit.ending)
}

/// What to do after a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    /// Go on waiting for the command.
    Wait,
    /// Kill the command and wait no longer.
    EndAtOnce,
}

/// When and why the command is to end other than by itself.
#[derive(Debug)]
struct Stopping {
    controller: CommandController,
    time_limit: Option<Duration>,
    grace: Duration,
    interrupts: u32,
    /// Whether the time limit counts already.
    counts: bool,
    /// The signal that made forge end the command; a Ctrl-C that was only passed on is none.
    ended_by: Option<Signal>,
    /// When output that nobody takes is given up.
    deadline: Instant,
}

impl Stopping {
    fn new(controller: CommandController, time_limit: Option<Duration>, grace: Duration) -> Self {
        Self {
            controller,
            time_limit,
            grace,
            interrupts: 0,
            counts: false,
            ended_by: None,
            deadline: Instant::now() + FAR_FUTURE,
        }
    }

    /// The environment is there, so the command begins now.
    fn count(&mut self) {
        self.counts = true;
        if let Some(limit) = self.time_limit {
            self.expect_end_by(limit);
        }
    }

    /// The command will be ended after this time.
    fn expect_end_by(&mut self, limit: Duration) {
        let due = limit.min(FAR_FUTURE) + self.grace + STALLED_READER_GRACE;
        self.deadline = self.deadline.min(Instant::now() + due);
    }

    fn react(&mut self, arrival: Arrival) -> Reaction {
        match arrival {
            // There is no command yet that it could be for.
            Arrival::Interrupt if !self.counts => {
                self.ended_by = Some(Signal::INT);
                Reaction::EndAtOnce
            }
            Arrival::Interrupt => {
                self.interrupts += 1;
                if self.interrupts == 1 && self.ended_by.is_none() {
                    self.controller.signal(Signal::INT);
                    return Reaction::Wait;
                }
                self.end(Signal::INT)
            }
            Arrival::Terminate(signal) => self.end(signal),
        }
    }

    fn end(&mut self, signal: Signal) -> Reaction {
        if self.ended_by.is_some() {
            return Reaction::EndAtOnce;
        }
        self.ended_by = Some(signal);
        self.controller.cancel();
        self.expect_end_by(Duration::ZERO);
        Reaction::Wait
    }
}

/// Forge's own streams, and what went wrong with them.
#[derive(Debug)]
struct Streams {
    stdout: AsyncMutex<Writer>,
    stderr: AsyncMutex<Writer>,
    /// Output that nobody takes is waited for no longer.
    given_up: CancellationToken,
    /// The first write that failed for another reason than a gone reader.
    trouble: Mutex<Option<WriteError>>,
}

impl Streams {
    fn new() -> Self {
        Self {
            stdout: AsyncMutex::new(Writer::stdout()),
            stderr: AsyncMutex::new(Writer::stderr()),
            given_up: CancellationToken::new(),
            trouble: Mutex::new(None),
        }
    }

    fn of(&self, stream: OutputStream) -> &AsyncMutex<Writer> {
        match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        }
    }

    fn note(&self, error: WriteError) {
        match error {
            WriteError::ReaderGone => {}
            WriteError::Failed { .. } => {
                let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                trouble.get_or_insert(error);
            }
        }
    }

    fn take_trouble(&self) -> Option<WriteError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until everything is written; for a command that had to be ended, only until its output
    /// is given up. One that ended by itself may have any slow reader.
    async fn flush(&self, ending: &Ending) {
        let flushed = async {
            for stream in [OutputStream::Stdout, OutputStream::Stderr] {
                if let Err(error) = self.of(stream).lock().await.flush().await {
                    self.note(error);
                }
            }
        };
        match ending {
            Ending::TimedOut { .. } | Ending::Cancelled => tokio::select! {
                () = flushed => {}
                () = self.given_up.cancelled() => {}
            },
            Ending::Exited(_)
            | Ending::Signalled(_)
            | Ending::OutOfMemory
            | Ending::LimitExceeded(_)
            | Ending::Unknown
            | Ending::ContactLost { .. } => flushed.await,
        }
    }
}

/// Hands the command's output on to forge's own streams.
#[derive(Debug)]
struct PassThrough(Arc<Streams>);

#[async_trait]
impl OutputSink for PassThrough {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        let written = async { self.0.of(stream).lock().await.write(bytes).await };
        let given_up = async {
            self.0.given_up.cancelled().await;
            // A reader that is merely slow gets what it still takes.
            tokio::time::sleep(STALLED_READER_GRACE).await;
        };
        tokio::select! {
            biased;
            result = written => result.map_err(|error| {
                self.0.note(error);
                SinkClosed
            }),
            () = given_up => Err(SinkClosed),
        }
    }
}
