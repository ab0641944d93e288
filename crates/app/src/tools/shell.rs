//! `shell`: a command, watched while it runs.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    Chunk, CommandController, CommandIo, CommandRequest, OutputBuffer, OutputLimits, OutputOffset,
    OutputSink, OutputStream, Program, SinkClosed, Spill, Stdin, ToolCallId,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::command_report::{self, CommandEnd};
use super::context::ToolContext;
use super::process;
use super::report::{Report, ToolFailure};
use crate::plain::duration;
use crate::{AgentEvent, EventSink};

/// So much longer than its grace period a cancelled command is waited for before it is dropped, which
/// ends it too, but loses what it said last.
const CANCEL_MARGIN: Duration = Duration::from_secs(3);

/// So long a background command is watched at its start, to tell one that fails at once.
const BACKGROUND_WATCH: Duration = Duration::from_millis(500);

/// Arguments of `shell`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShellArguments {
    /// The text for the shell.
    pub(crate) command: String,
    /// What the command is for, in a few words, for the user.
    pub(crate) description: Option<String>,
    /// After so many seconds the command is ended. Default: the usual limit; none in the background.
    #[schemars(range(min = 1))]
    pub(crate) timeout: Option<u64>,
    /// Whether the command goes on while you do other things. You get its id at once and follow it
    /// with `process_output`. Default: false.
    pub(crate) background: Option<bool>,
}

impl ShellArguments {
    pub(crate) fn is_background(&self) -> bool {
        self.background == Some(true)
    }
}

/// Makes the request, and what the model has to know of it beforehand.
fn request(
    context: &ToolContext<'_>,
    arguments: &ShellArguments,
) -> Result<(CommandRequest, String), ToolFailure> {
    if arguments.command.trim().is_empty() {
        return Err(ToolFailure::told("`command` is empty: nothing was run.", "no command"));
    }
    let mut request = CommandRequest::new(Program::shell(arguments.command.as_str()))
        .output_limits(limits(context));
    let mut remark = String::new();
    request.time_limit = match arguments.timeout.map(Duration::from_secs) {
        Some(Duration::ZERO) => {
            return Err(ToolFailure::told("`timeout` is 0: it has to be 1 or more.", "no time"));
        }
        Some(asked) => match context.config.max_command_time_limit {
            Some(most) if asked > most => {
                remark = format!("[The time limit is {}, not more.]\n", duration(most));
                Some(most)
            }
            _ => Some(asked),
        },
        None if arguments.is_background() => None,
        None => context.config.command_time_limit,
    };
    Ok((request, remark))
}

fn limits(context: &ToolContext<'_>) -> OutputLimits {
    OutputLimits {
        head_bytes: context.config.output_head_bytes,
        tail_bytes: context.config.output_tail_bytes,
        spill: Spill::WhenCut { max_file_bytes: context.config.max_spill_bytes },
    }
}

/// Runs the command to its end. Returns soon after `cancel`: the command is asked to end, and what it
/// printed is kept.
pub(crate) async fn foreground(
    context: &ToolContext<'_>,
    arguments: &ShellArguments,
    call_id: &ToolCallId,
    events: &mut dyn EventSink,
    cancel: &CancellationToken,
) -> Result<Report, ToolFailure> {
    let (request, remark) = request(context, arguments)?;
    let mut report = watch(context, request, call_id, events, cancel).await?;
    report.content.insert_str(0, &remark);
    Ok(report)
}

/// Starts the command and tells its id.
pub(crate) async fn background(
    context: &ToolContext<'_>,
    arguments: &ShellArguments,
) -> Result<Report, ToolFailure> {
    let (request, remark) = request(context, arguments)?;
    let mut report = start(context, request).await?;
    report.content.insert_str(0, &remark);
    Ok(report)
}

async fn watch(
    context: &ToolContext<'_>,
    request: CommandRequest,
    call_id: &ToolCallId,
    events: &mut dyn EventSink,
    cancel: &CancellationToken,
) -> Result<Report, ToolFailure> {
    let grace = request.termination_grace;
    let (controller, control) = CommandController::new();
    // One piece may wait here; the command waits for it to be taken.
    let (sender, mut pieces) = mpsc::channel(1);
    let sink = Box::new(PieceSink { sender });
    let io = CommandIo { stdin: Stdin::Empty, sink, control };
    let mut seen = Seen::new(limits(context));
    let mut running = context.environment.run(request, io);
    let mut give_up: Option<Instant> = None;
    let exit = loop {
        let deadline = give_up.unwrap_or_else(Instant::now);
        // The order matters: a flood of output must not keep a cancellation from being seen.
        tokio::select! {
            biased;
            () = cancel.cancelled(), if give_up.is_none() => {
                controller.cancel();
                give_up = Some(Instant::now() + grace + CANCEL_MARGIN);
            }
            () = sleep_until(deadline), if give_up.is_some() => break None,
            Some(piece) = pieces.recv() => seen.take(piece, call_id, events).await,
            exit = &mut running => break Some(exit?),
        }
    };
    drop(running);
    while let Ok(piece) = pieces.try_recv() {
        seen.take(piece, call_id, events).await;
    }
    let newlines = seen.newlines;
    Ok(match exit {
        Some(exit) => {
            command_report::report(&CommandEnd { exit: &exit, newlines }, context.description)
        }
        None => {
            let output = seen.buffer.finish(None);
            command_report::unconfirmed(&output, newlines, grace + CANCEL_MARGIN)
        }
    })
}

async fn start(context: &ToolContext<'_>, request: CommandRequest) -> Result<Report, ToolFailure> {
    let id = context.environment.start(request).await?;
    let beginning = OutputOffset::default();
    let status = context.environment.poll(&id, beginning, BACKGROUND_WATCH).await?;
    context.cursors.advance(&id, status.next);
    let report = process::report(context, &id, &status);
    Ok(Report {
        content: format!("Started in the background as `{id}`.\n{}", report.content),
        detail: format!("background {id}: {}", report.detail),
        ..report
    })
}

/// What was seen of a command's output.
struct Seen {
    buffer: OutputBuffer,
    newlines: u64,
}

impl Seen {
    fn new(limits: OutputLimits) -> Self {
        Self { buffer: OutputBuffer::new(limits), newlines: 0 }
    }

    async fn take(&mut self, piece: Chunk, call_id: &ToolCallId, events: &mut dyn EventSink) {
        let Chunk { stream, bytes } = piece;
        self.newlines += memchr::memchr_iter(b'\n', &bytes).count() as u64;
        self.buffer.push(stream, &bytes);
        events.event(AgentEvent::ToolOutput { call_id: call_id.clone(), stream, bytes }).await;
    }
}

/// Passes output on to the future that runs the command, which tells the events.
#[derive(Debug)]
struct PieceSink {
    sender: mpsc::Sender<Chunk>,
}

#[async_trait]
impl OutputSink for PieceSink {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        self.sender.send(Chunk { stream, bytes }).await.map_err(|_| SinkClosed)
    }
}
