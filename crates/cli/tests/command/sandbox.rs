//! `forge` in its own sandbox, which is where it runs commands when nothing else is said.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forge_scripted_model::{Answer, Call, Script};
use pretty_assertions::assert_eq;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ended, Server, World, is_alive, run, run_with_stdin, send, wait, wait_until};

/// `forge exec -c SCRIPT` in the sandbox, which has to succeed; its stdout.
fn exec(world: &World, script: &str) -> String {
    let actual = run(&mut world.forge(&["exec", "-c", script]));
    assert_eq!(actual.code, Some(0), "{}", actual.stderr);
    actual.stdout
}

fn output(world: &World, arguments: &[&str]) -> String {
    let actual = run(&mut world.forge(arguments));
    assert_eq!(actual.code, Some(0), "{}", actual.stderr);
    actual.stdout
}

/// Every file of a directory with what it holds, symlinks not followed.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                files.insert(path, target.into_os_string().into_encoded_bytes());
            } else {
                let contents = fs::read(&path).unwrap();
                files.insert(path, contents);
            }
        }
    }
    files
}

/// The ids of the sessions that there are.
fn sessions(world: &World) -> Vec<String> {
    let list: Value = serde_json::from_str(&output(world, &["session", "list", "--json"])).unwrap();
    let id = |session: &Value| session["id"].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(id).collect()
}

#[test]
fn what_a_command_changes_stays_away_and_is_there_for_the_next_one() {
    let world = World::new();
    world.write("project/kept.txt", "one\n");
    world.write("project/gone.txt", "x\n");
    let before = snapshot(&world.project());
    let first =
        run(&mut world.forge(&["exec", "-c", "echo two >>kept.txt; rm gone.txt; echo n >new"]));
    assert_eq!((first.code, &*first.stdout), (Some(0), ""));
    assert!(
        first.stderr.contains("holds 3 changed files: forge diff shows them"),
        "{}",
        first.stderr
    );
    assert_eq!(snapshot(&world.project()), before);
    assert_eq!(exec(&world, "cat kept.txt new; ls"), "one\ntwo\nn\nkept.txt\nnew\n");
    assert_eq!(output(&world, &["diff", "--name-only"]), "gone.txt\nkept.txt\nnew\n");
    let stat = output(&world, &["diff", "--stat"]);
    assert!(stat.ends_with(" 3 files changed, 2 insertions(+), 1 deletion(-)\n"), "{stat}");
    assert_eq!(sessions(&world).len(), 1);
}

#[test]
fn a_command_that_removes_everything_removes_nothing() {
    let world = World::new();
    world.write("home/precious", "mine\n");
    for name in ["a", "b c", "d/e", ".hidden"] {
        world.write(&format!("project/{name}"), name);
    }
    let before = snapshot(&world.project());
    exec(&world, "rm -rf -- \"$PWD\"/* \"$HOME\"/* /etc/* /opt/* 2>/dev/null; true");
    assert_eq!(snapshot(&world.project()), before);
    assert_eq!(fs::read_to_string(world.home().join("precious")).unwrap(), "mine\n");
    assert_eq!(output(&world, &["diff", "--name-only"]), "a\nb c\nd/e\n");
}

#[test]
fn a_session_that_changed_nothing_leaves_nothing_behind() {
    let world = World::new();
    assert_eq!(exec(&world, "echo x >/tmp/x; echo y >~/y; echo done"), "done\n");
    assert_eq!(sessions(&world), Vec::<String>::new());
    let left = fs::read_dir(world.home().join(".local/state/forge/sessions")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_fresh_one_begins_clean_and_a_named_one_is_gone_on_with() {
    let world = World::new();
    exec(&world, "echo 1 >one");
    let first = sessions(&world).remove(0);
    let fresh = run(&mut world.forge(&["exec", "--fresh", "-c", "ls; echo 2 >two"]));
    assert_eq!((fresh.code, &*fresh.stdout), (Some(0), ""));
    assert_eq!(sessions(&world).len(), 2);
    let named = run(&mut world.forge(&["--session", &first, "exec", "--", "ls"]));
    assert_eq!((named.code, &*named.stdout), (Some(0), "one\n"));
    assert!(named.stderr.contains(", which was continued,"), "{}", named.stderr);
    let missing = run(&mut world.forge(&["--session", "nope", "exec", "--", "ls"]));
    assert_eq!(missing.code, Some(125));
    assert!(
        missing.stderr.starts_with("error: there is no session \"nope\""),
        "{}",
        missing.stderr
    );
}

#[test]
fn discarding_takes_everything_back() {
    let world = World::new();
    world.write("project/a", "1\n");
    exec(&world, "echo 2 >a; mkdir d; echo x >d/b");
    let unasked = run(&mut world.forge(&["discard"]));
    assert_eq!(unasked.code, Some(2));
    assert!(unasked.stderr.contains("--force"), "{}", unasked.stderr);
    let actual = run(&mut world.forge(&["discard", "--force"]));
    assert_eq!(actual.code, Some(0), "{}", actual.stderr);
    assert_eq!(exec(&world, "cat a; ls"), "1\na\n");
    assert_eq!(output(&world, &["diff"]), "");
}

#[test]
fn ignored_files_stay_in_the_session_and_are_counted() {
    let world = World::new();
    world.write("project/.gitignore", "target/\n");
    exec(&world, "mkdir target; echo x >target/a; echo y >target/b");
    assert_eq!(output(&world, &["diff", "--name-only"]), "");
    let shown: Value =
        serde_json::from_str(&output(&world, &["session", "list", "--json"])).unwrap();
    assert_eq!((&shown[0]["changed_files"], &shown[0]["ignored_files"]), (&0.into(), &2.into()));
    assert_eq!(exec(&world, "cat target/a"), "x\n");
}

#[test]
fn exit_codes_are_the_commands_own() {
    let world = World::new();
    let code = |arguments: &[&str]| run(&mut world.forge(arguments)).code;
    assert_eq!(code(&["exec", "--", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["exec", "-c", "kill -TERM $$"]), Some(143));
    assert_eq!(code(&["exec", "--", "no-such-program"]), Some(127));
    assert_eq!(code(&["exec", "--", "/etc"]), Some(126));
    assert_eq!(code(&["exec", "--timeout", "1s", "--", "sleep", "60"]), Some(124));
}

#[test]
fn any_bytes_go_in_and_come_out() {
    let world = World::new();
    let bytes: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    let actual = run_with_stdin(&mut world.forge(&["exec", "--", "cat"]), &bytes);
    assert_eq!(actual.status.code(), Some(0));
    assert!(actual.stdout == bytes);
}

#[test]
fn nothing_of_the_users_environment_and_home_is_there() {
    let world = World::new();
    world.write("home/.ssh/id_rsa", "secret");
    world.write("home/.aws/credentials", "secret");
    let mut command = world.forge(&["exec", "--env", "GIVEN", "--env", "SET=1", "--", "env"]);
    command.env("GIVEN", "yes").env("OPENAI_API_KEY", "s3cret").env("OTHER", "s3cret");
    command.env("SSH_AUTH_SOCK", "/run/agent");
    let actual = run(&mut command);
    assert!(actual.stdout.contains("GIVEN=yes\n") && actual.stdout.contains("SET=1\n"));
    for name in ["s3cret", "OTHER", "SSH_AUTH_SOCK"] {
        assert!(!actual.stdout.contains(name), "{}", actual.stdout);
    }
    let script = format!("ls -A ~; cat {}/.ssh/id_rsa 2>&1", world.home().display());
    let actual = run(&mut world.forge(&["exec", "-c", &script]));
    assert!(!actual.stdout.contains("secret\n"), "{}", actual.stdout);
    assert!(actual.stdout.contains("No such file"), "{}", actual.stdout);
}

#[test]
fn secrets_of_the_project_are_hidden_unless_they_are_included() {
    let world = World::new();
    world.write("project/.env", "KEY=s3cret\n");
    world.write("project/.env.example", "KEY=\n");
    world.write("project/sub/id_rsa", "s3cret\n");
    let actual = run(&mut world.forge(&["exec", "-c", "cat .env .env.example sub/id_rsa"]));
    assert_eq!((actual.code, &*actual.stdout), (Some(1), "KEY=\n"));
    assert!(actual.stderr.contains(".env: Permission denied"), "{}", actual.stderr);
    let actual = run(&mut world.forge(&["exec", "--include", ".env", "-c", "cat .env"]));
    assert_eq!(actual.stdout, "KEY=s3cret\n");
}

#[test]
fn an_added_directory_is_seen_and_with_rw_it_is_the_hosts_own() {
    let world = World::new();
    world.write("other/file", "there\n");
    let other = world.home().join("../other").canonicalize().unwrap();
    let script = format!("cat {0}/file; echo x >{0}/new", other.display());
    let add = other.display().to_string();
    let actual = run(&mut world.forge(&["exec", "--add-dir", &add, "-c", &script]));
    assert_eq!((actual.code, &*actual.stdout), (Some(2), "there\n"));
    assert!(!other.join("new").exists());
    let writable = format!("{add}:rw");
    let actual = run(&mut world.forge(&["exec", "--add-dir", &writable, "-c", &script]));
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "there\n"));
    assert!(actual.stderr.contains("changed at once, without review"), "{}", actual.stderr);
    assert_eq!(fs::read_to_string(other.join("new")).unwrap(), "x\n");
}

#[test]
fn the_home_directory_and_the_root_are_no_workspace() {
    let world = World::new();
    for place in [world.home(), PathBuf::from("/")] {
        let place = place.display().to_string();
        let actual = run(&mut world.forge(&["-C", &place, "exec", "--", "true"]));
        assert_eq!(actual.code, Some(125));
        assert!(actual.stderr.contains("cannot be a workspace"), "{}", actual.stderr);
    }
}

#[test]
fn a_kill_of_forge_ends_everything_and_the_next_start_works() {
    let world = World::new();
    // The helper's command line is forge's own, with the script in it, so a process counts as one of
    // the script's only if its whole command line says so.
    let mark = format!("{}", 900_000 + std::process::id());
    // Before there is anything that is waited for, so that the kill comes after it.
    let script = format!(
        "echo x >made; setsid sleep {mark} & (setsid sh -c 'sleep {mark}' &) ; sleep {mark}"
    );
    let mut child = world.forge(&["exec", "-c", &script]).spawn().unwrap();
    let own = child.id().to_string();
    let count = |is_counted: &dyn Fn(&[u8]) -> bool| {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|process| process.file_name().into_string().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            is_counted(&line) && *pid != own && is_alive(pid)
        })
        .count()
    };
    let sleep = format!("sleep\0{mark}\0");
    let is_marked = |line: &[u8]| line.windows(mark.len()).any(|part| part == mark.as_bytes());
    wait_until("three sleeps run", || count(&|line| line == sleep.as_bytes()) == 3);
    child.kill().unwrap();
    let begin = Instant::now();
    child.wait().unwrap();
    wait_until("none of them lives", || count(&is_marked) == 0);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    println!("all processes were gone {:?} after the kill", begin.elapsed());
    assert_eq!(exec(&world, "cat made"), "x\n");
}

#[test]
fn a_session_in_use_is_stopped_by_name() {
    let world = World::new();
    let child = world.forge(&["exec", "-c", "echo x >made; sleep 60"]).spawn().unwrap();
    let mut running = None;
    wait_until("it runs and has written", || {
        let ids = sessions(&world);
        running = ids.first().cloned();
        running.as_ref().is_some_and(|id| {
            let upper =
                world.home().join(".local/state/forge/sessions").join(id).join("upper/made");
            upper.exists()
        })
    });
    let id = running.unwrap();
    let busy = run(&mut world.forge(&["exec", "--session", &id, "--", "true"]));
    assert_eq!(busy.code, Some(125));
    assert!(busy.stderr.contains("is in use by process"), "{}", busy.stderr);
    let discarded = run(&mut world.forge(&["discard", "--force", &id]));
    assert_eq!(discarded.code, Some(125), "{}", discarded.stderr);
    let stopped = run(&mut world.forge(&["session", "stop", &id]));
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    assert_eq!(wait(child).code, Some(143));
    assert_eq!(output(&world, &["diff", "--name-only", &id]), "made\n");
    let again = run(&mut world.forge(&["session", "stop", &id[..18]]));
    assert!(again.stderr.contains("is not running"), "{}", again.stderr);
}

#[test]
fn the_first_interrupt_is_the_commands() {
    let world = World::new();
    let script = "trap 'echo caught; exit 5' INT; echo ready >ready; while :; do sleep 0.05; done";
    let child = world.forge(&["exec", "-c", script]).spawn().unwrap();
    let sessions = world.home().join(".local/state/forge/sessions");
    wait_until("it is ready", || {
        let entries = fs::read_dir(&sessions).map(|entries| entries.flatten().collect::<Vec<_>>());
        entries.unwrap_or_default().iter().any(|entry| entry.path().join("upper/ready").exists())
    });
    send(&child, Signal::INT);
    let actual = wait(child);
    assert_eq!((actual.code, &*actual.stdout), (Some(5), "caught\n"));
}

#[test]
fn a_task_of_a_model_ends_with_what_it_changed() {
    let world = World::new();
    world.write("project/a.txt", "one\n");
    let server = Server::start(Script::new([
        Answer::calls([Call::shell("echo two >>a.txt; curl -sS http://example.org", "Try it")]),
        Answer::text("Finished."),
    ]));
    let mut command = world.forge(&["-m", "openai/scripted", "-p", "go"]);
    server.tell(&mut command);
    let actual = run(&mut command);
    assert_eq!((actual.code, &*actual.stdout), (Some(0), "Finished.\n"), "{}", actual.stderr);
    assert!(actual.stderr.contains("holds 1 changed file: forge diff shows"), "{}", actual.stderr);
    assert_eq!(fs::read_to_string(world.project().join("a.txt")).unwrap(), "one\n");
    assert!(server.last_request().contains("no network"), "{}", server.last_request());
}

#[test]
fn a_model_is_told_that_the_network_is_off_where_that_is_why_a_command_failed() {
    let world = World::new();
    let script = "echo 'curl: (6) Could not resolve host: example.org' >&2; exit 6";
    let server = Server::start(Script::new([
        Answer::calls([Call::shell(script, "Try it")]),
        Answer::text("Finished."),
    ]));
    let mut command = world.forge(&["-m", "openai/scripted", "-p", "go"]);
    server.tell(&mut command);
    assert_eq!(run(&mut command).code, Some(0));
    assert!(server.results()[0].contains("--network full"), "{:?}", server.results());
}

#[test]
fn the_loopback_is_there_and_the_hosts_is_not() {
    let world = World::new();
    #[expect(clippy::disallowed_methods, reason = "a server of the host that must not be reached")]
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "import socket\n\
         s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); \
         socket.create_connection(s.getsockname()).close(); print('own')\n\
         try:\n    socket.create_connection(('127.0.0.1', {port}), 2); print('open')\n\
         except OSError: print('closed')\n"
    );
    let python = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--", "python3", "-c", &script]);
        run(&mut world.forge(&all)).stdout
    };
    assert_eq!(python(&["exec"]), "own\nclosed\n");
    assert_eq!(python(&["exec", "--network", "full"]), "own\nopen\n");
}

#[test]
fn doctor_says_what_works_as_a_table_and_as_json() {
    let world = World::new();
    let table = output(&world, &["doctor"]);
    for name in ["kernel", "user namespaces", "overlay on the state directory", "Landlock"] {
        assert!(table.contains(name), "{table}");
    }
    let report: Value = serde_json::from_str(&output(&world, &["doctor", "--json"])).unwrap();
    assert_eq!(report["works"], Value::Bool(true), "{report}");
    assert_eq!(report["checks"].as_array().unwrap().len(), table.lines().count());
    let left = fs::read_dir(world.home().join(".local/state/forge")).unwrap().count();
    assert_eq!(left, 0, "the probe leaves nothing behind");
}

#[test]
fn a_state_directory_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let state = world.home().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let actual = run(world.forge(&["exec", "--", "true"]).env("FORGE_STATE_DIR", &state));
    assert_eq!(actual.code, Some(125));
    assert!(actual.stderr.contains("others can write to it"), "{}", actual.stderr);
    assert!(actual.stderr.contains("chmod 700"), "{}", actual.stderr);
}

#[test]
fn prune_removes_what_nobody_misses_and_with_force_the_rest() {
    let world = World::new();
    exec(&world, "echo x >made");
    let actual = run(&mut world.forge(&["session", "prune"]));
    assert_eq!((actual.code, &*actual.stdout), (Some(0), ""));
    assert!(actual.stderr.contains("1 session holds changes"), "{}", actual.stderr);
    assert_eq!(sessions(&world).len(), 1);
    assert!(output(&world, &["session", "prune", "--force"]).contains("it was asked for"));
    assert_eq!(sessions(&world), Vec::<String>::new());
}

/// Runs a script in a mount namespace where the state directory is on an overlay, as it is in many
/// containers: such a file system cannot hold a layer of another one.
fn in_a_container(world: &World, script: &str) -> Ended {
    let place = world.home().join("overlay");
    for name in ["lower", "upper", "work", "state"] {
        fs::create_dir_all(place.join(name)).unwrap();
    }
    let prologue = "cd \"$PLACE\" && mount -t tmpfs none work && mkdir work/upper work/work &&
        mount -t overlay none -o lowerdir=lower,upperdir=work/upper,workdir=work/work,userxattr state &&
        export FORGE_STATE_DIR=\"$PLACE/state\" && cd \"$PROJECT\" && set -e\n";
    let mut command = world.shell("exec unshare --user --map-root-user --mount sh -c \"$SCRIPT\"");
    command.env("SCRIPT", format!("{prologue}{script}")).env("PLACE", place);
    command.env("PROJECT", world.project()).env("FORGE", env!("CARGO_BIN_EXE_forge"));
    run(&mut command)
}

#[test]
fn where_the_state_directory_cannot_hold_a_layer_it_is_in_memory_and_then_on_the_disk() {
    let world = World::new();
    world.write("project/kept.txt", "one\n");
    world.write("project/gone.txt", "x\n");
    let before = snapshot(&world.project());
    let actual = in_a_container(
        &world,
        "\"$FORGE\" -v exec -c 'echo two >> kept.txt; rm gone.txt; echo n > new'
         \"$FORGE\" exec -c 'cat kept.txt new; ls'
         \"$FORGE\" diff --name-only
         \"$FORGE\" diff --stat | tail -n 1
         \"$FORGE\" doctor | grep overlay
         \"$FORGE\" discard --force && \"$FORGE\" session list --json",
    );
    assert_eq!(actual.code, Some(0), "{}", actual.stderr);
    let mut lines: Vec<&str> = actual.stdout.lines().collect();
    let doctor = lines.remove(9);
    assert!(doctor.contains("cannot hold what a session writes"), "{doctor}");
    let expected = [
        "one",
        "two",
        "n",
        "kept.txt",
        "new",
        "gone.txt",
        "kept.txt",
        "new",
        " 3 files changed, 2 insertions(+), 1 deletion(-)",
        "[]",
    ];
    assert_eq!(lines, expected);
    assert!(actual.stderr.contains("a kill loses what came after"), "{}", actual.stderr);
    assert_eq!(snapshot(&world.project()), before);
}

#[test]
fn a_toolchain_with_a_mount_in_it_is_shown_and_cannot_be_written() {
    let world = World::new();
    world.write("home/.cargo/bin/tool", "#!/bin/sh\necho tool runs\n");
    world.write("home/.cargo/registry/file", "hidden by the mount\n");
    let mut command = world.shell("exec unshare --user --map-root-user --mount sh -c \"$SCRIPT\"");
    command.env("FORGE", env!("CARGO_BIN_EXE_forge")).env(
        "SCRIPT",
        "set -e
         chmod +x \"$HOME/.cargo/bin/tool\"
         mount -t tmpfs none \"$HOME/.cargo/registry\"
         echo mounted > \"$HOME/.cargo/registry/file\"
         export PATH=\"$HOME/.cargo/bin:$PATH\"
         \"$FORGE\" exec -- tool
         \"$FORGE\" exec -c 'cat \"$CARGO_HOME/registry/file\"; touch \"$CARGO_HOME/new\" || echo refused'",
    );
    let actual = run(&mut command);
    assert_eq!(actual.code, Some(0), "{}", actual.stderr);
    assert_eq!(actual.stdout, "tool runs\nmounted\nrefused\n");
}
