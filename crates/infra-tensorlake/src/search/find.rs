//! A search: which files there are, then the lines of those that count.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use forge_domain::{
    FileError, IgnoreRules, Search, SearchError, SearchMatch, SearchOutcome, SearchQuery,
};

use super::{Pattern, Rules};
use crate::environment::{Inner, TensorlakeEnvironment};
use crate::failure::RequestError;
use crate::files::{Asked, path};
use crate::guest::files::{GREP, SEARCH};
use crate::guest::word;
use crate::scripts::Script;

/// So much of what `grep` finds is looked at: more than any answer holds.
const MAX_FOUND_BYTES: usize = 64 * 1024 * 1024;
/// Names that go along with the request itself.
const MAX_INLINE_BYTES: usize = 64 * 1024;

/// What is beneath the root of a search.
struct Tree {
    workspace: PathBuf,
    files: Vec<PathBuf>,
}

#[async_trait]
impl Search for TensorlakeEnvironment {
    async fn search(&self, query: SearchQuery) -> Result<SearchOutcome, SearchError> {
        let pattern = query.pattern.as_deref();
        let pattern = pattern.map(|text| Pattern::compile(text, query.case)).transpose()?;
        // Before the guest is asked: a glob that cannot be read is an error wherever the root is.
        drop(Rules::new(Path::new("/"), &query.globs)?);
        let tree = self.inner.tree(&query).await?;
        match pattern {
            None => Ok(list(&query, &tree)),
            Some(pattern) => self.inner.grep(&query, &pattern, &tree).await,
        }
    }
}

fn list(query: &SearchQuery, tree: &Tree) -> SearchOutcome {
    let shown = tree.files.iter().take(query.max_results).map(|file| tree.shown(file));
    SearchOutcome {
        files: shown.collect(),
        truncated: tree.files.len() > query.max_results,
        ..SearchOutcome::default()
    }
}

impl Tree {
    fn shown(&self, file: &Path) -> PathBuf {
        file.strip_prefix(&self.workspace).unwrap_or(file).to_path_buf()
    }
}

impl Inner {
    /// The files beneath the query's root that count, in order.
    async fn tree(&self, query: &SearchQuery) -> Result<Tree, SearchError> {
        let asked = Asked { path: &query.root, operation: "search" };
        let answer = self.in_bounds(&asked, SEARCH, &[]).await.map_err(root_error)?;
        let sections: Vec<&[String]> = answer.data().split(|line| line == "--").collect();
        let [head, files, rules] = sections[..] else { return Err(asked.unreadable().into()) };
        let Some((kind, head)) = head.split_last() else { return Err(asked.unreadable().into()) };
        let head = asked.decode(head)?;
        let mut names = head.split(|byte| *byte == 0).map(path);
        let (Some(workspace), Some(root)) = (names.next(), names.next()) else {
            return Err(asked.unreadable().into());
        };
        let files = asked.decode(files)?;
        let files = files.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(path);
        let mut files: Vec<PathBuf> = files.collect();
        files.sort();
        // A file that is named itself is searched whatever the rules say.
        if kind == "directory" {
            let mut all = Rules::new(&root, &query.globs)?;
            if query.ignore_rules == IgnoreRules::Respect {
                let mut by_file: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
                for (file, _, line) in found(&asked.decode(rules)?) {
                    let line = String::from_utf8_lossy(line).into_owned();
                    by_file.entry(file).or_default().push(line);
                }
                for (file, lines) in by_file {
                    all.add(&file, &lines, &workspace);
                }
            }
            files.retain(|file| all.allow(file));
        }
        Ok(Tree { workspace, files })
    }

    async fn grep(
        &self,
        query: &SearchQuery,
        pattern: &Pattern,
        tree: &Tree,
    ) -> Result<SearchOutcome, SearchError> {
        let mut outcome = SearchOutcome::default();
        if tree.files.is_empty() {
            return Ok(outcome);
        }
        let asked = Asked { path: Path::new("."), operation: "search" };
        let options = match pattern.literals() {
            Some(literals) => {
                let words = literals.iter().map(|literal| word(OsStr::from_bytes(literal)));
                format!("-F -e {}", words.collect::<Vec<_>>().join(" -e "))
            }
            None => "-e ''".to_owned(),
        };
        let text = GREP.replace("GREP", &options);
        let names: Vec<u8> = tree.files.iter().flat_map(|file| nul_terminated(file)).collect();
        let mut arguments: Vec<OsString> = Vec::new();
        let lines = if names.len() <= MAX_INLINE_BYTES {
            let names = STANDARD.encode(&names);
            let text = format!("{MOST}{text}");
            let script = |text| Script::new(text, []).long(names.clone());
            self.entered(asked.operation, &text, script).await
        } else {
            let upload = self.send_pieces(asked.operation, Bytes::from(names)).await?;
            arguments.push("-".into());
            arguments.extend(upload.pieces().map(PathBuf::into_os_string));
            let words: Vec<String> = arguments.iter().map(|argument| word(argument)).collect();
            let text = format!("set -- {}\n{MOST}{text}", words.join(" "));
            self.entered(asked.operation, &text, |text| Script::new(text, [])).await
        }
        .map_err(SearchError::Environment)?
        .lines;
        let Some(("ok", lines)) = lines.split_first().map(|(first, rest)| (first.as_str(), rest))
        else {
            return Err(self.grep_failed(&asked).into());
        };
        let mut sections = lines.split(|line| line == "--");
        let bytes = asked.decode(sections.next().unwrap_or_default())?;
        outcome.truncated = bytes.len() >= MAX_FOUND_BYTES;
        let unreadable = sections.next().and_then(|lines| lines.first()?.parse().ok());
        outcome.unreadable_files = unreadable.unwrap_or_default();
        for (file, line_number, line) in found(&bytes) {
            let Some(line) = pattern.shown(line, query) else { continue };
            if outcome.matches.len() == query.max_results {
                outcome.truncated = true;
                break;
            }
            outcome.matches.push(SearchMatch { path: tree.shown(&file), line_number, line });
        }
        Ok(outcome)
    }

    fn grep_failed(&self, asked: &Asked<'_>) -> FileError {
        RequestError::Unreadable("grep could not be started in the guest".to_owned())
            .in_environment(asked.operation)
            .into()
    }
}

/// A failure of the environment is none of the root.
fn root_error(error: FileError) -> SearchError {
    match error {
        FileError::Environment(error) => SearchError::Environment(error),
        other => SearchError::Root(other),
    }
}

/// The limit goes before whatever arguments there are.
const MOST: &str = "set -- 67108864 \"$@\"\n";

fn nul_terminated(file: &Path) -> impl Iterator<Item = u8> {
    file.as_os_str().as_bytes().iter().copied().chain([0])
}

/// Reads what `grep -HnZ` prints: a name, NUL, a number, a colon, the line.
fn found(mut bytes: &[u8]) -> Vec<(PathBuf, u64, &[u8])> {
    let mut lines = Vec::new();
    while let Some(nul) = bytes.iter().position(|byte| *byte == 0) {
        let (name, rest) = (&bytes[..nul], &bytes[nul + 1..]);
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = &rest[..end];
        bytes = rest.get(end + 1..).unwrap_or_default();
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let number = std::str::from_utf8(&line[..colon]).ok().and_then(|text| text.parse().ok());
        if let Some(number) = number {
            lines.push((path(name), number, &line[colon + 1..]));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn what_grep_prints_is_read_with_any_names_and_lines() {
        let actual = found(b"/w/a:1\x003:x:y\n/w/new\nline\x0012:\n/w/b\x007:cut");
        let expected: Vec<(PathBuf, u64, &[u8])> = vec![
            ("/w/a:1".into(), 3, b"x:y"),
            ("/w/new\nline".into(), 12, b""),
            ("/w/b".into(), 7, b"cut"),
        ];
        assert_eq!(actual, expected);
    }
}
