//! The trees as they are in a session: an overlay with covers mounted on it, in namespaces that this
//! process is not in.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use forge_domain::{
    Existing, FileError, FileKind, Removal, SearchMatch, SearchQuery, WriteOptions,
};
use pretty_assertions::assert_eq;

use crate::sample::{ALL, Sample, open};

const LAYOUT: &str = r#"
set -e
cd "$1"
mkdir upper work merged
mount -t overlay overlay -o lowerdir=workspace,upperdir=upper,workdir=work,userxattr merged
touch cover && chmod 000 cover
mkdir cover.d && chmod 000 cover.d
mount --bind cover merged/.env
mount --bind cover merged/tree/a/key
mount --bind cover.d merged/keys
echo visible >visible && chmod 666 visible
mount --bind visible merged/visible
echo ready
read -r end
"#;

/// A process that holds the namespaces, ended with this.
struct Mounted {
    sample: Sample,
    holder: Child,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It reads to the end of its input.
        drop(self.holder.stdin.take());
        drop(self.holder.wait());
    }
}

impl Mounted {
    fn new() -> Self {
        let mut sample = Sample::new();
        for path in [".env", "tree/a/key", "keys/private"] {
            sample.file(path, "SECRET");
        }
        sample.file("tree/file", "lower");
        sample.file("file", "lower");
        sample.file("visible", "covered");
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", LAYOUT, "sh"])
            .arg(sample.beside(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let root = format!("/proc/{}/root{}", holder.id(), sample.beside("merged").display());
        let mounted = line == "ready\n";
        if mounted {
            sample.trees.workspace.directory = Arc::new(open(Path::new(&root)));
        }
        let actual = Self { sample, holder };
        assert!(mounted, "the namespaces could not be made");
        actual
    }

    fn upper(&self) -> Vec<String> {
        let entries = fs::read_dir(self.sample.beside("upper")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn assert_denied(path: &str, error: &FileError) {
    assert!(matches!(error, FileError::PermissionDenied { .. }), "{path}: {error:?}");
}

#[test]
fn what_is_covered_can_be_neither_read_nor_replaced_nor_removed() {
    let mounted = Mounted::new();
    let sample = &mounted.sample;
    for path in [".env", "tree/a/key"] {
        assert_denied(path, &sample.text(path).unwrap_err());
        assert_denied(path, &sample.write(path, "new").unwrap_err());
    }
    assert_denied("keys", &sample.trees.list(Path::new("keys")).unwrap_err());
    for (path, removal) in [
        (".env", Removal::Single),
        (".env", Removal::Tree),
        ("keys", Removal::Single),
        ("keys", Removal::Tree),
        ("tree", Removal::Tree),
        ("tree/a", Removal::Tree),
    ] {
        assert_denied(path, &sample.trees.remove(Path::new(path), removal).unwrap_err());
    }
    // What is mounted to be seen is seen, and stays as well.
    assert_eq!(sample.text("visible").unwrap(), "visible\n");
    assert_denied("visible", &sample.write("visible", "new").unwrap_err());
    let removed = sample.trees.remove(Path::new("visible"), Removal::Single);
    assert_denied("visible", &removed.unwrap_err());
    // The covers are still there, and nothing of what they cover is marked as changed.
    for path in [".env", "tree/a/key"] {
        assert_eq!(sample.trees.stat(Path::new(path)).unwrap().size_bytes, 0, "{path}");
        assert!(!sample.beside("upper").join(path).exists(), "{path}");
    }
    assert_eq!(fs::read_to_string(sample.host(".env")).unwrap(), "SECRET");
}

#[test]
fn what_is_covered_is_counted_by_a_search() {
    let mounted = Mounted::new();
    let query = SearchQuery::default().pattern("SECRET|lower");
    let outcome = mounted.sample.trees.search(&query, &false.into()).unwrap();
    let found =
        |path: &str| SearchMatch { path: path.into(), line_number: 1, line: "lower".into() };
    assert_eq!(outcome.matches, [found("file"), found("tree/file")]);
    assert_eq!(outcome.unreadable_files, 3);
}

#[test]
fn changes_go_to_the_upper_layer() {
    let mounted = Mounted::new();
    let sample = &mounted.sample;
    assert_eq!(mounted.upper(), [""; 0]);
    sample.write("file", "changed").unwrap();
    sample.write("new/below/file", "new").unwrap();
    let keep = WriteOptions { existing: Existing::Keep, ..WriteOptions::default() };
    sample.trees.write(Path::new("kept"), b"kept", keep).unwrap();
    let error = sample.trees.write(Path::new("kept"), b"lost", keep).unwrap_err();
    assert!(matches!(error, FileError::AlreadyExists { .. }), "{error:?}");
    sample.trees.remove(Path::new("tree/file"), Removal::Single).unwrap();
    assert_eq!(mounted.upper(), ["file", "kept", "new", "tree"]);
    assert_eq!(sample.text("file").unwrap(), "changed");
    assert_eq!(sample.trees.read(Path::new("kept"), ALL).unwrap().bytes, &b"kept"[..]);
    assert_eq!(fs::read_to_string(sample.host("file")).unwrap(), "lower");
    assert_eq!(fs::read_to_string(sample.host("tree/file")).unwrap(), "lower");
    let entries = sample.trees.list(Path::new("tree")).unwrap();
    let entries: Vec<_> = entries.into_iter().map(|entry| (entry.name, entry.kind)).collect();
    assert_eq!(entries, [("a".into(), FileKind::Directory)]);

    sample.trees.remove(Path::new("new"), Removal::Tree).unwrap();
    assert_eq!(mounted.upper(), ["file", "kept", "tree"]);
}
