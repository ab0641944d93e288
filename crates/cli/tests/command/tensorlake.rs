//! `forge --tensorlake`, against a server on the loopback that really executes: in a mount namespace of its
//! own, so that nothing of a project on this machine is touched.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use forge_scripted_model::{Answer, Call, Delivery, Fault, FaultKind, Place, Script};
use forge_tensorlake_testserver::{Creation, Daemon, ServerOptions, TestServer};
use pretty_assertions::assert_eq;
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::harness::{Server, World, is_alive, run, run_with_stdin, send, wait, wait_until};
use crate::terminal::Screen;

const KEY: &str = "tl_s3cret";

/// A world and a server whose processes see another project.
pub(crate) struct Cloud {
    pub(crate) world: World,
    pub(crate) server: TestServer,
    _runtime: Runtime,
}

impl Cloud {
    fn new(daemon: Daemon, creation: Creation) -> Self {
        Self::with(ServerOptions { daemon, creation, ..ServerOptions::default() })
    }

    pub(crate) fn with(options: ServerOptions) -> Self {
        let world = World::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let options = ServerOptions {
            key: Some(KEY.to_owned()),
            workspace: Some(world.project()),
            ..options
        };
        let server = runtime.block_on(TestServer::start(options)).unwrap();
        Self { world, server, _runtime: runtime }
    }

    pub(crate) fn usual() -> Self {
        Self::new(Daemon::WithRun, Creation::Running)
    }

    /// `forge` with the server and the key in its variables.
    fn forge(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.forge(arguments);
        self.tell(&mut command);
        command
    }

    /// Lets a run of forge talk to this server.
    pub(crate) fn tell(&self, command: &mut Command) {
        command.env("TENSORLAKE_API_KEY", KEY).env("TENSORLAKE_API_URL", self.server.url());
    }

    fn deletions(&self) -> usize {
        let of_sandboxes = |request: &&forge_tensorlake_testserver::RecordedRequest| {
            request.method == "DELETE" && request.path.contains("/sandboxes/")
        };
        self.server.requests().iter().filter(of_sandboxes).count()
    }

    fn creations(&self) -> usize {
        self.server.count("POST", "/sandboxes")
    }

    /// Everything was made once and ended once.
    pub(crate) fn is_settled(&self) {
        assert_eq!((self.creations(), self.deletions()), (1, 1));
        assert_eq!(self.server.running(), [""; 0]);
    }
}

#[test]
fn a_command_runs_at_the_projects_path_and_leaves_the_project_alone() {
    let cloud = Cloud::usual();
    cloud.world.write("project/kept", "kept\n");
    let script = "pwd; ls; echo x > made; rm -rf -- \"$PWD\"/*; exit 7";
    let actual = run(&mut cloud.forge(&["exec", "-c", script]));
    let stdout = format!("{}\nkept\n", cloud.world.project().display());
    assert_eq!((actual.code, actual.stdout), (Some(7), stdout));
    assert!(actual.stderr.contains(" holds 1 changed file: "), "{}", actual.stderr);
    let waiting = run(&mut cloud.world.forge(&["diff", "--stat"])).stdout;
    assert!(waiting.contains("kept |   1 - (gone)"), "{waiting}");
    assert_eq!(fs::read_to_string(cloud.world.project().join("kept")).unwrap(), "kept\n");
    assert_eq!(fs::read_dir(cloud.world.project()).unwrap().count(), 1);
    cloud.is_settled();
}

#[test]
fn a_command_is_one_request_and_the_project_goes_in_and_comes_back_by_few() {
    let cloud = Cloud::usual();
    let actual = run(&mut cloud.forge(&["exec", "--", "true"]));
    assert_eq!(actual.code, Some(0));
    let requests: Vec<String> =
        cloud.server.requests().iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    let sandboxes = "/v1/namespaces/default/sandboxes";
    let run = "POST /api/v1/processes/run";
    let (first, rest) = requests.split_first().unwrap();
    let (last, between) = rest.split_last().unwrap();
    assert_eq!(*first, format!("POST {sandboxes}"));
    // The command, which finds no project; the directory, made and found empty, while the archive is sent; the archive, unpacked
    // and listed; the mark; the command; the list of what there is then.
    let put = "PUT /api/v1/files";
    let mut between = between.to_vec();
    between[2..4].sort();
    assert_eq!(between, [run, run, run, put, run, run, run, run]);
    assert!(last.starts_with(&format!("DELETE {sandboxes}/sb")), "{requests:?}");
}

/// A run of the model with this server.
fn task(cloud: &Cloud, model: &Server) -> Command {
    let mut command = cloud.forge(&["-m", "openai/scripted", "-p", "go"]);
    model.tell(&mut command);
    command
}

#[test]
fn a_turn_without_tools_makes_no_microvm_and_sets_nothing_up() {
    let cloud = Cloud::usual();
    cloud.world.write("project/.forge/config.toml", "[setup]\nrun = \"touch made\"\n");
    cloud.world.write("home/.config/forge/config.toml", "[setup]\nwhen = \"always\"\n");
    let model = Server::start(Script::new([Answer::text("Hello.")]));
    let actual = run(&mut task(&cloud, &model));
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), "Hello.\n"), "{}", actual.stderr);
    assert_eq!(cloud.server.requests(), []);

    let options = format!("--tensorlake {KEY} --tensorlake-url {}", cloud.server.url());
    let program = format!("\"$FORGE\" {options} -m openai/scripted");
    let mut screen = Screen::running(&cloud.world, &model, &program);
    for _ in 0..2 {
        screen.enter("hello");
        screen.expect("Hello.");
    }
    screen.enter("/quit");
    screen.expect("code=0");
    assert_eq!(cloud.server.requests(), []);
}

#[test]
fn the_microvm_and_the_project_are_on_their_way_while_the_model_still_speaks() {
    let cloud = Cloud::usual();
    cloud.world.write("project/file", "x\n");
    let fault = Fault::first(1, FaultKind::Silent(Place::InToolCall));
    let answers = [Answer::calls([Call::shell("touch made", "Make")]), Answer::text("Done.")];
    let model = Server::start(Script::new(answers).with_fault(fault));
    let child = task(&cloud, &model).spawn().unwrap();
    // The call is named and has not ended.
    let run = |cloud: &Cloud| cloud.server.count("POST", "/api/v1/processes/run");
    wait_until("the project is in the microVM", || run(&cloud) == 5);
    assert_eq!((cloud.creations(), cloud.server.count("PUT", "/api/v1/files")), (1, 1));
    send(&child, Signal::INT);
    assert_eq!(wait(child).code, Some(130));
    cloud.is_settled();
}

#[test]
fn ctrl_c_while_the_microvm_is_made_beside_the_answer_ends_at_once_and_leaves_none() {
    let latency = Duration::from_millis(200);
    for requests in [1, 5] {
        let cloud = Cloud::with(ServerOptions {
            creation: Creation::Pending,
            latency,
            ..ServerOptions::default()
        });
        cloud.world.write("project/file", "x\n");
        let fault = Fault::first(1, FaultKind::Silent(Place::InToolCall));
        let answers = [Answer::calls([Call::shell("touch made", "Make")])];
        let model = Server::start(Script::new(answers).with_fault(fault));
        let child = task(&cloud, &model).spawn().unwrap();
        wait_until("it is being made", || cloud.server.requests().len() == requests);
        send(&child, Signal::INT);
        let begin = std::time::Instant::now();
        assert_eq!(wait(child).code, Some(130));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        cloud.is_settled();
    }
}

#[test]
fn a_microvm_that_is_made_anew_in_the_middle_of_a_turn_is_set_up_before_the_next_answers_tools() {
    let cloud = Cloud::usual();
    cloud.world.write("project/.forge/config.toml", "[setup]\nrun = \"echo once >>ran\"\n");
    cloud.world.write("home/.config/forge/config.toml", "[setup]\nwhen = \"always\"\n");
    let look = || Answer::calls([Call::shell("cat ran || echo none", "Look at what ran")]);
    let script = Script::new([look(), look(), look(), Answer::text("Done.")]);
    let model = Server::start(script.delivered(Delivery { delay_ms: 200, ..Delivery::default() }));
    let child = task(&cloud, &model).spawn().unwrap();
    wait_until("the model is asked again", || model.model.requests().len() == 2);
    cloud.server.terminate(&cloud.server.running()[0]);
    let actual = wait(child);
    assert_eq!(actual.code, Some(0), "{}", actual.stderr);
    assert_eq!(actual.stderr.matches("setting up, as .forge/config.toml says").count(), 2);
    let results = model.results();
    for (result, expected) in results.iter().zip(["once\n", "none\n", "once\n"]) {
        assert!(result.contains(expected), "{results:?}");
    }
    assert_eq!(cloud.creations(), 2);
    assert_eq!(cloud.server.running(), [""; 0]);
}

#[test]
fn what_git_tracks_goes_in_though_a_rule_ignores_it_and_comes_back_as_ignored() {
    let cloud = Cloud::usual();
    cloud.world.write("project/tracked.log", "one\n");
    cloud.world.write("project/other.log", "one\n");
    cloud.world.write("project/.gitignore", "*.log\n");
    let begin = "git init -q && git add -f tracked.log .gitignore";
    assert_eq!(run(&mut cloud.world.shell(begin)).code, Some(0));
    let script = "cat *.log; echo two >tracked.log; echo two >new.log";
    let actual = run(&mut cloud.forge(&["exec", "-c", script]));
    assert_eq!((actual.code, actual.stdout.as_str()), (Some(0), "one\n"), "{}", actual.stderr);
    // As in the sandbox, whose sessions count what a rule ignores and list it when they are asked.
    let changed = run(&mut cloud.world.forge(&["diff", "--name-only", "--ignored"])).stdout;
    assert_eq!(changed, "tracked.log\n");
}

fn fifty_calls(daemon: Daemon, creation: Creation) {
    let cloud = Cloud::new(daemon, creation);
    let model = Server::start(Script::shell_commands(50));
    let url = cloud.server.url();
    let options = ["--tensorlake", KEY, "--tensorlake-url", &url];
    let mut command =
        cloud.world.forge(&[&options[..], &["-m", "openai/scripted", "-p", "go"]].concat());
    model.tell(&mut command);
    let actual = run(&mut command);
    let expected = (Some(0), "All 50 commands ran.\n".to_owned());
    assert_eq!((actual.code, actual.stdout), expected);
    assert!(!actual.stderr.contains("warning"), "{}", actual.stderr);
    let results = model.results();
    assert_eq!(results.len(), 50);
    for (at, result) in results.iter().enumerate() {
        assert!(result.contains(&format!("step-{}\n", at + 1)), "{at}: {result}");
    }
    cloud.is_settled();
    assert_eq!(fs::read_dir(cloud.world.project()).unwrap().count(), 0);
}

#[test]
fn fifty_calls_of_a_model_run_with_run() {
    fifty_calls(Daemon::WithRun, Creation::Running);
}

#[test]
fn fifty_calls_of_a_model_run_with_the_open_daemon() {
    fifty_calls(Daemon::Open, Creation::Running);
}

#[test]
fn fifty_calls_of_a_model_run_after_a_creation_that_is_pending() {
    fifty_calls(Daemon::WithRun, Creation::Pending);
}

#[test]
fn fifty_calls_of_a_model_run_after_a_creation_that_took_too_long() {
    fifty_calls(Daemon::WithRun, Creation::TimedOut);
}

fn bytes_survive(daemon: Daemon) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    for length in [0, 1, 5_000_000] {
        let cloud = Cloud::new(daemon, Creation::Running);
        let bytes: Vec<u8> = (0..length).map(|_| random()).collect();
        let actual = run_with_stdin(&mut cloud.forge(&["exec", "--", "cat"]), &bytes);
        assert!(actual.stdout == bytes, "{length}: {} came back", actual.stdout.len());
        assert_eq!(actual.status.code(), Some(0));
        cloud.is_settled();
    }
}

#[test]
fn any_bytes_go_in_and_come_out_with_run() {
    bytes_survive(Daemon::WithRun);
}

#[test]
fn any_bytes_go_in_and_come_out_with_the_open_daemon() {
    bytes_survive(Daemon::Open);
}

#[test]
fn a_command_that_is_not_there_is_127_and_one_that_cannot_be_executed_126() {
    let cloud = Cloud::usual();
    let missing = run(&mut cloud.forge(&["exec", "--", "no-such-program"]));
    assert_eq!(missing.code, Some(127), "{}", missing.stderr);
    let denied = run(&mut cloud.forge(&["exec", "--", "/etc/passwd"]));
    assert_eq!(denied.code, Some(126), "{}", denied.stderr);
}

/// Starts a command that says the number of its process, and waits until it has.
fn started(cloud: &Cloud, arguments: &[&str]) -> (Child, String) {
    let script = "echo $$ > /tmp/pid.new; mv /tmp/pid.new /tmp/pid; exec sleep 1000";
    let arguments = [&["exec"], arguments, &["-c", script]].concat();
    let child = cloud.forge(&arguments).spawn().unwrap();
    let mut pid = String::new();
    wait_until("the command has begun", || {
        let directories = fs::read_dir(cloud.server.directory()).unwrap().flatten();
        let files = directories.map(|sandbox| sandbox.path().join("tmp/pid"));
        pid = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
        !pid.is_empty()
    });
    (child, pid.trim().to_owned())
}

#[test]
fn every_signal_ends_the_command_and_deletes_the_microvm() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let cloud = Cloud::usual();
        let (child, pid) = started(&cloud, &[]);
        assert!(is_alive(&pid));
        send(&child, signal);
        assert_eq!(wait(child).code, Some(code));
        wait_until("the command is gone", || !is_alive(&pid));
        cloud.is_settled();
    }
}

#[test]
fn an_interrupt_while_the_microvm_is_made_ends_forge_and_leaves_none() {
    let latency = Duration::from_secs(2);
    let cloud = Cloud::with(ServerOptions { latency, ..ServerOptions::default() });
    let child = cloud.forge(&["exec", "--", "sleep", "1000"]).spawn().unwrap();
    wait_until("the microvm is asked for", || cloud.creations() == 1);
    send(&child, Signal::INT);
    assert_eq!(wait(child).code, Some(130));
    cloud.is_settled();
    assert_eq!(cloud.server.count("POST", "/processes/run"), 0);
}

#[test]
fn a_time_limit_is_124_and_deletes_the_microvm() {
    let cloud = Cloud::usual();
    let actual = run(&mut cloud.forge(&["exec", "--timeout", "1s", "--", "sleep", "1000"]));
    assert_eq!(actual.code, Some(124));
    assert!(actual.stderr.contains("ran for longer than 1s"), "{}", actual.stderr);
    cloud.is_settled();
}

#[test]
fn an_error_deletes_the_microvm() {
    let cloud = Cloud::usual();
    let actual = run(&mut cloud.forge(&["exec", "-C", ".", "--", "/no/such/program"]));
    assert_eq!(actual.code, Some(127));
    cloud.is_settled();
}

#[test]
fn a_microvm_that_is_kept_is_named_and_its_command_is_ended() {
    let cloud = Cloud::usual();
    let (child, pid) = started(&cloud, &["--keep-vm"]);
    send(&child, Signal::TERM);
    let actual = wait(child);
    assert_eq!(actual.code, Some(143));
    wait_until("the command is gone", || !is_alive(&pid));
    let [id] = &cloud.server.running()[..] else { panic!("{:?}", cloud.server.running()) };
    // This server cannot suspend.
    let note = format!(
        "note: the microVM {id} was left running, since it could not be suspended: forge session stop "
    );
    assert!(actual.stderr.contains(&note), "{}", actual.stderr);
    assert_eq!(cloud.deletions(), 0);
}

#[test]
fn variables_reach_commands_only_by_name() {
    let cloud = Cloud::usual();
    let mut command = cloud.forge(&["exec", "--env", "GIVEN", "--env", "SET=a b", "-c", "env"]);
    let actual = run(command.env("GIVEN", "given").env("SECRET", "s3cret"));
    let lines: Vec<&str> = actual.stdout.lines().collect();
    assert!(lines.contains(&"GIVEN=given") && lines.contains(&"SET=a b"), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("PATH=/")), "{lines:?}");
    assert!(!actual.stdout.contains("s3cret"), "{lines:?}");
}

#[test]
fn the_key_is_in_no_output() {
    let cloud = Cloud::usual();
    let model = Server::start(Script::shell_commands(2));
    let mut runs = vec![
        cloud.forge(&["-vv", "exec", "-c", "env; cat /proc/self/environ; exit 3"]),
        cloud.forge(&["-vv", "-m", "openai/scripted", "-p", "go"]),
        cloud.forge(&["--help"]),
        cloud.forge(&["exec", "--help"]),
        cloud.forge(&["--tensorlake-url", "http://127.0.0.1:1", "-vv", "exec", "--", "true"]),
        cloud.forge(&["--tensorlake-url", "nonsense", "exec", "--", "true"]),
        cloud.forge(&["--tensorlake", "tl_s3cret_but_wrong", "-vv", "exec", "--", "true"]),
    ];
    for command in &mut runs {
        model.tell(command);
        let actual = run(command);
        let whole = format!("{}{}", actual.stdout, actual.stderr);
        assert!(!whole.contains("s3cret"), "{command:?}: {whole}");
        assert!(!whole.is_empty());
    }
}

#[test]
fn a_key_that_is_not_accepted_is_said_at_once_with_what_to_check() {
    let cloud = Cloud::usual();
    let actual = run(&mut cloud.forge(&["--tensorlake", "wrong", "exec", "--", "true"]));
    assert_eq!(actual.code, Some(125));
    assert!(actual.stderr.contains("check that it is whole"), "{}", actual.stderr);
    assert_eq!(cloud.server.requests().len(), 1);
}

#[test]
fn a_key_file_is_taken_only_where_nobody_else_can_read_it() {
    let cloud = Cloud::usual();
    cloud.world.write("home/key", &format!("{KEY}\n"));
    let path = cloud.world.home().join("key");
    let path = path.to_str().unwrap();
    let exec = || {
        let url = cloud.server.url();
        let options = ["--tensorlake-key-file", path, "--tensorlake-url", &url];
        run(&mut cloud.world.forge(&[&options[..], &["exec", "--", "true"]].concat()))
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let actual = exec();
    let expected = format!(
        "error: the key file {path} can be read by others (mode 0644)\nhint: chmod 600 {path}\n"
    );
    assert_eq!((actual.code, actual.stderr), (Some(125), expected));
    assert_eq!(cloud.server.requests(), []);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(exec().code, Some(0));
}

#[test]
fn a_subcommand_in_the_place_of_the_key_is_refused_with_advice() {
    let cloud = Cloud::usual();
    for (arguments, code) in [
        (&["--tensorlake", "exec", "--", "true"][..], 125),
        (&["--tensorlake", "exec", "ls", "-la"], 125),
        (&["--tensorlake", "serve"], 2),
    ] {
        let actual = run(&mut cloud.forge(arguments));
        let name = arguments[1];
        let expected = format!(
            "error: --tensorlake takes a key, and {name:?} is a subcommand\nhint: give the key before \
             it (forge --tensorlake KEY {name} …), or set TENSORLAKE_API_KEY and leave the option out\n"
        );
        assert_eq!((actual.code, actual.stderr), (Some(code), expected), "{arguments:?}");
    }
}

#[test]
fn two_environments_or_options_of_another_one_are_wrong_usage() {
    let cloud = Cloud::usual();
    for arguments in [
        &["--local", "--tensorlake", "k", "exec", "true"][..],
        &["--local", "exec", "--executor", "tensorlake", "true"],
        &["--local", "--keep-vm", "exec", "true"],
        &["--local", "--memory", "2g", "exec", "true"],
        &["--tensorlake", "k", "--memory", "much", "exec", "true"],
    ] {
        let actual = run(&mut cloud.forge(arguments));
        assert_eq!(actual.code, Some(125), "{arguments:?}: {}", actual.stderr);
        assert!(actual.stderr.starts_with("error: "), "{arguments:?}: {}", actual.stderr);
    }
    assert_eq!(cloud.server.requests(), []);
}

/// Reads the head of one request and answers nothing.
fn heads(listener: TcpListener) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut lines = BufReader::new(connection.unwrap()).lines();
            let head: Vec<String> =
                lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            if sender.send(head.join("\n")).is_err() {
                return;
            }
        }
    });
    receiver
}

#[test]
fn proxies_are_used_elsewhere_and_never_for_this_machine() {
    let cloud = Cloud::usual();
    #[expect(clippy::disallowed_methods, reason = "the test is what forge talks to")]
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let heads = heads(proxy);
    let mut near = cloud.forge(&["exec", "--", "true"]);
    assert_eq!(run(near.env("HTTP_PROXY", &url).env("http_proxy", &url)).code, Some(0));
    assert!(heads.try_recv().is_err());
    let options = ["--tensorlake-url", "http://api.tensorlake.invalid", "exec", "--", "true"];
    let mut far = cloud.forge(&options);
    let actual = run(far.env("HTTP_PROXY", &url).env("http_proxy", &url));
    assert_eq!(actual.code, Some(125), "{}", actual.stderr);
    // The service's own style of paths, at the host that the API's stands for.
    let head = heads.recv().unwrap();
    assert!(
        head.starts_with("POST http://sandbox.tensorlake.invalid/sandboxes HTTP/1.1"),
        "{head}"
    );
}

/// git on the host, as a user calls it.
fn host_git(cloud: &Cloud, arguments: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "the host's repository is made and read")]
    let mut command = Command::new("git");
    let identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"];
    command.args(identity).args(arguments).current_dir(cloud.world.project());
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?} {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const LOOK: &str = "git status --porcelain; git log --all --format='%H %D %s'; git diff; \
                    git symbolic-ref -q HEAD; git tag";

fn repository(cloud: &Cloud, init: &[&str]) {
    cloud.world.write("project/file", "1\n");
    cloud.world.write("project/gone", "1\n");
    cloud.world.write("project/.gitignore", "*.log\n");
    cloud.world.write("project/tracked.log", "1\n");
    host_git(cloud, &[&["init", "-q"], init].concat());
    host_git(cloud, &["add", "-f", "."]);
    host_git(cloud, &["commit", "-q", "-m", "first"]);
    host_git(cloud, &["config", "user.name", "Ada"]);
    host_git(cloud, &["config", "user.email", "ada@example.org"]);
    host_git(cloud, &["tag", "v1"]);
    host_git(cloud, &["branch", "other"]);
    cloud.world.write("project/file", "2\n");
    host_git(cloud, &["commit", "-q", "-a", "-m", "second"]);
    host_git(cloud, &["remote", "add", "origin", "https://user:hunter2@example.org/x"]);
    host_git(cloud, &["config", "http.extraheader", "Authorization: hunter2"]);
    host_git(cloud, &["config", "core.fsmonitor", "touch ran"]);
    cloud.world.write("project/file", "3\n");
    cloud.world.write("project/new", "1\n");
    cloud.world.write("project/other.log", "1\n");
    std::fs::remove_file(cloud.world.project().join("gone")).unwrap();
}

/// What git says on the host, without what its own configuration would run.
fn as_on_the_host(cloud: &Cloud) -> String {
    let look = [
        &["-c", "core.fsmonitor=false", "status", "--porcelain"][..],
        &["log", "--all", "--format=%H %D %s"],
        &["-c", "core.fsmonitor=false", "diff"],
    ];
    look.iter().map(|arguments| host_git(cloud, arguments)).collect()
}

#[test]
fn git_in_a_microvm_says_what_it_says_on_the_host() {
    for init in [&[][..], &["--object-format=sha256"]] {
        let cloud = Cloud::usual();
        repository(&cloud, init);
        let expected = format!("{}refs/heads/main\nv1\n", as_on_the_host(&cloud));
        // Only now: status on the host refreshes the index.
        let before = crate::diff::tree(&cloud.world.project());
        let ended = run(&mut cloud.forge(&["exec", "-c", LOOK]));
        assert_eq!((ended.code, ended.stdout), (Some(0), expected), "{}", ended.stderr);
        assert!(!ended.stderr.contains("history"), "{}", ended.stderr);
        let script =
            "grep -rc hunter2 .git/config; git commit -qam third && git log -1 --format=%s";
        let ended = run(&mut cloud.forge(&["exec", "-c", script]));
        assert_eq!((ended.code, &*ended.stdout), (Some(0), "0\nthird\n"), "{}", ended.stderr);
        // Nothing of it is in the host's, and nothing of the host's ran.
        assert_eq!(crate::diff::tree(&cloud.world.project()), before);

        // With nothing but a commit checked out.
        host_git(&cloud, &["-c", "core.fsmonitor=false", "checkout", "-q", "--detach"]);
        let detached = run(&mut cloud.forge(&[
            "exec",
            "--fresh",
            "-c",
            "git symbolic-ref -q HEAD; git log -1 --format=%s",
        ]));
        assert_eq!(detached.stdout, "second\n", "{}", detached.stderr);
        let without = run(&mut cloud.forge(&["exec", "--no-git", "--fresh", "-c", "ls -d .git"]));
        assert_ne!(without.code, Some(0));
    }
}

#[test]
fn a_history_that_does_not_go_in_is_said_and_the_session_goes_on() {
    let cloud = Cloud::usual();
    repository(&cloud, &[]);
    let script = "ls -d .git; cat file";
    let mut command = cloud.forge(&["exec", "-c", script]);
    command.env("PATH", "/missing");
    let ended = run(&mut command);
    assert_eq!((ended.code, &*ended.stdout), (Some(0), "3\n"), "{}", ended.stderr);
    let said = "the project's git history did not go into the microVM: git is not installed on this machine";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    // A shallow clone is what it is on the host.
    let head = host_git(&cloud, &["rev-parse", "HEAD"]);
    cloud.world.write("project/.git/shallow", &head);
    let ended = run(&mut cloud.forge(&[
        "exec",
        "--fresh",
        "-c",
        "git log --format=%s main; git status --porcelain",
    ]));
    assert_eq!(ended.stdout, "second\n M file\n D gone\n?? new\n", "{}", ended.stderr);
}

#[test]
fn commits_made_in_microvms_come_back_by_an_apply_and_go_into_the_next_one() {
    let cloud = Cloud::usual();
    repository(&cloud, &[]);
    let first = "git add new && git commit -qm third && git tag -am note v2 && git switch -qc feature && echo f >f && \
                 git add f && git commit -qm feature && git rev-parse HEAD main v2";
    let ended = run(&mut cloud.forge(&["exec", "-c", first]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let ids: Vec<&str> = ended.stdout.lines().collect();
    assert!(ended.stderr.contains("commits ("), "{}", ended.stderr);
    cloud.is_settled();
    // Nothing of the user's git has changed, and nothing of ours is there.
    let refs = |pattern: &str| {
        host_git(&cloud, &["for-each-ref", "--format=%(objectname) %(refname)", pattern])
    };
    assert_eq!(refs("refs/forge"), "");
    assert_eq!(host_git(&cloud, &["log", "-1", "--format=%s"]), "second\n");
    // The next microVM of the session has them, and goes on from there.
    let second = "git log --format=%s; git symbolic-ref HEAD; git status --porcelain; git tag; echo g >>f; git commit -qam more; \
                  git stash list; git rev-parse HEAD";
    let ended = run(&mut cloud.forge(&["exec", "-c", second]));
    let head = ended.stdout.lines().last().unwrap().to_owned();
    let expected = format!(
        "feature\nthird\nsecond\nfirst\nrefs/heads/feature\n M file\n D gone\nv1\nv2\n{head}\n"
    );
    assert_eq!((ended.code, ended.stdout), (Some(0), expected), "{}", ended.stderr);
    // In the sandbox this session is not gone on with.
    let id =
        ended.stderr.split("session ").nth(1).unwrap().split([' ', ',']).next().unwrap().to_owned();
    let ended = run(&mut cloud.world.forge(&["--sandbox", "exec", "--session", &id, "--", "true"]));
    assert_eq!(ended.code, Some(125));
    assert!(ended.stderr.contains("--tensorlake"), "{}", ended.stderr);

    let ended = run(&mut cloud.world.forge(&["apply", "--branch", "taken"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(refs("refs/heads/taken"), format!("{head} refs/heads/taken\n"));
    let prefix = format!("refs/forge/{id}/");
    let expected = format!(
        "{head} {prefix}HEAD\n{head} {prefix}heads/feature\n{} {prefix}heads/main\n{} {prefix}tags/v2\n",
        ids[1], ids[2]
    );
    assert_eq!(refs("refs/forge"), expected);
    host_git(&cloud, &["fsck", "--strict"]);
    assert_eq!(
        host_git(&cloud, &["log", "-1", "--format=%s"]),
        "second\n",
        "the user's branch stays"
    );
    // They wait no more, and come no second time.
    let ended = run(&mut cloud.world.forge(&["apply"]));
    assert!(!ended.stdout.contains("refs/forge"), "{}", ended.stdout);

    // With a discard they are gone from the session.
    let ended = run(&mut cloud.forge(&["exec", "-c", "git commit -q --allow-empty -m last"]));
    assert!(ended.stderr.contains("commits ("), "{ended:?}");
    let ended = run(&mut cloud.world.forge(&["discard", "--force", &id]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let ended = run(&mut cloud.forge(&["exec", "-c", "git log -1 --format=%s"]));
    assert_eq!(ended.stdout, "second\n", "{}", ended.stderr);
}

#[test]
fn a_repository_that_was_made_in_a_microvm_comes_back_once_the_project_is_one() {
    let cloud = Cloud::usual();
    cloud.world.write("project/file", "1\n");
    let script = "git init -qb trunk && git add . && git -c user.name=n -c user.email=e@x commit -qm one && git rev-parse HEAD";
    let ended = run(&mut cloud.forge(&["exec", "-c", script]));
    let head = ended.stdout.clone();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let ended =
        run(&mut cloud.forge(&["exec", "-c", "git log --format=%s; git symbolic-ref HEAD"]));
    assert_eq!(ended.stdout, "one\nrefs/heads/trunk\n", "{}", ended.stderr);
    let ended = run(&mut cloud.world.forge(&["apply"]));
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("git init here"), "{}", ended.stderr);
    host_git(&cloud, &["init", "-q"]);
    let ended = run(&mut cloud.world.forge(&["apply"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let brought =
        host_git(&cloud, &["for-each-ref", "--format=%(objectname)", "refs/forge/*/heads/trunk"]);
    assert_eq!(brought, head);
}

#[test]
fn the_history_of_a_linked_worktree_goes_in_and_its_commits_come_back() {
    let cloud = Cloud::usual();
    let main = cloud.world.home().join("main");
    cloud.world.write("home/main/file", "1\n");
    let main = main.to_str().unwrap();
    host_git(&cloud, &["-C", main, "init", "-q"]);
    host_git(&cloud, &["-C", main, "add", "."]);
    host_git(&cloud, &["-C", main, "commit", "-q", "-m", "first"]);
    let project = cloud.world.project();
    host_git(
        &cloud,
        &["-C", main, "worktree", "add", "-q", "-b", "linked", project.to_str().unwrap()],
    );
    let script = "git log --format=%s; git symbolic-ref HEAD; git status --porcelain; echo 2 >file; \
                  git -c user.name=n -c user.email=e@x commit -qam second; git rev-parse HEAD";
    let ended = run(&mut cloud.forge(&["exec", "-c", script]));
    let head = ended.stdout.lines().last().unwrap().to_owned();
    assert_eq!(ended.stdout, format!("first\nrefs/heads/linked\n{head}\n"), "{}", ended.stderr);
    let ended = run(&mut cloud.world.forge(&["apply", "--branch", "taken"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(host_git(&cloud, &["-C", main, "rev-parse", "taken"]), format!("{head}\n"));
}

#[test]
fn the_users_name_for_commits_is_passed_on_and_nothing_else_of_git() {
    let cloud = Cloud::usual();
    cloud.world.write(
        "home/.gitconfig",
        "[user]\n\tname = Ada\n\temail = ada@example.org\n[alias]\n\tx = status\n",
    );
    let script = "git init -q . && git commit -q --allow-empty -m one && git log --format='%an %ae %cn'; git config alias.x";
    let ended = run(&mut cloud.forge(&["exec", "-c", script]));
    assert_eq!(
        (ended.code, &*ended.stdout),
        (Some(1), "Ada ada@example.org Ada\n"),
        "{}",
        ended.stderr
    );
}

#[test]
fn commits_of_a_session_survive_what_the_host_does_to_its_branches() {
    let cloud = Cloud::usual();
    cloud.world.write("project/file", "1\n");
    host_git(&cloud, &["init", "-q"]);
    host_git(&cloud, &["add", "."]);
    host_git(&cloud, &["commit", "-q", "-m", "first"]);
    host_git(&cloud, &["branch", "other"]);
    host_git(&cloud, &["commit", "-q", "--allow-empty", "-m", "tip"]);
    let commit = "git -c user.name=n -c user.email=e@x commit -q --allow-empty";
    let script = format!(
        "{commit} -m second; git branch a/b; git branch gone; git checkout -q other; git rev-parse main"
    );
    let ended = run(&mut cloud.forge(&["exec", "-c", &script]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let second = ended.stdout;

    // What they were made upon is no part of any branch any more, a name is in the way, one names another, one is gone.
    host_git(&cloud, &["commit", "-q", "--amend", "--allow-empty", "-m", "amended"]);
    host_git(&cloud, &["branch", "-D", "other"]);
    host_git(&cloud, &["branch", "a"]);
    host_git(&cloud, &["symbolic-ref", "refs/heads/alias", "refs/heads/a"]);
    let script = format!(
        "git log --format=%s main; git symbolic-ref HEAD; git log --format=%s; git branch -D gone >/dev/null; git rev-parse main a/b; \
         {commit} -m third"
    );
    let ended = run(&mut cloud.forge(&["exec", "-c", &script]));
    let expected = format!("second\ntip\nfirst\nrefs/heads/other\nfirst\n{second}{second}");
    assert_eq!(ended.stdout, expected, "{}", ended.stderr);
    assert!(!ended.stderr.contains("did not go"), "{}", ended.stderr);
    assert_eq!(run(&mut cloud.world.forge(&["apply"])).code, Some(0));
    let all = host_git(&cloud, &["for-each-ref", "--format=%(refname) %(subject)", "refs/forge"]);
    let all: Vec<&str> = all.lines().map(|line| line.splitn(4, '/').nth(3).unwrap()).collect();
    assert_eq!(all, ["HEAD third", "heads/a/b second", "heads/main second", "heads/other third"]);
}
