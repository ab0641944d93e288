//! `forge apply`: what a session has changed, on the host and back.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use forge_scripted_model::{Answer, Call, Script};
use pretty_assertions::assert_eq;

use crate::diff::tree;
use crate::harness::{Ended, Server, World, run};
use crate::tensorlake::Cloud;

/// Runs a script in the sandbox.
pub(crate) fn changed(world: &World, script: &str) {
    let ended = run(&mut world.forge(&["exec", "-c", &format!("set -e\n{script}")]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

pub(crate) fn forge(world: &World, arguments: &[&str]) -> Ended {
    run(&mut world.forge(arguments))
}

/// Applies, with this exit code.
pub(crate) fn applied(world: &World, arguments: &[&str], code: i32) -> Ended {
    let all: Vec<&str> = ["apply"].into_iter().chain(arguments.iter().copied()).collect();
    let ended = forge(world, &all);
    assert_eq!(ended.code, Some(code), "{}{}", ended.stdout, ended.stderr);
    ended
}

pub(crate) fn read(world: &World, path: &str) -> Option<String> {
    fs::read_to_string(world.project().join(path)).ok()
}

fn waiting(world: &World) -> String {
    forge(world, &["diff", "--name-only"]).stdout
}

/// The directory of the cargo that these tests were built by.
fn cargo() -> String {
    let cargo = Path::new(env!("CARGO"));
    cargo.parent().unwrap().display().to_string()
}

#[test]
fn a_crate_that_a_model_wrote_reaches_the_host_by_apply_alone_and_leaves_by_an_undo() {
    a_written_crate(&World::new(), |_| {});
}

#[test]
fn a_crate_that_a_model_wrote_in_a_microvm_reaches_the_host_by_apply_alone_and_leaves_by_an_undo() {
    let cloud = Cloud::usual();
    a_written_crate(&cloud.world, |command| cloud.tell(command));
    assert_eq!(cloud.server.running(), [""; 0]);
}

/// `choose` says where commands run.
fn a_written_crate(world: &World, choose: impl Fn(&mut Command)) {
    world.write("project/README.md", "A project.\n");
    world.write("project/.gitignore", "/target\n");
    let write = |path: &str, text: &str| {
        let arguments = serde_json::json!({ "path": path, "content": text });
        Call::new("write", arguments.to_string())
    };
    let lib = "pub fn two() -> u8 { 1 }\n#[test]\nfn it_is_two() { assert_eq!(two(), 2) }\n";
    let edit =
        serde_json::json!({ "path": "small/src/lib.rs", "old_text": "{ 1 }", "new_text": "{ 2 }" });
    let cargo = cargo();
    let test = format!(
        "cd small && PATH={cargo}:$PATH CARGO_TARGET_DIR=../target cargo test --offline 2>&1"
    );
    let server = Server::start(Script::new([
        Answer::calls([
            write(
                "small/Cargo.toml",
                "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
            ),
            write("small/src/lib.rs", lib),
        ]),
        Answer::calls([Call::shell(&test, "Test")]),
        Answer::calls([Call::new("edit", edit.to_string())]),
        Answer::calls([Call::shell(&test, "Test again")]),
        Answer::calls([Call::shell(
            "printf 'More.\\n' >>README.md; chmod +x small/src/lib.rs",
            "Say so",
        )]),
        Answer::text("Done."),
    ]));
    let before = tree(&world.project());
    let mut task = world.forge(&["-m", "openai/scripted", "-p", "write a crate"]);
    server.tell(&mut task);
    choose(&mut task);
    let ended = run(task.env("PATH", format!("{cargo}:/usr/local/bin:/usr/bin:/bin")));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let results = server.results();
    assert!(
        results[2].contains("assertion") && results[4].contains("test result: ok. 1 passed"),
        "{results:#?}"
    );
    assert!(ended.stderr.contains("forge apply brings them over"), "{}", ended.stderr);
    assert_eq!(tree(&world.project()), before);

    applied(world, &[], 0);
    // What the session has, `.git` and ignored files aside, as it says itself.
    let script = "find . -path ./target -prune -o -type f -print0 | sort -z | xargs -0 sha256sum";
    let mut exec = world.forge(&["exec", "-c", script]);
    choose(&mut exec);
    let inside = run(&mut exec).stdout;
    #[expect(clippy::disallowed_methods, reason = "the same on the host")]
    let outside = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(world.project())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(outside.stdout).unwrap(), inside);
    assert!(inside.contains("./small/Cargo.lock"), "{inside}");
    assert_eq!(waiting(world), "");

    applied(world, &["--undo"], 0);
    assert_eq!(tree(&world.project()), before);
    assert_eq!(waiting(world), "README.md\nsmall/Cargo.lock\nsmall/Cargo.toml\nsmall/src/lib.rs\n");
}

#[test]
fn what_both_sides_changed_is_merged_or_left_with_the_ways_out() {
    let world = World::new();
    world.write("project/apart", "one\ntwo\nthree\nfour\n");
    world.write("project/same", "a\nb\n");
    world.write("project/binary", "a\0b");
    changed(
        &world,
        "sed -i s/one/ONE/ apart; sed -i s/a/SESSION/ same; printf 'a\\0SESSION' >binary",
    );
    world.write("project/apart", "one\ntwo\nthree\nFOUR\n");
    world.write("project/same", "HOST\nb\n");
    world.write("project/binary", "HOST\0b");
    let ended = applied(&world, &[], 1);
    assert_eq!(ended.stdout, "M apart\n");
    for text in [
        "same: left as it is: both sides changed the same lines",
        "binary: left as it is",
        "--theirs takes the session's",
    ] {
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
    }
    assert_eq!(read(&world, "apart").unwrap(), "ONE\ntwo\nthree\nFOUR\n");
    assert_eq!(read(&world, "same").unwrap(), "HOST\nb\n");
    assert_eq!(waiting(&world), "binary\nsame\n");
    applied(&world, &["--merge", "same"], 0);
    let marked = read(&world, "same").unwrap();
    assert!(
        ["<<<<<<<", "HOST", "=======", "SESSION", ">>>>>>>"]
            .iter()
            .all(|part| marked.contains(part)),
        "{marked}"
    );
    applied(&world, &["--undo", "same"], 0);
    assert_eq!(read(&world, "same").unwrap(), "HOST\nb\n");
    applied(&world, &["--theirs", "binary"], 0);
    assert_eq!(read(&world, "binary").unwrap(), "a\0SESSION");
    applied(&world, &["--ours", "same"], 0);
    assert_eq!(read(&world, "same").unwrap(), "HOST\nb\n");
    assert_eq!(waiting(&world), "");
}

#[test]
fn what_the_host_changed_alone_is_never_touched() {
    let world = World::new();
    for name in ["both-gone", "gone-here", "gone-there", "kind", "mode", "grown"] {
        world.write(&format!("project/{name}"), "1\n2\n3\n");
    }
    changed(
        &world,
        "rm both-gone gone-there; echo 4 >>gone-here; echo 4 >>kind; echo new >made; chmod +x mode; echo 0 >>grown",
    );
    let at = |name: &str| world.project().join(name);
    fs::remove_file(at("both-gone")).unwrap();
    fs::remove_file(at("gone-here")).unwrap();
    world.write("project/gone-there", "mine\n");
    fs::remove_file(at("kind")).unwrap();
    world.write("project/kind/inside", "mine\n");
    world.write("project/made", "mine\n");
    world.write("project/mode", "mine\n");
    let ended = applied(&world, &[], 1);
    assert_eq!(ended.stdout, "M grown\nM mode\n", "{}", ended.stderr);
    for (name, why) in [
        ("gone-here", "it was deleted in the project"),
        ("gone-there", "the session deleted it, and it was changed"),
        ("kind", "it is another kind of thing"),
        ("made", "both sides made it"),
    ] {
        assert!(
            ended.stderr.contains(&format!("{name}: left as it is: {why}")),
            "{}",
            ended.stderr
        );
    }
    assert!(!at("gone-here").exists());
    for name in ["gone-there", "kind/inside", "made", "mode"] {
        assert_eq!(read(&world, name).as_deref(), Some("mine\n"), "{name}");
    }
    assert_eq!(fs::metadata(at("mode")).unwrap().permissions().mode() & 0o111, 0o111);
}

#[test]
fn without_a_base_nothing_is_merged_or_overwritten() {
    let world = World::new();
    world.write("project/text", "one\ntwo\nthree\nfour\n");
    // Changed on the host while the session changes it: what it was is not there any more to be looked at.
    let script = "sed -i s/one/ONE/ text; touch changed; read -r go";
    let mut child =
        world.forge(&["exec", "-c", script]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let sessions = world.home().join(".local/state/forge/sessions");
    crate::harness::wait_until("it was changed", || {
        let sessions = fs::read_dir(&sessions).map(|all| all.flatten().collect::<Vec<_>>());
        sessions.unwrap_or_default().iter().any(|entry| entry.path().join("upper/changed").exists())
    });
    world.write("project/text", "one\ntwo\nthree\nFOUR\n");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(crate::harness::wait(child).code, Some(0));
    let ended = applied(&world, &["text"], 1);
    assert!(ended.stderr.contains("what it was before is not known"), "{}", ended.stderr);
    assert_eq!(read(&world, "text").unwrap(), "one\ntwo\nthree\nFOUR\n");
    applied(&world, &["--theirs", "text"], 0);
    assert_eq!(read(&world, "text").unwrap(), "ONE\ntwo\nthree\nfour\n");
    applied(&world, &["--undo"], 0);
    assert_eq!(read(&world, "text").unwrap(), "one\ntwo\nthree\nFOUR\n");
}

#[test]
fn what_was_applied_is_no_news_and_what_comes_after_it_is() {
    let world = World::new();
    world.write("project/a", "1\n2\n3\n4\n5\n");
    changed(&world, "echo b >b; sed -i s/1/one/ a");
    applied(&world, &[], 0);
    assert_eq!(waiting(&world), "");
    // The host goes on by itself: that is no change of the session's.
    world.write("project/a", "one\n2\n3\n4\nFIVE\n");
    assert_eq!(waiting(&world), "");
    changed(&world, "sed -i s/3/three/ a");
    assert_eq!(waiting(&world), "a\n");
    applied(&world, &[], 0);
    assert_eq!(read(&world, "a").unwrap(), "one\n2\nthree\n4\nFIVE\n");
    // Each apply is taken back by itself, the newest first.
    applied(&world, &["--undo"], 0);
    assert_eq!(read(&world, "a").unwrap(), "one\n2\n3\n4\nFIVE\n");
    let again = applied(&world, &["--undo"], 1);
    assert!(again.stderr.contains("a was changed since"), "{}", again.stderr);
    assert!(read(&world, "b").is_none());
}

#[test]
fn an_undo_leaves_what_was_changed_since_unless_it_is_named_and_forced() {
    let world = World::new();
    world.write("project/a", "1\n");
    world.write("project/b", "2\n");
    changed(&world, "echo x >a; echo y >b");
    applied(&world, &[], 0);
    world.write("project/a", "mine\n");
    let ended = applied(&world, &["--undo"], 1);
    assert_eq!(ended.stdout, "M b\n");
    assert!(ended.stderr.contains("a was changed since and stays"), "{}", ended.stderr);
    assert_eq!(read(&world, "a").unwrap(), "mine\n");
    applied(&world, &["--undo", "--force"], 2);
    applied(&world, &["--undo", "--force", "a"], 0);
    assert_eq!(read(&world, "a").unwrap(), "1\n");
    let nothing = applied(&world, &["--undo"], 1);
    assert!(
        nothing.stderr.contains("nothing was applied that could be undone"),
        "{}",
        nothing.stderr
    );
}

#[test]
fn some_paths_can_be_applied_and_a_dry_run_does_nothing() {
    let world = World::new();
    world.write("project/.git/HEAD", "ref: refs/heads/main\n");
    world.write("project/src/a", "1\n");
    world.write("project/src/b", "2\n");
    changed(&world, "echo x >src/a; echo y >src/b; mkdir -p new/deep; echo z >new/deep/c");
    let before = tree(&world.project());
    let dry = applied(&world, &["--dry-run"], 0);
    assert_eq!(dry.stdout, "A new/deep/c\nM src/a\nM src/b\n");
    assert_eq!(tree(&world.project()), before);
    let mut inside = world.forge(&["apply", "a"]);
    assert_eq!(run(inside.current_dir(world.project().join("src"))).stdout, "M src/a\n");
    assert_eq!(applied(&world, &["new"], 0).stdout, "A new/deep/c\n");
    assert_eq!(waiting(&world), "src/b\n");
    let elsewhere = applied(&world, &["/etc"], 2);
    assert!(elsewhere.stderr.contains("not in the workspace"), "{}", elsewhere.stderr);
}

#[test]
fn directories_that_the_session_removed_go_with_what_was_in_them_and_no_more() {
    let world = World::new();
    for path in ["d/a", "d/e/b", "kept/a"] {
        world.write(&format!("project/{path}"), "x\n");
    }
    symlink("d", world.project().join("link")).unwrap();
    changed(&world, "rm -r d kept; rm link; mkdir empty");
    world.write("project/kept/mine", "mine\n");
    let ended = applied(&world, &[], 1);
    assert!(
        ended.stderr.contains("kept/mine: left as it is: it was made or changed"),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stdout, "D link\nD kept/a\nD d/e/b\nD d/a\n");
    assert!(!world.project().join("d").exists() && world.project().join("empty").is_dir());
    assert_eq!(read(&world, "kept/mine").unwrap(), "mine\n");
    applied(&world, &["--undo"], 0);
    assert_eq!(read(&world, "d/e/b").unwrap(), "x\n");
    assert!(!world.project().join("empty").exists());
    assert_eq!(fs::read_link(world.project().join("link")).unwrap(), Path::new("d"));
}

#[test]
fn a_session_in_use_is_not_applied_from_and_nothing_to_apply_is_said() {
    let world = World::new();
    let nothing = applied(&world, &[], 0);
    assert!(nothing.stderr.contains("there is nothing to apply"), "{}", nothing.stderr);
    let child = world.forge(&["exec", "-c", "echo x >made; sleep 60"]).spawn().unwrap();
    let sessions = world.home().join(".local/state/forge/sessions");
    crate::harness::wait_until("it has written", || {
        let sessions = fs::read_dir(&sessions).map(|all| all.flatten().collect::<Vec<_>>());
        sessions.unwrap_or_default().iter().any(|entry| entry.path().join("upper/made").exists())
    });
    let busy = applied(&world, &[], 125);
    assert!(busy.stderr.contains("is in use by process"), "{}", busy.stderr);
    assert!(read(&world, "made").is_none());
    crate::harness::send(&child, rustix::process::Signal::TERM);
    crate::harness::wait(child);
    applied(&world, &[], 0);
    assert_eq!(read(&world, "made").unwrap(), "x\n");
}

#[test]
fn a_damaged_account_of_what_files_were_is_no_base() {
    let world = World::new();
    world.write("project/a", "1\n");
    changed(&world, "echo x >a; echo new >b");
    let sessions = world.home().join(".local/state/forge/sessions");
    let session = fs::read_dir(&sessions).unwrap().flatten().next().unwrap().path();
    fs::write(session.join("base/manifest.json"), "{\"version\":").unwrap();
    let ended = applied(&world, &[], 1);
    assert_eq!(read(&world, "a").unwrap(), "1\n", "{}", ended.stderr);
    fs::write(session.join("base/manifest.json"), "{\"version\":99,\"bases\":[]}").unwrap();
    applied(&world, &[], 1);
    applied(&world, &["--theirs"], 0);
    assert_eq!(read(&world, "a").unwrap(), "x\n");
}
