//! The lines of `--output-format stream-json`, and the object of `json`: shapes, nothing else.
//!
//! The schema in `schema/stream-json.schema.json` is made from these types, and a test compares
//! them. Readers ignore fields and types that they do not know.

use schemars::JsonSchema;
use serde::Serialize;

/// The version of the format. It changes when a reader of the old one would misread the new one.
pub(super) const VERSION: u32 = 1;

/// One line of `--output-format stream-json`: an object whose `type` says what it is.
///
/// The first is `start`, the last `result` or `error`; a failure before the start is an `error`
/// alone. Readers ignore fields and types that they do not know.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(title = "A line of forge's stream-json")]
pub(super) enum Line<'a> {
    /// The task begins.
    Start {
        /// The version of this format.
        version: u32,
        /// The version of forge.
        forge: &'a str,
        /// Where commands run.
        environment: &'a str,
        /// Whether what commands do stays away from this machine until it is applied.
        isolated: bool,
        /// The project's directory; bytes that are not UTF-8 are replaced.
        workspace: String,
        /// Where commands run in it; bytes that are not UTF-8 are replaced.
        directory: String,
        /// The model, as provider/name.
        model: Option<String>,
    },
    /// More of what the model says.
    Text {
        /// A piece of text, as the model wrote it.
        text: &'a str,
    },
    /// More of what the model thinks aloud.
    Reasoning {
        /// A piece of text, as the model wrote it.
        text: &'a str,
    },
    /// A tool call begins.
    ToolStarted {
        /// Names the call in later lines.
        call_id: &'a str,
        /// The tool.
        tool: &'a str,
        /// What it is about to do, one line: the command, or the path.
        summary: &'a str,
        /// What the model says that it is for.
        purpose: Option<&'a str>,
    },
    /// More output of a command. Exactly one of `text` and `base64` is there.
    ToolOutput {
        /// The call.
        call_id: &'a str,
        /// Where the command wrote it.
        stream: Stream,
        /// The output, where it is UTF-8. A character is never cut between two lines.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        /// The output's bytes in base64, where it is not UTF-8.
        #[serde(skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
    },
    /// A tool call ends.
    ToolFinished {
        /// The call.
        call_id: &'a str,
        /// The tool.
        tool: &'a str,
        /// How it ended.
        outcome: ToolEnd,
        /// The same for a person, one line: `exit 0`, `3 matches`.
        detail: &'a str,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
    },
    /// What an answer of the model cost.
    Usage(Tokens),
    /// Something that the user should know.
    Notice {
        /// What.
        text: &'a str,
    },
    /// The task ended.
    Result(TaskResult<'a>),
    /// The task failed.
    Error(TaskError<'a>),
}

/// Where a command wrote something.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// How a tool call ended.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToolEnd {
    /// It did what it was asked to.
    Succeeded,
    /// It did not.
    Failed,
    /// The user said no.
    Denied,
    /// The task was cancelled meanwhile.
    Cancelled,
}

/// Tokens. `null` where the server did not say.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub(super) struct Tokens {
    /// Of the request.
    pub(super) input_tokens: Option<u64>,
    /// Of these, those that the server had cached.
    pub(super) cached_input_tokens: Option<u64>,
    /// Of the answer.
    pub(super) output_tokens: Option<u64>,
}

/// How a task ended that did not fail with an error.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TaskResult<'a> {
    /// How it ended.
    pub(super) outcome: Outcome,
    /// Why, for a person, where it was not done.
    pub(super) reason: Option<String>,
    /// The model's last answer.
    pub(super) text: &'a str,
    /// How often the model was asked.
    pub(super) model_calls: u32,
    /// How many tools it called.
    pub(super) tool_calls: u32,
    /// What the whole task cost.
    pub(super) usage: Tokens,
    /// How long it took, in milliseconds.
    pub(super) elapsed_ms: u64,
    /// The code with which forge exits.
    pub(super) exit_code: u8,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The model said that it was done.
    Done,
    /// The user ended it.
    Cancelled,
    /// The model was asked as often as `--max-turns` allows.
    TurnLimit,
    /// The model made the same failing call again and again.
    RepeatedFailures,
    /// The model answered nothing again and again.
    EmptyAnswers,
    /// The answer reached the limit of its length.
    LengthLimit,
    /// The server withheld the answer.
    Filtered,
    /// It took longer than `--task-timeout` allows.
    TimedOut,
}

/// Why a task failed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TaskError<'a> {
    /// What failed, with its causes.
    pub(super) message: &'a str,
    /// What can be done about it, where there is something.
    pub(super) hint: Option<&'a str>,
    /// The code with which forge exits.
    pub(super) exit_code: u8,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The same with the keys of objects in order, whatever features serde_json was built with.
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.into_iter().collect();
                entries.sort_by(|(one, _), (other, _)| one.cmp(other));
                entries.into_iter().map(|(key, value)| (key, sorted(value))).collect()
            }
            Value::Array(values) => values.into_iter().map(sorted).collect(),
            other => other,
        }
    }

    #[test]
    fn the_committed_schema_is_that_of_the_types() {
        let schema = sorted(schemars::schema_for!(Line<'static>).to_value());
        let actual = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        snapbox::assert_data_eq!(
            actual,
            snapbox::file!["../../schema/stream-json.schema.json"].raw()
        );
    }
}
