//! What a `forge` that is killed leaves behind on a server, and how it is found, fetched from and deleted: against a real
//! `forge serve` with a state directory of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use forge_scripted_model::{Answer, Call, Script};
use pretty_assertions::assert_eq;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Ended, Server, World, run, send, wait, wait_until};
use crate::serve::Serving;
use crate::terminal::Screen;

pub(crate) const KEY: &str = "k3y";

/// Says when it has written the first file, and when it has written the second.
const WORK: &str = "echo one >made; echo first; sleep 0.3; echo two >later; echo second";

/// A server that other worlds use.
pub(crate) struct Cloud {
    _world: World,
    pub(crate) serving: Serving,
}

impl Cloud {
    pub(crate) fn start() -> Self {
        let world = World::new();
        let serving = Serving::start(&world, &["--api-key", KEY]);
        Self { _world: world, serving }
    }

    /// `forge` of a world with the server and the key in its variables.
    pub(crate) fn forge(&self, world: &World, arguments: &[&str]) -> Command {
        let mut command = self.keyless(world, arguments);
        command.env("TENSORLAKE_API_KEY", KEY);
        command
    }

    fn keyless(&self, world: &World, arguments: &[&str]) -> Command {
        let mut command = world.forge(arguments);
        command.env("TENSORLAKE_API_URL", &self.serving.url);
        command
    }

    /// The sandboxes that are alive, whoever made them.
    pub(crate) fn alive(&self) -> usize {
        let answer = self.serving.ask("GET /v1/namespaces/default/sandboxes", KEY, "");
        answer.matches("\"status\":").count()
    }

    /// A run that is killed when it has written a file; what it runs goes on and writes nothing more.
    fn killed(&self, world: &World) {
        let work = "echo one >made; echo first; exec sleep 1000";
        let mut child = self.forge(world, &["exec", "--fresh", "-c", work]).spawn().unwrap();
        assert_eq!(first_line(&mut child), "first");
        send(&child, Signal::KILL);
        wait(child);
    }

    /// A run that goes on, and has written a file.
    fn living(&self, world: &World) -> Child {
        let work = "echo x >living; echo here; exec sleep 1000";
        let mut child = self.forge(world, &["exec", "--fresh", "-c", work]).spawn().unwrap();
        assert_eq!(first_line(&mut child), "here");
        child
    }

    pub(crate) fn prune(&self, world: &World) -> Ended {
        run(&mut self.forge(world, &["session", "prune"]))
    }

    pub(crate) fn end(self) {
        send(&self.serving.child, Signal::TERM);
        assert_eq!(wait(self.serving.child).code, Some(0));
    }
}

pub(crate) fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

pub(crate) fn in_project(world: &World, name: &str) -> Option<String> {
    fs::read_to_string(world.project().join(name)).ok()
}

/// Numbers below one thousand, always the same.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % 1000).unwrap()
    }
}

/// How many moments are tried; `FORGE_KILLS` says more.
fn kills() -> u32 {
    std::env::var("FORGE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// Whatever the moment of the kill, one prune is enough, and nothing is lost that was there: not what was said to be kept, and
/// not what the command had written when it said so.
#[test]
fn a_kill_at_any_moment_leaves_nothing_on_the_server_after_one_prune_and_loses_nothing() {
    let cloud = Cloud::start();
    let whole = {
        let world = World::new();
        world.write("project/file", "as it was\n");
        let begin = Instant::now();
        let actual = run(&mut cloud.forge(&world, &["exec", "-c", WORK]));
        assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), "first\nsecond\n"));
        begin.elapsed()
    };
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let kills = kills();
    let mut left_behind = 0;
    for at in 0..kills {
        let world = World::new();
        world.write("project/file", "as it was\n");
        let after = whole * (at * 1000 + numbers.next()) / (kills * 1000);
        let child = cloud.forge(&world, &["exec", "-c", WORK]).spawn().unwrap();
        thread::sleep(after);
        send(&child, Signal::KILL);
        let killed = wait(child);
        left_behind += cloud.alive();
        let pruned = cloud.prune(&world);
        let told = format!("kill {at} after {after:?}: {killed:?}, then {pruned:?}");
        assert_eq!(cloud.alive(), 0, "{told}");
        let applied = run(&mut world.forge(&["apply", "--yes"]));
        assert_eq!(applied.code, Some(0), "{told}, then {applied:?}");
        let is_reported = killed.stderr.contains(" holds 2 changed files");
        if is_reported || killed.stdout.contains("first") {
            assert_eq!(in_project(&world, "made").as_deref(), Some("one\n"), "{told}");
        }
        if is_reported || killed.stdout.contains("second") {
            assert_eq!(in_project(&world, "later").as_deref(), Some("two\n"), "{told}");
        }
        assert_eq!(in_project(&world, "file").as_deref(), Some("as it was\n"), "{told}");
    }
    // One whose moment does not depend on the clock, so that a kill is known to leave something behind.
    let world = World::new();
    cloud.killed(&world);
    left_behind += cloud.alive();
    assert!(left_behind > 0);
    assert_eq!(cloud.prune(&world).code, Some(0));
    assert_eq!(cloud.alive(), 0);
    assert_eq!(run(&mut world.forge(&["apply", "--yes"])).code, Some(0));
    assert_eq!(in_project(&world, "made").as_deref(), Some("one\n"));
    cloud.end();
}

#[test]
fn a_prune_touches_neither_what_lives_nor_what_is_not_on_record_here() {
    let cloud = Cloud::start();
    let world = World::new();
    let living = cloud.living(&world);
    let other = World::new();
    cloud.killed(&other);
    let body = r#"{"name": "forge-of-somebody-else"}"#;
    let made = cloud.serving.ask("POST /v1/namespaces/default/sandboxes", KEY, body);
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    cloud.killed(&world);
    assert_eq!(cloud.alive(), 4);
    let pruned = cloud.prune(&world);
    assert_eq!((pruned.code, cloud.alive()), (Some(0), 3), "{}", pruned.stderr);
    assert!(pruned.stderr.contains(" was fetched from and deleted; "), "{}", pruned.stderr);
    let again = cloud.prune(&world);
    assert!(!again.stderr.contains("microVM"), "{}", again.stderr);
    send(&living, Signal::TERM);
    assert_eq!(wait(living).code, Some(143));
    assert_eq!(cloud.alive(), 2);
    cloud.end();
}

#[test]
fn without_a_key_it_is_said_what_is_left_and_with_one_where_it_is() {
    let cloud = Cloud::start();
    let world = World::new();
    cloud.killed(&world);
    let url = &cloud.serving.url;
    let pruned = run(&mut cloud.keyless(&world, &["session", "prune"]));
    assert_eq!(pruned.code, Some(1));
    assert!(pruned.stderr.contains(&format!(" may still be at {url}\n")), "{}", pruned.stderr);
    assert!(pruned.stderr.contains("set TENSORLAKE_API_KEY, or name a file"), "{}", pruned.stderr);
    let unknown = run(&mut cloud.keyless(&world, &["session", "list"])).stdout;
    assert!(unknown.contains(&format!(" at {url}: unknown (no key was given)\n")), "{unknown}");
    let listed = run(&mut cloud.forge(&world, &["session", "list"])).stdout;
    assert!(listed.contains(&format!(" at {url}: running\n")), "{listed}");
    assert!(!format!("{unknown}{listed}{pruned:?}").contains(KEY));
    let json = run(&mut cloud.forge(&world, &["session", "list", "--json"])).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let microvm = &json[0]["microvms"][0];
    assert_eq!((&microvm["state"], &microvm["server"]), (&"running".into(), &url.as_str().into()));
    let id = json[0]["id"].as_str().unwrap();
    let shown = run(&mut cloud.forge(&world, &["session", "show", id])).stdout;
    assert!(shown.contains(&format!(" at {url}: running\n")), "{shown}");
    // The key goes to no server but the one that the microVM is on.
    let arguments = ["session", "stop", "--tensorlake-url", "http://127.0.0.1:1", id];
    let elsewhere = run(&mut cloud.forge(&world, &arguments));
    assert_eq!(elsewhere.code, Some(1));
    assert!(elsewhere.stderr.contains(&format!("it is on another server, {url}")), "{elsewhere:?}");
    assert_eq!(cloud.alive(), 1);
    let arguments = ["--tensorlake", KEY, "--tensorlake-url", url, "session", "stop", id];
    let stopped = run(&mut world.forge(&arguments));
    assert_eq!((stopped.code, cloud.alive()), (Some(0), 0), "{stopped:?}");
    assert_eq!(run(&mut world.forge(&["diff", "--name-only"])).stdout, "made\n");
    cloud.end();
}

#[test]
fn a_session_whose_forge_lives_is_stopped_with_its_microvm_and_keeps_its_changes() {
    let cloud = Cloud::start();
    let world = World::new();
    let living = cloud.living(&world);
    let json = run(&mut cloud.forge(&world, &["session", "list", "--json"])).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let stopped = run(&mut world.forge(&["session", "stop", json[0]["id"].as_str().unwrap()]));
    assert_eq!((stopped.code, cloud.alive()), (Some(0), 0), "{stopped:?}");
    assert_eq!(wait(living).code, Some(143));
    assert_eq!(run(&mut world.forge(&["diff", "--name-only"])).stdout, "living\n");
    cloud.end();
}

/// Whether no thread of a process runs.
fn stands_still(child: &Child) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
    let mut stats = threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap());
    stats.all(|stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('T'))
}

#[test]
fn the_record_stays_where_the_server_cannot_be_reached() {
    let cloud = Cloud::start();
    let world = World::new();
    cloud.killed(&world);
    send(&cloud.serving.child, Signal::STOP);
    wait_until("the server stands still", || stands_still(&cloud.serving.child));
    let begin = Instant::now();
    let listed = run(&mut cloud.forge(&world, &["session", "list"])).stdout;
    assert!(listed.contains(": unknown (it took longer than 5s)\n"), "{listed}");
    let pruned = cloud.prune(&world);
    assert!(begin.elapsed() < Duration::from_secs(50));
    assert_eq!(pruned.code, Some(1));
    assert!(pruned.stderr.contains("stays on record: it took longer than 15s\n"), "{pruned:?}");
    send(&cloud.serving.child, Signal::CONT);
    let named = ["exec", "--session"];
    let id = listed.split(' ').next().unwrap();
    let refused = run(&mut cloud.forge(&world, &[&named[..], &[id, "--", "true"]].concat()));
    assert_eq!(refused.code, Some(125), "{refused:?}");
    assert!(refused.stderr.contains("is still in its microVM"), "{refused:?}");
    let pruned = cloud.prune(&world);
    assert_eq!((pruned.code, cloud.alive()), (Some(0), 0), "{pruned:?}");
    cloud.end();
}

#[test]
fn the_next_run_fetches_from_what_was_left_behind_without_waiting_for_it() {
    let cloud = Cloud::start();
    let world = World::new();
    cloud.killed(&world);
    let listed = || run(&mut world.forge(&["session", "list"])).stdout;
    let text = listed();
    let killed = text.split(' ').next().unwrap();
    let living = cloud.living(&world);
    wait_until("what was left behind is off the record", || {
        listed().matches("microVM ").count() == 1
    });
    assert_eq!(cloud.alive(), 1);
    send(&living, Signal::TERM);
    let actual = wait(living);
    assert!(actual.stderr.contains(" was fetched from and deleted; "), "{actual:?}");
    assert_eq!(cloud.alive(), 0);
    let waiting = |arguments: &[&str]| run(&mut world.forge(arguments)).stdout;
    assert_eq!(waiting(&["diff", "--name-only"]), "living\n");
    assert_eq!(waiting(&["diff", "--name-only", killed]), "made\n");
    cloud.end();
}

/// Another process knows as well as the first what of the guest's tree is news: not what came from the host, and not what was
/// made and removed again.
#[test]
fn what_is_fetched_later_is_what_the_conversation_would_have_had() {
    let cloud = Cloud::start();
    let world = World::new();
    world.write("project/file", "one\n");
    let first = "echo a >removed; echo b >stays; echo say-$((1+1))";
    let second = "rm removed; cat file >third; echo say-$((1+2)); exec sleep 1000";
    let work = format!("if [ -e stays ]; then {second}; else {first}; fi");
    let model = Server::start(Script::new([
        Answer::calls([Call::shell(&work, "Work")]),
        Answer::text("Answered."),
    ]));
    let url = &cloud.serving.url;
    let program = format!(
        "\"$FORGE\" --tensorlake {KEY} --tensorlake-url {url} -m openai/scripted --ask never --apply never"
    );
    let mut screen = Screen::running(&world, &model, &program);
    screen.enter("turn one");
    screen.expect("2 changes wait");
    world.write("project/file", "by hand\n");
    screen.enter("turn two");
    screen.expect("say-3");
    // Where the screen has it.
    let forge = |arguments: &[&str]| {
        run(cloud.forge(&world, arguments).env("FORGE_STATE_DIR", world.home().join("state")))
    };
    let json = forge(&["session", "list", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let pid = json[0]["pid"].as_i64().unwrap_or_else(|| panic!("{json}"));
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    screen.expect("code=137");
    assert_eq!(cloud.alive(), 1);
    let pruned = forge(&["session", "prune"]);
    assert_eq!((pruned.code, cloud.alive()), (Some(0), 0), "{pruned:?}");
    assert_eq!(forge(&["diff", "--name-only"]).stdout, "stays\nthird\n");
    assert_eq!(forge(&["apply", "--yes"]).code, Some(0));
    assert_eq!(in_project(&world, "third").as_deref(), Some("by hand\n"));
    cloud.end();
}

#[test]
fn a_microvm_that_was_kept_is_left_alone_until_it_is_stopped() {
    let cloud = Cloud::start();
    let world = World::new();
    let actual = run(&mut cloud.forge(&world, &["exec", "--keep-vm", "-c", "echo x >made"]));
    assert_eq!((actual.code, cloud.alive()), (Some(0), 1), "{actual:?}");
    let pruned = cloud.prune(&world);
    assert_eq!((pruned.code, cloud.alive()), (Some(0), 1), "{pruned:?}");
    assert!(pruned.stderr.contains(" was kept on purpose; "), "{pruned:?}");
    let again = run(&mut cloud.forge(&world, &["exec", "--keep-vm", "--", "cat", "made"]));
    assert_eq!((again.stdout.as_str(), cloud.alive()), ("x\n", 1), "{again:?}");
    let listed = run(&mut cloud.forge(&world, &["session", "list"])).stdout;
    assert!(listed.contains(": suspended, kept on purpose\n"), "{listed}");
    let id = listed.split(' ').next().unwrap();
    let stopped = run(&mut cloud.forge(&world, &["session", "stop", id]));
    assert_eq!((stopped.code, cloud.alive()), (Some(0), 0), "{stopped:?}");
    assert_eq!(run(&mut world.forge(&["diff", "--name-only"])).stdout, "made\n");
    cloud.end();
}

#[test]
fn commits_of_a_run_that_was_killed_are_fetched_by_the_prune_and_applied() {
    let cloud = Cloud::start();
    let world = World::new();
    world.write("project/a", "1\n");
    let git = "git -c user.name=n -c user.email=e@x -c init.defaultBranch=main";
    let ended =
        run(&mut world.shell(&format!("{git} init -q && git add . && {git} commit -qm one")));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let work = format!("echo 2 >a; {git} commit -qam two; git rev-parse HEAD; exec sleep 1000");
    let mut child = cloud.forge(&world, &["exec", "-c", &work]).spawn().unwrap();
    let head = first_line(&mut child);
    send(&child, Signal::KILL);
    wait(child);
    let pruned = cloud.prune(&world);
    assert_eq!((pruned.code, cloud.alive()), (Some(0), 0), "{}", pruned.stderr);
    let ended = run(&mut world.forge(&["apply", "--branch", "taken"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(run(&mut world.shell("git rev-parse taken")).stdout.trim(), head);
    cloud.end();
}
