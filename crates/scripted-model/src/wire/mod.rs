//! The wire formats: an answer in, bytes out.

mod anthropic;
mod ollama;
mod openai;

use serde_json::Value;

use crate::{Answer, Delivery};

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Ollama's native chat.
    Ollama,
}

/// One event of a streamed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its bytes, with what separates it from the next.
    pub(crate) text: String,
    /// What it is.
    pub(crate) kind: EventKind,
}

/// What faults need to know of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// A part of the arguments of a call.
    Arguments,
    /// It says why the answer finished.
    Finish,
    /// Anything else.
    Other,
}

/// What an answer is wrapped in.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    /// The number of the request.
    pub(crate) number: u64,
    /// The model, as the request named it.
    pub(crate) model: String,
    /// Whether OpenAI's format shall say what the answer cost.
    pub(crate) wants_usage: bool,
}

impl Envelope {
    fn call_id(&self, index: usize, given: Option<&String>) -> String {
        given.cloned().unwrap_or_else(|| format!("call_{}_{index}", self.number))
    }
}

impl Format {
    /// The format that a path speaks.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" | "/chat/completions" | "/api/v1/chat/completions" => {
                Some(Self::OpenAi)
            }
            "/v1/messages" => Some(Self::Anthropic),
            "/api/chat" => Some(Self::Ollama),
            _ => None,
        }
    }

    /// Whether a request asks for a streamed answer.
    pub(crate) fn streams(self, body: &Value) -> bool {
        // Ollama streams unless it is told not to; the others only when they are told to.
        body.get("stream").and_then(Value::as_bool).unwrap_or(self == Self::Ollama)
    }

    /// The content type of a streamed answer.
    pub(crate) fn stream_type(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Anthropic => "text/event-stream",
            Self::Ollama => "application/x-ndjson",
        }
    }

    /// The answer as events.
    pub(crate) fn events(
        self,
        answer: &Answer,
        envelope: &Envelope,
        delivery: &Delivery,
    ) -> Vec<Event> {
        let chars = delivery.event_chars.max(1);
        match self {
            Self::OpenAi => openai::events(answer, envelope, chars),
            Self::Anthropic => anthropic::events(answer, envelope, chars),
            Self::Ollama => ollama::events(answer, envelope, chars),
        }
    }

    /// The answer as one JSON value.
    pub(crate) fn whole(self, answer: &Answer, envelope: &Envelope) -> Value {
        match self {
            Self::OpenAi => openai::whole(answer, envelope),
            Self::Anthropic => anthropic::whole(answer, envelope),
            Self::Ollama => ollama::whole(answer, envelope),
        }
    }
}

/// Cuts a text into pieces of at most `chars` characters; none for an empty text.
fn pieces(text: &str, chars: usize) -> Vec<String> {
    let all: Vec<char> = text.chars().collect();
    all.chunks(chars).map(|piece| piece.iter().collect()).collect()
}

/// The JSON value that a text is, or the text as a JSON string.
fn as_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}
