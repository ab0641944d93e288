//! Interactive mode, in a pseudo-terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use forge_scripted_model::{Answer, Call, Script};
use pretty_assertions::assert_eq;
use rexpect::ReadUntil;
use rexpect::reader::Regex;
use rexpect::session::{PtySession, spawn_command};
use rustix::process::Signal;

use crate::harness::{PATIENCE, Server, World, is_alive, wait_for_file, wait_until};

/// What the line editor asks the terminal at each prompt: where is the cursor?
const WHERE: &str = "\x1b[6n";

/// The program in a terminal. A real one answers the editor's question by itself; here the test does.
pub(crate) struct Screen(PtySession);

impl Screen {
    /// A shell that runs forge, and says before and after how the terminal is set.
    fn start(world: &World, server: &Server, arguments: &str) -> Self {
        let program = format!("\"$FORGE\" --local -m openai/scripted {arguments}");
        Self::running(world, server, &program)
    }

    /// The same for another way to start forge.
    pub(crate) fn running(world: &World, server: &Server, program: &str) -> Self {
        // Ctrl-C reaches the shell too, which shall live on to say how forge ended.
        let script = format!(
            "trap : INT; stty -g > before; {program}; echo \"code=$?\"; stty -g > after; echo all-done"
        );
        let mut command = world.shell(&script);
        server.tell(&mut command);
        command
            .env("TERM", "xterm")
            .env("LANG", "C")
            .env("FORGE_STATE_DIR", world.home().join("state"))
            .stdin(Stdio::inherit())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        let patience = u64::try_from(PATIENCE.as_millis()).unwrap();
        Self(spawn_command(command, Some(patience)).unwrap())
    }

    pub(crate) fn expect(&mut self, text: &str) -> String {
        self.0.exp_string(text).unwrap_or_else(|error| panic!("waiting for {text:?}: {error}"))
    }

    /// Waits for the prompt. An editor that got its answer late asks once more.
    fn prompt(&mut self) {
        self.expect(WHERE);
        let prompt = Regex::new(r"forge(\x1b\[[0-9;]*m)*> ").unwrap();
        loop {
            self.send("\x1b[1;1R");
            let prompt = ReadUntil::Regex(prompt.clone());
            let either = vec![ReadUntil::String(WHERE.to_owned()), prompt];
            let found = self.0.exp_any(either);
            let (_, found) =
                found.unwrap_or_else(|error| panic!("waiting for the prompt: {error}"));
            if found != WHERE {
                break;
            }
        }
    }

    /// Types a line at the prompt.
    pub(crate) fn enter(&mut self, line: &str) {
        self.prompt();
        self.send(line);
        self.send("\r");
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.0.send(text).unwrap();
        self.0.flush().unwrap();
    }
}

fn assert_terminal_is_as_before(world: &World) {
    let read = |name: &str| fs::read_to_string(world.project().join(name)).unwrap();
    assert_eq!(read("after"), read("before"));
}

/// A model that runs the script `next` of the project in each turn.
fn run_next() -> Script {
    Script::new([Answer::calls([Call::shell("sh ./next", "Next")]), Answer::text("Answered.")])
}

#[test]
fn a_conversation_goes_on_after_an_interrupt_and_leaves_the_terminal_as_it_was() {
    let world = World::new();
    let server = Server::start(run_next());
    world.write("project/next", "echo first-command\n");
    let mut screen = Screen::start(&world, &server, "");
    screen.expect("local: no isolation");
    screen.enter("turn one");
    screen.expect("Run this? [y]es, [a]ll this session, [n]o: ");
    screen.send("a\n");
    screen.expect("| first-command");
    screen.expect("Answered.");

    world.write("project/next", "echo $$ > pid.new; mv pid.new pid; echo started; sleep 600\n");
    screen.enter("turn two");
    screen.expect("| started");
    let pid = wait_for_file(&world.project().join("pid"));
    screen.send("\x03");
    screen.expect("cancelled");
    wait_until("the command is gone", || !is_alive(&pid));

    world.write("project/next", "echo third-command\n");
    screen.enter("turn three");
    screen.expect("| third-command");
    screen.expect("Answered.");
    let request = server.last_request();
    for turn in ["turn one", "turn two", "turn three"] {
        assert!(request.contains(turn), "the conversation was not kept: {request}");
    }
    screen.enter("/quit");
    screen.expect("code=0");
    screen.expect("all-done");
    assert_terminal_is_as_before(&world);
    let history = world.home().join("state/history");
    assert!(fs::read_to_string(&history).unwrap().contains("turn three"));
    assert_eq!(fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_no_reaches_the_model_with_its_reason() {
    let world = World::new();
    let server = Server::start(run_next());
    world.write("project/next", "echo ran > ran\n");
    let mut screen = Screen::start(&world, &server, "");
    screen.enter("go");
    screen.expect("Run this?");
    screen.send("maybe\n");
    screen.expect("Please answer y, a or n: ");
    screen.send("n use git rm instead\n");
    screen.expect("Answered.");
    assert!(server.results()[0].contains("use git rm instead"), "{:?}", server.results());
    assert!(!world.project().join("ran").exists());
    screen.enter("/quit");
    screen.expect("code=0");
}

#[test]
fn an_interrupt_at_the_question_ends_the_turn_and_runs_nothing() {
    let world = World::new();
    let server = Server::start(run_next());
    world.write("project/next", "echo ran > ran\n");
    let mut screen = Screen::start(&world, &server, "");
    screen.enter("go");
    screen.expect("Run this?");
    screen.send("\x03");
    screen.expect("cancelled");
    screen.enter("/quit");
    screen.expect("code=0");
    assert!(!world.project().join("ran").exists());
}

#[test]
fn slash_commands_are_forges_and_unknown_ones_are_told() {
    let world = World::new();
    let server = Server::start(Script::new([Answer::text("Answered.")]));
    let mut screen = Screen::start(&world, &server, "");
    screen.enter("/hepl");
    screen.expect("did you mean /help?");
    screen.enter("/help");
    screen.expect("begins a new one");
    screen.enter("remember this");
    screen.expect("Answered.");
    screen.enter("/new");
    screen.expect("A new conversation begins.");
    screen.enter("something else");
    screen.expect("Answered.");
    assert!(!server.last_request().contains("remember this"));
    screen.prompt();
    screen.send("\x04");
    screen.expect("code=0");
    screen.expect("all-done");
    assert_terminal_is_as_before(&world);
}

#[test]
fn two_interrupts_at_the_prompt_end_forge() {
    let world = World::new();
    let server = Server::start(Script::default());
    let mut screen = Screen::start(&world, &server, "");
    screen.prompt();
    screen.send("half a line\x03");
    screen.expect("Ctrl-C again");
    screen.prompt();
    screen.send("\x03");
    screen.expect("code=0");
    screen.expect("all-done");
    assert_terminal_is_as_before(&world);
}

#[test]
fn a_termination_at_the_prompt_sets_the_terminal_back() {
    let world = World::new();
    let server = Server::start(Script::default());
    // The shell's own number is that of the forge it becomes.
    world.write("project/start", "echo $$ > pid; exec \"$FORGE\" --local -m openai/scripted\n");
    let mut screen = Screen::running(&world, &server, "sh ./start");
    screen.prompt();
    let pid = wait_for_file(&world.project().join("pid"));
    let forge = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(forge, Signal::TERM).unwrap();
    // The editor asks once more, to find the end of what it drew.
    screen.expect(WHERE);
    screen.send("\x1b[1;1R");
    screen.expect("code=143");
    screen.expect("all-done");
    assert_terminal_is_as_before(&world);
}

#[test]
fn ask_on_the_terminal_works_in_a_task_too() {
    let world = World::new();
    let server = Server::start(run_next());
    world.write("project/next", "echo ran > ran\n");
    let mut screen = Screen::start(&world, &server, "-p go --ask always </dev/null");
    screen.expect("Run this?");
    screen.send("y\n");
    screen.expect("Answered.");
    screen.expect("code=0");
    assert!(world.project().join("ran").exists());
}
