//! The regular expression: what the guest can look for, and which lines match.

use forge_domain::{CaseSensitivity, SearchError, SearchQuery};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::literal::{ExtractKind, Extractor};

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern {
    regex: Regex,
    literals: Option<Vec<Vec<u8>>>,
}

impl Pattern {
    /// Compiles a query's pattern.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn compile(text: &str, case: CaseSensitivity) -> Result<Self, SearchError> {
        let insensitive = case == CaseSensitivity::Insensitive;
        let unreadable = |reason: String| SearchError::Pattern { reason };
        let regex = RegexBuilder::new(text)
            .case_insensitive(insensitive)
            .multi_line(true)
            .build()
            .map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { regex, literals: literals(text, insensitive) })
    }

    /// Of each matching line, one of these is a part. `None`: nothing is known of it.
    pub(crate) fn literals(&self) -> Option<&[Vec<u8>]> {
        self.literals.as_deref()
    }

    /// The line as it is shown, if it matches. A line of many bytes is cut around its match.
    pub(crate) fn shown(&self, line: &[u8], query: &SearchQuery) -> Option<String> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let found = self.regex.find(line)?;
        if line.len() <= query.max_line_bytes {
            return Some(String::from_utf8_lossy(line).into_owned());
        }
        let before = query.max_line_bytes.saturating_sub(found.len()) / 2;
        let from = found.start().saturating_sub(before).min(line.len() - query.max_line_bytes);
        let part = &line[from..from + query.max_line_bytes];
        // A character that was cut in two at the edge is not shown as a broken one.
        Some(String::from_utf8_lossy(part).trim_matches('\u{fffd}').to_owned())
    }
}

/// What every match begins with, or else ends with: one of a few literals that fit on a line.
fn literals(text: &str, insensitive: bool) -> Option<Vec<Vec<u8>>> {
    let hir = ParserBuilder::new()
        .case_insensitive(insensitive)
        .multi_line(true)
        .utf8(false)
        .build()
        .parse(text)
        .ok()?;
    [ExtractKind::Prefix, ExtractKind::Suffix].into_iter().find_map(|kind| {
        let sequence = Extractor::new().kind(kind).extract(&hir);
        let literals: Vec<Vec<u8>> =
            sequence.literals()?.iter().map(|literal| literal.as_bytes().to_vec()).collect();
        let usable = |literal: &Vec<u8>| {
            !literal.is_empty() && !literal.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0))
        };
        (!literals.is_empty() && literals.iter().all(usable)).then_some(literals)
    })
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_literal_is_found_where_every_match_has_one() {
        assert_eq!(literals("needle", false), Some(vec![b"needle".to_vec()]));
        let some = |text: &str| literals(text, false).is_some();
        for pattern in [r"\bfn\s+\w+\(", "foo|bar", r"\w+needle", "^use ", "[ab]c"] {
            assert!(some(pattern), "{pattern}");
        }
        for pattern in [r"\d*", ".", "", "(a|)"] {
            assert!(!some(pattern), "{pattern}");
        }
    }

    #[test]
    fn a_search_without_case_looks_for_every_case() {
        let actual = literals("ab", true).unwrap();
        for expected in ["ab", "AB", "aB", "Ab"] {
            assert!(actual.contains(&expected.as_bytes().to_vec()), "{expected}: {actual:?}");
        }
    }
}
