//! `write`: a whole file.

use std::path::Path;

use bytes::Bytes;
use forge_domain::{FileError, WriteOptions};
use schemars::JsonSchema;
use serde::Deserialize;

use super::context::ToolContext;
use super::report::{Report, ToolFailure};
use crate::plain::{self, byte_size, count};

/// Arguments of `write`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteArguments {
    /// The file, absolute or relative to the working directory.
    pub(crate) path: String,
    /// The whole new contents. Text files end with a newline.
    pub(crate) content: String,
}

pub(crate) async fn write(
    context: &ToolContext<'_>,
    arguments: &WriteArguments,
) -> Result<Report, ToolFailure> {
    let path = Path::new(&arguments.path);
    let done = match context.environment.stat(path).await {
        Ok(_) => "Replaced",
        Err(FileError::Environment(error)) => return Err(error.into()),
        // Whatever else is wrong with the path, the write itself says it better.
        Err(_) => "Created",
    };
    let contents = Bytes::copy_from_slice(arguments.content.as_bytes());
    if let Err(error) = context.environment.write(path, contents, WriteOptions::default()).await {
        return Err(context.path_failure(&arguments.path, error).await);
    }
    let size = format!(
        "{}, {}",
        count(arguments.content.lines().count() as u64, "line"),
        byte_size(arguments.content.len() as u64)
    );
    let shown = plain::one_line(&arguments.path);
    Ok(Report::succeeded(format!("{done} {shown} ({size})."), size))
}
