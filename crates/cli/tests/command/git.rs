//! Commits of a session: what reaches the host's repository, and what of it is never touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pretty_assertions::assert_eq;

use crate::apply::{applied, changed, forge, read};
use crate::harness::{World, run};
use crate::live::{PROMPT, next, works_on};
use crate::terminal::Screen;

/// A project that is a repository with one commit.
fn repository() -> World {
    let world = World::new();
    world.write(
        "home/.gitconfig",
        "[user]\n\tname = Ada\n\temail = ada@example.org\n[init]\n\tdefaultBranch = main\n",
    );
    world.write("project/a", "1\n");
    host(
        &world,
        "git init -q && git add . && git commit -q -m first && git branch mine && git tag old",
    );
    world
}

/// What a script of the user's prints in the project.
fn host(world: &World, script: &str) -> String {
    let ended = run(&mut world.shell(script));
    assert_eq!(ended.code, Some(0), "{script}: {}", ended.stderr);
    ended.stdout.trim().to_owned()
}

/// The same of the session.
fn session(world: &World, script: &str) -> String {
    let ended = run(&mut world.forge(&["exec", "-c", script]));
    assert_eq!(ended.code, Some(0), "{script}: {}", ended.stderr);
    ended.stdout.trim().to_owned()
}

/// Everything of the project's `.git` that is not ours: objects and our refs.
fn users(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let git = world.project().join(".git");
    let mut all = BTreeMap::new();
    let mut open = vec![git.clone()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(&git).unwrap().to_path_buf();
            if relative == Path::new("objects") || relative == Path::new("refs/forge") {
                continue;
            }
            let is_directory = path.is_dir();
            let contents = if is_directory { Vec::new() } else { fs::read(&path).unwrap() };
            all.insert(relative, contents);
            if is_directory {
                open.push(path);
            }
        }
    }
    all
}

fn id(world: &World) -> String {
    let list = forge(world, &["session", "list", "--json"]).stdout;
    list.split('"').skip_while(|text| *text != "id").nth(2).unwrap().to_owned()
}

/// The refs beneath `refs/forge/`, without that and the session's name.
fn brought(world: &World) -> Vec<String> {
    let prefix = format!("refs/forge/{}/", id(world));
    let all = host(world, "git for-each-ref --format='%(refname) %(objectname)' refs/forge");
    all.lines().map(|line| line.strip_prefix(&prefix).unwrap().to_owned()).collect()
}

#[test]
fn commits_merges_and_tags_of_a_session_arrive_by_hash_and_nothing_of_the_users_moves() {
    let world = repository();
    host(&world, "echo staged >staged; git add staged; git config alias.x status");
    changed(
        &world,
        "git commit -qam index; echo 2 >a; git commit -qam second; git switch -qc feature; echo f >f; git add f\n\
         git commit -qm feature; git switch -q main; echo 3 >a; git commit -qam third; git merge -q -m merge feature\n\
         git tag -am annotated v1; git branch -D mine >/dev/null; echo loose >>a; git stash -q",
    );
    let before = users(&world);
    let note = forge(&world, &["diff"]).stderr;
    for name in ["heads/main", "heads/feature", "tags/v1", "stash"] {
        assert!(note.contains(name), "{name}: {note}");
    }
    let json = forge(&world, &["diff", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["commits"].as_array().unwrap().len(), 4, "{json}");
    let names = "git for-each-ref --format='%(refname:lstrip=1) %(objectname)' refs/heads/main refs/heads/feature refs/tags/v1 refs/stash";
    let mut expected: Vec<String> = session(&world, names).lines().map(str::to_owned).collect();
    expected.push(format!("HEAD {}", session(&world, "git rev-parse HEAD")));
    expected.sort();
    let ended = applied(&world, &[], 0);
    assert_eq!(brought(&world), expected);
    assert_eq!(ended.stdout.lines().filter(|line| line.starts_with("C refs/forge/")).count(), 5);
    assert_eq!(users(&world), before);
    host(&world, "git fsck --strict");
    assert_eq!(host(&world, &format!("git show refs/forge/{}/heads/main:f", id(&world))), "f");
    // What was brought over waits no more, and is not brought again.
    assert_eq!(forge(&world, &["diff"]).stderr, "");
    assert_eq!(applied(&world, &[], 0).stdout, "");
    let left = world.home().join(".local/state/forge/commits");
    assert_eq!(fs::read_dir(left).unwrap().count(), 0);
}

#[test]
fn amended_and_rebased_branches_replace_what_was_brought_and_a_detached_head_comes_too() {
    let world = repository();
    changed(
        &world,
        "echo 2 >a; git commit -qam second; echo 3 >b; git add b; git commit -qm third",
    );
    applied(&world, &[], 0);
    let first = brought(&world);
    changed(&world, "git commit -q --amend -m other; git rebase -q --onto HEAD~2 HEAD~1");
    assert!(forge(&world, &["diff"]).stderr.contains("heads/main"));
    applied(&world, &[], 0);
    let second = brought(&world);
    let main = session(&world, "git rev-parse main");
    assert_eq!(second, [format!("HEAD {main}"), format!("heads/main {main}")]);
    assert_ne!(first, second);
    changed(&world, "git checkout -q --detach; echo 4 >b; git commit -qam detached");
    assert!(forge(&world, &["diff"]).stderr.contains("(HEAD)"));
    applied(&world, &[], 0);
    let head = session(&world, "git rev-parse HEAD");
    assert_eq!(brought(&world), [format!("HEAD {head}"), format!("heads/main {main}")]);
}

#[test]
fn a_branch_is_made_of_what_is_checked_out_and_no_file_is_applied() {
    let world = repository();
    changed(&world, "echo 2 >a; git commit -qam second; echo new >new");
    let before = users(&world);
    let head = session(&world, "git rev-parse HEAD");
    for (name, code) in [("mine", 1), ("a..b", 2), ("-x", 2), ("refs/heads/x", 2), ("HEAD", 2)] {
        let option = format!("--branch={name}");
        let ended = applied(&world, &[&option], code);
        assert!(ended.stderr.contains(name), "{name}: {}", ended.stderr);
    }
    assert_eq!(users(&world), before);
    let ended = applied(&world, &["--branch", "topic/one"], 0);
    assert!(ended.stdout.contains(&format!("B topic/one {head}\n")), "{}", ended.stdout);
    assert!(ended.stderr.contains("files were not applied"), "{}", ended.stderr);
    assert_eq!(host(&world, "git rev-parse topic/one"), head);
    assert_eq!(host(&world, "git rev-parse --abbrev-ref HEAD; git status --porcelain"), "main");
    assert_eq!((read(&world, "a").unwrap(), read(&world, "new")), ("1\n".to_owned(), None));
    let mut after = users(&world);
    after.retain(|path, _| !path.starts_with("refs/heads/topic") && path != Path::new("index"));
    let mut before = before;
    before.remove(Path::new("index"));
    assert_eq!(after, before);
    assert_eq!(applied(&world, &["--branch", "topic/one"], 1).stdout, "");
}

#[test]
fn an_undo_and_named_paths_leave_commits_alone_and_a_dry_run_names_them() {
    let world = repository();
    changed(&world, "echo 2 >a; git commit -qam second; echo b >b");
    let dry = applied(&world, &["--dry-run"], 0);
    assert!(dry.stderr.contains("commits (heads/main)"), "{}", dry.stderr);
    applied(&world, &["b"], 0);
    assert_eq!(brought(&world), Vec::<String>::new());
    applied(&world, &[], 0);
    let all = brought(&world);
    assert_eq!(all.len(), 2);
    applied(&world, &["--undo"], 0);
    assert_eq!(brought(&world), all);
}

#[test]
fn what_the_session_put_into_its_repository_runs_nowhere_on_the_host() {
    let world = repository();
    let mark = world.home().join("ran");
    // On the host only the first can be written, in the sandbox only the second.
    let canary = format!(
        "#!/bin/sh\n(echo ran >>{}; echo inside >>/home/forge/ran) 2>/dev/null\nexit 0\n",
        mark.display()
    );
    world.write("home/canary", &canary);
    fs::set_permissions(world.home().join("canary"), fs::Permissions::from_mode(0o755)).unwrap();
    let hostile = format!(
        "echo 2 >a; git commit -qam second\n\
         cat >.git/canary <<'END'\n{canary}END\nchmod +x .git/canary\n\
         for h in reference-transaction post-checkout pre-commit fsmonitor-watchman; do cp .git/canary .git/hooks/$h; done\n\
         for k in core.fsmonitor core.sshCommand core.pager core.alternateRefsCommand uploadpack.packObjectsHook; do\n\
         git config $k \"$PWD/.git/canary\"; done\n\
         git config core.hooksPath \"$PWD/.git/hooks\"; git config alias.bundle \"!$PWD/.git/canary\""
    );
    changed(&world, &hostile);
    // The control: inside, the session's own git runs it.
    assert_eq!(session(&world, "git status >/dev/null 2>&1; head -1 /home/forge/ran"), "inside");
    applied(&world, &[], 0);
    assert_eq!(brought(&world).len(), 2);
    assert!(!mark.exists());
    // The control on the host: with the hook in the user's own repository it would.
    let hook = world.project().join(".git/hooks/reference-transaction");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::copy(world.home().join("canary"), &hook).unwrap();
    host(&world, "git update-ref refs/forge/control main");
    assert!(mark.exists());
    host(&world, "git update-ref -d refs/forge/control");
    fs::remove_file(&mark).unwrap();
    host(&world, "git config core.fsmonitor $HOME/canary");
    changed(&world, "echo 3 >a; git -c core.hooksPath=/dev/null commit -qam third");
    applied(&world, &["--branch", "made"], 0);
    assert!(!mark.exists());
    host(&world, "git status >/dev/null");
    assert!(mark.exists());
}

#[test]
fn a_repository_of_the_session_alone_is_said_and_its_commits_stay() {
    let world = World::new();
    world.write("home/.gitconfig", "[user]\n\tname = Ada\n\temail = ada@example.org\n");
    changed(&world, "git init -q -b main; echo x >x; git add x; git commit -qm first");
    let ended = applied(&world, &[], 1);
    assert_eq!(read(&world, "x").unwrap(), "x\n");
    assert!(!world.project().join(".git").exists());
    assert!(ended.stderr.contains("the project is none"), "{}", ended.stderr);
    assert!(ended.stderr.contains("git bundle create"), "{}", ended.stderr);
    // The way out that it says.
    host(&world, "git init -q -b main");
    applied(&world, &[], 0);
    assert_eq!(brought(&world).len(), 2);
}

#[test]
fn commits_are_named_before_they_would_be_lost() {
    let world = repository();
    changed(&world, "git commit -q --allow-empty -m second");
    let pruned = forge(&world, &["session", "prune"]);
    assert_eq!(pruned.stdout, "", "{}", pruned.stderr);
    let refused = forge(&world, &["discard"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(forge(&world, &["diff"]).stderr.contains("commits (heads/main)"));
    let dropped = forge(&world, &["discard", "--force"]);
    assert!(
        dropped.stderr.starts_with("note: commits (heads/main) of session "),
        "{}",
        dropped.stderr
    );
    assert!(applied(&world, &[], 0).stderr.contains("nothing to apply"));
}

#[test]
fn commits_of_a_linked_worktree_reach_the_repository_that_it_belongs_to() {
    let world = repository();
    host(&world, "git worktree add -q -b side ../tree");
    let tree = world.project().parent().unwrap().join("tree");
    let forge_in_tree = |arguments: &[&str]| {
        let ended = run(world.forge(arguments).current_dir(&tree));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended
    };
    forge_in_tree(&["exec", "-c", "echo 2 >a; git commit -qam second"]);
    let before = users(&world);
    assert!(forge_in_tree(&["diff"]).stderr.contains("commits (heads/side)"));
    let head = forge_in_tree(&["exec", "git", "rev-parse", "HEAD"]).stdout.trim().to_owned();
    forge_in_tree(&["apply"]);
    assert_eq!(brought(&world), [format!("HEAD {head}"), format!("heads/side {head}")]);
    assert_eq!(users(&world), before);
}

#[test]
fn commits_of_files_that_were_applied_before_are_named_at_the_end_and_brought() {
    let world = repository();
    changed(&world, "echo 2 >a");
    applied(&world, &[], 0);
    let waits = run(&mut world.forge(&["exec", "-c", "git commit -qam second"]));
    assert!(waits.stderr.contains("holds commits (heads/main): forge apply"), "{}", waits.stderr);
    assert_eq!(applied(&world, &[], 0).stdout.lines().count(), 2);
    assert_eq!(brought(&world).len(), 2);
    let ended = run(&mut world.forge(&["--apply", "auto", "exec", "-c", "git tag new"]));
    assert_eq!((ended.code, brought(&world).len()), (Some(0), 3), "{}", ended.stderr);
}

#[test]
fn without_git_on_the_host_files_come_and_commits_wait() {
    let world = repository();
    changed(&world, "echo 2 >a; git commit -qam second");
    let ended = run(world.forge(&["apply"]).env("PATH", world.home()));
    assert_eq!((ended.code, &*read(&world, "a").unwrap()), (Some(1), "2\n"));
    assert!(ended.stderr.contains("git is not installed"), "{}", ended.stderr);
    applied(&world, &[], 0);
    assert_eq!(brought(&world).len(), 2);
}

#[test]
fn commits_of_a_submodule_reach_its_own_repository_and_no_other() {
    let world = repository();
    host(
        &world,
        "git init -q ../other; (cd ../other; echo s >s; git add s; git commit -qm s)\n\
         git -c protocol.file.allow=always submodule --quiet add ../other sub; git commit -qm sub",
    );
    let before = users(&world);
    let sub = world.project().join("sub");
    for arguments in [&["exec", "-c", "echo 2 >s; git commit -qam two"][..], &["apply"]] {
        let ended = run(world.forge(arguments).current_dir(&sub));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    assert_eq!(brought(&world), Vec::<String>::new());
    let there = host(&world, "cd sub; git for-each-ref --format='%(refname:lstrip=3)' refs/forge");
    assert_eq!(there, "HEAD\nheads/main");
    let mut after = users(&world);
    after.retain(|path, _| {
        !path.starts_with("modules/sub/objects") && !path.starts_with("modules/sub/refs/forge")
    });
    let mut before = before;
    before.retain(|path, _| !path.starts_with("modules/sub/objects"));
    assert_eq!(after, before);
}

#[test]
fn commits_come_at_the_end_of_a_run_where_that_was_said() {
    let world = repository();
    let script = "echo 2 >a; git commit -qam second; git rev-parse HEAD";
    let ended = run(&mut world.forge(&["--apply", "auto", "exec", "-c", script]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let head = ended.stdout.trim();
    assert_eq!(brought(&world), [format!("HEAD {head}"), format!("heads/main {head}")]);
}

#[test]
fn commits_come_after_each_turn_and_when_they_are_asked_for_while_the_session_stands() {
    let world = repository();
    let server = works_on(&world);
    let git = "git -c user.name=Ada -c user.email=ada@example.org";
    let subjects = || {
        let refs = "git for-each-ref --format='%(refname:lstrip=3) %(contents:subject)' refs/forge";
        host(&world, refs)
    };
    next(&world, &format!("echo 2 >a; {git} commit -qam second"));
    let mut screen = Screen::running(&world, &server, &format!("{PROMPT} --apply auto"));
    let before = users(&world);
    screen.enter("turn one");
    screen.expect("1 change was applied");
    screen.expect("2 refs of commits were brought");
    assert_eq!(subjects(), "HEAD second\nheads/main second");
    next(&world, &format!("{git} commit -q --amend -m amended"));
    screen.enter("turn two");
    screen.expect("2 refs of commits were brought");
    assert_eq!(subjects(), "HEAD amended\nheads/main amended");
    screen.enter("/quit");
    screen.expect("code=0");

    next(&world, "git tag new");
    let mut screen = Screen::running(&world, &server, &format!("{PROMPT} --apply never"));
    screen.enter("turn three");
    screen.expect("Answered.");
    screen.enter("/apply");
    screen.expect("1 ref of commits was brought");
    screen.enter("/apply");
    screen.expect("nothing waits");
    screen.enter("/quit");
    screen.expect("code=0");
    assert_eq!(subjects(), "HEAD amended\nheads/main amended\ntags/new amended");
    assert_eq!(users(&world), before);
}
