//! Commands: time limits, cancelling, signals, children.

use std::time::Duration;

use forge_domain::{CommandIo, Ending, OutputStream, Signal, StopMethod};
use pretty_assertions::assert_eq;

use super::probe::{
    Environment, begun_and_waiting, grows, leave, observed, request, run, run_request,
    stops_growing, text,
};
use crate::{Scenario, Step};

const SHORT: Duration = Duration::from_millis(300);

/// A command that runs for too long is ended, and its ending says so.
pub async fn a_time_limit_ends_the_command(environment: Environment) {
    let request = request(&Scenario::new([Step::SleepMs(120_000)])).time_limit(SHORT);
    let exit = run_request(&environment, request).await;
    assert_eq!(exit.ending, Ending::TimedOut { limit: SHORT });
    assert_eq!(exit.stopped_by, Some(StopMethod::Terminate));
    assert!(exit.elapsed >= SHORT, "{:?}", exit.elapsed);
    assert!(exit.elapsed < Duration::from_secs(30), "{:?}", exit.elapsed);
}

/// What it printed until then is there.
pub async fn a_time_limit_keeps_the_output(environment: Environment) {
    let scenario =
        Scenario::print("out").then_print(OutputStream::Stderr, "err").then(Step::SleepMs(120_000));
    let exit =
        run_request(&environment, request(&scenario).time_limit(Duration::from_secs(1))).await;
    assert_eq!(text(&exit), "out");
    assert_eq!(exit.output.of(OutputStream::Stderr), b"err");
}

/// SIGTERM is asked first; who ignores it is killed after the grace.
pub async fn a_command_that_ignores_sigterm_is_killed(environment: Environment) {
    let scenario = Scenario::new([Step::IgnoreSignals])
        .then(Step::Print(b"deaf".to_vec()))
        .then(Step::TickForever("ticks".into()));
    let request = request(&scenario).time_limit(SHORT).termination_grace(SHORT);
    let exit = run_request(&environment, request).await;
    assert_eq!(exit.ending, Ending::TimedOut { limit: SHORT });
    assert_eq!(exit.stopped_by, Some(StopMethod::Kill));
    assert_eq!(text(&exit), "deaf");
    stops_growing(&environment, "ticks").await;
}

/// Who handles SIGTERM has its grace to do so.
pub async fn a_command_may_tidy_up_within_its_grace(environment: Environment) {
    let scenario = Scenario::new([Step::OnSignal(15, "tidied".into()), Step::SleepMs(60_000)]);
    let request = request(&scenario)
        .time_limit(Duration::from_millis(500))
        .termination_grace(Duration::from_secs(20));
    let exit = run_request(&environment, request).await;
    assert_eq!(text(&exit), "tidied");
    assert_eq!(exit.ending, Ending::TimedOut { limit: Duration::from_millis(500) });
    assert_eq!(exit.stopped_by, Some(StopMethod::Terminate));
}

/// A leader that ends at once does not take the grace from its children.
pub async fn children_get_their_grace_too(environment: Environment) {
    let child = vec![Step::OnSignal(15, "child tidied".into()), Step::SleepMs(60_000)];
    let scenario = Scenario::new([Step::Leave(child), Step::SleepMs(60_000)]);
    let request = request(&scenario)
        .time_limit(Duration::from_secs(1))
        .termination_grace(Duration::from_secs(20));
    let exit = run_request(&environment, request).await;
    assert_eq!(text(&exit), "child tidied");
}

/// Cancelling ends a command in the ordinary way and keeps what it printed.
pub async fn cancelling_ends_the_command_and_keeps_the_output(environment: Environment) {
    let (io, recording, controller) = observed();
    let watch = async {
        recording.has("begun").await;
        controller.cancel();
        controller.cancel();
    };
    let request = request(&begun_and_waiting());
    let (exit, ()) = tokio::join!(environment.run(request, io), watch);
    let exit = exit.unwrap();
    assert_eq!((exit.ending.clone(), text(&exit)), (Ending::Cancelled, "begun".to_owned()));
    assert_eq!(exit.stopped_by, Some(StopMethod::Terminate));
}

/// A signal that the caller sends reaches the command and is its ending. (Not SIGINT, which a suite
/// that was started in the background passes on as ignored.)
pub async fn a_signal_is_passed_on(environment: Environment) {
    let (io, recording, controller) = observed();
    let watch = async {
        recording.has("begun").await;
        controller.signal(Signal::TERM);
    };
    let request = request(&begun_and_waiting());
    let (exit, ()) = tokio::join!(environment.run(request, io), watch);
    let exit = exit.unwrap();
    assert_eq!(exit.ending, Ending::Signalled(Signal::TERM));
    assert_eq!(exit.stopped_by, None);
}

/// A command that handles the signal ends as it likes.
pub async fn a_signal_that_is_handled_is_no_ending(environment: Environment) {
    let (io, recording, controller) = observed();
    let scenario = Scenario::new([
        Step::OnSignal(15, "handled".into()),
        Step::Print(b"begun ".to_vec()),
        Step::SleepMs(60_000),
    ]);
    let watch = async {
        recording.has("begun").await;
        controller.signal(Signal::TERM);
    };
    let (exit, ()) = tokio::join!(environment.run(request(&scenario), io), watch);
    let exit = exit.unwrap();
    let expected = (Ending::Exited(0), "begun handled".to_owned());
    assert_eq!((exit.ending.clone(), text(&exit)), expected);
}

/// Nobody who could ask is nobody who asks.
pub async fn a_dropped_controller_asks_nothing(environment: Environment) {
    let (io, _recording, controller) = observed();
    drop(controller);
    let scenario = Scenario::new([Step::SleepMs(200), Step::Exit(3)]);
    let exit = environment.run(request(&scenario), io).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(3));
}

/// A dropped future leaves nothing running.
pub async fn dropping_the_future_ends_the_command(environment: Environment) {
    ends_when_dropped(&environment, Scenario::new([Step::TickForever("ticks".into())])).await;
}

/// Its children neither.
pub async fn dropping_the_future_ends_the_children(environment: Environment) {
    let child = leave(&environment, vec![Step::TickForever("ticks".into())]).await;
    let scenario = Scenario::new([child, Step::SleepMs(120_000)]);
    ends_when_dropped(&environment, scenario).await;
}

async fn ends_when_dropped(environment: &Environment, scenario: Scenario) {
    let mut command = environment.run(request(&scenario), CommandIo::detached());
    tokio::select! {
        exit = &mut command => panic!("it ended by itself: {exit:?}"),
        () = grows(environment, "ticks") => {}
    }
    drop(command);
    stops_growing(environment, "ticks").await;
}

/// What a command leaves running ends with it.
pub async fn children_end_with_their_leader(environment: Environment) {
    let child = Step::Leave(vec![Step::TickForever("ticks".into())]);
    leaves_nothing(&environment, child).await;
}

/// Also what has taken a session of its own.
pub async fn daemons_end_with_their_leader(environment: Environment) {
    let child = leave(&environment, vec![Step::TickForever("ticks".into())]).await;
    leaves_nothing(&environment, child).await;
}

async fn leaves_nothing(environment: &Environment, child: Step) {
    let exit = run(environment, &Scenario::new([child, Step::SleepMs(500), Step::Exit(4)])).await;
    assert_eq!(exit.ending, Ending::Exited(4));
    stops_growing(environment, "ticks").await;
}

/// A child that holds the output open is not waited for.
pub async fn a_child_that_holds_the_pipe_does_not_delay(environment: Environment) {
    let child = Step::LeaveDaemon(vec![Step::SleepMs(120_000)]);
    let scenario = Scenario::new([child]).then_print(OutputStream::Stdout, "done");
    let exit = run(&environment, &scenario).await;
    assert_eq!((exit.ending.clone(), text(&exit)), (Ending::Exited(0), "done".to_owned()));
    assert!(exit.elapsed < Duration::from_secs(60), "{:?}", exit.elapsed);
}
