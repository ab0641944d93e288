//! What an agent may do, and how much of it.

use std::time::Duration;

use derive_setters::Setters;

/// Before which calls the user is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AskPolicy {
    /// Before none. For environments that keep what happens away from the host.
    #[default]
    Never,
    /// Before shell commands that match a known dangerous pattern, and before the removal of a
    /// directory with everything in it.
    Risky,
    /// Before every shell command and every change of a file.
    Always,
}

/// How an agent works. Every default is safe; sizes are what one result may add to the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Setters)]
#[setters(strip_option, into)]
pub struct AgentConfig {
    /// How often the model is asked in one turn at the most, repeated requests included.
    /// Default: 200.
    pub max_model_calls: u32,
    /// Before which calls the user is asked. Default: [`AskPolicy::Never`].
    pub ask: AskPolicy,
    /// How long a command of the `shell` tool may run where the model names no time of its own.
    /// `None`: for ever. Default: 300 s. Background commands have no limit unless the model names one.
    pub command_time_limit: Option<Duration>,
    /// The longest time that the model may name for a command; a longer one is cut to this, and the
    /// model is told. `None`: any. Default: one hour.
    pub max_command_time_limit: Option<Duration>,
    /// How long a whole turn may take, questions to the user included. `None`, the default: for ever.
    pub task_time_limit: Option<Duration>,
    /// How much of the beginning of a command's output the model sees. Default: 16 KiB.
    pub output_head_bytes: usize,
    /// How much of the end of a command's output the model sees. Default: 16 KiB.
    pub output_tail_bytes: usize,
    /// How large the file may grow that keeps the whole of a command's output where the model does
    /// not see all of it. Default: 2 GiB.
    pub max_spill_bytes: u64,
    /// How much of a file one `read` shows. Default: 48 KiB.
    pub max_read_bytes: usize,
    /// After so many failures of the same call in a row the model is told so. Default: 3.
    pub repeated_failures_told: u32,
    /// After so many failures of the same call in a row the turn ends. Default: 5.
    pub repeated_failures_limit: u32,
    /// How often a request is made again when its answer broke off in the middle. Nothing of such an
    /// answer was carried out. Default: 2.
    pub max_answer_retries: u32,
    /// After so many answers in a row without text and calls the turn ends. Default: 3.
    pub max_empty_answers: u32,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            max_model_calls: 200,
            ask: AskPolicy::default(),
            command_time_limit: Some(Duration::from_secs(300)),
            max_command_time_limit: Some(Duration::from_secs(3600)),
            task_time_limit: None,
            output_head_bytes: 16 * 1024,
            output_tail_bytes: 16 * 1024,
            max_spill_bytes: 2 * 1024 * 1024 * 1024,
            max_read_bytes: 48 * 1024,
            repeated_failures_told: 3,
            repeated_failures_limit: 5,
            max_answer_retries: 2,
            max_empty_answers: 3,
        }
    }
}
