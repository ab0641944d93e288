//! What comes out of a tool call.

use std::error::Error;

use forge_domain::{BackgroundError, CommandError, EnvironmentError, FileError, SearchError};

use crate::ToolOutcome;

/// A tool call that has ended, well or badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// How it went.
    pub(crate) outcome: ToolOutcome,
    /// For the model.
    pub(crate) content: String,
    /// For the user, one line.
    pub(crate) detail: String,
    /// What else the user should know.
    pub(crate) notices: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        outcome: ToolOutcome,
        content: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self { outcome, content: content.into(), detail: detail.into(), notices: Vec::new() }
    }

    pub(crate) fn succeeded(content: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ToolOutcome::Succeeded, content, detail)
    }

    pub(crate) fn failed(content: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ToolOutcome::Failed, content, detail)
    }
}

/// Why a tool call has no ordinary result.
#[derive(Debug)]
pub(crate) enum ToolFailure {
    /// The model is told, and the turn goes on.
    Told(Report),
    /// The environment failed, and the turn ends.
    Environment(EnvironmentError),
}

impl ToolFailure {
    pub(crate) fn told(content: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Told(Report::failed(content, detail))
    }

    fn from_error(error: &dyn Error) -> Self {
        Self::told(format!("{}.", with_sources(error)), error.to_string())
    }
}

impl From<EnvironmentError> for ToolFailure {
    fn from(error: EnvironmentError) -> Self {
        Self::Environment(error)
    }
}

impl From<FileError> for ToolFailure {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Environment(error) => Self::Environment(error),
            other => Self::from_error(&other),
        }
    }
}

impl From<SearchError> for ToolFailure {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Environment(error) => Self::Environment(error),
            SearchError::Root(error) => error.into(),
            SearchError::Pattern { .. } | SearchError::Glob { .. } => Self::from_error(&error),
        }
    }
}

impl From<BackgroundError> for ToolFailure {
    fn from(error: BackgroundError) -> Self {
        match error {
            BackgroundError::Environment(error) => Self::Environment(error),
            BackgroundError::NotFound { .. } => Self::from_error(&error),
        }
    }
}

impl From<CommandError> for ToolFailure {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Environment(error) => Self::Environment(error),
            other => Self::from_error(&other),
        }
    }
}

/// An error and its causes on one line, for the model.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
