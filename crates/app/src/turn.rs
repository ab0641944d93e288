//! How a turn ends.

use std::time::Duration;

use forge_domain::{BoxedError, EnvironmentError, ModelError, Usage};
use thiserror::Error;

/// How a turn ended that did not fail. After each of them the conversation can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnOutcome {
    /// The model said what it wanted to say.
    Done,
    /// The caller cancelled it, or the user did so when asked.
    Cancelled,
    /// The model was asked as often as is allowed.
    TurnLimit {
        /// How often.
        limit: u32,
    },
    /// The model made the same failing call again and again.
    RepeatedFailures {
        /// The tool.
        tool: String,
        /// How often in a row it failed.
        count: u32,
    },
    /// The model answered with nothing, again and again.
    EmptyAnswers {
        /// How often in a row.
        count: u32,
    },
    /// The model's answer reached the limit of its length.
    LengthLimit,
    /// The server withheld the answer.
    Filtered,
    /// The turn took longer than it may.
    TimedOut {
        /// The limit.
        limit: Duration,
    },
}

/// What came out of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnReport {
    /// How it ended.
    pub outcome: TurnOutcome,
    /// The text of the model's last answer; of a turn that was ended early, what there was of it.
    pub text: String,
    /// How often the model was asked.
    pub model_calls: u32,
    /// How many tool calls the model made, those that were not carried out included.
    pub tool_calls: u32,
    /// What all answers together cost; `None` where the server said nothing.
    pub usage: Usage,
}

/// Why a turn failed. The conversation stays usable: where the model had not answered the prompt
/// at all, it is as it was before the turn; else it ends with the last finished step.
#[derive(Debug, Error)]
pub enum TurnError {
    /// There is nothing but white space to ask.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// There is nobody to ask: no model was configured.
    #[error("no language model is configured")]
    NoModel,
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The environment is there, and could not be set up ([`Setup`](crate::Setup)).
    #[error(transparent)]
    Setup(BoxedError),
}
