//! `edit`: one exact piece of text for another.

use std::path::Path;

use bytes::Bytes;
use forge_domain::{ByteRange, WriteOptions};
use memchr::memmem;
use schemars::JsonSchema;
use serde::Deserialize;

use super::context::ToolContext;
use super::nearest::{Difference, NearMatch, nearest_lines};
use super::report::{Report, ToolFailure};
use crate::plain::{self, byte_size, count};

/// Larger files are not edited here: all of one is fetched, changed and written back.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Of a near match, so many lines are shown.
const MAX_SHOWN_LINES: usize = 30;

/// So many places are named where a piece stands more than once.
const MAX_NAMED_PLACES: usize = 10;

/// Arguments of `edit`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EditArguments {
    /// The file, absolute or relative to the working directory.
    pub(crate) path: String,
    /// The text to replace, exactly as it stands in the file, without the line numbers of `read`.
    pub(crate) old_text: String,
    /// What stands there afterwards.
    pub(crate) new_text: String,
    /// Whether every occurrence is replaced. Default: false, and the text has to be unique.
    pub(crate) all: Option<bool>,
}

pub(crate) async fn edit(
    context: &ToolContext<'_>,
    arguments: &EditArguments,
) -> Result<Report, ToolFailure> {
    let path = Path::new(&arguments.path);
    // One byte more than is allowed, so that a file which grows meanwhile is never cut short.
    let range = ByteRange::first(MAX_FILE_BYTES + 1);
    let contents = match context.environment.read(path, range).await {
        Ok(contents) => contents,
        Err(error) => return Err(context.path_failure(&arguments.path, error).await),
    };
    let read = contents.bytes.len() as u64;
    if contents.total_bytes > MAX_FILE_BYTES || read < contents.total_bytes {
        return Err(ToolFailure::told(
            format!(
                "The file has {}, more than `edit` takes ({}). Use the shell, for example `sed -i`.",
                byte_size(contents.total_bytes),
                byte_size(MAX_FILE_BYTES)
            ),
            "file too large",
        ));
    }
    let edited = replace(&contents.bytes, arguments)
        .map_err(|refusal| ToolFailure::told(refusal.content, refusal.detail))?;
    let lines = edited.lines.iter().take(MAX_NAMED_PLACES).map(ToString::to_string);
    let lines = lines.collect::<Vec<_>>().join(", ");
    let more = if edited.lines.len() > MAX_NAMED_PLACES { ", …" } else { "" };
    let bytes = Bytes::from(edited.contents);
    if let Err(error) = context.environment.write(path, bytes, WriteOptions::default()).await {
        return Err(context.path_failure(&arguments.path, error).await);
    }
    let replaced = count(edited.lines.len() as u64, "occurrence");
    let shown = plain::one_line(&arguments.path);
    let detail = match edited.lines.len() {
        1 => format!("line {lines}"),
        _ => format!("{replaced}, lines {lines}{more}"),
    };
    Ok(Report::succeeded(
        format!("Replaced {replaced} in {shown}, beginning at line {lines}{more}."),
        detail,
    ))
}

/// A file after the replacement.
#[derive(Debug, PartialEq, Eq)]
struct Edited {
    contents: Vec<u8>,
    /// Where the replaced pieces began, counted from 1 in the file as it was.
    lines: Vec<usize>,
}

/// Why nothing was replaced.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    content: String,
    detail: String,
}

impl Refusal {
    fn new(content: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { content: content.into(), detail: detail.into() }
    }
}

/// Works on bytes, so that what is not UTF-8 elsewhere in the file stays as it is.
fn replace(file: &[u8], arguments: &EditArguments) -> Result<Edited, Refusal> {
    let EditArguments { old_text, new_text, all, .. } = arguments;
    if old_text.is_empty() {
        return Err(Refusal::new(
            "`old_text` is empty: there is nothing to look for. To write a whole file, use `write`; \
             to add text, give a neighbouring line as `old_text` and repeat it in `new_text`.",
            "nothing to look for",
        ));
    }
    if old_text == new_text {
        return Err(Refusal::new(
            "`old_text` and `new_text` are the same: nothing would change.",
            "nothing to change",
        ));
    }
    let crlf = has_only_crlf(file);
    let mut old = old_text.clone().into_bytes();
    let mut new = new_text.clone().into_bytes();
    if crlf {
        // `read` shows such a file without its carriage returns, so that is how the model sees it.
        old = with_crlf(old_text);
        new = with_crlf(new_text);
    }
    let places: Vec<usize> = memmem::find_iter(file, &old).collect();
    let lines = line_numbers(file, &places);
    match (places.len(), all.unwrap_or(false)) {
        (0, _) => return Err(not_found(file, old_text)),
        (1, _) | (_, true) => {}
        (found, false) => {
            let named: Vec<String> =
                lines.iter().take(MAX_NAMED_PLACES).map(ToString::to_string).collect();
            let more = if found > MAX_NAMED_PLACES { ", …" } else { "" };
            return Err(Refusal::new(
                format!(
                    "`old_text` stands in the file {found} times, beginning at the lines {}{more}; \
                     nothing was changed. Add neighbouring lines until it is unique, or set `all`.",
                    named.join(", ")
                ),
                format!("not unique: {found} occurrences"),
            ));
        }
    }
    let mut contents = Vec::with_capacity(file.len() + new.len());
    let mut from = 0;
    for place in places {
        contents.extend_from_slice(&file[from..place]);
        contents.extend_from_slice(&new);
        from = place + old.len();
    }
    contents.extend_from_slice(&file[from..]);
    Ok(Edited { contents, lines })
}

/// The lines of places that stand in ascending order. One pass, however many there are.
fn line_numbers(file: &[u8], places: &[usize]) -> Vec<usize> {
    let mut line = 1;
    let mut from = 0;
    let mut number = |place: &usize| {
        line += memchr::memchr_iter(b'\n', &file[from..*place]).count();
        from = *place;
        line
    };
    places.iter().map(&mut number).collect()
}

/// Whether the file has line ends and each of them is CRLF.
fn has_only_crlf(file: &[u8]) -> bool {
    let mut newlines = memchr::memchr_iter(b'\n', file).peekable();
    newlines.peek().is_some() && newlines.all(|at| at > 0 && file[at - 1] == b'\r')
}

fn with_crlf(text: &str) -> Vec<u8> {
    text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()
}

fn not_found(file: &[u8], old_text: &str) -> Refusal {
    let text = String::from_utf8_lossy(file);
    let mut content =
        "`old_text` does not stand in the file like that, and nothing was changed. ".to_owned();
    let detail;
    if has_line_numbers(old_text) {
        content.push_str(
            "It seems to hold the line numbers that `read` puts in front; leave them out.",
        );
        detail = "not found: holds line numbers";
    } else if let Some(near) = nearest_lines(&text, old_text) {
        match near.difference {
            Difference::WhiteSpace => {
                content.push_str("It does with other white space or line breaks:\n");
                detail = "not found: other white space";
            }
            Difference::Lines => {
                content.push_str("The nearest is:\n");
                detail = "not found: something similar is there";
            }
        }
        content.push_str(&excerpt(&text, near));
    } else {
        content.push_str("Nothing in it is similar. Read the file again: it may have changed.");
        detail = "not found";
    }
    Refusal::new(content, detail)
}

/// Whether every line begins as `read` shows it.
fn has_line_numbers(text: &str) -> bool {
    let numbered = |line: &str| {
        let digits = line.trim_start_matches(' ').trim_start_matches(|c: char| c.is_ascii_digit());
        digits.starts_with('\t') && line.trim_start().starts_with(|c: char| c.is_ascii_digit())
    };
    text.lines().all(numbered)
}

/// The lines of a near match, numbered as by `read`, white space that does not show made visible.
fn excerpt(text: &str, near: NearMatch) -> String {
    let shown = near.lines.min(MAX_SHOWN_LINES);
    let mut excerpt = String::new();
    for (number, line) in text.lines().enumerate().skip(near.line).take(shown) {
        let line = plain::file_line(&plain::cut_middle(line.to_owned(), 1000));
        excerpt.push_str(&format!("{:>6}\t{line}\n", number + 1));
    }
    if near.lines > shown {
        excerpt.push_str(&format!("[and {} more]\n", count((near.lines - shown) as u64, "line")));
    }
    let lines = || text.lines().skip(near.line).take(near.lines);
    if lines().any(|line| line.starts_with('\t')) {
        excerpt.push_str("[The file is indented with tabs here.]\n");
    }
    if lines().any(|line| line.ends_with([' ', '\t'])) {
        excerpt.push_str("[Some of these lines end with white space.]\n");
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn edit(file: &[u8], old: &str, new: &str, all: Option<bool>) -> Result<Edited, Refusal> {
        let arguments = EditArguments {
            path: "f".to_owned(),
            old_text: old.to_owned(),
            new_text: new.to_owned(),
            all,
        };
        replace(file, &arguments)
    }

    fn edited(contents: &[u8], lines: &[usize]) -> Result<Edited, Refusal> {
        Ok(Edited { contents: contents.to_vec(), lines: lines.to_vec() })
    }

    #[test]
    fn a_unique_piece_is_replaced_and_its_line_named() {
        assert_eq!(edit(b"a\nb\nc\n", "b\n", "x\ny\n", None), edited(b"a\nx\ny\nc\n", &[2]));
    }

    #[test]
    fn a_missing_final_newline_stays_missing() {
        assert_eq!(edit(b"a\nb", "b", "c", None), edited(b"a\nc", &[2]));
    }

    #[test]
    fn crlf_stays_crlf() {
        assert_eq!(
            edit(b"a\r\nb\r\nc\r\n", "a\nb\n", "x\ny\nz\n", None),
            edited(b"x\r\ny\r\nz\r\nc\r\n", &[1])
        );
    }

    #[test]
    fn a_file_of_mixed_line_ends_is_taken_as_it_stands() {
        assert_eq!(edit(b"a\r\nb\nc", "b\nc", "d\ne", None), edited(b"a\r\nd\ne", &[2]));
    }

    #[test]
    fn bytes_that_are_not_utf8_stay_as_they_are() {
        assert_eq!(edit(b"\xff\x00a\xfe", "a", "b", None), edited(b"\xff\x00b\xfe", &[1]));
    }

    #[test]
    fn several_occurrences_are_refused_by_their_lines_or_all_replaced() {
        let refusal = edit(b"a\nb\na\n", "a", "x", None).map_err(|refusal| refusal.content);
        insta::assert_snapshot!(refusal.unwrap_err(), @"`old_text` stands in the file 2 times, beginning at the lines 1, 3; nothing was changed. Add neighbouring lines until it is unique, or set `all`.");
        assert_eq!(edit(b"a\nb\na\n", "a", "x", Some(true)), edited(b"x\nb\nx\n", &[1, 3]));
    }

    #[test]
    fn other_white_space_is_shown_as_it_stands_in_the_file() {
        let refusal = edit(b"if x {\n\ty();  \n}\n", "if x {\n    y();\n}\n", "z", None);
        insta::assert_snapshot!(refusal.unwrap_err().content);
    }

    #[test]
    fn a_similar_piece_is_shown() {
        let refusal = edit(b"fn one() {}\nfn two() {}\n", "fn tow() {}", "z", None);
        insta::assert_snapshot!(refusal.unwrap_err().content);
    }

    #[test]
    fn copied_line_numbers_are_recognised() {
        let refusal = edit(b"one\ntwo\n", "     1\tone\n     2\ttwo\n", "z", None).unwrap_err();
        assert_eq!(refusal.detail, "not found: holds line numbers");
    }

    #[test]
    fn nothing_to_look_for_and_nothing_to_change_are_refused() {
        let refusals = [edit(b"a", "", "x", None), edit(b"a", "a", "a", None)];
        let actual = refusals.map(|refusal| refusal.unwrap_err().detail);
        assert_eq!(actual, ["nothing to look for", "nothing to change"]);
    }
}
