//! `forge shell`, in a pseudo-terminal.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use forge_tensorlake_testserver::ServerOptions;
use pretty_assertions::assert_eq;
use rexpect::session::{PtySession, spawn_command};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Ended, PATIENCE, World, run, wait_for_file, wait_until};
use crate::tensorlake::Cloud;

/// A shell on the host that runs `forge shell`, and says before and after how the terminal is set.
struct Screen {
    session: PtySession,
}

impl Screen {
    /// In the sandbox.
    fn start(world: &World, arguments: &str) -> Self {
        Self::running(world, world.shell(&script(arguments)))
    }

    fn running(world: &World, mut command: Command) -> Self {
        command
            .env("TERM", "xterm")
            .env("LANG", "C.UTF-8")
            .env("SHELL", "/bin/sh")
            .env("FORGE_STATE_DIR", world.home().join("state"))
            .stdin(Stdio::inherit())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        let patience = u64::try_from(PATIENCE.as_millis()).unwrap();
        Self { session: spawn_command(command, Some(patience)).unwrap() }
    }

    fn expect(&mut self, text: &str) -> String {
        self.session
            .exp_string(text)
            .unwrap_or_else(|error| panic!("waiting for {text:?}: {error}"))
    }

    fn send(&mut self, text: &str) {
        self.session.send(text).unwrap();
        self.session.flush().unwrap();
    }

    /// Waits until the shell reads, and types a line.
    fn enter(&mut self, line: &str) {
        self.send(line);
        self.send("\r");
    }

    /// Waits until there is a shell that answers.
    fn begun(&mut self) {
        self.expect("note:");
        // The words are not those that are shown when this is typed.
        self.enter("echo it-'has'-begun");
        self.expect("it-has-begun");
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size =
            rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = self.session.process().get_file_handle().unwrap();
        rustix::termios::tcsetwinsize(&terminal, size).unwrap();
    }

    fn is_over(&mut self, world: &World, code: u8) {
        self.expect(&format!("code={code}"));
        self.expect("all-done");
        let read = |name: &str| fs::read_to_string(world.home().join(name)).unwrap();
        assert_eq!(read("after"), read("before"));
    }
}

fn script(arguments: &str) -> String {
    format!(
        "trap : INT TERM HUP; stty -g > ~/before\n\
         sh -c 'echo $$ > ~/pid.new; mv ~/pid.new ~/pid; exec \"$FORGE\" shell {arguments}'\n\
         echo \"code=$?\"; stty -g > ~/after; echo all-done"
    )
}

fn forge(world: &World) -> Pid {
    Pid::from_raw(wait_for_file(&world.home().join("pid")).parse().unwrap()).unwrap()
}

/// A terminal, a size that changes, Ctrl-C for the guest, an exit code: the same on both.
fn works(world: &World, mut screen: Screen) {
    screen.begun();
    screen.resize(91, 17);
    wait_until("the size is another one", || {
        screen.enter("echo \"size <$(stty size)>\"");
        screen.expect("size <");
        // First what was typed, then what it printed.
        screen.expect(">").contains("17 91") || screen.expect(">").contains("17 91")
    });
    screen.enter("test -t 0 && test -t 1 && echo on-a-$TERM-'terminal'");
    screen.expect("on-a-xterm-terminal");
    // In one process: between two, Ctrl-C may be for nobody.
    screen.enter("sh -c 'echo it-\"waits\"; exec sleep 600'");
    screen.expect("it-waits");
    screen.send("\x03");
    screen.enter("echo interrupted=$?");
    screen.expect("interrupted=130");
    screen.enter("exit 7");
    screen.is_over(world, 7);
}

#[test]
fn a_shell_in_the_sandbox_has_a_terminal_of_its_own() {
    let world = World::new();
    let screen = Screen::start(&world, "");
    works(&world, screen);
}

#[test]
fn a_shell_in_a_microvm_has_one_too() {
    let cloud = Cloud::usual();
    let mut command = cloud.world.shell(&script(""));
    cloud.tell(&mut command);
    let screen = Screen::running(&cloud.world, command);
    works(&cloud.world, screen);
    cloud.is_settled();
}

#[test]
fn what_it_changes_is_said_and_stays_in_the_session() {
    let world = World::new();
    let mut screen = Screen::start(&world, "--apply never");
    screen.begun();
    screen.enter("echo new > file; exit");
    screen.expect("holds 1 changed file");
    screen.is_over(&world, 0);
    assert!(!world.project().join("file").exists());
    let actual = run(world
        .forge(&["exec", "--", "cat", "file"])
        .env("FORGE_STATE_DIR", world.home().join("state")));
    assert_eq!(actual.stdout, "new\n");
}

#[test]
fn what_would_act_on_the_users_terminal_is_kept_away() {
    let world = World::new();
    let mut screen = Screen::start(&world, "");
    screen.begun();
    screen.enter(r"printf '<\033]52;c;aGk=\007\033[21t\033[1mbold\033[m>\n'; exit");
    screen.expect("<\x1b[1mbold\x1b[m>");
    screen.is_over(&world, 0);
}

#[test]
fn a_signal_to_forge_sets_the_terminal_back_in_the_middle_of_a_program() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let world = World::new();
        let mut screen = Screen::start(&world, "");
        screen.begun();
        // As an editor does: raw, another screen, no cursor.
        screen.enter(r"stty raw -echo; printf '\033[?1049h\033[?25lin-the-editor'; sleep 600");
        screen.expect("\x1b[?1049h\x1b[?25lin-the-editor");
        kill_process(forge(&world), signal).unwrap();
        screen.expect("\x1b[?25h\x1b[?1049l\x1b[m");
        screen.is_over(&world, code);
    }
}

#[test]
fn lost_contact_sets_the_terminal_back_and_is_said() {
    let cloud = Cloud::usual();
    let mut command = cloud.world.shell(&script(""));
    cloud.tell(&mut command);
    let mut screen = Screen::running(&cloud.world, command);
    screen.begun();
    screen.enter(r"printf '\033[?1049hin-the-editor'; sleep 600");
    screen.expect("\x1b[?1049hin-the-editor");
    cloud.server.cut_terminals();
    screen.expect("\x1b[?1049l\x1b[m");
    screen.expect("contact with the command");
    screen.is_over(&cloud.world, 125);
}

#[test]
fn ctrl_c_while_the_shell_is_on_its_way_ends_forge() {
    let latency = Duration::from_secs(2);
    let cloud = Cloud::with(ServerOptions { latency, ..ServerOptions::default() });
    let mut command = cloud.world.shell(&script(""));
    cloud.tell(&mut command);
    let mut screen = Screen::running(&cloud.world, command);
    screen.expect("note:");
    wait_until("the terminal is asked for", || cloud.server.count("POST", "/pty") == 1);
    screen.send("\x03");
    screen.is_over(&cloud.world, 130);
    cloud.is_settled();
}

#[test]
fn a_time_limit_of_the_configuration_is_none_of_a_shells() {
    let world = World::new();
    world.write("home/.config/forge/config.toml", "timeout = \"1s\"\n");
    let mut screen = Screen::start(&world, "");
    screen.begun();
    screen.enter("sleep 1.5; exit 4");
    screen.is_over(&world, 4);
    let mut screen = Screen::start(&world, "--timeout 1s");
    screen.begun();
    screen.enter("sleep 600");
    screen.expect("ran for longer than 1s");
    screen.is_over(&world, 124);
}

#[test]
fn local_shells_have_the_users_variables() {
    let world = World::new();
    let mut command = world.shell(&script("--local"));
    command.env("OF_THE_USER", "is here");
    let mut screen = Screen::running(&world, command);
    screen.begun();
    screen.enter("echo \"it $OF_THE_USER\"; exit 2");
    screen.expect("it is here");
    screen.is_over(&world, 2);
}

#[test]
fn without_a_terminal_it_is_wrong_usage() {
    let world = World::new();
    let actual = run(&mut world.forge(&["shell"]));
    let expected = "error: forge shell needs a terminal for its keys and its screen; forge exec runs a \
                    command without one\n";
    let expected = Ended { code: Some(2), stdout: String::new(), stderr: expected.to_owned() };
    assert_eq!(actual, expected);
}
