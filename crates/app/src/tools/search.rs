//! `search`: lines by regular expression, files by glob.

use std::path::Path;

use forge_domain::{CaseSensitivity, IgnoreRules, SearchError, SearchOutcome, SearchQuery};
use schemars::JsonSchema;
use serde::Deserialize;

use super::context::ToolContext;
use super::report::{Report, ToolFailure};
use crate::plain::{self, count};

/// Arguments of `search`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchArguments {
    /// A regular expression (syntax of Rust's regex crate), matched line by line. Without it, the
    /// answer is the files that match the globs.
    pub(crate) pattern: Option<String>,
    /// Globs as in .gitignore, such as *.rs or src/**/*.py; a file has to match one of them, and
    /// those that begin with ! exclude.
    pub(crate) globs: Option<Vec<String>>,
    /// The directory or file to search. Default: the working directory.
    pub(crate) path: Option<String>,
    /// Whether upper and lower case are the same. Default: false.
    pub(crate) ignore_case: Option<bool>,
    /// Whether files are searched that the project's ignore rules exclude. Default: false.
    pub(crate) include_ignored: Option<bool>,
}

impl SearchArguments {
    pub(crate) fn summary(&self) -> String {
        let mut parts: Vec<String> = self.pattern.iter().map(|p| format!("/{p}/")).collect();
        parts.extend(self.globs.iter().flatten().cloned());
        parts.extend(self.path.iter().map(|path| format!("in {path}")));
        parts.join(" ")
    }

    fn query(&self) -> SearchQuery {
        SearchQuery {
            root: self.path.as_deref().unwrap_or(".").into(),
            pattern: self.pattern.clone(),
            globs: self.globs.clone().unwrap_or_default(),
            case: match self.ignore_case {
                Some(true) => CaseSensitivity::Insensitive,
                Some(false) | None => CaseSensitivity::Sensitive,
            },
            ignore_rules: match self.include_ignored {
                Some(true) => IgnoreRules::Disregard,
                Some(false) | None => IgnoreRules::Respect,
            },
            ..SearchQuery::default()
        }
    }
}

pub(crate) async fn search(
    context: &ToolContext<'_>,
    arguments: &SearchArguments,
) -> Result<Report, ToolFailure> {
    let query = arguments.query();
    let limit = query.max_results;
    let outcome = match context.environment.search(query).await {
        Ok(outcome) => outcome,
        Err(SearchError::Root(error)) => {
            let path = arguments.path.as_deref().unwrap_or(".");
            return Err(context.path_failure(path, error).await);
        }
        Err(error) => return Err(error.into()),
    };
    Ok(report(&outcome, arguments.pattern.is_some(), limit))
}

fn report(outcome: &SearchOutcome, by_line: bool, limit: usize) -> Report {
    let mut content = String::new();
    let mut detail = if by_line {
        let files = push_matches(&mut content, outcome);
        let matches = count(outcome.matches.len() as u64, "match");
        if files == 0 {
            "no match".to_owned()
        } else {
            format!("{matches} in {}", count(files, "file"))
        }
    } else {
        for file in &outcome.files {
            push_path(&mut content, file);
        }
        match outcome.files.len() {
            0 => "no file".to_owned(),
            files => count(files as u64, "file"),
        }
    };
    if content.is_empty() {
        content = if by_line { "Nothing matches.\n" } else { "No file matches.\n" }.to_owned();
    }
    if outcome.truncated {
        content.push_str(&format!(
            "[Only the first {limit} are shown. Narrow the search by a pattern, globs or a path.]\n"
        ));
        detail.push_str(", and more");
    }
    if outcome.unreadable_files > 0 {
        let files = count(outcome.unreadable_files, "file");
        content.push_str(&format!("[{files} could not be read.]\n"));
    }
    Report::succeeded(content, detail)
}

/// Adds the matches, each file's under its path, and says how many files there are.
fn push_matches(content: &mut String, outcome: &SearchOutcome) -> u64 {
    let mut files = 0;
    let mut previous: Option<&Path> = None;
    for found in &outcome.matches {
        if previous != Some(&found.path) {
            files += 1;
            push_path(content, &found.path);
            previous = Some(&found.path);
        }
        let line = plain::file_line(&found.line);
        content.push_str(&format!("{:>6}\t{line}\n", found.line_number));
    }
    files
}

fn push_path(content: &mut String, path: &Path) {
    content.push_str(&plain::file_line(&path.to_string_lossy()));
    content.push('\n');
}
