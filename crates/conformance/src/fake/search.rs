//! The search port of the fake.

use std::path::Path;

use async_trait::async_trait;
use forge_domain::{
    CaseSensitivity, IgnoreRules, Search, SearchError, SearchMatch, SearchOutcome, SearchQuery,
};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::overrides::{Override, OverrideBuilder};
use regex::bytes::{Regex, RegexBuilder};

use super::environment::FakeEnvironment;
use super::tree::{Last, Node, Tree, WORKSPACE};

#[async_trait]
impl Search for FakeEnvironment {
    async fn search(&self, query: SearchQuery) -> Result<SearchOutcome, SearchError> {
        let _call = self.inner.enter("search").await?;
        let pattern = query.pattern.as_deref().map(|text| regex(text, query.case)).transpose()?;
        let root = self.inner.resolve(&query.root, Last::Follow)?;
        let tree = self.inner.tree();
        if tree.get(&root).is_none() {
            return Err(forge_domain::FileError::NotFound { path: query.root }.into());
        }
        let globs = globs(&tree, &root, &query.globs)?;
        let respect = query.ignore_rules == IgnoreRules::Respect;
        let rules = if respect { rules(&tree) } else { Vec::new() };
        let mut outcome = SearchOutcome::default();
        for (path, bytes) in tree.files_below(&root) {
            if hidden(path) || ignored(&rules, path) || globs.matched(path, false).is_ignore() {
                continue;
            }
            let shown = path.strip_prefix(WORKSPACE).unwrap_or(path).to_path_buf();
            match &pattern {
                None => {
                    if outcome.files.len() == query.max_results {
                        outcome.truncated = true;
                        break;
                    }
                    outcome.files.push(shown);
                }
                Some(pattern) => grep(&mut outcome, &query, pattern, &shown, bytes),
            }
        }
        Ok(outcome)
    }
}

fn regex(text: &str, case: CaseSensitivity) -> Result<Regex, SearchError> {
    RegexBuilder::new(text)
        .case_insensitive(case == CaseSensitivity::Insensitive)
        .multi_line(true)
        .build()
        .map_err(|error| SearchError::Pattern { reason: error.to_string() })
}

fn globs(tree: &Tree, root: &Path, globs: &[String]) -> Result<Override, SearchError> {
    let is_directory = tree.get(root) == Some(&Node::Directory);
    let mut builder =
        OverrideBuilder::new(if is_directory { root } else { root.parent().unwrap_or(root) });
    for glob in globs {
        let unreadable = |error: ignore::Error| SearchError::Glob {
            glob: glob.clone(),
            reason: error.to_string(),
        };
        builder.add(glob).map_err(unreadable)?;
    }
    builder
        .build()
        .map_err(|error| SearchError::Glob { glob: globs.join(" "), reason: error.to_string() })
}

/// The rules of every ignore file, outermost first.
fn rules(tree: &Tree) -> Vec<Gitignore> {
    let names = [".gitignore", ".ignore"];
    let is_rules =
        |path: &Path| path.file_name().is_some_and(|name| names.iter().any(|n| name == *n));
    tree.files_below(Path::new(WORKSPACE))
        .filter(|(path, _)| is_rules(path))
        .map(|(path, bytes)| {
            let mut builder = GitignoreBuilder::new(path.parent().unwrap_or(path));
            for line in String::from_utf8_lossy(bytes).lines() {
                // A line that cannot be read is passed over, as git does.
                drop(builder.add_line(None, line));
            }
            builder.build().unwrap()
        })
        .collect()
}

fn ignored(rules: &[Gitignore], path: &Path) -> bool {
    let decision = rules
        .iter()
        .filter(|rules| path.starts_with(rules.path()))
        .map(|rules| rules.matched_path_or_any_parents(path, false))
        .rfind(|decision| !decision.is_none());
    decision.is_some_and(|decision| decision.is_ignore())
}

fn hidden(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == ".git")
}

fn grep(
    outcome: &mut SearchOutcome,
    query: &SearchQuery,
    pattern: &Regex,
    path: &Path,
    bytes: &[u8],
) {
    if bytes.contains(&0) {
        return;
    }
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(found) = pattern.find(line) else { continue };
        if outcome.matches.len() == query.max_results {
            outcome.truncated = true;
            return;
        }
        let from = if line.len() > query.max_line_bytes {
            let before = query.max_line_bytes.saturating_sub(found.len()) / 2;
            found.start().saturating_sub(before).min(line.len() - query.max_line_bytes)
        } else {
            0
        };
        let cut = &line[from..line.len().min(from + query.max_line_bytes)];
        outcome.matches.push(SearchMatch {
            path: path.to_path_buf(),
            line_number: number,
            line: String::from_utf8_lossy(cut).into_owned(),
        });
    }
}
