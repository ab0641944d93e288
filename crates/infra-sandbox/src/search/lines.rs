//! The matching lines of one file.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use forge_domain::SearchMatch;
use grep_matcher::Matcher;
use grep_regex::RegexMatcher;
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkMatch};

/// A line that needs more is not searched: a command can write one that is longer than our memory.
const MAX_SEARCHED_LINE_BYTES: usize = 64 << 20;

/// Takes the matching lines of one file.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    pub(super) matcher: &'a RegexMatcher,
    pub(super) path: PathBuf,
    pub(super) room: usize,
    pub(super) max_line_bytes: usize,
    pub(super) matches: Vec<SearchMatch>,
    pub(super) truncated: bool,
    pub(super) binary: bool,
}

impl Lines<'_> {
    /// # Errors
    /// The file could not be read to its end, or nobody waits for the search any more.
    pub(super) fn search(&mut self, file: File, stopped: &AtomicBool) -> io::Result<()> {
        let mut searcher = SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(0))
            .heap_limit(Some(MAX_SEARCHED_LINE_BYTES))
            .line_number(true)
            .build();
        searcher.search_reader(self.matcher, Stoppable { file, stopped }, self)
    }

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

impl Sink for &mut Lines<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        if self.matches.len() == self.room {
            self.truncated = true;
            return Ok(false);
        }
        let line = found.bytes();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = self.cut(line);
        self.matches.push(SearchMatch {
            path: self.path.clone(),
            line_number: found.line_number().unwrap_or_default(),
            line,
        });
        Ok(true)
    }

    fn binary_data(&mut self, _: &Searcher, _: u64) -> Result<bool, Self::Error> {
        self.binary = true;
        Ok(false)
    }
}

/// A large file is left as soon as the search is stopped.
struct Stoppable<'a> {
    file: File,
    stopped: &'a AtomicBool,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other("the search was stopped"));
        }
        self.file.read(buffer)
    }
}
