//! Commands: output and input.

use std::time::Duration;

use forge_domain::{
    ByteRange, CommandIo, ControlRequests, Ending, Fidelity, OutputLimits, OutputStream, Program,
    Signal, Spill, Stdin,
};
use pretty_assertions::assert_eq;

use super::probe::{
    Environment, Recorder, endless, observed, pieces, request, run, run_request, silent, stdout,
    text, with_stdin,
};
use crate::{Scenario, Step};

const STDOUT: OutputStream = OutputStream::Stdout;
const STDERR: OutputStream = OutputStream::Stderr;

/// Each stream is whole and in its order, in the result and in the sink.
pub async fn both_streams_come_back_apart_and_whole(environment: Environment) {
    let scenario = Scenario::print("out1\n")
        .then_print(STDERR, "err1\n")
        .then_print(STDOUT, "out2\n")
        .then_print(STDERR, "err2\n");
    let (io, recording, _controller) = observed();
    let exit = environment.run(request(&scenario), io).await.unwrap();
    let expected = (b"out1\nout2\n".to_vec(), b"err1\nerr2\n".to_vec());
    assert_eq!((exit.output.of(STDOUT), exit.output.of(STDERR)), expected);
    assert_eq!((recording.of(STDOUT), recording.of(STDERR)), expected);
    assert_eq!((exit.output.total_bytes(STDOUT), exit.output.total_bytes(STDERR)), (10, 10));
}

/// All 256 values, in an order that is no UTF-8.
pub async fn every_byte_survives(environment: Environment) {
    let expected: Vec<u8> = (0..=255).rev().collect();
    let exit = run(&environment, &Scenario::print(&expected)).await;
    assert_eq!(stdout(&exit), expected);
}

/// Exact output ends as the command ended it.
pub async fn no_final_newline_is_added(environment: Environment) {
    for expected in ["a", "a\n", "a\r\n", "\n", "", "a\n\n"] {
        assert_eq!(text(&run(&environment, &Scenario::print(expected)).await), expected);
    }
}

/// Readable output is exact where the capability says so; else it may lose its final newline.
pub async fn readable_output_keeps_its_text(environment: Environment) {
    let exact = environment.describe().await.unwrap().capabilities.streams_exact_bytes;
    let request = request(&Scenario::print("é\nlast")).fidelity(Fidelity::Readable);
    let actual = text(&run_request(&environment, request).await);
    if exact {
        assert_eq!(actual, "é\nlast");
    } else {
        assert_eq!(actual.trim_end_matches('\n'), "é\nlast");
    }
}

/// Output arrives while the command still runs.
pub async fn output_streams_while_the_command_runs(environment: Environment) {
    let scenario = Scenario::print("early\n").then(Step::SleepMs(120_000));
    let (io, recording, controller) = observed();
    let request = request(&scenario).fidelity(Fidelity::Readable);
    let command = environment.run(request, io);
    let watch = async {
        recording.has("early").await;
        controller.cancel();
    };
    let (exit, ()) = tokio::join!(command, watch);
    assert_eq!(exit.unwrap().ending, Ending::Cancelled);
}

/// A slow sink is waited for.
pub async fn a_slow_sink_slows_the_command_and_loses_nothing(environment: Environment) {
    let (mut recorder, recording) = Recorder::new();
    recorder.delay = Duration::from_millis(20);
    let io = CommandIo {
        stdin: Stdin::Empty,
        sink: Box::new(recorder),
        control: ControlRequests::none(),
    };
    let scenario = Scenario::new([Step::PrintMany(3_000_000)]);
    let exit = environment.run(request(&scenario), io).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
    assert_eq!(recording.all().len(), 3_000_000);
}

/// A command whose reader is gone gets SIGPIPE.
pub async fn a_closed_sink_breaks_the_pipe(environment: Environment) {
    let (mut recorder, _recording) = Recorder::new();
    recorder.closed = Some(STDOUT);
    let io = CommandIo {
        stdin: Stdin::Empty,
        sink: Box::new(recorder),
        control: ControlRequests::none(),
    };
    let request = request(&Scenario::new([Step::PrintForever]));
    let exit = environment.run(request, io).await.unwrap();
    // A shell that started the printing program says 128 + 13 for it.
    let expected = [Ending::Signalled(Signal::PIPE), Ending::Exited(141)];
    assert!(expected.contains(&exit.ending), "{:?}", exit.ending);
}

/// The other stream goes on.
pub async fn a_closed_stream_leaves_the_other_open(environment: Environment) {
    let (mut recorder, recording) = Recorder::new();
    recorder.closed = Some(STDOUT);
    let io = CommandIo {
        stdin: Stdin::Empty,
        sink: Box::new(recorder),
        control: ControlRequests::none(),
    };
    let scenario = Scenario::print("gone").then(Step::SleepMs(100)).then_print(STDERR, "here");
    let exit = environment.run(request(&scenario), io).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
    assert_eq!(recording.of(STDERR), b"here");
}

/// Of too much output, the beginning and the end are kept and the rest is counted.
pub async fn much_output_keeps_its_head_and_tail(environment: Environment) {
    let scenario =
        Scenario::print("begin").then(Step::PrintMany(500_000)).then_print(STDOUT, "end");
    let request = request(&scenario).output_limits(OutputLimits::head_and_tail(1000));
    let exit = run_request(&environment, request).await;
    let kept = stdout(&exit);
    assert_eq!(kept.len(), 2000);
    assert!(kept.starts_with(b"begin") && kept.ends_with(b"end"));
    assert_eq!(exit.output.omitted_bytes(), 500_008 - 2000);
    assert_eq!(exit.output.total_bytes(STDOUT), 500_008);
    assert_eq!(exit.output.spill, None);
}

fn spilling(max_file_bytes: u64) -> OutputLimits {
    OutputLimits { spill: Spill::WhenCut { max_file_bytes }, ..OutputLimits::head_and_tail(1000) }
}

/// The whole is in a file that the file port and commands both reach.
pub async fn the_whole_of_much_output_is_in_a_file_inside(environment: Environment) {
    let scenario =
        Scenario::print("begin").then(Step::PrintMany(500_000)).then_print(STDOUT, "end");
    let request = request(&scenario).output_limits(spilling(10_000_000));
    let spill = run_request(&environment, request).await.output.spill.unwrap();
    assert_eq!((spill.bytes, spill.complete), (500_008, true));
    let contents = environment.read(&spill.path, ByteRange::first(u64::MAX)).await.unwrap();
    assert_eq!((contents.total_bytes, contents.bytes.len()), (500_008, 500_008));
    assert!(contents.bytes.starts_with(b"begin") && contents.bytes.ends_with(b"end"));
    let path = spill.path.to_str().unwrap().to_owned();
    let exit = run(&environment, &Scenario::new([Step::PrintFile(path)])).await;
    assert_eq!(stdout(&exit).len(), 500_008);
}

/// The file keeps to its limit and says that it is not the whole.
pub async fn the_spill_file_stops_at_its_limit(environment: Environment) {
    let request =
        request(&Scenario::new([Step::PrintMany(500_000)])).output_limits(spilling(100_000));
    let spill = run_request(&environment, request).await.output.spill.unwrap();
    assert_eq!((spill.bytes, spill.complete), (100_000, false));
    assert_eq!(environment.stat(&spill.path).await.unwrap().size_bytes, 100_000);
}

/// Output that fits makes no file.
pub async fn output_that_fits_spills_nothing(environment: Environment) {
    let request = request(&Scenario::new([Step::PrintMany(2000)])).output_limits(spilling(100_000));
    let exit = run_request(&environment, request).await;
    assert_eq!((exit.output.spill.clone(), exit.output.omitted_bytes()), (None, 0));
}

/// Without stdin a command reads the end of file.
pub async fn no_stdin_is_an_end_of_file(environment: Environment) {
    let exit = run(&environment, &Scenario::new([Step::CopyStdin])).await;
    assert_eq!((exit.ending.clone(), text(&exit)), (Ending::Exited(0), String::new()));
}

/// All of stdin arrives, byte for byte, and then its end.
pub async fn stdin_is_streamed_to_its_end(environment: Environment) {
    let all: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    let stdin = pieces(all.chunks(7000).map(<[u8]>::to_vec).collect());
    let request = request(&Scenario::new([Step::CopyStdin]));
    let exit = environment.run(request, with_stdin(stdin)).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
    assert!(stdout(&exit) == all, "{} bytes came back of {}", stdout(&exit).len(), all.len());
}

/// A command that reads a part and goes on is not ended by the rest.
pub async fn a_command_may_close_its_stdin(environment: Environment) {
    let scenario = Scenario::new([Step::ReadAndCloseStdin(10), Step::SleepMs(100)])
        .then_print(STDOUT, "went on");
    let exit = environment.run(request(&scenario), with_stdin(endless())).await.unwrap();
    assert_eq!((exit.ending.clone(), text(&exit)), (Ending::Exited(0), "went on".to_owned()));
}

/// Input that is open and silent does not keep a command that does not read it.
pub async fn a_command_may_leave_its_stdin_unread(environment: Environment) {
    let exit = environment.run(request(&Scenario::print("x")), with_stdin(silent())).await.unwrap();
    assert_eq!((exit.ending.clone(), text(&exit)), (Ending::Exited(0), "x".to_owned()));
}

/// Nor does input that never ends.
pub async fn endless_stdin_does_not_keep_a_command(environment: Environment) {
    let mut request = request(&Scenario::default());
    request.program = Program::argv("true", [""; 0]);
    let exit = environment.run(request, with_stdin(endless())).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
}

/// What children print counts as the command's output while it runs.
pub async fn output_of_children_is_kept(environment: Environment) {
    let child = Step::Leave(vec![Step::Print(b"child ".to_vec())]);
    let scenario = Scenario::new([child, Step::SleepMs(300)]).then_print(STDOUT, "leader");
    assert_eq!(text(&run(&environment, &scenario).await), "child leader");
}
