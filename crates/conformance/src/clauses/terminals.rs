//! Commands on a terminal.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    CommandError, CommandExit, CommandRequest, DEFAULT_TERMINAL_KIND, Ending, EnvironmentVariable,
    OutputSink, OutputStream, Program, Signal, SinkClosed, StopMethod, TerminalController,
    TerminalIo, TerminalRequests, TerminalSize, VariableName,
};
use futures_channel::mpsc;
use futures_util::stream;
use pretty_assertions::assert_eq;
use tokio::sync::Semaphore;

use super::probe::{
    Environment, Recorder, Recording, begun_and_waiting, grows, leave, request, stops_growing,
};
use crate::{Scenario, Step};

/// How often somebody presses a key again.
const INTERVAL: Duration = Duration::from_millis(500);

const SHORT: Duration = Duration::from_millis(300);

/// Whoever sits at the terminal.
struct Person {
    keys: mpsc::UnboundedSender<Bytes>,
    controller: TerminalController,
    screen: Recording,
}

impl Person {
    fn types(&self, keys: impl Into<Bytes>) {
        self.keys.unbounded_send(keys.into()).unwrap();
    }

    fn sees(&self) -> String {
        String::from_utf8_lossy(&self.screen.all()).into_owned()
    }
}

fn seat() -> (TerminalIo, Person) {
    let (recorder, screen) = Recorder::new();
    let (io, keys, controller) = connected(Box::new(recorder));
    (io, Person { keys, controller, screen })
}

fn connected(
    sink: Box<dyn OutputSink>,
) -> (TerminalIo, mpsc::UnboundedSender<Bytes>, TerminalController) {
    let (keys, input) = mpsc::unbounded();
    let (controller, control) = TerminalController::new();
    (TerminalIo { input: Box::pin(input), sink, control }, keys, controller)
}

fn size() -> TerminalSize {
    TerminalSize::new(101, 37)
}

async fn shown(environment: &Environment, request: CommandRequest) -> (CommandExit, String) {
    let (io, person) = seat();
    let exit = environment.run_on_terminal(request, size(), io).await.unwrap();
    (exit, person.sees())
}

/// Runs a scenario and does something once it has printed `begun`.
async fn attended(
    environment: &Environment,
    request: CommandRequest,
    act: impl AsyncFnOnce(&Person),
) -> (CommandExit, String) {
    let (io, person) = seat();
    let attend = async {
        person.screen.has("begun").await;
        act(&person).await;
    };
    let (exit, ()) = tokio::join!(environment.run_on_terminal(request, size(), io), attend);
    (exit.unwrap(), person.sees())
}

/// Runs a scenario and presses Ctrl-C once it has printed `begun`, and again until it ends: a shell that is between
/// the fork and the execution of what it runs may miss it.
async fn interrupted(environment: &Environment, scenario: &Scenario) -> (CommandExit, String) {
    let (io, person) = seat();
    let press = async {
        person.screen.has("begun").await;
        loop {
            // Nobody reads what is typed after the end.
            drop(person.keys.unbounded_send("\x03".into()));
            tokio::time::sleep(INTERVAL).await;
        }
    };
    let exit = tokio::select! {
        exit = environment.run_on_terminal(request(scenario), size(), io) => exit.unwrap(),
        () = press => unreachable!("it is pressed for ever"),
    };
    (exit, person.sees())
}

/// All three streams are a terminal.
pub async fn stdin_stdout_and_stderr_are_the_terminal(environment: Environment) {
    let (exit, seen) = shown(&environment, request(&Scenario::new([Step::PrintTerminals]))).await;
    assert_eq!((exit.ending, seen.as_str()), (Ending::Exited(0), "ttt"));
}

/// It is also the one that `/dev/tty` stands for.
pub async fn it_is_the_controlling_terminal(environment: Environment) {
    let scenario = Scenario::new([Step::WriteFile("/dev/tty".into(), b"here".to_vec())]);
    let (exit, seen) = shown(&environment, request(&scenario)).await;
    assert_eq!((exit.ending, seen.as_str()), (Ending::Exited(0), "here"));
}

/// What is printed on either stream is shown, a newline as terminals have it, and the result holds none.
pub async fn both_streams_are_shown(environment: Environment) {
    let scenario = Scenario::print("a\n").then_print(OutputStream::Stderr, "b\n");
    let (exit, seen) = shown(&environment, request(&scenario)).await;
    assert_eq!((exit.ending, seen.as_str()), (Ending::Exited(0), "a\r\nb\r\n"));
    assert_eq!(exit.output.interleaved(), b"");
}

/// It begins with the size that was asked for.
pub async fn it_begins_with_its_size(environment: Environment) {
    let (_, seen) = shown(&environment, request(&Scenario::new([Step::PrintSize]))).await;
    assert_eq!(seen, "37 101\r\n");
}

/// Another size is told to the command by SIGWINCH.
pub async fn another_size_is_signalled(environment: Environment) {
    let scenario = Scenario::new([Step::OnSignal(28, "resized".into())])
        .then(Step::Print(b"begun ".to_vec()))
        .then(Step::TickForever("ticks".into()));
    let (exit, seen) = attended(&environment, request(&scenario), async |person| {
        person.controller.resize(TerminalSize::new(90, 20));
    })
    .await;
    assert_eq!((exit.ending, seen.as_str()), (Ending::Exited(0), "begun resized"));
}

/// It is there before what is typed after it, and output goes on.
pub async fn another_size_is_there_before_what_is_typed_next(environment: Environment) {
    let steps = [Step::Print(b"begun ".to_vec()), Step::CopyStdin, Step::PrintSize];
    let (exit, seen) = attended(&environment, request(&Scenario::new(steps)), async |person| {
        person.controller.resize(TerminalSize::new(90, 20));
        person.types("\x04");
    })
    .await;
    assert_eq!(exit.ending, Ending::Exited(0));
    assert!(seen.ends_with("20 90\r\n"), "{seen:?}");
}

/// Keys are shown as they are typed, and come as a line.
pub async fn what_is_typed_is_shown_and_read(environment: Environment) {
    let steps = [Step::Print(b"begun ".to_vec()), Step::CopyStdin];
    let (exit, seen) = attended(&environment, request(&Scenario::new(steps)), async |person| {
        person.types("lime\x7f\x7fne\r");
        person.screen.has("line\r\n").await;
        person.types("\x04");
    })
    .await;
    assert_eq!(exit.ending, Ending::Exited(0));
    let erased = "begun lime\x08 \x08\x08 \x08ne\r\nline\r\n";
    assert!(seen.starts_with(erased), "{seen:?}");
}

/// Ctrl-D is the end of file for who reads, and the command goes on.
pub async fn ctrl_d_is_an_end_of_file(environment: Environment) {
    let steps = [Step::Print(b"begun ".to_vec()), Step::CopyStdin, Step::Exit(5)];
    let (exit, _) = attended(&environment, request(&Scenario::new(steps)), async |person| {
        person.types("\x04");
    })
    .await;
    assert_eq!(exit.ending, Ending::Exited(5));
}

/// Ctrl-C interrupts.
pub async fn ctrl_c_interrupts(environment: Environment) {
    let (exit, _) = interrupted(&environment, &begun_and_waiting()).await;
    assert_eq!((exit.ending, exit.stopped_by), (Ending::Signalled(Signal::INT), None));
}

/// A command that handles Ctrl-C goes on as it likes.
pub async fn ctrl_c_can_be_handled(environment: Environment) {
    let scenario = Scenario::new([Step::OnSignal(2, "handled".into())])
        .then(Step::Print(b"begun ".to_vec()))
        .then(Step::SleepMs(60_000));
    let (exit, seen) = interrupted(&environment, &scenario).await;
    assert_eq!(exit.ending, Ending::Exited(0));
    assert!(seen.contains("handled"), "{seen:?}");
}

/// Every byte survives, in both directions, once the terminal is told to leave them alone.
pub async fn every_byte_survives(environment: Environment) {
    let every: Vec<u8> = (0..=255).collect();
    let scenario = Scenario::new([Step::RawTerminal])
        .then(Step::Print(b"begun ".to_vec()))
        .then(Step::CopyBytes(256))
        .then(Step::Print(vec![0xff, 0xfe, b'\n', 0x80, 0]));
    let (io, person) = seat();
    let attend = async {
        person.screen.has("begun").await;
        person.types(every.clone());
    };
    let run = environment.run_on_terminal(request(&scenario), size(), io);
    let (exit, ()) = tokio::join!(run, attend);
    assert_eq!(exit.unwrap().ending, Ending::Exited(0));
    let expected = [b"begun ", &every[..], &[0xff, 0xfe, b'\n', 0x80, 0]].concat();
    assert_eq!(person.screen.all(), expected);
}

/// Where nobody says which kind of terminal it is, it is a common one; what the request says counts.
pub async fn the_kind_of_terminal_is_said(environment: Environment) {
    let print = || request(&Scenario::new([Step::PrintVariable("TERM".into())]));
    let (_, unsaid) = shown(&environment, print()).await;
    let name = VariableName::parse("TERM").unwrap();
    let kind = vec![EnvironmentVariable::new(name, "dumb").unwrap()];
    let (_, said) = shown(&environment, print().environment(kind)).await;
    assert_eq!((unsaid.as_str(), said.as_str()), (DEFAULT_TERMINAL_KIND, "dumb"));
}

/// It runs where every command runs.
pub async fn it_runs_in_the_working_directory(environment: Environment) {
    let expected = environment.describe().await.unwrap().working_directory;
    let (_, seen) = shown(&environment, request(&Scenario::new([Step::PrintDirectory]))).await;
    assert_eq!(seen, expected.to_str().unwrap());
}

/// Its code comes back.
pub async fn its_code_comes_back(environment: Environment) {
    for code in [0, 1, 7, 127] {
        let (exit, _) = shown(&environment, request(&Scenario::new([Step::Exit(code)]))).await;
        assert_eq!((exit.ending, exit.stopped_by), (Ending::Exited(code), None));
    }
}

/// A signal that ends it is its ending.
pub async fn a_signal_is_its_ending(environment: Environment) {
    for signal in [Signal::KILL, Signal::TERM] {
        let scenario = Scenario::default().then_kill_self(signal);
        let (exit, _) = shown(&environment, request(&scenario)).await;
        assert_eq!(exit.ending, Ending::Signalled(signal));
    }
}

/// A signal that the caller sends reaches it.
pub async fn a_signal_is_passed_on(environment: Environment) {
    let (exit, _) = attended(&environment, request(&begun_and_waiting()), async |person| {
        person.controller.signal(Signal::TERM);
    })
    .await;
    assert_eq!((exit.ending, exit.stopped_by), (Ending::Signalled(Signal::TERM), None));
}

/// That nobody types any more is no end of file, and nobody who could ask is nobody who asks.
pub async fn nobody_at_the_terminal_is_no_end(environment: Environment) {
    let (recorder, _) = Recorder::new();
    let io = TerminalIo {
        input: Box::pin(stream::empty()),
        sink: Box::new(recorder),
        control: TerminalRequests::none(),
    };
    let scenario = Scenario::new([Step::SleepMs(300), Step::Exit(3)]);
    let exit = environment.run_on_terminal(request(&scenario), size(), io).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(3));
}

/// Cancelling hangs up; who handles that has the grace to do so.
pub async fn cancelling_hangs_up(environment: Environment) {
    let scenario = Scenario::new([Step::OnSignal(1, "hung up".into())])
        .then(Step::Print(b"begun ".to_vec()))
        .then(Step::SleepMs(120_000));
    let request = request(&scenario).termination_grace(Duration::from_secs(20));
    let (exit, seen) = attended(&environment, request, async |person| {
        person.controller.cancel();
        person.controller.cancel();
    })
    .await;
    assert_eq!((exit.ending, exit.stopped_by), (Ending::Cancelled, Some(StopMethod::Terminate)));
    assert!(seen.contains("hung up"), "{seen:?}");
}

/// Who ignores that is killed, with its children.
pub async fn one_that_ignores_the_hang_up_is_killed(environment: Environment) {
    let ignoring = || vec![Step::IgnoreSignals, Step::TickForever("ticks".into())];
    let child = leave(&environment, ignoring()).await;
    let scenario = Scenario::new([child, Step::IgnoreSignals])
        .then(Step::Print(b"begun ".to_vec()))
        .then(Step::TickForever("others".into()));
    let request = request(&scenario).termination_grace(SHORT);
    let (exit, _) = attended(&environment, request, async |person| {
        grows(&environment, "ticks").await;
        person.controller.cancel();
    })
    .await;
    assert_eq!((exit.ending, exit.stopped_by), (Ending::Cancelled, Some(StopMethod::Kill)));
    stops_growing(&environment, "ticks").await;
}

/// A time limit holds here too.
pub async fn its_time_limit_holds(environment: Environment) {
    let request = request(&begun_and_waiting()).time_limit(SHORT);
    let (exit, _) = shown(&environment, request).await;
    assert_eq!(exit.ending, Ending::TimedOut { limit: SHORT });
    assert!(exit.elapsed < Duration::from_secs(30), "{:?}", exit.elapsed);
}

/// A dropped future leaves nothing running.
pub async fn dropping_the_future_ends_it(environment: Environment) {
    let child = leave(&environment, vec![Step::TickForever("ticks".into())]).await;
    let (io, _person) = seat();
    let scenario = request(&Scenario::new([child, Step::SleepMs(120_000)]));
    let mut command = environment.run_on_terminal(scenario, size(), io);
    tokio::select! {
        exit = &mut command => panic!("it ended by itself: {exit:?}"),
        () = grows(&environment, "ticks") => {}
    }
    drop(command);
    stops_growing(&environment, "ticks").await;
}

/// What it leaves running ends with it, and does not delay its end.
pub async fn its_children_end_with_it(environment: Environment) {
    let child = leave(&environment, vec![Step::TickForever("ticks".into())]).await;
    let scenario = Scenario::new([child, Step::SleepMs(500), Step::Exit(4)]);
    let (exit, _) = shown(&environment, request(&scenario)).await;
    assert_eq!(exit.ending, Ending::Exited(4));
    assert!(exit.elapsed < Duration::from_secs(60), "{:?}", exit.elapsed);
    stops_growing(&environment, "ticks").await;
}

/// A sink that takes nothing before it is told to.
struct Gate {
    open: Arc<Semaphore>,
    bytes: Arc<std::sync::Mutex<usize>>,
}

#[async_trait]
impl OutputSink for Gate {
    async fn write(&mut self, _: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        assert!(!bytes.is_empty() && bytes.len() <= 1024 * 1024, "{} bytes at once", bytes.len());
        drop(self.open.acquire().await.unwrap());
        *self.bytes.lock().unwrap() += bytes.len();
        Ok(())
    }
}

/// More than any connection holds.
const MUCH_BYTES: u64 = 24 * 1024 * 1024;

/// A command waits for who looks at it; nothing is lost.
pub async fn much_output_waits_for_the_sink(environment: Environment) {
    let (open, bytes) = (Arc::new(Semaphore::new(0)), Arc::default());
    let gate = Gate { open: Arc::clone(&open), bytes: Arc::clone(&bytes) };
    let (io, _keys, _controller) = connected(Box::new(gate));
    let scenario = Scenario::new([Step::PrintMany(MUCH_BYTES)])
        .then(Step::WriteFile("printed".into(), b"all".to_vec()));
    let look = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let printed = environment.stat("printed".as_ref()).await;
        open.add_permits(1);
        printed.map(drop)
    };
    let run = environment.run_on_terminal(request(&scenario), size(), io);
    let (exit, printed) = tokio::join!(run, look);
    assert_eq!(exit.unwrap().ending, Ending::Exited(0));
    assert!(printed.is_err(), "the command did not wait");
    assert_eq!(*bytes.lock().unwrap() as u64, MUCH_BYTES);
}

/// A window that is closed ends it.
pub async fn a_closed_sink_ends_it(environment: Environment) {
    let (mut recorder, _) = Recorder::new();
    recorder.closed = Some(OutputStream::Stdout);
    let (io, _keys, _controller) = connected(Box::new(recorder));
    let run = environment.run_on_terminal(request(&begun_and_waiting()), size(), io);
    assert_eq!(run.await.unwrap().ending, Ending::Cancelled);
}

/// What cannot be started says why, as it does without a terminal.
pub async fn one_that_cannot_start_is_an_error(environment: Environment) {
    let run = async |request: CommandRequest| {
        let (io, _person) = seat();
        environment.run_on_terminal(request, size(), io).await.unwrap_err()
    };
    let nothing: [&str; 0] = [];
    let error = run(CommandRequest::new(Program::argv("no-such-program", nothing))).await;
    assert!(matches!(&error, CommandError::NotFound { .. }), "{error:?}");
    let error = run(CommandRequest::new(Program::argv("", nothing))).await;
    assert!(matches!(&error, CommandError::Invalid { .. }), "{error:?}");
    let elsewhere = request(&Scenario::default()).working_directory("no-such-directory");
    let error = run(elsewhere).await;
    assert!(matches!(&error, CommandError::WorkingDirectory { .. }), "{error:?}");
}

/// Terminals are apart from each other.
pub async fn several_at_once_are_apart(environment: Environment) {
    let all = (0..4).map(|number: u8| {
        let environment = Arc::clone(&environment);
        async move {
            let steps = [Step::Print(b"begun ".to_vec()), Step::CopyStdin, Step::Exit(number)];
            let text = format!("text {number}\r");
            attended(&environment, request(&Scenario::new(steps)), async |person| {
                person.types(text.clone());
                person.types("\x04");
            })
            .await
        }
    });
    for (number, (exit, seen)) in (0..).zip(futures_util::future::join_all(all).await) {
        assert_eq!(exit.ending, Ending::Exited(number));
        let texts = (0..4).filter(|other| seen.contains(&format!("text {other}")));
        assert_eq!(texts.collect::<Vec<_>>(), [number], "{seen:?}");
    }
}

/// It ends with the environment, and whoever waits for it is told how; then none begins.
pub async fn closing_ends_it(environment: Environment) {
    let (exit, _) = attended(&environment, request(&begun_and_waiting()), async |_| {
        environment.close().await.unwrap();
    })
    .await;
    assert_eq!(exit.ending, Ending::Cancelled);
    let (io, _person) = seat();
    let refused = environment.run_on_terminal(request(&Scenario::default()), size(), io).await;
    let error = refused.unwrap_err();
    let closed = |error: &CommandError| {
        matches!(error, CommandError::Environment(forge_domain::EnvironmentError::Closed { .. }))
    };
    assert!(closed(&error), "{error:?}");
}
