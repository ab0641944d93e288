//! What the levers of the fake do.

use std::path::Path;
use std::time::Duration;

use forge_conformance::{FakeEnvironment, Scenario};
use forge_domain::{
    ByteRange, CommandIo, CommandRequest, Commands, Ending, EnvironmentError, FileError, Files,
    Lifecycle, Notice, OutputStream,
};
use pretty_assertions::assert_eq;

fn request(scenario: &Scenario) -> CommandRequest {
    CommandRequest::new(scenario.program())
}

#[tokio::test]
async fn a_dropped_output_loses_contact_and_keeps_what_came_before() {
    let fake = FakeEnvironment::new();
    fake.levers().drop_output_after(3);
    let exit = fake.run(request(&Scenario::print("abcdef")), CommandIo::detached()).await.unwrap();
    assert!(matches!(exit.ending, Ending::ContactLost { .. }), "{:?}", exit.ending);
    assert_eq!(exit.output.of(OutputStream::Stdout), b"abc");
    let next = fake.run(request(&Scenario::print("abcdef")), CommandIo::detached()).await.unwrap();
    assert_eq!(next.ending, Ending::Exited(0));
}

#[tokio::test]
async fn a_lost_contact_ends_what_runs_and_fails_what_comes() {
    let fake = FakeEnvironment::new();
    let waiting = Scenario::default().then_sleep(Duration::from_secs(60));
    let command = fake.run(request(&waiting), CommandIo::detached());
    let lose = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        fake.levers().lose_contact();
    };
    let (exit, ()) = tokio::join!(command, lose);
    assert!(matches!(exit.unwrap().ending, Ending::ContactLost { .. }));
    let read = fake.read(Path::new("file"), ByteRange::first(1)).await.unwrap_err();
    let FileError::Environment(error) = read else { panic!("{read:?}") };
    assert!(error.is_retryable(), "{error:?}");
    fake.levers().restore_contact();
    fake.prepare().await.unwrap();
}

#[tokio::test]
async fn the_next_call_fails_and_only_that() {
    let fake = FakeEnvironment::new();
    fake.levers().fail_next("no reason");
    let error = fake.prepare().await.unwrap_err();
    assert!(matches!(error, EnvironmentError::Unavailable { .. }), "{error:?}");
    fake.prepare().await.unwrap();
}

#[tokio::test]
async fn a_stall_lasts_until_it_is_released() {
    let fake = FakeEnvironment::new();
    fake.levers().stall();
    let call = fake.prepare();
    tokio::pin!(call);
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, &mut call).await.is_err());
    fake.levers().release();
    call.await.unwrap();
}

#[tokio::test]
async fn a_recreated_environment_is_told_with_the_next_command() {
    let fake = FakeEnvironment::new();
    fake.levers().recreate_next("it was gone");
    let first = fake.run(request(&Scenario::default()), CommandIo::detached()).await.unwrap();
    let second = fake.run(request(&Scenario::default()), CommandIo::detached()).await.unwrap();
    let expected = Notice::EnvironmentRecreated { reason: "it was gone".to_owned() };
    assert_eq!((first.notices, second.notices), (vec![expected], Vec::new()));
}
