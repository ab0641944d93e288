//! `forge apply` and its undo, killed before each call of theirs that changes the file system, one after the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pretty_assertions::assert_eq;
use tempfile::TempDir;

use super::nodes::{Nodes, tree};
use super::trace::{self, Ending};

/// A project, the state of forge, and how both were before.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        for name in ["project/d", "project/gone/deep", "home", "state"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        let place = Self { directory };
        for (path, text) in [
            ("changed", "one\n"),
            ("merged", "1\n2\n3\n4\n5\n"),
            ("deleted", "x\n"),
            ("gone/deep/file", "x\n"),
            ("d/in", "x\n"),
            ("was-file", "x\n"),
            ("run", "#!/bin/sh\n"),
        ] {
            fs::write(place.project().join(path), text).unwrap();
        }
        std::os::unix::fs::symlink("changed", place.project().join("link")).unwrap();
        let script = "echo two >>changed; sed -i s/1/one/ merged; rm deleted; rm -r gone; ln -sfn d link
                      rm was-file; mkdir was-file; echo y >was-file/in; rm -r d; echo file >d; chmod +x run
                      mkdir -p new/deep; echo z >new/deep/file; chmod 555 new";
        place.run(&["exec", "-c", &format!("set -e; {script}")]);
        // The host goes on, too.
        fs::write(place.project().join("merged"), "1\n2\n3\n4\nFIVE\n").unwrap();
        place
    }

    fn project(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("project")
    }

    fn forge(&self, arguments: &[&str]) -> Command {
        #[expect(clippy::disallowed_methods, reason = "the tests run the binary")]
        let mut command = Command::new(env!("CARGO_BIN_EXE_forge"));
        command.args(arguments).current_dir(self.project()).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.directory.path().join("home"));
        command.env("FORGE_STATE_DIR", self.directory.path().join("state"));
        command
    }

    /// Runs to the end, and gives what was printed.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.forge(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the session has and the project has not, as the next command says it.
    fn waiting(&self) -> String {
        self.run(&["diff", "--name-only"])
    }

    fn tree(&self) -> Nodes {
        tree(&self.project())
    }

    /// Keeps everything as it is now, to be put back.
    fn keep(&self) -> PathBuf {
        let kept = self.directory.path().join("kept");
        if kept.exists() {
            copy(Path::new("/dev/null"), &kept);
        }
        fs::create_dir(&kept).unwrap();
        for name in ["project", "state"] {
            copy(&self.directory.path().join(name), &kept.join(name));
        }
        kept
    }

    fn put_back(&self, kept: &Path) {
        for name in ["project", "state"] {
            let path = self.directory.path().join(name);
            copy(Path::new("/dev/null"), &path);
            copy(&kept.join(name), &path);
        }
    }
}

/// Copies a tree with the marks of the overlay; nothing, to remove what is there.
fn copy(from: &Path, to: &Path) {
    let (from, to) = (from.display(), to.display());
    let script = match from.to_string() == "/dev/null" {
        true => format!("chmod -R u+rwx '{to}' && rm -rf '{to}'"),
        // The kernel's own directory of an overlay is closed to everybody.
        false => format!("chmod -f u+rwx '{from}'/sessions/*/work/work; cp -a '{from}' '{to}'"),
    };
    #[expect(clippy::disallowed_methods, reason = "the tests' own trees")]
    let copied = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(copied.success(), "{script}");
}

#[test]
fn a_kill_of_the_program_at_every_call_leaves_the_old_tree_or_the_new_one_and_nothing_is_forgotten()
{
    let place = Place::new();
    let (old, waiting, kept) = (place.tree(), place.waiting(), place.keep());
    place.run(&["apply"]);
    let (new, rest) = (place.tree(), place.waiting());
    assert_eq!(rest, "");
    assert_ne!(old, new);

    let mut points = 0;
    let (mut olds, mut news) = (0, 0);
    for at in 0.. {
        place.put_back(&kept);
        let (ending, _) = trace::run(&place.forge(&["apply", "--yes"]), Some(at)).unwrap();
        let told = place.waiting();
        let found = place.tree();
        if found == old {
            assert_eq!(told, waiting, "{at}: what waits is forgotten");
            place.run(&["apply"]);
            olds += 1;
        } else {
            news += 1;
        }
        assert_eq!(place.tree(), new, "{at}");
        // What was merged waits on where the session was not told; its merge is what the project has.
        place.run(&["apply"]);
        assert_eq!((place.tree(), place.waiting()), (new.clone(), String::new()), "{at}");
        place.run(&["apply", "--undo"]);
        assert_eq!(place.tree(), old, "{at}");
        assert_eq!(place.waiting(), waiting, "{at}");
        if ending == Ending::Exited(0) {
            break;
        }
        points += 1;
    }
    println!("{points} points of an apply: the old tree after {olds}, the new one after {news}");
    assert!(points > 50 && olds > 20 && news > 5, "{points} {olds} {news}");

    place.put_back(&kept);
    place.run(&["apply"]);
    let applied = place.keep();
    let (mut olds, mut news) = (0, 0);
    for at in 0.. {
        place.put_back(&applied);
        let (ending, _) = trace::run(&place.forge(&["apply", "--undo"]), Some(at)).unwrap();
        let told = place.waiting();
        if place.tree() == new {
            assert_eq!(told, "", "{at}");
            place.run(&["apply", "--undo"]);
            news += 1;
        } else {
            olds += 1;
        }
        assert_eq!(place.tree(), old, "{at}");
        assert_eq!(place.waiting(), waiting, "{at}: what waits again is forgotten");
        if ending == Ending::Exited(0) {
            break;
        }
    }
    println!(
        "{} points of an undo: taken back after {olds}, not yet after {news}",
        olds + news - 1
    );
    assert!(olds > 5 && news > 20, "{olds} {news}");
}
