//! Events of a turn, as people and as programs read them.

mod json;
mod lines;
#[cfg(target_os = "linux")]
mod patch;
mod transcript;
mod wire;

pub(crate) use json::JsonReport;
#[cfg(target_os = "linux")]
pub(crate) use patch::{ChangedFile, FileSide, PatchStyle, Screen, steers};
pub(crate) use transcript::{Glyphs, Progress, Transcript};

use forge_api::TurnOutcome;

/// Says how a turn ended that was not done, for a person.
pub(crate) fn describe(outcome: &TurnOutcome) -> Option<String> {
    Some(match outcome {
        TurnOutcome::Done => return None,
        TurnOutcome::Cancelled => "the task was cancelled".to_owned(),
        TurnOutcome::TurnLimit { limit } => {
            format!("the task was given up after {limit} answers of the model (--max-turns)")
        }
        TurnOutcome::RepeatedFailures { tool, count } => {
            format!("the task was given up: the same call of {tool} failed {count} times in a row")
        }
        TurnOutcome::EmptyAnswers { count } => {
            format!("the task was given up: the model answered nothing {count} times in a row")
        }
        TurnOutcome::LengthLimit => "the model's answer reached the limit of its length".to_owned(),
        TurnOutcome::Filtered => "the model's server withheld the answer".to_owned(),
        TurnOutcome::TimedOut { limit } => format!(
            "the task took longer than {} and was ended (--task-timeout)",
            humantime::format_duration(*limit)
        ),
    })
}
