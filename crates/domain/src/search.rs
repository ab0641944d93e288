//! The search port: find files by glob and lines by regular expression, where the files are.

use std::path::PathBuf;

use async_trait::async_trait;
use derive_setters::Setters;
use thiserror::Error;

use crate::{EnvironmentError, FileError};

/// Whether case matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CaseSensitivity {
    /// `a` is not `A`.
    #[default]
    Sensitive,
    /// `a` is `A`.
    Insensitive,
}

/// Whether the project's ignore rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IgnoreRules {
    /// What `.gitignore`, `.ignore` and `.git/info/exclude` of the workspace exclude is left out,
    /// in workspaces without git too. Hidden files are searched; `.git` never is.
    #[default]
    Respect,
    /// Everything but `.git` is searched.
    Disregard,
}

/// What to look for. Without a pattern the answer is the files themselves.
#[derive(Debug, Clone, PartialEq, Eq, Setters)]
#[setters(strip_option, into)]
pub struct SearchQuery {
    /// A file or directory to search, absolute or relative to the working directory. Default: `.`
    pub root: PathBuf,
    /// A regular expression in the syntax of Rust's `regex` crate, matched line by line.
    pub pattern: Option<String>,
    /// Globs as in `.gitignore`, relative to the root; a file has to match one of them, and those
    /// that begin with `!` exclude. Default: every file.
    pub globs: Vec<String>,
    /// Whether case matters in the pattern.
    pub case: CaseSensitivity,
    /// Whether ignore rules hold.
    pub ignore_rules: IgnoreRules,
    /// The answer holds at most so many matches, or files. Default: 200.
    pub max_results: usize,
    /// A longer line is cut to so many bytes, around its match. Default: 400.
    pub max_line_bytes: usize,
}

impl Default for SearchQuery {
    fn default() -> Self {
        Self {
            root: PathBuf::from("."),
            pattern: None,
            globs: Vec::new(),
            case: CaseSensitivity::default(),
            ignore_rules: IgnoreRules::default(),
            max_results: 200,
            max_line_bytes: 400,
        }
    }
}

/// One matching line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchMatch {
    /// The file, relative to the workspace root where it lies in it, else absolute.
    pub path: PathBuf,
    /// The number of the line, from 1.
    pub line_number: u64,
    /// The line without its end, invalid UTF-8 replaced, cut to `max_line_bytes`.
    pub line: String,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SearchOutcome {
    /// The matching lines by path and line number; empty for a query without a pattern.
    pub matches: Vec<SearchMatch>,
    /// The matching files by path, for a query without a pattern.
    pub files: Vec<PathBuf>,
    /// There was more than `max_results`.
    pub truncated: bool,
    /// How many files could not be read. Binary files (with a NUL byte) are passed over silently.
    pub unreadable_files: u64,
}

/// Why a search could not be made.
#[derive(Debug, Error)]
pub enum SearchError {
    /// The regular expression cannot be read.
    #[error("the pattern cannot be read: {reason}")]
    Pattern {
        /// What is wrong and where, for the model.
        reason: String,
    },
    /// A glob cannot be read.
    #[error("the glob {glob:?} cannot be read: {reason}")]
    Glob {
        /// Which.
        glob: String,
        /// What is wrong.
        reason: String,
    },
    /// The root of the search cannot be used.
    #[error(transparent)]
    Root(#[from] FileError),
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

/// Searches the environment's files where they are, so that a remote tree is not fetched to be read.
#[async_trait]
pub trait Search: Send + Sync {
    /// Carries out a query within the same bounds as [`Files`](crate::Files). Symlinks are not
    /// followed.
    ///
    /// # Errors
    /// [`SearchError`]; an unreadable file is counted, not an error.
    ///
    /// # Cancel safety
    /// Changes nothing; the search stops soon after.
    async fn search(&self, query: SearchQuery) -> Result<SearchOutcome, SearchError>;
}
