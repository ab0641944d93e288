//! What a turn tells of itself while it goes on.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{OutputStream, ToolCallId, Usage};

/// How a tool call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolOutcome {
    /// It did what was asked; a command exited with 0.
    Succeeded,
    /// It did not, and the model was told why. A command that exited with another code, too.
    Failed,
    /// The user did not allow it; nothing was done.
    Denied,
    /// The turn was ended before or while it ran.
    Cancelled,
}

/// One thing that happened in a turn, in the order in which it happened.
///
/// Each tool call gives one `ToolStarted` and, later, one `ToolFinished` with the same id. Calls that
/// only read may overlap. A call that the user is asked about starts after the answer. A call that
/// never began, since the turn ended before, gives neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// More of the model's text, as it wrote it: it may hold control characters.
    Text(String),
    /// More of what the model thinks aloud.
    Reasoning(String),
    /// A tool call begins.
    ToolStarted {
        /// Which call. Servers choose these ids; two calls may have the same.
        call_id: ToolCallId,
        /// The tool, as the model named it.
        tool: String,
        /// One line without control characters: the command, the path. Shortened.
        summary: String,
        /// What the model says that it is for, one line.
        purpose: Option<String>,
    },
    /// Output of a running command, as it came.
    ToolOutput {
        /// Which call.
        call_id: ToolCallId,
        /// Which of its streams.
        stream: OutputStream,
        /// Raw bytes; a character may be split between two events.
        bytes: Bytes,
    },
    /// A tool call has ended.
    ToolFinished {
        /// Which call.
        call_id: ToolCallId,
        /// The tool, as the model named it.
        tool: String,
        /// How it went.
        outcome: ToolOutcome,
        /// One line without control characters: `exit code 0`, `3 matches in 2 files`.
        detail: String,
        /// How long it took, without the question to the user.
        elapsed: Duration,
    },
    /// What one answer of the model cost; comes after each answer whose cost the server says.
    Usage(Usage),
    /// Something that the user should know, one sentence.
    Notice(String),
}

/// Takes the events of a turn.
#[async_trait]
pub trait EventSink: Send {
    /// Takes one event. The turn waits for it, and with it the running command: a slow sink slows
    /// them down, and nothing piles up.
    ///
    /// # Cancel safety
    /// Dropped only when the whole turn is dropped; the event may then be lost.
    async fn event(&mut self, event: AgentEvent);
}
