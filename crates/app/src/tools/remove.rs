//! `remove`: a file or a directory.

use std::path::Path;

use forge_domain::Removal;
use schemars::JsonSchema;
use serde::Deserialize;

use super::context::ToolContext;
use super::report::{Report, ToolFailure};
use crate::plain;

/// Arguments of `remove`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveArguments {
    /// What to remove, absolute or relative to the working directory.
    pub(crate) path: String,
    /// Whether a directory is removed with everything in it. Default: false.
    pub(crate) recursive: Option<bool>,
}

pub(crate) async fn remove(
    context: &ToolContext<'_>,
    arguments: &RemoveArguments,
) -> Result<Report, ToolFailure> {
    let removal = match arguments.recursive {
        Some(true) => Removal::Tree,
        Some(false) | None => Removal::Single,
    };
    match context.environment.remove(Path::new(&arguments.path), removal).await {
        Ok(()) => {
            let shown = plain::one_line(&arguments.path);
            Ok(Report::succeeded(format!("Removed {shown}."), "removed"))
        }
        Err(error) => Err(context.path_failure(&arguments.path, error).await),
    }
}
