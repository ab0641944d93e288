//! `process_output` and `process_stop`: commands in the background.

use std::time::Duration;

use forge_domain::{
    BackgroundError, BackgroundId, BackgroundStatus, OutputBuffer, OutputLimits, Spill,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::command_report::{ending_detail, ending_text, shown_output};
use super::context::ToolContext;
use super::report::{Report, ToolFailure};
use crate::plain::{self, byte_size};

/// The longest time that one call waits for output.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Arguments of `process_output`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessOutputArguments {
    /// The id of the background command.
    pub(crate) id: String,
    /// So many seconds are waited for at the most until there is new output or the command has
    /// ended; at most 60. Default: 0.
    pub(crate) wait: Option<u64>,
}

/// Arguments of `process_stop`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessStopArguments {
    /// The id of the background command.
    pub(crate) id: String,
}

pub(crate) async fn output(
    context: &ToolContext<'_>,
    arguments: &ProcessOutputArguments,
) -> Result<Report, ToolFailure> {
    let id = parse(context, &arguments.id).await?;
    let wait = Duration::from_secs(arguments.wait.unwrap_or(0)).min(MAX_WAIT);
    let since = context.cursors.seen(&id);
    let status = match context.environment.poll(&id, since, wait).await {
        Ok(status) => status,
        Err(BackgroundError::NotFound { .. }) => return Err(unknown(context, &arguments.id).await),
        Err(error) => return Err(error.into()),
    };
    context.cursors.advance(&id, status.next);
    // Asking worked, whatever became of the command: a server that was stopped is no failed call.
    let report = report(context, &id, &status);
    Ok(Report::succeeded(report.content, report.detail))
}

pub(crate) async fn stop(
    context: &ToolContext<'_>,
    arguments: &ProcessStopArguments,
) -> Result<Report, ToolFailure> {
    let id = parse(context, &arguments.id).await?;
    let since = context.cursors.seen(&id);
    let status = match context.environment.stop(&id, since).await {
        Ok(status) => status,
        Err(BackgroundError::NotFound { .. }) => return Err(unknown(context, &arguments.id).await),
        Err(error) => return Err(error.into()),
    };
    context.cursors.advance(&id, status.next);
    let report = report(context, &id, &status);
    Ok(Report::succeeded(report.content, report.detail))
}

async fn parse(context: &ToolContext<'_>, id: &str) -> Result<BackgroundId, ToolFailure> {
    match BackgroundId::parse(id) {
        Ok(id) => Ok(id),
        Err(_) => Err(unknown(context, id).await),
    }
}

async fn unknown(context: &ToolContext<'_>, id: &str) -> ToolFailure {
    let known = match context.environment.list_background().await {
        Ok(known) => known,
        Err(error) => return error.into(),
    };
    let names: Vec<String> = known.iter().map(|command| command.id.to_string()).collect();
    let known = match &names[..] {
        [] => "There are none.".to_owned(),
        names => format!("There are: {}.", names.join(", ")),
    };
    let id = plain::one_line(id);
    ToolFailure::told(format!("There is no background command `{id}`. {known}"), "no such command")
}

/// What there is to say of a background command since it was last asked.
pub(crate) fn report(
    context: &ToolContext<'_>,
    id: &BackgroundId,
    status: &BackgroundStatus,
) -> Report {
    let mut buffer = OutputBuffer::new(OutputLimits {
        head_bytes: context.config.output_head_bytes,
        tail_bytes: context.config.output_tail_bytes,
        spill: Spill::Never,
    });
    let mut newlines = 0;
    for chunk in &status.output {
        newlines += memchr::memchr_iter(b'\n', &chunk.bytes).count() as u64;
        buffer.push(chunk.stream, &chunk.bytes);
    }
    let mut content = String::new();
    if status.skipped_bytes > 0 {
        let skipped = byte_size(status.skipped_bytes);
        content.push_str(&format!("[{skipped} of earlier output are no longer kept.]\n"));
    }
    if status.output.is_empty() {
        content.push_str("[no new output]\n");
    } else {
        content.push_str(&shown_output(&buffer.finish(None), newlines).text);
    }
    match &status.ending {
        None => {
            content.push_str(&format!("[`{id}` is running]"));
            Report::succeeded(content, "running")
        }
        Some(ending) => {
            content.push_str(&format!(
                "[`{id}` has ended: {}]",
                ending_text(ending, status.stopped_by)
            ));
            let detail = ending_detail(ending);
            Report::new(super::command_report::outcome(ending), content, detail)
        }
    }
}
