//! Search.

use std::path::{Path, PathBuf};

use forge_domain::{
    CaseSensitivity, FileError, IgnoreRules, SearchError, SearchMatch, SearchOutcome, SearchQuery,
};
use pretty_assertions::assert_eq;

use super::probe::{Environment, write};

async fn search(environment: &Environment, query: SearchQuery) -> SearchOutcome {
    environment.search(query).await.unwrap()
}

fn lines(pattern: &str) -> SearchQuery {
    SearchQuery::default().pattern(pattern)
}

fn found(path: &str, line_number: u64, line: &str) -> SearchMatch {
    SearchMatch { path: path.into(), line_number, line: line.to_owned() }
}

fn paths(outcome: &SearchOutcome) -> Vec<&str> {
    outcome.files.iter().map(|path| path.to_str().unwrap()).collect()
}

async fn write_all(environment: &Environment, files: &[(&str, &str)]) {
    for (path, contents) in files {
        write(environment, path, contents.as_bytes()).await;
    }
}

/// By path, then by line; the syntax is that of the `regex` crate.
pub async fn lines_are_found_with_their_numbers(environment: Environment) {
    let files = [("b.txt", "x\nfn one() {}\r\n"), ("a.txt", "fn two(x: u8)\nfnord\nlast fn t()")];
    write_all(&environment, &files).await;
    let outcome = search(&environment, lines(r"\bfn\s+\w+\(")).await;
    let expected = [
        found("a.txt", 1, "fn two(x: u8)"),
        found("a.txt", 3, "last fn t()"),
        found("b.txt", 2, "fn one() {}"),
    ];
    assert_eq!(outcome.matches, expected);
    assert_eq!((outcome.truncated, outcome.files), (false, Vec::<PathBuf>::new()));
}

/// Case counts, unless asked otherwise.
pub async fn case_can_be_ignored(environment: Environment) {
    write_all(&environment, &[("file", "One\none\n")]).await;
    let sensitive = search(&environment, lines("one")).await;
    let insensitive = search(&environment, lines("one").case(CaseSensitivity::Insensitive)).await;
    assert_eq!((sensitive.matches.len(), insensitive.matches.len()), (1, 2));
}

/// A file has to match one of the globs.
pub async fn globs_choose_files(environment: Environment) {
    let files = [("a.rs", "hit"), ("b/c.rs", "hit"), ("b/d.toml", "hit"), ("e.md", "hit")];
    write_all(&environment, &files).await;
    let globs = |globs: &[&str]| {
        SearchQuery::default().globs(globs.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(paths(&search(&environment, globs(&["*.rs"])).await), ["a.rs", "b/c.rs"]);
    assert_eq!(paths(&search(&environment, globs(&["/*.rs"])).await), ["a.rs"]);
    assert_eq!(paths(&search(&environment, globs(&["b/**"])).await), ["b/c.rs", "b/d.toml"]);
    let both = globs(&["*.rs", "*.toml"]).pattern("hit");
    assert_eq!(search(&environment, both).await.matches.len(), 3);
}

/// A glob with `!` excludes.
pub async fn excluding_globs_leave_out(environment: Environment) {
    write_all(&environment, &[("a.rs", ""), ("b.md", ""), ("c/d.rs", "")]).await;
    let query = SearchQuery::default().globs(vec!["!*.md".to_owned()]);
    assert_eq!(paths(&search(&environment, query).await), ["a.rs", "c/d.rs"]);
}

/// The answer to a query without a pattern is the files.
pub async fn without_a_pattern_files_are_listed(environment: Environment) {
    write_all(&environment, &[("b", ""), ("a/c", "")]).await;
    let outcome = search(&environment, SearchQuery::default()).await;
    assert_eq!((paths(&outcome), outcome.matches.len()), (vec!["a/c", "b"], 0));
}

/// Ignore files count in a workspace that is no repository too, and deeper ones come on top.
pub async fn ignore_rules_hold_without_git(environment: Environment) {
    let files = [
        (".gitignore", "*.log\n/target/\n"),
        ("a.log", ""),
        ("target/x", ""),
        ("src/target/y", ""),
        ("src/.gitignore", "!keep.log\n"),
        ("src/keep.log", ""),
        (".ignore", "secret\n"),
        ("secret", ""),
    ];
    write_all(&environment, &files).await;
    let expected = [".gitignore", ".ignore", "src/.gitignore", "src/keep.log", "src/target/y"];
    assert_eq!(paths(&search(&environment, SearchQuery::default()).await), expected);
    // A search that begins below the rules obeys them too.
    let below = SearchQuery::default().root("src");
    let expected = ["src/.gitignore", "src/keep.log", "src/target/y"];
    assert_eq!(paths(&search(&environment, below).await), expected);
}

/// Whoever asks for everything gets it.
pub async fn ignore_rules_can_be_disregarded(environment: Environment) {
    write_all(&environment, &[(".gitignore", "*.log\n"), ("a.log", "")]).await;
    let query = SearchQuery::default().ignore_rules(IgnoreRules::Disregard);
    assert_eq!(paths(&search(&environment, query).await), [".gitignore", "a.log"]);
}

/// `.git` is not the project.
pub async fn the_git_directory_is_never_searched(environment: Environment) {
    write_all(&environment, &[(".git/config", "hit"), ("a", "hit")]).await;
    for rules in [IgnoreRules::Respect, IgnoreRules::Disregard] {
        let outcome = search(&environment, lines("hit").ignore_rules(rules)).await;
        assert_eq!(outcome.matches, [found("a", 1, "hit")]);
    }
}

/// A leading dot hides nothing.
pub async fn hidden_files_are_searched(environment: Environment) {
    write_all(&environment, &[(".github/workflow", "hit")]).await;
    assert_eq!(search(&environment, lines("hit")).await.matches.len(), 1);
}

/// A NUL byte makes a file binary.
pub async fn binary_files_are_passed_over(environment: Environment) {
    write(&environment, "binary", b"hit\n\0hit\n").await;
    let outcome = search(&environment, lines("hit")).await;
    assert_eq!((outcome.matches, outcome.unreadable_files), (Vec::new(), 0));
}

/// No more than was asked for, and it is said.
pub async fn results_are_limited(environment: Environment) {
    write_all(&environment, &[("a", "hit\nhit\nhit\n"), ("b", "hit\n")]).await;
    let outcome = search(&environment, lines("hit").max_results(2_usize)).await;
    assert_eq!((outcome.matches.len(), outcome.truncated), (2, true));
    let exact = search(&environment, lines("hit").max_results(4_usize)).await;
    assert_eq!((exact.matches.len(), exact.truncated), (4, false));
    let files = search(&environment, SearchQuery::default().max_results(1_usize)).await;
    assert_eq!((paths(&files), files.truncated), (vec!["a"], true));
}

/// Of a long line, the part with the match.
pub async fn long_lines_are_cut_around_the_match(environment: Environment) {
    let line = format!("{}needle{}", "a".repeat(5000), "b".repeat(5000));
    write_all(&environment, &[("file", &line)]).await;
    let outcome = search(&environment, lines("needle").max_line_bytes(100_usize)).await;
    let actual = &outcome.matches[0].line;
    assert!(actual.len() <= 100 && actual.contains("needle"), "{actual}");
}

/// Below the root and nowhere else; paths stay relative to the workspace.
pub async fn a_root_limits_the_search(environment: Environment) {
    write_all(&environment, &[("a/file", "hit"), ("b/file", "hit")]).await;
    let outcome = search(&environment, lines("hit").root("b")).await;
    assert_eq!(outcome.matches, [found("b/file", 1, "hit")]);
}

/// A file is a root too.
pub async fn a_single_file_can_be_searched(environment: Environment) {
    write_all(&environment, &[("a/file", "no\nhit"), ("a/other", "hit")]).await;
    let outcome = search(&environment, lines("hit").root("a/file")).await;
    assert_eq!(outcome.matches, [found("a/file", 2, "hit")]);
}

/// What is wrong with a pattern is said.
pub async fn a_bad_pattern_is_said(environment: Environment) {
    let error = environment.search(lines("a(b")).await.unwrap_err();
    assert!(matches!(error, SearchError::Pattern { .. }), "{error:?}");
}

/// What is wrong with a glob is said.
pub async fn a_bad_glob_is_said(environment: Environment) {
    let query = SearchQuery::default().globs(vec!["a[".to_owned()]);
    let error = environment.search(query).await.unwrap_err();
    assert!(matches!(error, SearchError::Glob { .. }), "{error:?}");
}

/// A root that is not there is no empty answer.
pub async fn a_missing_root_is_said(environment: Environment) {
    let error = environment.search(lines("x").root("missing")).await.unwrap_err();
    assert!(matches!(error, SearchError::Root(FileError::NotFound { .. })), "{error:?}");
}

/// Search keeps to the same bounds as files.
pub async fn a_root_outside_is_refused(environment: Environment) {
    let error = environment.search(lines("x").root(Path::new("/etc"))).await.unwrap_err();
    assert!(matches!(error, SearchError::Root(FileError::Outside { .. })), "{error:?}");
}

/// Bytes that are no UTF-8 are shown replaced, and do not hide a match.
pub async fn files_that_are_no_utf8_are_searched(environment: Environment) {
    write(&environment, "latin", b"caf\xe9 hit\n").await;
    let outcome = search(&environment, lines("hit")).await;
    assert_eq!(outcome.matches, [found("latin", 1, "caf\u{fffd} hit")]);
}
