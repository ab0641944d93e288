//! What git tracks goes along though a rule ignores it, with indexes that git itself has written.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use forge_domain::{LeftOutReason, WorkspaceSource};
use forge_infra_workspace::HostSource;
use pretty_assertions::assert_eq;
use tempfile::TempDir;

/// Runs git, as nobody has configured it.
fn git(directory: &Path, arguments: &[&str]) {
    #[expect(clippy::disallowed_methods, reason = "the tests' indexes are git's own")]
    let mut git = Command::new("git");
    let output = git
        .args(["-c", "user.name=a", "-c", "user.email=a@b"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[expect(clippy::disallowed_methods, reason = "an index of the test's own")]
fn bytes_of(index: &Path) -> Vec<u8> {
    fs::read(index).unwrap()
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A repository in which some files are tracked, which then all are ignored by one rule or another.
fn repository(object_format: &str) -> TempDir {
    let project = tempfile::tempdir().unwrap();
    let root = project.path();
    git(root, &["init", "--quiet", &format!("--object-format={object_format}")]);
    let tracked = [
        "by-name.log",
        "by-exclude",
        "by-forge",
        "dist/deep/er/tracked",
        "dist/deep/of-a-rule-within",
        "dist/deleted",
        "dist/.env",
        "dist/large",
        "sub/local",
        "free",
    ];
    for path in tracked {
        write(root, path, "x\n");
    }
    symlink("nowhere", root.join("dist/link")).unwrap();
    git(root, &["add", "--all"]);
    git(root, &["commit", "--quiet", "-m", "one"]);
    fs::remove_file(root.join("dist/deleted")).unwrap();
    write(root, "dist/large", &"x".repeat(100));
    for (path, text) in [
        (".gitignore", "*.log\n/dist/\n"),
        ("sub/.gitignore", "local\n"),
        ("dist/deep/.gitignore", "!new\n"),
        (".forgeignore", "by-forge\n"),
        ("dist/new", ""),
        ("dist/deep/new", ""),
        ("dist/other/new", ""),
        ("new.log", ""),
    ] {
        write(root, path, text);
    }
    write(root, ".git/info/exclude", "by-exclude\n");
    project
}

fn source(root: &Path) -> HostSource {
    HostSource::new(root).max_file_bytes(50_u64)
}

fn went(root: &Path) -> Vec<String> {
    let listing = source(root).list().unwrap();
    listing.paths.iter().map(|one| one.path.to_string_lossy().into_owned()).collect()
}

fn stayed(root: &Path) -> Vec<(String, LeftOutReason)> {
    let listing = source(root).list().unwrap();
    let shown = |path: &Path| path.to_string_lossy().into_owned();
    listing.left_out.iter().map(|one| (shown(&one.path), one.reason)).collect()
}

const WITH_TRACKED: [&str; 14] = [
    ".forgeignore",
    ".gitignore",
    "by-exclude",
    "by-name.log",
    "dist",
    "dist/deep",
    "dist/deep/er",
    "dist/deep/er/tracked",
    "dist/deep/of-a-rule-within",
    "dist/link",
    "free",
    "sub",
    "sub/.gitignore",
    "sub/local",
];
const WITHOUT: [&str; 5] = [".forgeignore", ".gitignore", "free", "sub", "sub/.gitignore"];

#[test]
fn tracked_files_go_along_with_every_version_and_both_hashes() {
    use LeftOutReason::{Ignored, Secret, TooLarge};
    for object_format in ["sha1", "sha256"] {
        for version in ["2", "3", "4"] {
            let project = repository(object_format);
            let root = project.path();
            git(root, &["update-index", "--index-version", version]);
            let mut expected = WITH_TRACKED.to_vec();
            if version == "3" {
                // Version 3 is written only where an entry needs it.
                write(root, "intended.log", "");
                git(root, &["add", "--force", "--intent-to-add", "intended.log"]);
                expected.push("intended.log");
                expected.sort_unstable();
            }
            let written = bytes_of(&root.join(".git/index"))[7];
            assert_eq!(written.to_string(), version, "{object_format}");
            assert_eq!(went(root), expected, "{object_format} {version}");
            let left = [
                ("by-forge", Ignored),
                ("dist/.env", Secret),
                ("dist/deep/.gitignore", Ignored),
                ("dist/deep/new", Ignored),
                ("dist/large", TooLarge),
                ("dist/new", Ignored),
                ("dist/other", Ignored),
                ("new.log", Ignored),
            ];
            assert_eq!(stayed(root), left.map(|(path, reason)| (path.to_owned(), reason)));
        }
    }
}

#[test]
fn a_linked_worktree_has_an_index_of_its_own_and_shares_what_is_excluded() {
    let project = repository("sha1");
    let elsewhere = tempfile::tempdir().unwrap();
    let linked = elsewhere.path().join("linked");
    git(project.path(), &["worktree", "add", "--quiet", linked.to_str().unwrap()]);
    write(&linked, ".gitignore", "*.log\n/dist/deep/\n/dist/large\n");
    write(&linked, "mine.log", "");
    write(&linked, "yours.log", "");
    write(project.path(), ".git/info/exclude", "excluded\n");
    write(&linked, "excluded", "");
    git(&linked, &["add", "--force", "mine.log"]);
    let went = went(&linked);
    for path in ["by-name.log", "mine.log", "dist/deep/er/tracked"] {
        assert!(went.iter().any(|one| one == path), "{path}: {went:?}");
    }
    for path in ["yours.log", "excluded"] {
        assert!(!went.iter().any(|one| one == path), "{path}: {went:?}");
    }
}

#[test]
fn an_index_that_is_not_understood_is_said_and_rules_alone_count() {
    let note = (".git/index".to_owned(), LeftOutReason::IndexNotUnderstood);
    let project = repository("sha1");
    let root = project.path();
    let index = root.join(".git/index");
    let whole = bytes_of(&index);
    let mut newer = whole.clone();
    newer[7] = 9;
    for bytes in [&b""[..], b"no index", &whole[..whole.len() / 2], &newer] {
        fs::write(&index, bytes).unwrap();
        assert_eq!(went(root), WITHOUT);
        assert!(stayed(root).contains(&note), "{:?}", stayed(root));
    }
    fs::write(&index, &whole).unwrap();
    assert_eq!(went(root), WITH_TRACKED);
    git(root, &["update-index", "--split-index"]);
    write(root, "more", "");
    git(root, &["add", "more"]);
    assert!(stayed(root).contains(&note), "{:?}", stayed(root));
    // What leads elsewhere is not followed, and an index that is not there tracks nothing.
    fs::remove_file(&index).unwrap();
    symlink("/dev/zero", &index).unwrap();
    assert!(stayed(root).contains(&note), "{:?}", stayed(root));
    fs::remove_file(&index).unwrap();
    assert!(!stayed(root).contains(&note), "{:?}", stayed(root));
}
