//! `forge serve`: its start, its end, and `forge` as its client.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Child;

use forge_scripted_model::{Answer, Call, Script};
use pretty_assertions::assert_eq;
use rustix::process::Signal;

use crate::harness::{Server, World, run, send, wait, wait_until};
use crate::terminal::Screen;

/// What every start says.
const NETWORK: &str = "warning: sandboxes have this machine's network, its loopback and what listens there included, \
                       unless they are made with \"network\": {\"allow_internet_access\": false}\n";

pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Serving {
    pub(crate) fn start(world: &World, arguments: &[&str]) -> Self {
        let mut command = world.forge(&["serve"]);
        let mut child = command.args(arguments).spawn().unwrap();
        let mut line = String::new();
        // Byte by byte would do as well: nothing else is ever printed.
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim_end().to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "{line:?}");
        Self { child, url }
    }

    /// How forge talks to it, where its key is `k3y`.
    pub(crate) fn client(&self) -> String {
        format!("--tensorlake k3y --tensorlake-url {}", self.url)
    }

    /// Sends a request and gives the answer whole.
    pub(crate) fn ask(&self, head: &str, key: &str, body: &str) -> String {
        self.ask_with(head, "", key, body)
    }

    /// The same with headers, each with its end of line.
    #[expect(clippy::disallowed_methods, reason = "the test is a client")]
    fn ask_with(&self, head: &str, headers: &str, key: &str, body: &str) -> String {
        let mut socket = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        let request = format!(
            "{head} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
             {headers}Content-Length: {length}\r\n\r\n{body}",
            host = self.url.trim_start_matches("http://"),
            length = body.len()
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Makes a sandbox in which this sleeps.
    fn sandbox_with_sleeper(&self, key: &str, seconds: &str) {
        let body = r#"{"network": {"allow_internet_access": false}}"#;
        let answer = self.ask("POST /sandboxes", key, body);
        let id = answer.split("\"sandbox_id\":\"").nth(1).unwrap().split('"').next().unwrap();
        let start = format!(r#"{{"command": "sleep", "args": ["{seconds}"]}}"#);
        let header = format!("X-Tensorlake-Sandbox-Id: {id}\r\n");
        let answer = self.ask_with("POST /api/v1/processes", &header, key, &start);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        wait_until("the sleeper runs", || sleepers(seconds) == 1);
    }
}

/// The processes on this machine that sleep for so long.
fn sleepers(seconds: &str) -> usize {
    let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(line == format!("sleep\0{seconds}\0").into_bytes())
    });
    lines.filter(|is_one| *is_one).count()
}

fn sessions(world: &World) -> usize {
    let directory: PathBuf = world.home().join(".local/state/forge/serve/sessions");
    fs::read_dir(directory).map_or(0, Iterator::count)
}

#[test]
fn a_term_ends_it_with_every_sandbox() {
    let world = World::new();
    let serving = Serving::start(&world, &["--api-key", "k3y"]);
    serving.sandbox_with_sleeper("k3y", "918273");
    assert_eq!(sessions(&world), 1);
    send(&serving.child, Signal::TERM);
    let actual = wait(serving.child);
    assert_eq!((actual.code, actual.stderr.as_str()), (Some(0), NETWORK));
    assert_eq!((sleepers("918273"), sessions(&world)), (0, 0));
}

#[test]
fn a_kill_leaves_no_process_and_the_next_start_removes_the_rest() {
    let world = World::new();
    let serving = Serving::start(&world, &["--api-key", "k3y"]);
    serving.sandbox_with_sleeper("k3y", "918274");
    send(&serving.child, Signal::KILL);
    wait(serving.child);
    wait_until("the sleeper is gone", || sleepers("918274") == 0);
    assert_eq!(sessions(&world), 1);
    let again = Serving::start(&world, &["--api-key", "k3y"]);
    assert_eq!(sessions(&world), 0);
    assert!(again.ask("GET /sandboxes", "k3y", "").ends_with(r#"{"sandboxes":[]}"#));
    send(&again.child, Signal::INT);
    assert_eq!(wait(again.child).code, Some(0));
}

#[test]
fn a_key_is_made_and_said_where_none_is_given() {
    let world = World::new();
    let serving = Serving::start(&world, &[]);
    assert!(serving.ask("GET /sandboxes", "", "").starts_with("HTTP/1.1 401"));
    let mut child = serving.child;
    send(&child, Signal::TERM);
    let stderr = child.stderr.take().unwrap();
    let said = std::io::read_to_string(stderr).unwrap();
    let key = said.trim_end().rsplit('=').next().unwrap();
    assert_eq!(key.len(), 70, "{said:?}");
    let key_line = said.strip_prefix(NETWORK).unwrap();
    assert!(key_line.starts_with("note: no key was given; clients need TENSORLAKE_API_KEY=forge_"));
    assert_eq!(wait(child).code, Some(0));
}

#[test]
fn a_key_comes_from_a_file_or_a_variable_too_and_is_not_shown() {
    let world = World::new();
    world.write("key", "of-a-file\n");
    let file = world.home().parent().unwrap().join("key");
    let path = file.to_str().unwrap();
    let refused = run(&mut world.forge(&["serve", "--api-key-file", path]));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let serving = Serving::start(&world, &["-vvv", "--api-key-file", path]);
    assert!(serving.ask("GET /sandboxes", "of-a-file", "").starts_with("HTTP/1.1 200"));
    send(&serving.child, Signal::TERM);
    let actual = wait(serving.child);
    assert!(!actual.stderr.contains("of-a-file"), "{}", actual.stderr);
    let mut command = world.forge(&["serve", "--listen", "nonsense"]);
    let refused = run(command.env("FORGE_SERVE_API_KEY", "of-a-variable"));
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("127.0.0.1:0"), "{}", refused.stderr);
}

#[test]
fn more_than_this_machine_needs_a_key() {
    let world = World::new();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let actual = run(&mut world.forge(&["serve", "--listen", address]));
        assert_eq!(actual.code, Some(2), "{address}");
        assert!(actual.stderr.contains("needs a key"), "{}", actual.stderr);
        assert_eq!(actual.stdout, "");
    }
    for key in ["", "with space"] {
        let actual = run(&mut world.forge(&["serve", "--api-key", key]));
        assert_eq!(actual.code, Some(2), "{key:?}");
        assert!(!actual.stderr.contains("with space"), "{}", actual.stderr);
    }
}

#[test]
fn two_servers_do_not_share_a_directory() {
    let world = World::new();
    let serving = Serving::start(&world, &["--api-key", "k3y"]);
    let actual = run(&mut world.forge(&["serve", "--api-key", "k3y"]));
    assert_eq!(actual.code, Some(125), "{}", actual.stderr);
    assert!(actual.stderr.contains("--state-dir"), "{}", actual.stderr);
    let other = world.home().join("other");
    let second =
        Serving::start(&world, &["--api-key", "k3y", "--state-dir", other.to_str().unwrap()]);
    for one in [serving, second] {
        send(&one.child, Signal::TERM);
        assert_eq!(wait(one.child).code, Some(0));
    }
}

#[test]
fn forge_runs_commands_on_a_server_of_its_own() {
    let world = World::new();
    let serving = Serving::start(&world, &["--api-key", "k3y"]);
    let mut command = world.forge(&["exec", "--tensorlake-url", &serving.url]);
    command.args(["-c", "printf 'a\\0b'; pwd >&2; exit 7"]).env("TENSORLAKE_API_KEY", "k3y");
    let actual = run(&mut command);
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(7), "a\0b"), "{}", actual.stderr);
    let project = world.project().display().to_string();
    assert!(actual.stderr.lines().any(|line| line == project), "{}", actual.stderr);
    // Its sandbox ended with it.
    assert_eq!(sessions(&world), 0);
    send(&serving.child, Signal::TERM);
    assert_eq!(wait(serving.child).code, Some(0));
}

#[test]
fn what_sandboxes_share_with_this_machine_is_in_the_help() {
    let world = World::new();
    let actual = run(&mut world.forge(&["serve", "--help"]));
    let text = actual.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = "A sandbox has this machine's network, its loopback and what listens there included, unless the \
                    request that makes it says \"network\": {\"allow_internet_access\": false}.";
    assert!(text.contains(expected), "{}", actual.stdout);
}

#[test]
fn a_task_works_on_the_project_in_a_sandbox_of_it_and_its_changes_wait_here() {
    let world = World::new();
    world.write("project/file", "one\n");
    let serving = Serving::start(&world, &["--api-key", "k3y"]);
    let edit = serde_json::json!({ "path": "file", "old_text": "one", "new_text": "two" });
    let model = Server::start(Script::new([
        Answer::calls([Call::shell("pwd; cat file; ls /etc/hostname; echo new >made", "Look")]),
        Answer::calls([Call::new("edit", edit.to_string())]),
        Answer::text("Done."),
    ]));
    let client = serving.client();
    let options: Vec<&str> =
        client.split(' ').chain(["-m", "openai/scripted", "-p", "go"]).collect();
    let mut task = world.forge(&options);
    model.tell(&mut task);
    let actual = run(&mut task);
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), "Done.\n"), "{}", actual.stderr);
    let results = model.results();
    assert!(results[0].contains(&format!("{}\none\n", world.project().display())), "{results:?}");
    assert!(actual.stderr.contains(" holds 2 changed files: "), "{}", actual.stderr);
    assert_eq!(fs::read_dir(world.project()).unwrap().count(), 1);
    assert!(serving.ask("GET /sandboxes", "k3y", "").ends_with(r#"{"sandboxes":[]}"#));
    assert_eq!(sessions(&world), 0);
    let waiting = run(&mut world.forge(&["diff", "--name-only"])).stdout;
    assert_eq!(waiting, "file\nmade\n");
    send(&serving.child, Signal::TERM);
    assert_eq!(wait(serving.child).code, Some(0));
}

#[test]
fn a_conversation_goes_on_in_one_sandbox_and_follows_what_is_edited_meanwhile() {
    let world = World::new();
    world.write("project/file", "one\n");
    let serving = Serving::start(&world, &["--api-key", "k3y"]);
    let work = "cat file /tmp/kept made 2>/dev/null; echo mine >made; echo kept >/tmp/kept";
    let model = Server::start(Script::new([
        Answer::calls([Call::shell(work, "Work")]),
        Answer::text("Answered."),
    ]));
    let program =
        format!("\"$FORGE\" {} -m openai/scripted --ask never --apply never", serving.client());
    let mut screen = Screen::running(&world, &model, &program);
    screen.enter("turn one");
    screen.expect("1 change waits");
    world.write("project/file", "by hand\n");
    screen.enter("turn two");
    screen.expect("Answered.");
    screen.enter("/diff");
    screen.expect("+++ b/made");
    screen.enter("/apply");
    screen.expect("Apply 1 change?");
    screen.send("y\n");
    screen.expect("1 change was applied");
    screen.enter("/quit");
    screen.expect("code=0");
    let results = model.results();
    assert!(results.last().unwrap().contains("by hand\nkept\nmine\n"), "{results:?}");
    assert_eq!(fs::read_to_string(world.project().join("made")).unwrap(), "mine\n");
    assert!(serving.ask("GET /sandboxes", "k3y", "").ends_with(r#"{"sandboxes":[]}"#));
    send(&serving.child, Signal::TERM);
    assert_eq!(wait(serving.child).code, Some(0));
}

#[test]
fn a_project_where_a_guest_has_no_room_stands_elsewhere_and_it_is_said() {
    let server = World::new();
    let serving = Serving::start(&server, &["--api-key", "k3y"]);
    // What is beneath /dev is the guest's own.
    let world = World::beneath("/dev/shm");
    world.write("project/a", "1\n");
    let client = serving.client();
    let options: Vec<&str> = client.split(' ').collect();
    let host = world.project();
    let guest = format!("/workspace{}", host.display());
    let script = "pwd; cat a; echo 2 >a";
    let ended = run(&mut world.forge(&[&["-v"], &options[..], &["exec", "-c", script]].concat()));
    assert_eq!(ended.stdout, format!("{guest}\n1\n"), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("the project is at {guest} there")), "{}", ended.stderr);
    let model = Server::start(Script::shell_commands(1));
    let mut command = world.forge(&[&options[..], &["-m", "openai/scripted", "-p", "go"]].concat());
    model.tell(&mut command);
    let ended = run(&mut command);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let request = model.last_request();
    assert!(request.contains(&guest) && request.contains("What the user calls"), "{request}");
    let diff = run(&mut world.forge(&["diff", "--name-only"]));
    assert_eq!(diff.stdout, "a\nsteps.log\n", "{}", diff.stderr);
    assert_eq!(run(&mut world.forge(&["apply", "--yes"])).code, Some(0));
    assert_eq!(fs::read_to_string(host.join("a")).unwrap(), "2\n");
    send(&serving.child, Signal::TERM);
    assert_eq!(wait(serving.child).code, Some(0));
}
