//! The search port, on the crates that `ripgrep` is made of.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use forge_domain::{
    CaseSensitivity, IgnoreRules, Search, SearchError, SearchMatch, SearchOutcome, SearchQuery,
};
use grep_matcher::Matcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkMatch};
use ignore::overrides::{Override, OverrideBuilder};
use ignore::{DirEntry, WalkBuilder};

use crate::environment::{Inner, LocalEnvironment};
use crate::paths::{Bounds, file_error};

#[async_trait]
impl Search for LocalEnvironment {
    async fn search(&self, query: SearchQuery) -> Result<SearchOutcome, SearchError> {
        let _call = self.inner.enter().await?;
        let bounds = self.bounds()?;
        let stop = StopOnDrop::default();
        let stopped = Arc::clone(&stop.0);
        let work = move || search(&bounds, &query, &stopped);
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Inner::closed_error().into()),
        }
    }
}

/// Tells the searching thread that nobody waits for it any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn search(
    bounds: &Bounds,
    query: &SearchQuery,
    stopped: &AtomicBool,
) -> Result<SearchOutcome, SearchError> {
    let matcher =
        query.pattern.as_deref().map(|pattern| matcher(pattern, query.case)).transpose()?;
    let root = bounds.resolve(&query.root)?;
    std::fs::metadata(&root).map_err(|error| file_error(&query.root, "list", error))?;
    let mut found = Found { outcome: SearchOutcome::default(), query, bounds };
    for entry in walk(bounds, &root, query)? {
        if stopped.load(Ordering::Relaxed) || found.outcome.truncated {
            break;
        }
        match entry {
            Ok(entry) => found.visit(&entry, matcher.as_ref()),
            Err(_) => found.outcome.unreadable_files += 1,
        }
    }
    Ok(found.outcome)
}

fn matcher(pattern: &str, case: CaseSensitivity) -> Result<RegexMatcher, SearchError> {
    RegexMatcherBuilder::new()
        .case_insensitive(case == CaseSensitivity::Insensitive)
        .line_terminator(Some(b'\n'))
        .build(pattern)
        .map_err(|error| SearchError::Pattern { reason: error.to_string() })
}

fn walk(bounds: &Bounds, root: &Path, query: &SearchQuery) -> Result<ignore::Walk, SearchError> {
    let respect = query.ignore_rules == IgnoreRules::Respect;
    Ok(WalkBuilder::new(root)
        .standard_filters(false)
        .ignore(respect)
        .git_ignore(respect)
        .git_exclude(respect)
        .require_git(false)
        // Rules above the root count where the root is inside of the workspace, else there are none.
        .parents(respect && root != bounds.workspace && root.starts_with(&bounds.workspace))
        .hidden(false)
        .follow_links(false)
        .overrides(globs(root, &query.globs)?)
        .filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git")
        .sort_by_file_name(std::cmp::Ord::cmp)
        .build())
}

fn globs(root: &Path, globs: &[String]) -> Result<Override, SearchError> {
    let unreadable = |glob: &str, error: &ignore::Error| SearchError::Glob {
        glob: glob.to_owned(),
        reason: error.to_string(),
    };
    let directory = if root.is_dir() { root } else { root.parent().unwrap_or(root) };
    let mut builder = OverrideBuilder::new(directory);
    for glob in globs {
        builder.add(glob).map_err(|error| unreadable(glob, &error))?;
    }
    builder.build().map_err(|error| unreadable(&globs.join(" "), &error))
}

struct Found<'a> {
    outcome: SearchOutcome,
    query: &'a SearchQuery,
    bounds: &'a Bounds,
}

impl Found<'_> {
    fn visit(&mut self, entry: &DirEntry, matcher: Option<&RegexMatcher>) {
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            return;
        }
        match matcher {
            None => self.add_file(entry.path()),
            Some(matcher) => self.grep(entry.path(), matcher),
        }
    }

    fn shown(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.bounds.workspace).unwrap_or(path).to_path_buf()
    }

    fn add_file(&mut self, path: &Path) {
        if self.outcome.files.len() == self.query.max_results {
            self.outcome.truncated = true;
        } else {
            self.outcome.files.push(self.shown(path));
        }
    }

    fn grep(&mut self, path: &Path, matcher: &RegexMatcher) {
        let mut searcher = SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(0))
            .line_number(true)
            .build();
        let shown = self.shown(path);
        let mut lines = Lines {
            matcher,
            path: shown,
            room: self.query.max_results - self.outcome.matches.len(),
            max_line_bytes: self.query.max_line_bytes,
            matches: Vec::new(),
            truncated: false,
            binary: false,
        };
        if searcher.search_path(matcher, path, &mut lines).is_err() {
            self.outcome.unreadable_files += 1;
        } else if !lines.binary {
            self.outcome.matches.append(&mut lines.matches);
            self.outcome.truncated |= lines.truncated;
        }
    }
}

/// Takes the matching lines of one file.
struct Lines<'a> {
    matcher: &'a RegexMatcher,
    path: PathBuf,
    room: usize,
    max_line_bytes: usize,
    matches: Vec<SearchMatch>,
    truncated: bool,
    binary: bool,
}

impl Sink for Lines<'_> {
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        if self.matches.len() == self.room {
            self.truncated = true;
            return Ok(false);
        }
        let line = found.bytes();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.matches.push(SearchMatch {
            path: self.path.clone(),
            line_number: found.line_number().unwrap_or_default(),
            line: self.cut(line),
        });
        Ok(true)
    }

    fn binary_data(&mut self, _: &Searcher, _: u64) -> Result<bool, Self::Error> {
        self.binary = true;
        Ok(false)
    }
}

impl Lines<'_> {
    /// The part of a long line that has the match in its middle.
    fn cut(&self, line: &[u8]) -> String {
        if line.len() <= self.max_line_bytes {
            return String::from_utf8_lossy(line).into_owned();
        }
        let found = self.matcher.find(line).ok().flatten();
        let (start, length) = found.map_or((0, 0), |found| (found.start(), found.len()));
        let before = self.max_line_bytes.saturating_sub(length) / 2;
        let from = start.saturating_sub(before).min(line.len() - self.max_line_bytes);
        let part = &line[from..from + self.max_line_bytes];
        // A character that was cut in two at the edge is not shown as a broken one.
        String::from_utf8_lossy(part).trim_matches('\u{fffd}').to_owned()
    }
}
