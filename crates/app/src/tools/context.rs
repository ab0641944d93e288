//! What every tool works with.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use forge_domain::{BackgroundId, Description, ExecutionEnvironment, FileError, OutputOffset};

use super::nearest::nearest_name;
use super::report::{Report, ToolFailure};
use crate::{AgentConfig, plain};

/// What every tool works with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToolContext<'a> {
    pub(crate) environment: &'a dyn ExecutionEnvironment,
    pub(crate) description: &'a Description,
    pub(crate) config: &'a AgentConfig,
    pub(crate) cursors: &'a OutputCursors,
}

/// Up to where the model has seen the output of each background command.
#[derive(Debug, Default)]
pub(crate) struct OutputCursors {
    seen: Mutex<HashMap<BackgroundId, OutputOffset>>,
}

impl OutputCursors {
    pub(crate) fn seen(&self, id: &BackgroundId) -> OutputOffset {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(id).copied().unwrap_or_default()
    }

    pub(crate) fn advance(&self, id: &BackgroundId, to: OutputOffset) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = seen.entry(id.clone()).or_default();
        *offset = (*offset).max(to);
    }
}

impl ToolContext<'_> {
    /// What a tool answers when a path that was to be read is not what it needs to be: the error,
    /// with the next thing to try.
    pub(crate) async fn path_failure(&self, path: &str, error: FileError) -> ToolFailure {
        let hint = match &error {
            FileError::NotFound { .. } => self.similar_path(path).await,
            FileError::IsDirectory { .. } => Some("Use `list` for directories.".to_owned()),
            FileError::NotDirectory { .. } => Some("Use `read` for files.".to_owned()),
            FileError::NotEmpty { .. } => {
                Some("Set `recursive` to remove it with everything in it.".to_owned())
            }
            FileError::Outside { .. } => Some(format!(
                "The file tools reach the workspace {} and the scratch directory {}.",
                self.description.workspace.display(),
                self.description.scratch.display()
            )),
            FileError::AlreadyExists { .. }
            | FileError::Special { .. }
            | FileError::PermissionDenied { .. }
            | FileError::NoSpace { .. }
            | FileError::InvalidPath { .. }
            | FileError::Io { .. }
            | FileError::Environment(_) => None,
        };
        match (ToolFailure::from(error), hint) {
            (ToolFailure::Told(report), Some(hint)) => ToolFailure::Told(Report {
                content: format!("{} {hint}", report.content),
                ..report
            }),
            (failure, _) => failure,
        }
    }

    /// A neighbour with nearly the name that was asked for.
    async fn similar_path(&self, path: &str) -> Option<String> {
        let path = Path::new(path);
        let asked = path.file_name()?.to_str()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let entries = self.environment.list(parent).await.ok()?;
        let names = entries.iter().filter_map(|entry| entry.name.to_str());
        let near = nearest_name(asked, names)?;
        let near = if parent == Path::new(".") { near.into() } else { parent.join(near) };
        Some(format!("Did you mean {}?", plain::one_line(&near.to_string_lossy())))
    }
}
