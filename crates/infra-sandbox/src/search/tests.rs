use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use forge_domain::{
    CaseSensitivity, FileError, IgnoreRules, SearchError, SearchMatch, SearchOutcome, SearchQuery,
};
use ignore::WalkBuilder;
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use rustix::fs::{CWD, Mode, mkfifoat};

use crate::sample::{CANARY, Sample};

fn search(sample: &Sample, query: SearchQuery) -> SearchOutcome {
    sample.trees.search(&query, &AtomicBool::new(false)).unwrap()
}

fn error(sample: &Sample, query: SearchQuery) -> SearchError {
    sample.trees.search(&query, &AtomicBool::new(false)).unwrap_err()
}

fn lines(pattern: &str) -> SearchQuery {
    SearchQuery::default().pattern(pattern)
}

fn found(path: &str, line_number: u64, line: &str) -> SearchMatch {
    SearchMatch { path: path.into(), line_number, line: line.to_owned() }
}

fn files(sample: &Sample, query: SearchQuery) -> Vec<String> {
    let outcome = search(sample, query);
    assert_eq!((outcome.matches.len(), outcome.unreadable_files), (0, 0));
    outcome.files.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
}

#[test]
fn lines_are_found_by_path_and_number() {
    let sample = Sample::new();
    sample.file("b.txt", "x\nfn one() {}\r\n");
    sample.file("a.txt", "fn two(x: u8)\nfnord\nlast fn t()");
    sample.file("a/z", "fn three()");
    let expected = SearchOutcome {
        matches: vec![
            found("a/z", 1, "fn three()"),
            found("a.txt", 1, "fn two(x: u8)"),
            found("a.txt", 3, "last fn t()"),
            found("b.txt", 2, "fn one() {}"),
        ],
        ..SearchOutcome::default()
    };
    assert_eq!(search(&sample, lines(r"\bfn\s+\w+\(")), expected);
    let case = lines("FNORD").case(CaseSensitivity::Insensitive);
    assert_eq!(search(&sample, case).matches, [found("a.txt", 2, "fnord")]);
    assert_eq!(search(&sample, lines("FNORD")).matches, []);
}

#[test]
fn globs_are_relative_to_the_root_of_the_search() {
    let sample = Sample::new();
    for path in ["a.rs", "b/c.rs", "b/d.toml", "b/e/f.rs", "g.md"] {
        sample.file(path, "");
    }
    let globs = |globs: &[&str]| {
        SearchQuery::default().globs(globs.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(files(&sample, globs(&["*.rs"])), ["a.rs", "b/c.rs", "b/e/f.rs"]);
    assert_eq!(files(&sample, globs(&["/*.rs"])), ["a.rs"]);
    assert_eq!(files(&sample, globs(&["/*.rs"]).root("b")), ["b/c.rs"]);
    assert_eq!(files(&sample, globs(&["!*.rs", "!/b"])), ["g.md"]);
    assert_eq!(files(&sample, globs(&["*.toml", "*.md"])), ["b/d.toml", "g.md"]);
    let bad = error(&sample, globs(&["a["]));
    assert!(matches!(bad, SearchError::Glob { .. }), "{bad:?}");
}

#[test]
fn a_glob_finds_what_ignore_rules_leave_out() {
    let sample = Sample::new();
    sample.file(".gitignore", "*.log\n");
    sample.file("a.log", "");
    assert_eq!(files(&sample, SearchQuery::default().globs(vec!["*.log".into()])), ["a.log"]);
}

#[test]
fn ignore_rules_hold_from_the_workspace_down() {
    let sample = Sample::new();
    for (path, contents) in [
        (".gitignore", "\u{feff}*.log\n/target/\n# comment\n\n*.both\n"),
        ("a.log", ""),
        ("a.both", ""),
        ("target/x", ""),
        ("src/target/y", ""),
        ("src/.gitignore", "!keep.log\n!secret\n"),
        ("src/keep.log", ""),
        ("src/secret", ""),
        (".ignore", "secret\n!*.both\n"),
        (".git/info/exclude", "excluded\n"),
        (".git/config", ""),
        ("excluded/x", ""),
        ("src/excluded", ""),
    ] {
        sample.file(path, contents);
    }
    let below = ["src/.gitignore", "src/keep.log", "src/target/y"];
    let all = [&[".gitignore", ".ignore", "a.both"], &below[..]].concat();
    assert_eq!(files(&sample, SearchQuery::default()), all);
    assert_eq!(files(&sample, SearchQuery::default().root("src")), below);
    // Whoever names what is left out finds it.
    assert_eq!(files(&sample, SearchQuery::default().root("target")), ["target/x"]);
    assert_eq!(files(&sample, SearchQuery::default().root("a.log")), ["a.log"]);
    let disregard = SearchQuery::default().ignore_rules(IgnoreRules::Disregard);
    assert_eq!(files(&sample, disregard).len(), 11);
}

#[test]
fn an_ignore_file_that_is_no_regular_file_has_no_rules() {
    let sample = Sample::new();
    sample.file("a", "");
    fs::write(sample.beside("outside/rules"), "*\n").unwrap();
    sample.link("../outside/rules", ".gitignore");
    mkfifoat(CWD, sample.host(".ignore"), Mode::from_raw_mode(0o600)).unwrap();
    assert_eq!(files(&sample, SearchQuery::default()), ["a"]);
}

#[test]
fn links_are_not_searched_through_but_as_the_root() {
    let sample = Sample::new();
    sample.file("directory/file", "hit");
    sample.link("../outside", "relative");
    sample.link(sample.beside("outside"), "absolute");
    sample.link("../outside/canary", "file");
    sample.link("directory", "inside");
    assert_eq!(search(&sample, lines(CANARY)), SearchOutcome::default());
    assert_eq!(files(&sample, SearchQuery::default()), ["directory/file"]);
    // As a root, a link is followed where it stays.
    let expected = [found("directory/file", 1, "hit")];
    assert_eq!(search(&sample, lines("hit").root("inside")).matches, expected);
    for root in ["relative", "file", "/etc", ".."] {
        let error = error(&sample, lines("x").root(root));
        assert!(matches!(error, SearchError::Root(FileError::Outside { .. })), "{error:?}");
    }
    let missing = error(&sample, lines("x").root("missing"));
    assert!(matches!(missing, SearchError::Root(FileError::NotFound { .. })), "{missing:?}");
    let bad = error(&sample, lines("a(b"));
    assert!(matches!(bad, SearchError::Pattern { .. }), "{bad:?}");
}

#[test]
fn other_trees_are_searched_under_their_own_paths() {
    let sample = Sample::new();
    fs::write(sample.beside("scratch/note"), "hit").unwrap();
    fs::write(sample.beside("scratch/.gitignore"), "*.log").unwrap();
    fs::write(sample.beside("extra/file"), "hit").unwrap();
    let matches = |root: &str| search(&sample, lines("hit").root(root)).matches;
    assert_eq!(matches("/sample/scratch"), [found("/sample/scratch/note", 1, "hit")]);
    assert_eq!(matches("extra"), [found("extra/file", 1, "hit")]);
    assert_eq!(matches("/sample/scratch/note"), [found("/sample/scratch/note", 1, "hit")]);
}

#[test]
fn binary_files_and_special_ones_are_passed_over() {
    let sample = Sample::new();
    sample.file("binary", "hit\n\0hit\n");
    sample.file("later", &format!("hit\n{}\0", "x".repeat(100_000)));
    mkfifoat(CWD, sample.host("fifo"), Mode::from_raw_mode(0o600)).unwrap();
    fs::write(sample.host("latin"), b"caf\xe9 hit\n").unwrap();
    let outcome = search(&sample, lines("hit"));
    assert_eq!(outcome.matches, [found("latin", 1, "caf\u{fffd} hit")]);
    assert_eq!(outcome.unreadable_files, 0);
}

#[test]
fn results_are_limited_and_lines_cut() {
    let sample = Sample::new();
    sample.file("a", "hit\nhit\nhit\n");
    sample.file("b", "hit\n");
    let outcome = search(&sample, lines("hit").max_results(2_usize));
    assert_eq!((outcome.matches.len(), outcome.truncated), (2, true));
    let outcome = search(&sample, lines("hit").max_results(4_usize));
    assert_eq!((outcome.matches.len(), outcome.truncated), (4, false));
    let outcome = search(&sample, SearchQuery::default().max_results(1_usize));
    assert_eq!((outcome.files, outcome.truncated), (vec![PathBuf::from("a")], true));

    let line = format!("{}needle{}", "é".repeat(5000), "b".repeat(5000));
    sample.file("long", &line);
    let outcome = search(&sample, lines("needle").max_line_bytes(101_usize));
    let actual = &outcome.matches[0].line;
    assert!(actual.len() <= 101 && actual.contains("éneedleb"), "{actual}");
    assert!(!actual.contains('\u{fffd}'), "{actual}");
}

#[test]
fn what_cannot_be_read_is_counted() {
    let sample = Sample::new();
    sample.file("a", "hit");
    for path in ["closed", "directory/file"] {
        sample.file(path, "hit");
    }
    for path in ["closed", "directory"] {
        fs::set_permissions(sample.host(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let outcome = search(&sample, lines("hit"));
    fs::set_permissions(sample.host("directory"), fs::Permissions::from_mode(0o700)).unwrap();
    // Modes do not bind root.
    let expected = if rustix::process::geteuid().is_root() { (3, 0) } else { (1, 2) };
    assert_eq!((outcome.matches.len() as u64, outcome.unreadable_files), expected);
}

#[test]
fn a_line_beyond_all_measure_costs_its_file_only() {
    let sample = Sample::new();
    sample.file("a", &"x".repeat(65 << 20));
    sample.file("b", "hit");
    let outcome = search(&sample, lines("hit"));
    assert_eq!((outcome.matches.len(), outcome.unreadable_files), (1, 1));
}

#[test]
fn a_stopped_search_returns_at_once() {
    let sample = Sample::new();
    sample.file("a", "hit");
    let outcome = sample.trees.search(&lines("hit"), &AtomicBool::new(true)).unwrap();
    assert_eq!(outcome, SearchOutcome::default());
}

#[test]
fn a_tree_deeper_than_any_path_is_searched_as_far_as_paths_go() {
    let sample = Sample::new();
    let name = "d".repeat(200);
    let deep = sample.host(".").join((0..15).map(|_| name.as_str()).collect::<PathBuf>());
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "hit").unwrap();
    let mut directory = std::sync::Arc::new(crate::sample::open(&deep));
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    for _ in 0..8 {
        rustix::fs::mkdirat(&directory, &*name, Mode::from_raw_mode(0o700)).unwrap();
        let below = rustix::fs::openat(&directory, &*name, flags, Mode::empty()).unwrap();
        directory = std::sync::Arc::new(below);
    }
    // More levels than are held open, and back up to what comes after them.
    let many: PathBuf = (0..200).map(|_| "a").collect();
    fs::create_dir_all(sample.host("a").join(&many)).unwrap();
    fs::write(sample.host("a").join(many).join("file"), "hit").unwrap();
    fs::write(sample.host("a/a/z"), "hit").unwrap();
    let outcome = search(&sample, lines("hit"));
    assert_eq!((outcome.matches.len(), outcome.unreadable_files), (3, 1));
    assert_eq!(outcome.matches[1].path, Path::new("a/a/z"));
}

/// What the `ignore` crate's own walk finds on the host.
fn walked(sample: &Sample, root: &str, globs: &[String]) -> Vec<PathBuf> {
    let root = sample.host(root);
    let mut overrides = ignore::overrides::OverrideBuilder::new(&root);
    for glob in globs {
        overrides.add(glob).unwrap();
    }
    WalkBuilder::new(&root)
        .standard_filters(false)
        .ignore(true)
        .git_ignore(true)
        .git_exclude(true)
        .require_git(false)
        .parents(root != sample.host(""))
        .hidden(false)
        .overrides(overrides.build().unwrap())
        .filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file()))
        .map(|entry| entry.path().strip_prefix(sample.host("")).unwrap().to_path_buf())
        .collect()
}

fn rule() -> impl Strategy<Value = String> {
    let glob = prop::sample::select(vec![
        "a", "b", "/a", "/b/", "a/", "*", "*.x", "c.x", "a/b", "a/*", "**/b", "a/**", "**",
        "/b/c.x",
    ]);
    (prop::bool::ANY, glob).prop_map(
        |(whitelist, glob)| {
            if whitelist { format!("!{glob}") } else { glob.to_owned() }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_and_globs_mean_what_they_mean_to_the_ignore_crate(
        rules in prop::collection::vec(
            (
                prop::sample::select(vec!["", "a", "b", "a/b"]),
                prop::sample::select(vec![".ignore", ".gitignore", ".git/info/exclude"]),
                prop::collection::vec(rule(), 1..4),
            ),
            0..6,
        ),
        globs in prop::collection::vec(rule(), 0..3),
        root in prop::sample::select(vec!["", "a", "a/b"]),
    ) {
        let sample = Sample::new();
        for directory in ["", "a", "b", "a/a", "a/b", "b/a", "a/b/a"] {
            for name in ["c", "c.x", "d.x", ".e"] {
                sample.file(Path::new(directory).join(name).to_str().unwrap(), "");
            }
        }
        for (directory, name, lines) in rules {
            sample.file(Path::new(directory).join(name).to_str().unwrap(), &lines.join("\n"));
        }
        let query = SearchQuery::default().root(Path::new("/sample/project").join(root));
        let actual = search(&sample, query.globs(globs.clone()).max_results(1000_usize));
        prop_assert_eq!(actual.files, walked(&sample, root, &globs));
    }
}
