//! What the server shall say.

use serde::{Deserialize, Serialize};

use crate::Fault;

/// What the server says, in order, and how.
///
/// The answer is chosen by the request alone: it is the one whose index is the number of assistant
/// messages since the last text of the user. So each turn of a conversation walks through the
/// answers from the first, and conversations in parallel do not disturb each other. Past the end the
/// last answer is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// The answers of a turn. Without any, the server says an empty text.
    pub answers: Vec<Answer>,
    /// How answers are streamed.
    pub delivery: Delivery,
    /// What goes wrong. For each request the first fault that applies is used.
    pub faults: Vec<Fault>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// Thinking aloud, before all else. Empty for none.
    pub reasoning: String,
    /// The text. Empty for none.
    pub text: String,
    /// The calls, after the text.
    pub calls: Vec<Call>,
    /// What it cost. `None`: the server does not say.
    pub usage: Option<TokenCount>,
    /// Why it ends.
    pub finish: Finish,
}

/// A tool call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Its id. `None`: one that no other request to this server has.
    #[serde(default)]
    pub id: Option<String>,
    /// The tool.
    pub name: String,
    /// The arguments, as they go over the wire: any text, also one that is no JSON.
    ///
    /// Where a protocol can only carry JSON values (an answer of Anthropic's that is not streamed,
    /// and all of Ollama's), text that is no JSON goes as a JSON string.
    pub arguments: String,
}

/// Tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCount {
    /// Of the request, cached ones included.
    pub input: u64,
    /// Of these, cached.
    #[serde(default)]
    pub cached: u64,
    /// Of the answer.
    pub output: u64,
}

/// Why an answer ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// As the answer is: with calls it waits for their results, without it is done.
    #[default]
    Natural,
    /// At the limit of its length.
    Length,
    /// Withheld by the server.
    Filtered,
    /// The reason exactly as it goes over the wire.
    Named(String),
}

/// How the bytes of a streamed answer go out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// Characters of text, reasoning or arguments in one event. At least one. Default 24.
    pub event_chars: usize,
    /// Writes of this many bytes, wherever an event or a character ends. `None`: one write an event.
    pub chunk_bytes: Option<usize>,
    /// Milliseconds before each write. Default 0.
    pub delay_ms: u64,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { event_chars: 24, chunk_bytes: None, delay_ms: 0 }
    }
}

impl Answer {
    /// An answer of text alone.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// An answer that asks for these calls.
    #[must_use]
    pub fn calls(calls: impl IntoIterator<Item = Call>) -> Self {
        Self { calls: calls.into_iter().collect(), ..Self::default() }
    }
}

impl Call {
    /// A call of `name` with the arguments as they go over the wire.
    #[must_use]
    pub fn new(name: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self { id: None, name: name.into(), arguments: arguments.into() }
    }

    /// A call of the `shell` tool.
    #[must_use]
    pub fn shell(command: &str, description: &str) -> Self {
        let arguments = serde_json::json!({ "command": command, "description": description });
        Self::new("shell", arguments.to_string())
    }
}

impl Script {
    /// These answers, without faults.
    #[must_use]
    pub fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: answers.into_iter().collect(), ..Self::default() }
    }

    /// `count` answers that each ask for one shell command, all different, and a last text.
    ///
    /// Command `n`, counted from 1, appends the line `step-n` to `steps.log` and prints it.
    #[must_use]
    pub fn shell_commands(count: usize) -> Self {
        let step = |n: usize| {
            let command = format!("echo step-{n} >> steps.log; echo step-{n}");
            Answer {
                usage: Some(TokenCount { input: 100, cached: 0, output: 20 }),
                ..Answer::calls([Call::shell(&command, &format!("Log step {n}"))])
            }
        };
        let last = Answer {
            usage: Some(TokenCount { input: 100, cached: 0, output: 10 }),
            ..Answer::text(format!("All {count} commands ran."))
        };
        Self::new((1..=count).map(step).chain([last]))
    }

    /// The same shell command, which fails, again and again without end.
    #[must_use]
    pub fn repeat_failing_call() -> Self {
        Self::new([Answer::calls([Call::shell(
            "echo this never works >&2; exit 3",
            "Try what fails",
        )])])
    }

    /// The same script, its bytes going out as `delivery` says.
    #[must_use]
    pub fn delivered(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// The same script with one more fault.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// The answer after `position` others.
    pub(crate) fn answer(&self, position: usize) -> Answer {
        self.answers.get(position).or(self.answers.last()).cloned().unwrap_or_default()
    }
}
