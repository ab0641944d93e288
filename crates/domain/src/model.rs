//! The port to a language model.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use thiserror::Error;

use crate::{BoxedError, ModelId, ToolCallId};

/// A tool as the model is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSchema {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// The JSON schema of its arguments, an object.
    pub parameters: serde_json::Value,
}

/// A call that the model asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The server's id for it.
    pub id: ToolCallId,
    /// The tool. Any text: the model may name one that does not exist.
    pub name: String,
    /// The arguments as the model wrote them. Any text: it may be no JSON at all.
    pub arguments: String,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    /// Which call.
    pub call_id: ToolCallId,
    /// The tool that was called, for servers that want its name again.
    pub name: String,
    /// What came out, for the model.
    pub content: String,
    /// Whether the call failed.
    pub is_error: bool,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The user's.
    User(String),
    /// The model's: text, calls, or both.
    Assistant {
        /// What it said; may be empty.
        text: String,
        /// What it asked for, in its order.
        tool_calls: Vec<ToolCall>,
    },
    /// The answers to all calls of the message before, in the order of the calls.
    ToolResults(Vec<ToolResult>),
}

/// What the model is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRequest {
    /// The system prompt.
    pub system: String,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// The tools it may call.
    pub tools: Vec<ToolSchema>,
}

/// Why the model stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// It had said what it wanted to say.
    Done,
    /// It waits for the answers to its tool calls.
    ToolCalls,
    /// Its answer reached the limit of its length.
    Length,
    /// The server withheld the answer.
    Filtered,
    /// Something else, as the server named it; empty where it named nothing.
    Other(String),
}

/// What an answer cost, in tokens. `None` where the server did not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the request.
    pub input_tokens: Option<u64>,
    /// Of these, tokens that the server had cached.
    pub cached_input_tokens: Option<u64>,
    /// Tokens of the answer, reasoning included.
    pub output_tokens: Option<u64>,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelEvent {
    /// More text.
    Text(String),
    /// More of what the model thinks aloud, where the server shows it. Not part of the conversation.
    Reasoning(String),
    /// A call has begun; its arguments are still to come. For overlapping the start of the
    /// environment with the rest of the answer. Not every server tells it apart from the whole call.
    ToolCallStarted {
        /// The tool.
        name: String,
    },
    /// A call is complete. Calls come in the model's order.
    ToolCall(ToolCall),
    /// What it cost.
    Usage(Usage),
    /// The answer is complete. Always the last event; a stream that ends without it was cut.
    Finished(StopReason),
}

/// An answer as it comes. Dropping it ends the request.
pub type ModelStream = Pin<Box<dyn Stream<Item = Result<ModelEvent, ModelError>> + Send>>;

/// Why there is no answer, or no rest of it. No variant holds a key or a request's contents.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The server does not accept the key.
    #[error("{model} refused the key (status {status})")]
    AccessRefused {
        /// The model that was asked.
        model: ModelId,
        /// The HTTP status, 401 or 403.
        status: u16,
        /// What the server said, shortened.
        message: String,
    },
    /// The server does not know the model.
    #[error("{model} does not exist there: {message}")]
    NoSuchModel {
        /// The model that was asked.
        model: ModelId,
        /// What the server said, shortened.
        message: String,
    },
    /// The server refused the request as such.
    #[error("{model} refused the request (status {status}): {message}")]
    Rejected {
        /// The model that was asked.
        model: ModelId,
        /// The HTTP status.
        status: u16,
        /// What the server said, shortened.
        message: String,
    },
    /// The server is there and cannot answer now, also not after the retries.
    #[error(
        "{model} is overloaded or failing (status {status}) after {attempts} attempts: {message}"
    )]
    Busy {
        /// The model that was asked.
        model: ModelId,
        /// The HTTP status of the last attempt.
        status: u16,
        /// How often it was tried.
        attempts: u32,
        /// How long the server asks to wait, where it said so.
        retry_after: Option<Duration>,
        /// What the server said, shortened.
        message: String,
    },
    /// The server cannot be reached.
    #[error("{model} cannot be reached at {address}")]
    Unreachable {
        /// The model that was asked.
        model: ModelId,
        /// Scheme, host and port; never credentials.
        address: String,
        /// How it failed.
        #[source]
        source: BoxedError,
    },
    /// The answer stopped in the middle: the stream ended, or was silent for too long.
    #[error("the answer of {model} broke off: {reason}")]
    BrokenOff {
        /// The model that was asked.
        model: ModelId,
        /// How.
        reason: String,
    },
    /// The server answered something that is not its protocol.
    #[error("{model} answered what cannot be read: {reason}")]
    Unreadable {
        /// The model that was asked.
        model: ModelId,
        /// What was wrong with it, shortened.
        reason: String,
    },
}

impl ModelError {
    /// Whether the same request may work if it is made again a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Unreachable { .. } | Self::BrokenOff { .. } => true,
            Self::AccessRefused { .. }
            | Self::NoSuchModel { .. }
            | Self::Rejected { .. }
            | Self::Unreadable { .. } => false,
        }
    }
}

/// Answers requests.
#[async_trait]
pub trait LanguageModel: Send + Sync + fmt::Debug {
    /// Which model this is.
    fn id(&self) -> &ModelId;

    /// Asks, and returns as soon as the answer begins. What fails before that and is worth trying
    /// again has been tried again by then, within the adapter's limits; what fails later comes as the
    /// last item of the stream and is not tried again here, since a part was already delivered.
    ///
    /// Bounded by the adapter's limits for connecting, for the first byte, and for silence.
    ///
    /// # Errors
    /// [`ModelError`].
    ///
    /// # Cancel safety
    /// Dropping the future or the stream ends the request; the server may bill what it had begun.
    async fn answer(&self, request: ModelRequest) -> Result<ModelStream, ModelError>;
}
