//! `--keep-vm`: a microVM that is suspended at the end of a run, and gone on with by the next one of its session.

use std::fs;

use pretty_assertions::assert_eq;
use rustix::process::Signal;

use crate::harness::{Ended, World, run, send, wait};
use crate::leftovers::{Cloud, KEY, first_line, in_project};

/// The only sandbox of the server, and its status.
fn only(cloud: &Cloud) -> (String, String) {
    let answer = cloud.serving.ask("GET /v1/namespaces/default/sandboxes", KEY, "");
    let of = |key: &str| {
        let text = answer.split(&format!("\"{key}\":\"")).nth(1).unwrap_or_default();
        text.split('"').next().unwrap_or_default().to_owned()
    };
    assert_eq!(cloud.alive(), 1, "{answer}");
    (of("id"), of("status"))
}

fn exec(cloud: &Cloud, world: &World, options: &[&str], script: &str) -> Ended {
    let ended = run(&mut cloud.forge(world, &[&["exec"], options, &["-c", script]].concat()));
    assert_eq!(ended.code, Some(0), "{script}: {}", ended.stderr);
    ended
}

fn world() -> World {
    let world = World::new();
    world.write("project/.gitignore", "/ignored\n");
    for name in ["a", "b", "c", "d/e"] {
        world.write(&format!("project/{name}"), "1\n");
    }
    world
}

const LOOK: &str =
    "tail -n +1 -- $(find . -name .git -prune -o -type f -print | sort) | sed '/^$/d'";

#[test]
fn a_microvm_that_is_kept_is_suspended_and_gone_on_with_and_follows_the_host() {
    let (cloud, world) = (Cloud::start(), world());
    let ended = exec(
        &cloud,
        &world,
        &["--keep-vm"],
        "echo 2 >a; echo 1 >new; rm c; echo x >ignored; mkdir k; echo 1 >k/x; echo 1 >m; echo y >/tmp/outside",
    );
    let (id, status) = only(&cloud);
    assert_eq!(status, "suspended");
    assert!(ended.stderr.contains(&format!("the microVM {id} was suspended")), "{}", ended.stderr);
    let session =
        ended.stderr.split("session ").nth(1).unwrap().split([' ', ',']).next().unwrap().to_owned();
    // Nothing of it is in the way of a prune, and a list says how it stands.
    assert_eq!(cloud.prune(&world).code, Some(0));
    let list = run(&mut cloud.forge(&world, &["session", "list"])).stdout;
    assert!(list.contains("suspended"), "{list}");

    world.write("project/b", "the user's\n");
    fs::remove_file(world.project().join("d/e")).unwrap();
    world.write("project/host", "1\n");
    // What the sandbox does in the same session is the session's as well.
    let ended = run(&mut world.forge(&[
        "--sandbox",
        "exec",
        "--session",
        &session,
        "-c",
        "echo 3 >new; echo 1 >of-sandbox; rm -r k m; echo 1 >k; mkdir m; echo 1 >m/y",
    ]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let expected = "==> ./.gitignore <==\n/ignored\n==> ./a <==\n2\n==> ./b <==\nthe user's\n==> ./host <==\n1\n==> ./ignored <==\nx\n\
                    ==> ./k <==\n1\n==> ./m/y <==\n1\n==> ./new <==\n3\n==> ./of-sandbox <==\n1\n";
    let look = format!("{LOOK}; cat /tmp/outside >&2");
    let ended = exec(&cloud, &world, &["--keep-vm"], &look);
    assert_eq!(ended.stdout, expected, "{}", ended.stderr);
    assert!(!ended.stderr.contains("ignored"), "{}", ended.stderr);
    assert!(ended.stderr.contains("y\n"), "{}", ended.stderr);
    assert_eq!(only(&cloud), (id.clone(), "suspended".to_owned()));
    // Once more, with nothing to bring in, and then without being kept.
    let ended = exec(&cloud, &world, &[], LOOK);
    assert_eq!(ended.stdout, expected);
    let said = "1 ignored file ended with the microVM; --keep-vm keeps them";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert_eq!(cloud.alive(), 0);
    let diff = run(&mut world.forge(&["diff", "--name-only"])).stdout;
    assert_eq!(diff, "a\nc\nk\nm/y\nnew\nof-sandbox\n");
    // Another one has all of it but for what is ignored.
    let expected = expected.replace("==> ./ignored <==\nx\n", "");
    assert_eq!(exec(&cloud, &world, &[], LOOK).stdout, expected);
    cloud.end();
}

#[test]
fn what_was_applied_and_edited_meanwhile_goes_into_the_microvm() {
    let (cloud, world) = (Cloud::start(), world());
    exec(
        &cloud,
        &world,
        &["--keep-vm"],
        "echo 2 >a; echo 2 >new; rm -r d; echo file >d; rm c; mkdir c; echo 2 >c/x",
    );
    let (id, _) = only(&cloud);
    assert_eq!(run(&mut world.forge(&["apply"])).code, Some(0));
    world.write("project/a", "3\n");
    fs::remove_file(world.project().join("new")).unwrap();
    world.write("project/d", "3\n");
    world.write("project/c/y", "3\n");
    let expected = "==> ./.gitignore <==\n/ignored\n==> ./a <==\n3\n==> ./b <==\n1\n==> ./c/x <==\n2\n==> ./c/y <==\n3\n\
                    ==> ./d <==\n3\n";
    let ended = exec(&cloud, &world, &["--keep-vm"], LOOK);
    assert_eq!(ended.stdout, expected, "{}", ended.stderr);
    assert_eq!(only(&cloud).0, id);
    let diff = run(&mut world.forge(&["diff", "--name-only"]));
    assert_eq!(diff.stdout, "", "{}", diff.stderr);
    cloud.end();
}

#[test]
fn one_that_is_gone_is_made_again_with_the_change_set_and_it_is_said() {
    let (cloud, world) = (Cloud::start(), world());
    exec(&cloud, &world, &["--keep-vm"], "echo 2 >a; echo 1 >new; rm c; echo x >ignored");
    let (id, _) = only(&cloud);
    cloud.serving.ask(&format!("DELETE /v1/namespaces/default/sandboxes/{id}"), KEY, "");
    let expected = "==> ./.gitignore <==\n/ignored\n==> ./a <==\n2\n==> ./b <==\n1\n==> ./d/e <==\n1\n==> ./new <==\n1\n";
    let ended = exec(&cloud, &world, &["--keep-vm"], LOOK);
    assert_eq!(ended.stdout, expected, "{}", ended.stderr);
    assert!(ended.stderr.contains("the environment had to be made anew"), "{}", ended.stderr);
    assert_ne!(only(&cloud).0, id);
    cloud.end();
}

#[test]
fn what_was_discarded_is_not_in_the_next_microvm() {
    let (cloud, world) = (Cloud::start(), world());
    exec(&cloud, &world, &["--keep-vm"], "echo 2 >a; echo 1 >new");
    let (id, _) = only(&cloud);
    assert_eq!(run(&mut world.forge(&["discard", "--force"])).code, Some(0));
    let ended = exec(&cloud, &world, &["--keep-vm"], "cat a; ls new 2>/dev/null || echo none");
    assert_eq!(ended.stdout, "1\nnone\n", "{}", ended.stderr);
    assert_ne!(only(&cloud).0, id, "and the one before is deleted");
    cloud.end();
}

#[test]
fn a_run_that_goes_on_and_is_killed_loses_nothing() {
    let (cloud, world) = (Cloud::start(), world());
    let git = "git -c user.name=n -c user.email=e@x -c init.defaultBranch=main";
    assert_eq!(
        run(&mut world.shell(&format!("{git} init -q && git add . && {git} commit -qm one"))).code,
        Some(0)
    );
    let commit = format!("echo 2 >a; {git} commit -qam two; echo 1 >new");
    exec(&cloud, &world, &["--keep-vm"], &commit);
    // Its last word comes after all of that.
    let script = format!(
        "log=$(git log --format=%s); echo 2 >new; echo 1 >later; git add new; {git} commit -qm three; echo $log; \
         exec sleep 1000"
    );
    let mut child = cloud.forge(&world, &["exec", "--keep-vm", "-c", &script]).spawn().unwrap();
    assert_eq!(first_line(&mut child).trim(), "two one");
    send(&child, Signal::KILL);
    wait(child);
    let pruned = cloud.prune(&world);
    assert_eq!((pruned.code, cloud.alive()), (Some(0), 0), "{}", pruned.stderr);
    assert_eq!(run(&mut world.forge(&["apply", "--branch", "taken"])).code, Some(0));
    let log = run(&mut world.shell("git log --format=%s taken")).stdout;
    assert_eq!(log, "three\ntwo\none\n");
    assert_eq!(run(&mut world.forge(&["apply"])).code, Some(0));
    let found = ["a", "new", "later"].map(|name| in_project(&world, name).unwrap());
    assert_eq!(found, ["2\n", "2\n", "1\n"]);
    cloud.end();
}

#[test]
fn a_project_that_is_only_half_there_is_never_taken_for_deleted() {
    let (cloud, world) = (Cloud::start(), world());
    let tar = r#"#!/bin/sh
case "$*" in *-x*) [ ! -e /tmp/broken ] || exit 1 ;; esac
exec tar.real "$@"
"#;
    world.write("project/tar", tar);
    let script = "echo 2 >a; echo 1 >new; rm c; mv /usr/bin/tar /usr/bin/tar.real; cp tar /usr/bin/tar; chmod 755 /usr/bin/tar; \
                  touch /tmp/broken";
    exec(&cloud, &world, &["--keep-vm"], script);
    world.write("project/b", "the user's\n");
    fs::remove_file(world.project().join("d/e")).unwrap();
    for options in [&["--keep-vm"][..], &[]] {
        let ended = run(&mut cloud.forge(&world, &[&["exec"], options, &["-c", "ls"]].concat()));
        assert_eq!(ended.code, Some(125), "{}", ended.stderr);
        let diff = run(&mut world.forge(&["diff", "--name-only"])).stdout;
        assert_eq!(diff, "a\nc\nnew\n", "{}", ended.stderr);
    }
    assert_eq!(cloud.alive(), 0);
    let ended = exec(&cloud, &world, &[], "cat a b new; ls c d/e 2>/dev/null; true");
    assert_eq!(ended.stdout, "2\nthe user's\n1\n", "{}", ended.stderr);
    cloud.end();
}

#[test]
fn commits_that_cannot_be_kept_keep_the_microvm_until_they_are_given_up() {
    let (cloud, world) = (Cloud::start(), world());
    let git = "git -c user.name=n -c user.email=e@x -c init.defaultBranch=main";
    let ended =
        run(&mut world.shell(&format!("{git} init -q && git add . && {git} commit -qm one")));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let script = format!("echo 2 >a; {git} commit -qam two; echo '[' >>.git/config");
    let ended = exec(&cloud, &world, &[], &script);
    assert!(
        ended.stderr.contains("commits (") && ended.stderr.contains("was not deleted"),
        "{}",
        ended.stderr
    );
    assert_eq!(cloud.alive(), 1);
    // Files have come back all the same.
    assert_eq!(run(&mut world.forge(&["diff", "--name-only"])).stdout, "a\n");
    let pruned = cloud.prune(&world);
    assert_eq!((pruned.code, cloud.alive()), (Some(1), 1), "{}", pruned.stderr);
    assert!(pruned.stderr.contains("forge discard"), "{}", pruned.stderr);
    assert_eq!(run(&mut world.forge(&["apply"])).code, Some(0));
    assert_eq!(in_project(&world, "a").as_deref(), Some("2\n"));
    let list = run(&mut world.forge(&["session", "list"])).stdout;
    let session = list.split(' ').next().unwrap().to_owned();
    assert_eq!(run(&mut world.forge(&["discard", "--force", &session])).code, Some(0));
    let pruned = cloud.prune(&world);
    assert_eq!((pruned.code, cloud.alive()), (Some(0), 0), "{}", pruned.stderr);
    cloud.end();
}
