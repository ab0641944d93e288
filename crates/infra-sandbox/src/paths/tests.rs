use std::fs;
use std::path::Path;

use forge_domain::FileError;
use pretty_assertions::assert_eq;

use super::*;
use crate::sample::{CANARY, Sample};

fn resolved(sample: &Sample, path: &str) -> Result<PathBuf, FileError> {
    sample.trees.resolve(Path::new(path), "stat", LastLink::Follow).map(|place| {
        assert!(place.path.starts_with(&place.tree.path));
        place.path
    })
}

fn assert_leads(sample: &Sample, path: &str, expected: &str) {
    assert_eq!(resolved(sample, path).unwrap(), Path::new(expected), "{path}");
}

fn assert_outside(sample: &Sample, path: &str) {
    let error = resolved(sample, path).unwrap_err();
    assert!(matches!(error, FileError::Outside { .. }), "{path}: {error:?}");
}

#[test]
fn dots_are_resolved_within_and_across_the_trees() {
    let sample = Sample::new();
    sample.file("a/b/file", "");
    for path in ["a/b/file", "./a/../a/./b/file", "../project/a/b/file", "a/b/../b/file"] {
        assert_leads(&sample, path, "/sample/project/a/b/file");
    }
    for path in ["a/b/..", "a/", "a/.", "a/b/../../a"] {
        assert_leads(&sample, path, "/sample/project/a");
    }
    assert_leads(&sample, "/sample/project/..//project/", "/sample/project");
    assert_leads(&sample, "../scratch/x", "/sample/scratch/x");
    assert_leads(&sample, "extra/../a", "/sample/project/a");
    for path in ["..", "/", "../elsewhere", "/sample/projects", "/sample", "a/../../x"] {
        assert_outside(&sample, path);
    }
}

#[test]
fn what_is_missing_is_taken_by_its_letters() {
    let sample = Sample::new();
    sample.file("a/file", "");
    assert_leads(&sample, "no/such/../file", "/sample/project/no/file");
    assert_leads(&sample, "no/../a/file", "/sample/project/a/file");
    assert_leads(&sample, "no/such/..", "/sample/project/no");
    assert_outside(&sample, "no/../../elsewhere");
    let error = resolved(&sample, "a/file/../file").unwrap_err();
    assert!(matches!(error, FileError::NotDirectory { .. }), "{error:?}");
}

#[test]
fn links_are_followed_as_commands_see_them() {
    let sample = Sample::new();
    sample.file("a/file", "");
    fs::write(sample.beside("scratch/note"), "").unwrap();
    sample.link("a/file", "relative");
    sample.link("/sample/project/a", "absolute");
    sample.link("absolute", "a/chain");
    sample.link("../absolute/file", "a/up");
    sample.link("/sample/scratch", "scratch");
    sample.link("../scratch/note", "note");
    sample.link("/sample/project/extra/x", "extra_link");
    for path in ["relative", "absolute/file", "a/up", "scratch/../project/relative"] {
        assert_leads(&sample, path, "/sample/project/a/file");
    }
    for path in ["scratch/note", "note"] {
        assert_leads(&sample, path, "/sample/scratch/note");
    }
    assert_leads(&sample, "extra_link", "/sample/project/extra/x");
    sample.link("/sample/project/a", "a/loop");
    assert_leads(&sample, "a/loop/loop/loop/file", "/sample/project/a/file");
}

#[test]
fn a_link_to_a_path_of_the_host_is_no_way_there() {
    let sample = Sample::new();
    sample.file("a/file", "");
    let outside = sample.beside("outside");
    assert_eq!(fs::read_to_string(outside.join("canary")).unwrap(), CANARY);
    sample.link(&outside, "absolute");
    sample.link("../outside", "relative");
    sample.link("a/../../outside/canary", "winding");
    sample.link("/proc/self/root", "root");
    sample.link("/sample/project/../../etc/passwd", "back");
    // The host's own path of the workspace is outside too.
    sample.link(sample.host("a"), "host");
    for path in ["absolute/canary", "absolute", "relative/canary", "winding", "root/etc/passwd"] {
        assert_outside(&sample, path);
    }
    for path in ["back", "host/file"] {
        assert_outside(&sample, path);
    }
}

#[test]
fn links_in_a_circle_are_an_invalid_path() {
    let sample = Sample::new();
    sample.link("b", "a");
    sample.link("a", "b");
    let error = resolved(&sample, "a/file").unwrap_err();
    assert!(matches!(error, FileError::InvalidPath { .. }), "{error:?}");
    let place = sample.trees.resolve(Path::new("a"), "stat", LastLink::Stay).unwrap();
    assert_eq!(place.path, Path::new("/sample/project/a"));
}

#[test]
fn as_many_links_are_followed_as_linux_does() {
    let sample = Sample::new();
    sample.file("0", "");
    for number in 1..=41 {
        sample.link((number - 1).to_string(), &number.to_string());
    }
    assert_leads(&sample, "40", "/sample/project/0");
    let error = resolved(&sample, "41").unwrap_err();
    assert!(matches!(error, FileError::InvalidPath { .. }), "{error:?}");
}
