//! A task reported for programs: `--output-format json` and `stream-json`.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use forge_api::{
    AgentEvent, ForgeAPI, OutputStream, ToolCallId, ToolOutcome, TurnOutcome, TurnReport, Usage,
};

use super::describe;
use super::wire::{Line, Outcome, Stream, TaskError, TaskResult, Tokens, ToolEnd, VERSION};
use crate::exit::ExitCode;
use crate::failure::Failure;
use crate::waiting;
use crate::writer::{WriteError, Writer};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// Each event.
    All,
    /// The end only.
    Last,
}

/// Writes JSON to stdout.
#[derive(Debug)]
pub(crate) struct JsonReport {
    stdout: Writer,
    lines: Lines,
    begin: Instant,
    /// Beginnings of characters whose rest has not come yet.
    cut: Vec<(ToolCallId, OutputStream, Bytes)>,
}

impl JsonReport {
    /// Reports every event: `stream-json`.
    pub(crate) fn stream() -> Self {
        Self::new(Lines::All)
    }

    /// Reports the end: `json`.
    pub(crate) fn last() -> Self {
        Self::new(Lines::Last)
    }

    fn new(lines: Lines) -> Self {
        Self { stdout: Writer::stdout(), lines, begin: Instant::now(), cut: Vec::new() }
    }

    /// Says where the task begins.
    pub(crate) async fn start(&mut self, api: &ForgeAPI) -> Result<(), WriteError> {
        let kind = forge_api::Describe::kind(api.executor());
        let workspace = api.workspace();
        self.event_line(&Line::Start {
            version: VERSION,
            forge: env!("CARGO_PKG_VERSION"),
            environment: &kind.to_string(),
            isolated: kind.is_isolated(),
            workspace: workspace.root.display().to_string(),
            directory: workspace.working_directory.display().to_string(),
            model: api.model_id().map(ToString::to_string),
        })
        .await
    }

    /// Reports an event.
    pub(crate) async fn event(&mut self, event: &AgentEvent) -> Result<(), WriteError> {
        match event {
            AgentEvent::Text(text) => self.event_line(&Line::Text { text }).await,
            AgentEvent::Reasoning(text) => self.event_line(&Line::Reasoning { text }).await,
            AgentEvent::ToolStarted { call_id, tool, summary, purpose } => {
                let purpose = purpose.as_deref();
                let call_id = call_id.as_str();
                self.event_line(&Line::ToolStarted { call_id, tool, summary, purpose }).await
            }
            AgentEvent::ToolOutput { call_id, stream, bytes } => {
                let bytes = self.whole_characters(call_id, *stream, bytes);
                self.output(call_id, *stream, &bytes).await
            }
            AgentEvent::ToolFinished { call_id, tool, outcome, detail, elapsed } => {
                for stream in [OutputStream::Stdout, OutputStream::Stderr] {
                    let rest = self.take_cut(call_id, stream);
                    self.output(call_id, stream, &rest).await?;
                }
                self.event_line(&Line::ToolFinished {
                    call_id: call_id.as_str(),
                    tool,
                    outcome: tool_end(*outcome),
                    detail,
                    elapsed_ms: milliseconds(*elapsed),
                })
                .await
            }
            AgentEvent::Usage(usage) => self.event_line(&Line::Usage(tokens(*usage))).await,
            AgentEvent::Notice(text) => self.event_line(&Line::Notice { text }).await,
        }
    }

    /// Reports how the task ended.
    pub(crate) async fn end(
        &mut self,
        report: &TurnReport,
        code: ExitCode,
    ) -> Result<(), WriteError> {
        let line = Line::Result(TaskResult {
            outcome: outcome(&report.outcome),
            reason: describe(&report.outcome),
            text: &report.text,
            model_calls: report.model_calls,
            tool_calls: report.tool_calls,
            usage: tokens(report.usage),
            elapsed_ms: milliseconds(self.begin.elapsed()),
            exit_code: code.number(),
        });
        self.line(&line).await?;
        self.stdout.flush().await
    }

    /// Reports that the task failed.
    pub(crate) async fn fail(
        &mut self,
        failure: &Failure,
        code: ExitCode,
    ) -> Result<(), WriteError> {
        let (message, hint) = (failure.message(), failure.hint());
        let line = Line::Error(TaskError {
            message: &message,
            hint: hint.as_deref(),
            exit_code: code.number(),
        });
        self.line(&line).await?;
        self.stdout.flush().await
    }

    async fn output(
        &mut self,
        call_id: &ToolCallId,
        stream: OutputStream,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = match stream {
            OutputStream::Stdout => Stream::Stdout,
            OutputStream::Stderr => Stream::Stderr,
        };
        let call_id = call_id.as_str();
        let (text, base64) = match std::str::from_utf8(bytes) {
            Ok(text) => (Some(text), None),
            Err(_) => (None, Some(STANDARD.encode(bytes))),
        };
        self.event_line(&Line::ToolOutput { call_id, stream, text, base64 }).await
    }

    /// The bytes with what was kept from before, and without the beginning of a character at their
    /// end, which is kept.
    fn whole_characters(
        &mut self,
        call_id: &ToolCallId,
        stream: OutputStream,
        bytes: &Bytes,
    ) -> Bytes {
        let before = self.take_cut(call_id, stream);
        let mut bytes =
            if before.is_empty() { bytes.clone() } else { [before, bytes.clone()].concat().into() };
        if let Err(error) = std::str::from_utf8(&bytes)
            && error.error_len().is_none()
        {
            let rest = bytes.split_off(error.valid_up_to());
            self.cut.push((call_id.clone(), stream, rest));
        }
        bytes
    }

    fn take_cut(&mut self, call_id: &ToolCallId, stream: OutputStream) -> Bytes {
        let at = self.cut.iter().position(|(id, of, _)| id == call_id && *of == stream);
        at.map(|at| self.cut.swap_remove(at).2).unwrap_or_default()
    }

    async fn event_line(&mut self, line: &Line<'_>) -> Result<(), WriteError> {
        match self.lines {
            Lines::All => self.line(line).await,
            Lines::Last => Ok(()),
        }
    }

    async fn line(&mut self, line: &Line<'_>) -> Result<(), WriteError> {
        // These types hold strings, numbers and nothing that JSON cannot say.
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        waiting::make_room();
        self.stdout.write(text).await
    }
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn tokens(usage: Usage) -> Tokens {
    Tokens {
        input_tokens: usage.input_tokens,
        cached_input_tokens: usage.cached_input_tokens,
        output_tokens: usage.output_tokens,
    }
}

fn tool_end(outcome: ToolOutcome) -> ToolEnd {
    match outcome {
        ToolOutcome::Succeeded => ToolEnd::Succeeded,
        ToolOutcome::Failed => ToolEnd::Failed,
        ToolOutcome::Denied => ToolEnd::Denied,
        ToolOutcome::Cancelled => ToolEnd::Cancelled,
    }
}

fn outcome(outcome: &TurnOutcome) -> Outcome {
    match outcome {
        TurnOutcome::Done => Outcome::Done,
        TurnOutcome::Cancelled => Outcome::Cancelled,
        TurnOutcome::TurnLimit { .. } => Outcome::TurnLimit,
        TurnOutcome::RepeatedFailures { .. } => Outcome::RepeatedFailures,
        TurnOutcome::EmptyAnswers { .. } => Outcome::EmptyAnswers,
        TurnOutcome::LengthLimit => Outcome::LengthLimit,
        TurnOutcome::Filtered => Outcome::Filtered,
        TurnOutcome::TimedOut { .. } => Outcome::TimedOut,
    }
}
