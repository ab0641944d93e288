//! Background commands.

use std::time::Duration;

use forge_domain::{
    BackgroundError, BackgroundId, BackgroundStatus, CommandError, CommandRequest, Ending,
    OutputOffset, Program, StopMethod,
};
use pretty_assertions::assert_eq;

use super::probe::{Environment, SOON, grows, leave, request, stops_growing, until};
use crate::{Scenario, Step};

const START: OutputOffset = OutputOffset(0);

async fn start(environment: &Environment, scenario: &Scenario) -> BackgroundId {
    environment.start(request(scenario)).await.unwrap()
}

fn output(status: &BackgroundStatus) -> Vec<u8> {
    status.output.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect()
}

/// Polls until the command has ended.
async fn ended(environment: &Environment, id: &BackgroundId) -> BackgroundStatus {
    until(|| async { environment.poll(id, START, SOON).await.unwrap().ending.is_some() }).await;
    environment.poll(id, START, Duration::ZERO).await.unwrap()
}

/// Polls until so many bytes are there.
async fn has(environment: &Environment, id: &BackgroundId, bytes: u64) {
    until(|| async { environment.poll(id, START, SOON).await.unwrap().next.0 >= bytes }).await;
}

/// The start does not wait for the end, and other commands run meanwhile.
pub async fn it_returns_at_once_and_goes_on(environment: Environment) {
    let id = start(&environment, &Scenario::new([Step::TickForever("ticks".into())])).await;
    grows(&environment, "ticks").await;
    grows(&environment, "ticks").await;
    assert_eq!(environment.poll(&id, START, Duration::ZERO).await.unwrap().ending, None);
}

/// What it printed is there, of both streams.
pub async fn its_output_can_be_polled(environment: Environment) {
    let scenario = Scenario::print("out ")
        .then(Step::SleepMs(200))
        .then_print(forge_domain::OutputStream::Stderr, "err")
        .then(Step::SleepMs(60_000));
    let id = start(&environment, &scenario).await;
    has(&environment, &id, 7).await;
    let status = environment.poll(&id, START, Duration::ZERO).await.unwrap();
    assert_eq!((output(&status), status.ending), (b"out err".to_vec(), None));
}

/// A poll takes nothing away.
pub async fn the_same_offset_gives_the_same_output(environment: Environment) {
    let id = start(&environment, &Scenario::print("abcdef")).await;
    let first = ended(&environment, &id).await;
    let second = environment.poll(&id, START, Duration::ZERO).await.unwrap();
    assert_eq!(output(&first), output(&second));
    let rest = environment.poll(&id, OutputOffset(2), Duration::ZERO).await.unwrap();
    assert!(output(&first).ends_with(&output(&rest)) && output(&rest).starts_with(b"cdef"));
}

/// An offset beyond the end is the end.
pub async fn an_offset_beyond_the_end_gives_nothing(environment: Environment) {
    let id = start(&environment, &Scenario::print("abc")).await;
    let end = ended(&environment, &id).await.next;
    let status = environment.poll(&id, OutputOffset(u64::MAX), Duration::ZERO).await.unwrap();
    assert_eq!((output(&status), status.next), (Vec::new(), end));
}

/// A poll with time waits for the first output rather than answering with none.
pub async fn a_poll_waits_for_output(environment: Environment) {
    let scenario =
        Scenario::new([Step::SleepMs(700), Step::Print(b"late\n".to_vec()), Step::SleepMs(60_000)]);
    let id = start(&environment, &scenario).await;
    let status = environment.poll(&id, START, SOON).await.unwrap();
    assert!(output(&status).starts_with(b"l"), "{status:?}");
}

/// A poll without output ends when its time is over.
pub async fn a_poll_gives_up_in_time(environment: Environment) {
    let id = start(&environment, &Scenario::new([Step::SleepMs(60_000)])).await;
    let status = environment.poll(&id, START, Duration::from_millis(100)).await.unwrap();
    assert_eq!((output(&status), status.next, status.ending), (Vec::new(), START, None));
}

/// Its end wakes a poll.
pub async fn its_end_is_told(environment: Environment) {
    let id = start(&environment, &Scenario::new([Step::SleepMs(300)])).await;
    assert_eq!(ended(&environment, &id).await.ending, Some(Ending::Exited(0)));
}

/// Its code stays known.
pub async fn its_code_is_kept(environment: Environment) {
    let id = start(&environment, &Scenario::print("bye").then(Step::Exit(9))).await;
    let status = ended(&environment, &id).await;
    assert_eq!((status.ending.clone(), status.stopped_by), (Some(Ending::Exited(9)), None));
    assert!(output(&status).starts_with(b"bye"));
}

/// Stopping reaches the children too.
pub async fn stopping_ends_it_and_its_children(environment: Environment) {
    let child = leave(&environment, vec![Step::TickForever("ticks".into())]).await;
    let id = start(&environment, &Scenario::new([child, Step::SleepMs(120_000)])).await;
    grows(&environment, "ticks").await;
    let status = environment.stop(&id, START).await.unwrap();
    assert_eq!(status.ending, Some(Ending::Cancelled));
    stops_growing(&environment, "ticks").await;
}

/// A second stop says what the first one did.
pub async fn stopping_twice_keeps_the_ending(environment: Environment) {
    let id = start(&environment, &Scenario::print("x").then(Step::SleepMs(120_000))).await;
    let first = environment.stop(&id, START).await.unwrap();
    let second = environment.stop(&id, START).await.unwrap();
    assert_eq!((first.ending, first.stopped_by), (second.ending, second.stopped_by));
}

/// Who has ended is not ended again.
pub async fn one_that_ended_keeps_its_ending_when_stopped(environment: Environment) {
    let id = start(&environment, &Scenario::new([Step::Exit(5)])).await;
    ended(&environment, &id).await;
    let status = environment.stop(&id, START).await.unwrap();
    assert_eq!((status.ending, status.stopped_by), (Some(Ending::Exited(5)), None));
}

/// The grace is the request's, and then it is killed.
pub async fn one_that_ignores_sigterm_is_killed(environment: Environment) {
    let scenario = Scenario::new([Step::IgnoreSignals, Step::TickForever("ticks".into())]);
    let request = request(&scenario).termination_grace(Duration::from_millis(200));
    let id = environment.start(request).await.unwrap();
    grows(&environment, "ticks").await;
    let status = environment.stop(&id, START).await.unwrap();
    assert_eq!(
        (status.ending, status.stopped_by),
        (Some(Ending::Cancelled), Some(StopMethod::Kill))
    );
    stops_growing(&environment, "ticks").await;
}

/// A time limit holds for it as for others.
pub async fn its_time_limit_holds(environment: Environment) {
    let limit = Duration::from_millis(300);
    let request = request(&Scenario::new([Step::SleepMs(120_000)])).time_limit(limit);
    let id = environment.start(request).await.unwrap();
    assert_eq!(ended(&environment, &id).await.ending, Some(Ending::TimedOut { limit }));
}

/// Its stdin is at its end.
pub async fn it_reads_nothing(environment: Environment) {
    let id = start(&environment, &Scenario::new([Step::CopyStdin, Step::Exit(6)])).await;
    assert_eq!(ended(&environment, &id).await.ending, Some(Ending::Exited(6)));
}

/// All are listed, in order of their start.
pub async fn many_are_listed_in_order(environment: Environment) {
    let mut ids = Vec::new();
    for number in 0..12 {
        ids.push(start(&environment, &Scenario::new([Step::Exit(number)])).await);
    }
    for id in &ids {
        ended(&environment, id).await;
    }
    let listed = environment.list_background().await.unwrap();
    assert_eq!(listed.iter().map(|summary| summary.id.clone()).collect::<Vec<_>>(), ids);
    let endings: Vec<_> = listed.into_iter().map(|summary| summary.ending).collect();
    assert_eq!(endings, (0..12).map(|code| Some(Ending::Exited(code))).collect::<Vec<_>>());
}

/// Nobody else's id is taken.
pub async fn an_unknown_id_is_not_found(environment: Environment) {
    let id = BackgroundId::parse("never-given-out").unwrap();
    let poll = environment.poll(&id, START, Duration::ZERO).await.unwrap_err();
    let stop = environment.stop(&id, START).await.unwrap_err();
    for error in [poll, stop] {
        assert!(matches!(&error, BackgroundError::NotFound { id: i } if *i == id), "{error:?}");
    }
}

/// What cannot be started is said at once.
pub async fn one_that_cannot_start_is_an_error(environment: Environment) {
    let program = Program::argv("no-such-program-anywhere", [""; 0]);
    let error = environment.start(CommandRequest::new(program)).await.unwrap_err();
    assert!(matches!(error, CommandError::NotFound { .. }), "{error:?}");
    assert_eq!(environment.list_background().await.unwrap(), []);
}

/// Of a lot of output the end is kept, and what is gone is counted.
pub async fn at_least_the_last_256_kib_are_kept(environment: Environment) {
    let scenario = Scenario::new([Step::PrintMany(3_000_000)])
        .then_print(forge_domain::OutputStream::Stdout, "end");
    let id = start(&environment, &scenario).await;
    let status = ended(&environment, &id).await;
    let kept = output(&status);
    assert!(kept.len() >= 256 * 1024, "{}", kept.len());
    assert!(String::from_utf8_lossy(&kept).trim_end().ends_with("end"));
    assert_eq!(status.skipped_bytes + kept.len() as u64, status.next.0);
}
