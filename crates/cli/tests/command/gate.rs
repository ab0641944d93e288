//! What a hostile session may not bring to the host. Each attempt goes with a control: something harmless of the same
//! session that is applied.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use pretty_assertions::assert_eq;

use crate::apply::{applied, changed, forge, read};
use crate::harness::{Ended, World};

/// Runs an attempt with its control, and says what `apply` said.
fn attempt(world: &World, script: &str) -> Ended {
    changed(world, &format!("{script}\necho control >control"));
    let ended = applied(world, &[], 1);
    assert_eq!(read(world, "control").as_deref(), Some("control\n"), "{}", ended.stderr);
    ended
}

fn is_there(world: &World, path: &str) -> bool {
    world.project().join(path).symlink_metadata().is_ok()
}

#[test]
fn a_symlink_that_leads_out_is_not_made() {
    let world = World::new();
    let ended = attempt(
        &world,
        "ln -s /etc/passwd absolute; ln -s ../../secret above; ln -s control inside",
    );
    assert!(!is_there(&world, "absolute") && !is_there(&world, "above"));
    assert_eq!(read(&world, "inside").unwrap(), "control\n");
    assert!(ended.stderr.contains("leads out of the project"), "{}", ended.stderr);
    applied(&world, &["--allow-symlink", "absolute", "absolute"], 0);
    assert!(is_there(&world, "absolute") && !is_there(&world, "above"));
}

#[test]
fn a_symlink_that_leads_out_through_others_is_not_made() {
    let world = World::new();
    symlink("/", world.project().join("out")).unwrap();
    attempt(
        &world,
        "ln -s out/etc/passwd through; mkdir d; ln -s .. d/up; ln -s d/up/../secret twice; ln -s a b; ln -s b a",
    );
    for path in ["through", "twice", "a", "b"] {
        assert!(!is_there(&world, path), "{path}");
    }
    assert!(is_there(&world, "d/up"));
}

#[test]
fn nothing_is_written_through_a_symlink_that_the_host_put_in_the_way() {
    let world = World::new();
    world.write("project/d/file", "1\n");
    changed(&world, "echo 2 >d/file; echo new >d/new; echo control >control");
    fs::rename(world.project().join("d"), world.home().join("outside")).unwrap();
    symlink(world.home().join("outside"), world.project().join("d")).unwrap();
    applied(&world, &[], 1);
    assert_eq!(read(&world, "control").unwrap(), "control\n");
    let is_untouched = || {
        let outside = world.home().join("outside");
        fs::read_to_string(outside.join("file")).unwrap() == "1\n" && !outside.join("new").exists()
    };
    assert!(is_untouched());
    // Who says that the session's is meant gets a directory in the place of the symlink.
    applied(&world, &["--theirs"], 0);
    assert!(is_untouched());
    assert_eq!(read(&world, "d/file").unwrap(), "2\n");
}

#[test]
fn a_tree_that_was_emptied_is_deleted_only_where_that_is_meant() {
    let world = World::new();
    for number in 0..60 {
        world.write(&format!("project/src/{number}"), "x\n");
    }
    let ended = attempt(&world, "rm -r src");
    assert_eq!(fs::read_dir(world.project().join("src")).unwrap().count(), 60);
    assert!(ended.stderr.contains("--allow-deletions"), "{}", ended.stderr);
    applied(&world, &["--allow-deletions"], 0);
    assert!(!is_there(&world, "src"));
    applied(&world, &["--undo"], 0);
    assert_eq!(fs::read_dir(world.project().join("src")).unwrap().count(), 60);
}

#[test]
fn no_attribute_of_the_session_comes_over() {
    let world = World::new();
    let script = "import os\nopen('made','w').write('x')\n\
                  for n in ('user.evil','user.overlay.opaque','user.overlay.redirect'):\n    \
                  try: os.setxattr('made', n, b'y')\n    except OSError: pass";
    changed(&world, &format!("python3 -c \"{script}\""));
    applied(&world, &[], 0);
    let mut names = [0u8; 1024];
    let length = rustix::fs::listxattr(world.project().join("made"), &mut names).unwrap();
    assert_eq!(String::from_utf8_lossy(&names[..length]), "");
}

#[test]
fn names_that_steer_a_terminal_are_refused_and_odd_ones_are_data() {
    let world = World::new();
    let ended = attempt(
        &world,
        r#"echo x >"$(printf 'line\nbreak')"; echo x >"$(printf 'esc\033[31m')"; echo x >-rf; echo x >"$(printf 'not\377utf8')""#,
    );
    let names: Vec<PathBuf> =
        fs::read_dir(world.project()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(is_there(&world, "-rf"));
    assert!(!ended.stderr.contains('\x1b') && !ended.stdout.contains('\x1b'), "{ended:?}");
    assert!(ended.stderr.contains("control character"), "{}", ended.stderr);
}

#[test]
fn nothing_of_git_is_written_as_files_in_any_spelling() {
    let world = World::new();
    let git = world.project().join(".git");
    fs::create_dir_all(git.join("hooks")).unwrap();
    fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(git.join("config"), "[core]\n").unwrap();
    attempt(
        &world,
        "echo evil >.git/hooks/pre-commit; printf '[core]\\nfsmonitor = evil\\n' >.git/config\n\
         mkdir .GIT sub sub/.git 'git~1'; for d in .GIT sub/.git 'git~1'; do echo evil >$d/config; done",
    );
    assert_eq!(fs::read_to_string(git.join("config")).unwrap(), "[core]\n");
    assert_eq!(fs::read_dir(git.join("hooks")).unwrap().count(), 0);
    for path in [".GIT", "sub/.git", "git~1"] {
        assert!(!is_there(&world, path), "{path}");
    }
}

#[test]
fn a_repository_that_the_session_makes_brings_no_hooks() {
    let world = World::new();
    changed(
        &world,
        "mkdir -p .git/hooks; echo evil >.git/hooks/post-checkout; echo control >control",
    );
    applied(&world, &[], 0);
    assert!(is_there(&world, "control") && !is_there(&world, ".git"));
}

#[test]
fn what_tools_execute_by_themselves_needs_a_yes_of_its_own() {
    let world = World::new();
    let blocked = [
        ".envrc",
        ".vscode/tasks.json",
        ".cargo/config.toml",
        ".npmrc",
        ".husky/pre-commit",
        ".github/workflows/ci.yml",
        ".claude/settings.json",
        ".gitattributes",
        "sub/.mcp.json",
        ".Envrc",
        "pyvenv.cfg",
        ".forge/config.toml",
    ];
    let mut script = String::new();
    for path in blocked {
        script.push_str(&format!("mkdir -p \"$(dirname {path})\"; echo evil >{path}\n"));
    }
    script.push_str("printf 'all:\\n\\techo hi\\n' >Makefile\n");
    let ended = attempt(&world, &script);
    for path in blocked {
        assert!(!is_there(&world, path), "{path}");
        assert!(
            ended.stderr.contains(&format!("{path}: not applied: ")),
            "{path}: {}",
            ended.stderr
        );
    }
    assert!(ended.stderr.contains("Makefile: make runs it"), "{}", ended.stderr);
    assert!(is_there(&world, "Makefile"));
    applied(&world, &["--allow-exec", ".cargo", ".cargo"], 0);
    assert!(is_there(&world, ".cargo/config.toml") && !is_there(&world, ".envrc"));
}

#[test]
fn a_deletion_of_what_tools_execute_needs_one_too() {
    let world = World::new();
    world.write("project/.github/workflows/ci.yml", "on: push\n");
    attempt(&world, "rm -r .github");
    assert!(is_there(&world, ".github/workflows/ci.yml"));
}

#[test]
fn pipes_and_sockets_are_not_made_and_the_hosts_stay() {
    let world = World::new();
    let pipe = world.project().join("hosts-pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    attempt(
        &world,
        "mkfifo pipe; rm hosts-pipe; echo x >hosts-pipe\n\
         python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('socket')\"",
    );
    assert!(!is_there(&world, "pipe") && !is_there(&world, "socket"));
    assert!(fs::symlink_metadata(pipe).unwrap().file_type().is_fifo());
}

#[test]
fn no_mode_beyond_the_permissions_comes_over() {
    let world = World::new();
    world.write("project/there", "#!/bin/sh\n");
    changed(
        &world,
        "echo x >made; chmod 6755 made || chmod 755 made; chmod 7755 there || :; mkdir d; chmod 3777 d || :; echo y >d/f",
    );
    applied(&world, &[], 0);
    for path in ["made", "there", "d"] {
        let mode = fs::metadata(world.project().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7000, 0, "{path}: {mode:o}");
    }
}

#[test]
fn hard_links_become_copies() {
    let world = World::new();
    changed(&world, "echo x >one; ln one two");
    applied(&world, &[], 0);
    for path in ["one", "two"] {
        assert_eq!(fs::metadata(world.project().join(path)).unwrap().nlink(), 1, "{path}");
        assert_eq!(read(&world, path).unwrap(), "x\n");
    }
}

#[test]
fn a_hosts_hard_link_elsewhere_is_not_written_through() {
    let world = World::new();
    world.write("home/secret", "secret\n");
    fs::hard_link(world.home().join("secret"), world.project().join("linked")).unwrap();
    changed(&world, "echo evil >linked");
    applied(&world, &[], 0);
    assert_eq!(read(&world, "linked").unwrap(), "evil\n");
    assert_eq!(fs::read_to_string(world.home().join("secret")).unwrap(), "secret\n");
}

#[test]
fn a_deep_path_and_a_long_name_come_over_or_are_refused_and_never_half() {
    let world = World::new();
    let deep = vec!["d"; 300].join("/");
    let long = "n".repeat(255);
    let ended = attempt(&world, &format!("mkdir -p {deep}; echo x >{deep}/f; echo x >{long}"));
    assert!(!is_there(&world, "d") && is_there(&world, &long));
    assert!(ended.stderr.contains("the path is too long"), "{}", ended.stderr);
}

#[test]
fn names_that_differ_in_letter_case_or_composition_only_are_files_of_their_own() {
    let world = World::new();
    world.write("project/readme", "lower\n");
    changed(
        &world,
        "echo UPPER >README; echo a >\"$(printf 'e\\314\\201')\"; echo b >\"$(printf '\\303\\251')\"",
    );
    applied(&world, &[], 0);
    assert_eq!(read(&world, "readme").unwrap(), "lower\n");
    assert_eq!(read(&world, "README").unwrap(), "UPPER\n");
    assert_eq!(
        (read(&world, "e\u{301}").unwrap(), read(&world, "\u{e9}").unwrap()),
        ("a\n".into(), "b\n".into())
    );
}

#[test]
fn a_read_only_tree_is_left_whole() {
    let world = World::new();
    world.write("project/d/file", "1\n");
    changed(&world, "echo 2 >d/file; echo 2 >d/other; echo x >top");
    let directory = world.project().join("d");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
    let ended = forge(&world, &["apply"]);
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(ended.code, Some(if is_root { 0 } else { 125 }), "{}", ended.stderr);
    assert_eq!(is_there(&world, "top"), is_root);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    if !is_root {
        assert!(ended.stderr.contains("nothing was changed"), "{}", ended.stderr);
        assert_eq!(read(&world, "d/file").unwrap(), "1\n");
        applied(&world, &[], 0);
    }
    assert_eq!(read(&world, "d/file").unwrap(), "2\n");
}

#[test]
fn a_workspace_that_is_gone_is_said() {
    let world = World::new();
    changed(&world, "echo x >made");
    let list = forge(&world, &["session", "list", "--json"]).stdout;
    let id = list.split('"').skip_while(|text| *text != "id").nth(2).unwrap().to_owned();
    let project = world.project();
    let mut command = world.forge(&["apply", &id]);
    fs::rename(&project, world.home().join("moved")).unwrap();
    let gone = crate::harness::run(command.current_dir(world.home()));
    assert_eq!(gone.code, Some(125), "{}", gone.stderr);
    assert!(gone.stderr.contains(&project.display().to_string()), "{}", gone.stderr);
    fs::rename(world.home().join("moved"), &project).unwrap();
    applied(&world, &[], 0);
}
