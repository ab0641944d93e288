//! `read`: lines of a file, numbered.

use std::path::Path;

use forge_domain::ByteRange;
use schemars::JsonSchema;
use serde::Deserialize;

use super::context::ToolContext;
use super::lines::{LineWindow, MAX_LINE_BYTES};
use super::report::{Report, ToolFailure};
use crate::plain::{self, byte_size, count};

/// How much is fetched at a time.
const BLOCK_BYTES: u64 = 1024 * 1024;

/// The lines of a file up to this size are counted to its end, so that the model knows how long it is.
const COUNTED_BYTES: u64 = 8 * 1024 * 1024;

/// So far the tool looks for the first line it was asked for. Beyond, `sed -n` in the environment is
/// the better way, since nothing has to be fetched.
const MAX_SCANNED_BYTES: u64 = 256 * 1024 * 1024;

/// So many lines at the most, where no range was asked for.
const DEFAULT_LINES: u64 = 2000;

/// A NUL within so many bytes from the beginning makes a file binary, as for `git` and `grep`.
const SNIFFED_BYTES: usize = 8000;

/// Arguments of `read`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadArguments {
    /// The file, absolute or relative to the working directory.
    pub(crate) path: String,
    /// The first line to read, from 1. Default: 1.
    #[schemars(range(min = 1))]
    pub(crate) start_line: Option<u64>,
    /// The last line to read, itself included. Default: as far as fits.
    #[schemars(range(min = 1))]
    pub(crate) end_line: Option<u64>,
}

impl ReadArguments {
    pub(crate) fn summary(&self) -> String {
        match (self.start_line, self.end_line) {
            (None, None) => self.path.clone(),
            (start, Some(end)) => format!("{}:{}-{end}", self.path, start.unwrap_or(1)),
            (Some(start), None) => format!("{}:{start}-", self.path),
        }
    }
}

pub(crate) async fn read(
    context: &ToolContext<'_>,
    arguments: &ReadArguments,
) -> Result<Report, ToolFailure> {
    let start = arguments.start_line.unwrap_or(1);
    let end = arguments.end_line.unwrap_or(start.saturating_add(DEFAULT_LINES - 1));
    if start == 0 || end < start {
        return Err(ToolFailure::told(
            format!(
                "Lines {start} to {end} are no range: lines count from 1, and the last line \
                     cannot stand before the first."
            ),
            "no such range",
        ));
    }
    let mut window = LineWindow::new(start, end, context.config.max_read_bytes);
    let mut offset = 0;
    let total = loop {
        let range = ByteRange { offset, max_bytes: BLOCK_BYTES };
        let contents = match context.environment.read(Path::new(&arguments.path), range).await {
            Ok(contents) => contents,
            Err(error) => return Err(context.path_failure(&arguments.path, error).await),
        };
        let sniffed = &contents.bytes[..contents.bytes.len().min(SNIFFED_BYTES)];
        if offset == 0 && sniffed.contains(&0) {
            return Err(binary(&arguments.path, contents.total_bytes));
        }
        window.push(&contents.bytes);
        offset += contents.bytes.len() as u64;
        let over = contents.bytes.is_empty() || offset >= contents.total_bytes;
        if over {
            window.end();
        }
        if over || (window.is_full() && contents.total_bytes > COUNTED_BYTES) {
            break contents.total_bytes;
        }
        if offset >= MAX_SCANNED_BYTES && !window.has_begun() {
            return Err(ToolFailure::told(
                format!(
                    "Line {start} lies beyond the first {} of this file, where `read` stops \
                     looking. Use the shell: sed -n '{start},{end}p' FILE",
                    byte_size(MAX_SCANNED_BYTES)
                ),
                "too far into the file",
            ));
        }
    };
    Ok(report(&window, start, total))
}

fn binary(path: &str, bytes: u64) -> ToolFailure {
    ToolFailure::told(
        format!(
            "{} is a binary file of {} and cannot be shown as text. In the shell, `file`, `strings` \
             or `xxd | head` say more about it.",
            plain::one_line(path),
            byte_size(bytes)
        ),
        format!("binary file, {}", byte_size(bytes)),
    )
}

fn report(window: &LineWindow, start: u64, total_bytes: u64) -> Report {
    if total_bytes == 0 {
        return Report::succeeded("The file is empty.", "empty file");
    }
    let size = byte_size(total_bytes);
    let Some(last) = window.last_line() else {
        let lines = count(window.total_lines().unwrap_or_default(), "line");
        return Report::failed(
            format!("The file has only {lines} ({size}); there is no line {start}."),
            format!("no line {start}"),
        );
    };
    let mut notes = Vec::new();
    match window.total_lines() {
        Some(lines) if last < lines => notes.push(format!(
            "Lines {start} to {last} of {lines} ({size}). Go on with start_line {}.",
            last + 1
        )),
        None => notes.push(format!(
            "Lines {start} to {last} of a file of {size}. Go on with start_line {}.",
            last + 1
        )),
        Some(_) if !window.ends_with_newline() => {
            notes.push("The file does not end with a newline.".to_owned());
        }
        Some(_) => {}
    }
    if window.cut_lines() > 0 {
        notes.push(format!(
            "{} longer than {} cut.",
            match window.cut_lines() {
                1 => "1 line is".to_owned(),
                lines => format!("{lines} lines are"),
            },
            byte_size(MAX_LINE_BYTES as u64)
        ));
    }
    if window.has_crlf() {
        notes.push("Lines end with CRLF; `edit` keeps that.".to_owned());
    }
    if window.invalid_utf8() {
        notes.push("Bytes that are not UTF-8 are shown as \u{fffd}.".to_owned());
    }
    let mut content = window.text().to_owned();
    if !notes.is_empty() {
        content.push_str(&format!("[{}]", notes.join(" ")));
    }
    Report::succeeded(content, format!("{}, {start} to {last}", count(last + 1 - start, "line")))
}
