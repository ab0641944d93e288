//! Ctrl-C at each stage of a run in a microVM, and a server that is gone at its end: against a real `forge serve`, behind a
//! relay that holds up or cuts off exactly one kind of request.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forge_scripted_model::Script;
use pretty_assertions::assert_eq;
use rustix::process::Signal;

use crate::harness::{Ended, Server, World, run, send, wait, wait_until};
use crate::relay::{Fate, Relay, Request};
use crate::serve::Serving;
use crate::terminal::Screen;

const KEY: &str = "k3y";

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Create,
    Upload,
    Fetch,
}

/// Tells at which stage requests are, one after another: the guest's tree is listed when the project is in it, and again at the
/// end.
#[derive(Default)]
struct Stages(AtomicUsize);

impl Stages {
    fn of(&self, request: &Request) -> Option<Stage> {
        let text = String::from_utf8_lossy(&request.body);
        let is_list = text.contains("-printf '%y %m %s");
        match &*request.shape {
            shape if shape.starts_with("POST ") && shape.ends_with("/sandboxes") => {
                Some(Stage::Create)
            }
            "PUT /api/v1/files" => Some(Stage::Upload),
            _ if is_list && self.0.fetch_add(1, Ordering::SeqCst) > 0 => Some(Stage::Fetch),
            _ => None,
        }
    }
}

/// A server of its own, a relay to it, and a world with a project.
struct Far {
    world: World,
    serving: Serving,
    relay: Relay,
    _server_world: World,
}

impl Far {
    fn new(decide: impl Fn(&Request) -> Fate + Send + Sync + 'static) -> Self {
        let server_world = World::new();
        let serving = Serving::start(&server_world, &["--api-key", KEY]);
        let relay = Relay::start(&serving.url, Duration::ZERO, decide);
        let world = World::new();
        world.write("project/file", "as it was\n");
        Self { world, serving, relay, _server_world: server_world }
    }

    /// What is asked for at a stage waits until it is released.
    fn holding(held: Stage) -> Self {
        let stages = Stages::default();
        Self::new(move |request| match stages.of(request) == Some(held) {
            true => Fate::Hold,
            false => Fate::Pass,
        })
    }

    fn forge(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.forge(arguments);
        command.env("TENSORLAKE_API_URL", &self.relay.url).env("TENSORLAKE_API_KEY", KEY);
        command
    }

    /// Begins a run that changes something, and waits until it has come to what is held.
    fn begun(&self) -> Child {
        let child = self.forge(&["exec", "-c", "echo x >made"]).spawn().unwrap();
        wait_until("a request is held", || self.relay.held() > 0);
        child
    }

    fn alive(&self) -> usize {
        let answer = self.serving.ask("GET /v1/namespaces/default/sandboxes", KEY, "");
        answer.matches("\"status\":").count()
    }

    /// How many microVMs are on record.
    fn records(&self) -> usize {
        let listed = run(&mut self.world.forge(&["session", "list", "--json"])).stdout;
        let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let microvms =
            |session: &serde_json::Value| session["microvms"].as_array().map_or(0, Vec::len);
        sessions.as_array().unwrap().iter().map(microvms).sum()
    }

    fn prune(&self) -> Ended {
        run(&mut self.forge(&["session", "prune"]))
    }

    fn changed(&self) -> String {
        run(&mut self.world.forge(&["diff", "--name-only"])).stdout
    }

    fn end(self) {
        send(&self.serving.child, Signal::TERM);
        assert_eq!(wait(self.serving.child).code, Some(0));
    }
}

#[test]
fn an_interrupt_while_the_microvm_is_made_leaves_a_record_by_which_it_is_found() {
    let stages = Stages::default();
    let far = Far::new(move |request| match stages.of(request) == Some(Stage::Create) {
        true => Fate::HoldAnswer,
        false => Fate::Pass,
    });
    let child = far.begun();
    send(&child, Signal::INT);
    let actual = wait(child);
    assert_eq!((actual.code, far.alive(), far.records()), (Some(130), 1, 1), "{actual:?}");
    assert!(actual.stderr.ends_with("it is looked for by its name later\n"), "{actual:?}");
    // Whether the first answer is still held says nothing about the next ones.
    far.relay.release();
    let pruned = far.prune();
    assert_eq!((pruned.code, far.alive(), far.records()), (Some(0), 0, 0), "{pruned:?}");
    far.end();
}

#[test]
fn more_interrupts_while_the_microvm_is_made_end_the_wait_for_its_name() {
    let stages = Stages::default();
    let far = Far::new(move |request| match stages.of(request) == Some(Stage::Create) {
        true => Fate::HoldAnswer,
        false => Fate::Pass,
    });
    let child = far.begun();
    let begin = Instant::now();
    for _ in 0..3 {
        send(&child, Signal::INT);
        std::thread::sleep(Duration::from_millis(300));
    }
    let actual = wait(child);
    assert!(begin.elapsed() < Duration::from_secs(8), "it waits for ten by itself");
    assert_eq!((actual.code, far.alive(), far.records()), (Some(130), 1, 1), "{actual:?}");
    assert!(actual.stderr.contains("once more leaves that to the next run"), "{actual:?}");
    far.relay.release();
    let pruned = far.prune();
    assert_eq!((pruned.code, far.alive(), far.records()), (Some(0), 0, 0), "{pruned:?}");
    far.end();
}

#[test]
fn an_interrupt_while_the_project_is_sent_leaves_nothing() {
    let far = Far::holding(Stage::Upload);
    let child = far.begun();
    assert_eq!(far.alive(), 1);
    send(&child, Signal::INT);
    let actual = wait(child);
    assert_eq!((actual.code, far.alive(), far.records()), (Some(130), 0, 0), "{actual:?}");
    far.end();
}

#[test]
fn an_interrupt_of_a_turn_while_the_project_is_sent_leaves_nothing() {
    let far = Far::holding(Stage::Upload);
    let model = Server::start(Script::shell_commands(1));
    let mut command = far.forge(&["-m", "openai/scripted", "-p", "go"]);
    model.tell(&mut command);
    let child = command.spawn().unwrap();
    wait_until("a request is held", || far.relay.held() > 0);
    send(&child, Signal::INT);
    let actual = wait(child);
    assert_eq!((actual.code, far.alive(), far.records()), (Some(130), 0, 0), "{actual:?}");
    far.end();
}

#[test]
fn an_interrupt_of_a_shell_while_the_project_is_sent_leaves_nothing() {
    let far = Far::holding(Stage::Upload);
    let model = Server::start(Script::shell_commands(1));
    let url = &far.relay.url;
    let program = format!("\"$FORGE\" --tensorlake {KEY} --tensorlake-url {url} shell");
    let mut screen = Screen::running(&far.world, &model, &program);
    wait_until("a request is held", || far.relay.held() > 0);
    screen.send("\x03");
    screen.expect("code=130");
    assert_eq!(far.alive(), 0);
    far.end();
}

#[test]
fn an_interrupt_while_the_command_runs_leaves_nothing_but_its_changes() {
    let far = Far::new(|_| Fate::Pass);
    let work = "echo x >made; echo here; exec sleep 1000";
    let mut child = far.forge(&["exec", "-c", work]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), far.alive()), ("here\n", 1));
    send(&child, Signal::INT);
    let actual = wait(child);
    assert_eq!((actual.code, far.alive(), far.records()), (Some(130), 0, 0), "{actual:?}");
    assert_eq!(far.changed(), "made\n");
    far.end();
}

#[test]
fn a_server_that_is_gone_at_the_end_is_said_and_what_was_changed_is_fetched_when_it_is_back() {
    let stages = Arc::new(Stages::default());
    let (is_gone, theirs) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&stages));
    let gone = Arc::clone(&is_gone);
    let far = Far::new(move |request| {
        if theirs.of(request) == Some(Stage::Fetch) {
            gone.fetch_max(1, Ordering::SeqCst);
        }
        match gone.load(Ordering::SeqCst) {
            1 => Fate::CutMidway,
            _ => Fate::Pass,
        }
    });
    let actual = run(&mut far.forge(&["exec", "-c", "echo x >made; echo done; exit 7"]));
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(7), "done\n"), "{actual:?}");
    let said = "what was changed in the microVM could not be brought back, so ";
    assert!(actual.stderr.contains(said), "{actual:?}");
    assert!(
        actual.stderr.contains(" was not deleted, and stays on record (forge session stop "),
        "{actual:?}"
    );
    assert_eq!((far.alive(), far.records(), far.changed().as_str()), (1, 1, ""));

    let pruned = far.prune();
    assert_eq!((pruned.code, far.alive(), far.records()), (Some(1), 1, 1), "{pruned:?}");
    assert!(pruned.stderr.contains("stays on record"), "{pruned:?}");

    is_gone.store(2, Ordering::SeqCst);
    let pruned = far.prune();
    assert_eq!((pruned.code, far.alive(), far.records()), (Some(0), 0, 0), "{pruned:?}");
    assert_eq!(far.changed(), "made\n");
    assert_eq!(run(&mut far.world.forge(&["apply", "--yes"])).code, Some(0));
    assert_eq!(fs::read_to_string(far.world.project().join("made")).unwrap(), "x\n");
    far.end();
}

/// Once a run waits for what was changed, one Ctrl-C is given, and what is said of it.
fn interrupted_at_the_end(far: &Far) -> Child {
    let mut child = far.begun();
    send(&child, Signal::INT);
    let mut line = String::new();
    BufReader::with_capacity(1, child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(
        line,
        "note: what was changed is being brought back; once more leaves it in the microVM\n"
    );
    child
}

#[test]
fn an_interrupt_while_changes_come_back_ends_forge_when_they_are_there() {
    let far = Far::holding(Stage::Fetch);
    let child = interrupted_at_the_end(&far);
    far.relay.release();
    let actual = wait(child);
    assert_eq!((actual.code, far.alive(), far.records()), (Some(130), 0, 0), "{actual:?}");
    assert_eq!(far.changed(), "made\n");
    far.end();
}

#[test]
fn a_second_interrupt_while_changes_come_back_leaves_them_on_record_and_says_so() {
    let far = Far::holding(Stage::Fetch);
    let child = interrupted_at_the_end(&far);
    let begin = Instant::now();
    send(&child, Signal::INT);
    let actual = wait(child);
    assert!(begin.elapsed() < Duration::from_secs(30), "half of what it waits for by itself");
    assert_eq!((actual.code, far.alive(), far.records()), (Some(130), 1, 1), "{actual:?}");
    let said = " was not deleted, and stays on record (forge session stop ";
    assert!(actual.stderr.contains(said), "{actual:?}");
    assert!(actual.stderr.ends_with(" tries it again): it was interrupted\n"), "{actual:?}");
    far.relay.release();
    let pruned = far.prune();
    assert_eq!((pruned.code, far.alive(), far.records()), (Some(0), 0, 0), "{pruned:?}");
    assert_eq!(far.changed(), "made\n");
    far.end();
}
