//! `list`: what a directory holds.

use std::path::Path;

use forge_domain::{DirectoryEntry, FileKind};
use schemars::JsonSchema;
use serde::Deserialize;

use super::context::ToolContext;
use super::report::{Report, ToolFailure};
use crate::plain::{self, byte_size};

/// So many entries are shown at the most.
const MAX_ENTRIES: usize = 500;

/// Arguments of `list`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListArguments {
    /// The directory, absolute or relative to the working directory, which is the default.
    pub(crate) path: Option<String>,
}

pub(crate) async fn list(
    context: &ToolContext<'_>,
    arguments: &ListArguments,
) -> Result<Report, ToolFailure> {
    let path = arguments.path.as_deref().unwrap_or(".");
    let entries = match context.environment.list(Path::new(path)).await {
        Ok(entries) => entries,
        Err(error) => return Err(context.path_failure(path, error).await),
    };
    let detail = match entries.len() {
        1 => "1 entry".to_owned(),
        number => format!("{number} entries"),
    };
    if entries.is_empty() {
        return Ok(Report::succeeded("The directory is empty.", detail));
    }
    let mut content: String = entries.iter().take(MAX_ENTRIES).map(line).collect();
    if entries.len() > MAX_ENTRIES {
        content.push_str(&format!(
            "[{} of {} entries. `search` with a glob finds particular ones.]",
            MAX_ENTRIES,
            entries.len()
        ));
    }
    Ok(Report::succeeded(content, detail))
}

fn line(entry: &DirectoryEntry) -> String {
    let name = plain::file_line(&entry.name.to_string_lossy());
    match &entry.kind {
        FileKind::File => format!("{name}  {}\n", byte_size(entry.size_bytes)),
        FileKind::Directory => format!("{name}/\n"),
        FileKind::Symlink { target: Some(target) } => {
            format!("{name} -> {}\n", plain::file_line(&target.to_string_lossy()))
        }
        FileKind::Symlink { target: None } => format!("{name}  (symbolic link)\n"),
        FileKind::Other => format!("{name}  (neither a file nor a directory)\n"),
    }
}
