use std::fs;
use std::os::unix::fs::PermissionsExt;

use pretty_assertions::assert_eq;
use rustix::fs::mkdirat;

use super::*;
use crate::sample::{CANARY, Sample, open};

fn remove(sample: &Sample, path: &str, removal: Removal) -> Result<(), FileError> {
    sample.trees.remove(Path::new(path), removal)
}

#[test]
fn a_file_a_link_and_an_empty_directory_are_removed_by_themselves() {
    let sample = Sample::new();
    sample.file("file", "");
    sample.file("target", "stays");
    sample.link("target", "link");
    sample.link("missing", "dangling");
    fs::create_dir(sample.host("empty")).unwrap();
    for (path, removal) in [
        ("file", Removal::Single),
        ("link", Removal::Tree),
        ("dangling", Removal::Single),
        ("empty", Removal::Single),
    ] {
        remove(&sample, path, removal).unwrap();
    }
    assert_eq!(sample.names("."), ["target"]);
}

#[test]
fn a_full_directory_needs_a_tree() {
    let sample = Sample::new();
    sample.file("directory/below/file", "");
    let error = remove(&sample, "directory", Removal::Single).unwrap_err();
    assert!(matches!(error, FileError::NotEmpty { .. }), "{error:?}");
    remove(&sample, "directory/below/..", Removal::Tree).unwrap();
    assert_eq!(sample.names("."), [""; 0]);
}

#[test]
fn links_in_a_tree_are_removed_and_their_targets_are_not() {
    let sample = Sample::new();
    sample.file("kept/file", "stays");
    sample.file("tree/a/file", "");
    sample.link("../kept", "tree/inside");
    sample.link("../../outside", "tree/relative");
    sample.link(sample.beside("outside"), "tree/a/absolute");
    remove(&sample, "tree", Removal::Tree).unwrap();
    assert_eq!(sample.names("."), ["kept"]);
    assert_eq!(sample.text("kept/file").unwrap(), "stays");
    assert_eq!(fs::read_to_string(sample.beside("outside/below/canary")).unwrap(), CANARY);
}

#[test]
fn the_roots_and_what_holds_them_stay() {
    let sample = Sample::new();
    sample.file("extra/covered", "");
    for path in [".", "/sample/scratch", "/sample/project", "extra", "..", "/", "extra/.."] {
        let error = remove(&sample, path, Removal::Tree).unwrap_err();
        assert!(matches!(error, FileError::Outside { .. }), "{path}: {error:?}");
    }
    for removal in [Removal::Single, Removal::Tree] {
        let error = remove(&sample, "missing", removal).unwrap_err();
        assert!(matches!(error, FileError::NotFound { .. }), "{error:?}");
    }
    assert_eq!(sample.names("extra"), ["covered"]);
}

#[test]
fn directories_without_permission_bits_are_removed_with_their_tree() {
    let sample = Sample::new();
    sample.file("tree/closed/below/file", "");
    sample.file("tree/open/file", "");
    for (path, mode) in [("tree/closed/below", 0o000), ("tree/closed", 0o500), ("tree", 0o100)] {
        fs::set_permissions(sample.host(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    remove(&sample, "tree", Removal::Tree).unwrap();
    assert_eq!(sample.names("."), [""; 0]);
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let sample = Sample::new();
    let mut directory = open(&sample.host("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    for depth in 0..3000 {
        mkdirat(&directory, "deep", Mode::from_raw_mode(0o700)).unwrap();
        directory = beneath::open(&directory, "deep", flags, Mode::empty()).unwrap();
        if depth % 500 == 0 {
            for name in ["a", "z"] {
                mkdirat(&directory, name, Mode::from_raw_mode(0o700)).unwrap();
            }
        }
    }
    drop(directory);
    remove(&sample, "deep", Removal::Tree).unwrap();
    assert_eq!(sample.names("."), [""; 0]);
}
