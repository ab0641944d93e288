//! Whole turns in the strict fake, which keeps the contracts to the letter and fails by its levers.

use std::time::Duration;

use forge_app::{TurnError, TurnOutcome};
use forge_conformance::{FakeEnvironment, Scenario, Step};
use forge_domain::{BackgroundCommands, EnvironmentError, Lifecycle};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use crate::stage::{Line, Play, calls, calls_from, says, shell};

async fn results(fake: &FakeEnvironment, asked: &[(&str, Value)]) -> Vec<String> {
    let mut play = Play::within(fake.clone(), vec![calls(asked), says("ok")]);
    play.prompt("go").await.unwrap();
    play.results().into_iter().map(|(_, text)| text).collect()
}

/// The first line of each, without the time that a command took.
fn heads(results: &[String]) -> Vec<&str> {
    results.iter().map(|text| text.lines().next().unwrap_or_default()).collect()
}

#[tokio::test(start_paused = true)]
async fn every_tool_sees_what_the_others_did() {
    let fake = FakeEnvironment::new();
    let asked = [
        ("write", json!({"path": "src/a.txt", "content": "one\ntwo\n"})),
        shell("cat src/a.txt"),
        ("edit", json!({"path": "src/a.txt", "old_text": "two", "new_text": "three"})),
        ("read", json!({"path": "src/a.txt", "start_line": 2})),
        ("search", json!({"pattern": "thr.e"})),
        ("search", json!({"globs": ["*.txt"]})),
        ("list", json!({"path": "src"})),
        ("remove", json!({"path": "src"})),
        ("remove", json!({"path": "src", "recursive": true})),
        ("read", json!({"path": "src/a.txt"})),
    ];
    insta::assert_snapshot!(heads(&results(&fake, &asked).await).join("\n"));
}

#[tokio::test(start_paused = true)]
async fn what_was_left_out_of_the_output_can_be_read_from_the_file_that_is_named() {
    let fake = FakeEnvironment::new();
    fake.on_command("flood", Scenario::print("begin\n").then(Step::PrintMany(100_000)));
    let told = results(&fake, &[shell("flood")]).await.remove(0);
    let (_, after) = told.split_once("The whole is in ").unwrap();
    let (path, _) = after.split_once(" …]").unwrap();
    let read = results(&fake, &[("read", json!({"path": path, "end_line": 1}))]).await.remove(0);
    assert!(read.starts_with("     1\tbegin\n"), "{read}");
    assert_eq!(fake.file(path).unwrap().len(), 100_006);
}

#[tokio::test(start_paused = true)]
async fn a_path_outside_is_refused_with_what_can_be_reached() {
    let fake = FakeEnvironment::new();
    let asked = [("read", json!({"path": "/elsewhere/file"}))];
    insta::assert_snapshot!(results(&fake, &asked).await.remove(0));
}

#[tokio::test(start_paused = true)]
async fn a_background_command_is_started_followed_and_stopped() {
    let fake = FakeEnvironment::new();
    fake.on_command(
        "serve",
        Scenario::print("listening\n").then(Step::SleepMs(5000)).then(Step::Print(b"one\n".into())),
    );
    let lines =
        vec![calls(&[("shell", json!({"command": "serve", "background": true}))]), says("ok")];
    let mut play = Play::within(fake.clone(), lines);
    play.prompt("go").await.unwrap();
    let id = fake.list_background().await.unwrap()[0].id.to_string();
    play.add(vec![
        calls_from(2, &[("process_output", json!({"id": id, "wait": 60}))]),
        calls_from(3, &[("process_output", json!({"id": "unknown"}))]),
        calls_from(4, &[("process_stop", json!({ "id": id }))]),
        says("ok"),
    ]);
    play.prompt("go on").await.unwrap();
    let told: Vec<String> = play.results().into_iter().map(|(_, text)| text).collect();
    let expected = [
        format!("Started in the background as `{id}`.\nlistening\n[`{id}` is running]"),
        format!("one\n[`{id}` has ended: exit code 0]"),
        format!("There is no background command `unknown`. There are: {id}."),
        format!("[no new output]\n[`{id}` has ended: exit code 0]"),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn an_environment_that_fails_ends_the_turn_and_the_next_one_works() {
    let fake = FakeEnvironment::new();
    fake.on_command("wait", Scenario::default().then(Step::SleepMs(5000)));
    let mut play = Play::within(
        fake.clone(),
        vec![calls(&[shell("wait"), shell("true"), shell("false")]), says("ok")],
    );
    fake.levers().fail_next("no more machines");
    let actual = play.prompt("go").await.map_err(|error| error.to_string());
    assert_eq!(actual, Err("the fake environment cannot be had: no more machines".to_owned()));
    assert!(play.conversation.is_empty(), "the model was not even asked");
    // And now in the middle of the calls.
    let losing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fake.levers().lose_contact();
    };
    let (actual, ()) = tokio::join!(play.prompt("go"), losing);
    let Err(TurnError::Environment(EnvironmentError::ContactLost { .. })) = actual else {
        panic!("{actual:?}")
    };
    let told: Vec<String> = play.results().into_iter().map(|(_, text)| text).collect();
    assert_eq!(told.len(), 3);
    assert!(told[0].contains("[contact lost"), "{told:?}");
    assert_eq!(told[2], "This call was not carried out: the environment failed.");
    fake.levers().restore_contact();
    assert_eq!(play.prompt("again").await.unwrap().outcome, TurnOutcome::Done);
}

#[tokio::test(start_paused = true)]
async fn a_lost_contact_is_told_with_the_output_there_was() {
    let fake = FakeEnvironment::new();
    fake.on_command("speak", Scenario::print("abcdef").then(Step::SleepMs(1000)));
    fake.levers().drop_output_after(3);
    let told = results(&fake, &[shell("speak")]).await.remove(0);
    assert!(told.starts_with("abc\n[contact lost"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_recreated_environment_is_told() {
    let fake = FakeEnvironment::new();
    fake.levers().recreate_next("it was terminated");
    let told = results(&fake, &[shell("true")]).await.remove(0);
    assert!(told.starts_with("[The environment had to be made anew"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_a_turn_in_an_environment_that_stands_still() {
    let fake = FakeEnvironment::new();
    let deaf = Scenario::new([Step::IgnoreSignals]);
    fake.on_command("wait", deaf.then(Step::Print(b"begun".into())).then(Step::SleepMs(u64::MAX)));
    let mut play =
        Play::within(fake.clone(), vec![calls(&[shell("wait"), shell("true")]), says("Yes.")]);
    let cancel = play.canceller();
    let stalling = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fake.levers().stall();
        cancel.cancel();
    };
    let (report, ()) = tokio::join!(play.prompt("go"), stalling);
    assert_eq!(report.unwrap().outcome, TurnOutcome::Cancelled);
    assert_eq!(fake.history(), ["wait"]);
    assert!(play.results()[0].1.starts_with("begun\n[cancelled"), "{:?}", play.results());
    fake.levers().release();
    play.forget_cancellation();
    assert_eq!(play.prompt("still there?").await.unwrap().outcome, TurnOutcome::Done);
}

#[tokio::test(start_paused = true)]
async fn a_closed_environment_ends_the_turn() {
    let fake = FakeEnvironment::new();
    fake.close().await.unwrap();
    let line: Vec<Line> = vec![];
    let actual = Play::within(fake, line).prompt("go").await;
    let Err(TurnError::Environment(EnvironmentError::Closed { .. })) = actual else {
        panic!("{actual:?}")
    };
}
