//! `forge diff`: what a session has changed, as people and as programs read it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use crate::harness::{Ended, World, run, run_with_stdin};

fn changed(world: &World, script: &str) {
    let ended = run(&mut world.forge(&["exec", "-c", &format!("set -e\n{script}")]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn diff(world: &World, arguments: &[&str]) -> Ended {
    let all: Vec<&str> = ["diff"].into_iter().chain(arguments.iter().copied()).collect();
    let ended = run(&mut world.forge(&all));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended
}

/// Every path with what it is and holds.
pub(crate) fn tree(root: &Path) -> Vec<(Vec<u8>, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            if metadata.is_dir() {
                pending.push(path);
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec();
                found.push((name, 0, target));
            } else {
                // What git keeps of a mode.
                let mode = metadata.permissions().mode() & 0o100;
                found.push((name, mode, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_it_prints_is_a_patch_that_git_applies() {
    let world = World::new();
    let lines: String = (0..60).map(|number| format!("line {number}\n")).collect();
    world.write("project/many.txt", &lines);
    world.write("project/moved.txt", &lines.replace("line", "text"));
    world.write("project/windows.txt", "one\r\ntwo\r\n");
    world.write("project/no newline", "one\ntwo");
    world.write("project/gone \"quoted\"", "x\n");
    world.write("project/run.sh", "#!/bin/sh\n");
    world.write("project/file then link", "x\n");
    world.write("project/sub/deep.txt", "deep\n");
    symlink("many.txt", world.project().join("link")).unwrap();
    let before = tree(&world.project());
    changed(
        &world,
        r#"sed -i 's/line 7$/line seven/; s/line 50$//' many.txt
           mkdir new; sed 's/text 30$/text thirty/' moved.txt > 'new/moved here.txt'; rm moved.txt
           printf 'one\r\nTWO\r\nthree' > windows.txt
           printf 'one\ntwo\n' > 'no newline'
           rm 'gone "quoted"'
           chmod +x run.sh
           rm 'file then link'; ln -s run.sh 'file then link'
           ln -sfn windows.txt link
           : > empty
           printf 'odd\n' > "$(printf 'line\nbreak \377 \\ tab\t')"
           printf '\033[31mcontrol\n' > control
           rm -r sub; printf 'now a file\n' > sub"#,
    );
    let patch = run_with_stdin(&mut world.forge(&["diff"]), b"").stdout;

    let copy = world.home().join("copy");
    let tar = world.home().join("session.tar");
    let packed = run_with_stdin(&mut world.forge(&["exec", "--", "tar", "c", "."]), b"");
    fs::write(&tar, packed.stdout).unwrap();
    let ended = run_with_stdin(
        &mut world.shell(&format!(
            "cp -a . '{0}' && cd '{0}' && git init -q && git apply -p1 --whitespace=nowarn - && rm -r .git &&
             mkdir ../session && tar x -f ../session.tar -C ../session",
            copy.display()
        )),
        &patch,
    );
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(tree(&copy), tree(&world.home().join("session")));
    assert_eq!(tree(&world.project()), before);
    let text = String::from_utf8_lossy(&patch);
    assert!(text.contains("rename from moved.txt\nrename to new/moved here.txt\n"), "{text}");
}

#[test]
fn it_shows_what_is_asked_for() {
    let world = World::new();
    world.write("project/src/one.rs", "1\n");
    world.write("project/src/deep/two.rs", "2\n");
    world.write("project/other.rs", "3\n");
    world.write("project/.gitignore", "/target/\n");
    world.write("project/.git/HEAD", "ref: refs/heads/main\n");
    changed(
        &world,
        "echo x | tee src/one.rs src/deep/two.rs > other.rs; mkdir target; echo b > target/built",
    );
    let names = |arguments: &[&str]| {
        let all: Vec<&str> = ["--name-only"].iter().chain(arguments).copied().collect();
        diff(&world, &all).stdout
    };
    assert_eq!(names(&[]), "other.rs\nsrc/deep/two.rs\nsrc/one.rs\n");
    assert_eq!(names(&["src"]), "src/deep/two.rs\nsrc/one.rs\n");
    assert_eq!(names(&["./src/../other.rs", "src/deep"]), "other.rs\nsrc/deep/two.rs\n");
    assert_eq!(names(&["-C", "src", "deep"]), "src/deep/two.rs\n");
    assert_eq!(names(&["nothing"]), "");
    assert_eq!(names(&["--ignored"]), "other.rs\nsrc/deep/two.rs\nsrc/one.rs\ntarget/built\n");
    let one = diff(&world, &["src/one.rs"]).stdout;
    assert_eq!(
        one,
        "diff --git a/src/one.rs b/src/one.rs\n--- a/src/one.rs\n+++ b/src/one.rs\n@@ -1 +1 @@\n-1\n+x\n"
    );
    let outside = run(&mut world.forge(&["diff", "/etc/passwd"]));
    assert_eq!(outside.code, Some(2));
    assert!(outside.stderr.contains("is not in the workspace"), "{}", outside.stderr);
    let unknown = run(&mut world.forge(&["diff", "20200101-000000-abcd"]));
    assert_ne!(unknown.code, Some(0));
    assert!(unknown.stderr.contains("20200101-000000-abcd"), "{}", unknown.stderr);
}

#[test]
fn json_has_the_facts_of_every_file() {
    let world = World::new();
    world.write("project/old.txt", "a\nb\nc\nd\n");
    world.write("project/text", "1\n2\n");
    changed(&world, "mv old.txt new.txt; echo 3 >> text; chmod +x text; printf '\\0' > binary");
    let actual: Value = serde_json::from_str(&diff(&world, &["--json"]).stdout).unwrap();
    let change = |path: &str, kind: &str| {
        let changes = actual["changes"].as_array().unwrap();
        let found = changes.iter().find(|change| change["path"] == path && change["kind"] == kind);
        found.unwrap_or_else(|| panic!("{path} in {actual}")).clone()
    };
    assert_eq!(change("new.txt", "created")["renamed_from"], "old.txt");
    assert_eq!(change("binary", "created")["is_binary"], true);
    let expected = json!({
        "path": "text", "path_bytes": null, "kind": "modified", "old_mode": "100644",
        "new_mode": "100755", "old_size_bytes": 4, "new_size_bytes": 6, "is_binary": false,
        "added_lines": 1, "removed_lines": 0, "renamed_from": null,
    });
    assert_eq!(change("text", "modified"), expected);
}

#[test]
fn colors_and_escapes_are_for_terminals_alone() {
    let world = World::new();
    world.write("project/text", "let a = 1;\n");
    changed(&world, "printf 'let b = 1;\\033[2J\\n' > text");
    let plain = diff(&world, &[]).stdout;
    assert!(plain.contains("+let b = 1;\u{1b}[2J\n"), "{plain:?}");
    let colored = diff(&world, &["--color", "always"]).stdout;
    assert!(colored.contains("\u{1b}[7;32mb\u{1b}[0m"), "{colored:?}");
    assert!(!colored.contains("\u{1b}[2J") && colored.contains("^[[2J"), "{colored:?}");
}
