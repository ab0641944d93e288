//! What is done before tools act.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use forge_app::{AgentEvent, EventSink, Setup, TurnError, TurnOutcome};
use pretty_assertions::assert_eq;

use crate::stage::{Play, Stage, calls, lost, says, shell};

/// Notes in the stage's log when it was called, and does as it was told.
#[derive(Debug)]
struct Scripted {
    stage: Arc<Stage>,
    answers: Mutex<Vec<Result<(), TurnError>>>,
    takes: Duration,
}

#[async_trait]
impl Setup for Scripted {
    async fn set_up(&self, events: &mut dyn EventSink) -> Result<(), TurnError> {
        self.stage.log.lock().unwrap().push("set up".to_owned());
        events.event(AgentEvent::Notice("setting up".to_owned())).await;
        tokio::time::sleep(self.takes).await;
        self.answers.lock().unwrap().pop().unwrap_or(Ok(()))
    }
}

fn set_up(play: &Play, answers: Vec<Result<(), TurnError>>, takes: Duration) {
    let (stage, answers) = (Arc::clone(&play.stage), Mutex::new(answers));
    play.agent.set_up_by(Arc::new(Scripted { stage, answers, takes }));
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_for_before_the_calls_of_each_answer_and_not_without_calls() {
    let mut play = Play::new(vec![
        says("Hello."),
        calls(&[shell("echo a"), shell("echo b")]),
        calls(&[shell("echo c")]),
        says("Done."),
    ]);
    set_up(&play, vec![], Duration::ZERO);
    play.prompt("hello").await.unwrap();
    assert_eq!(play.log(), ["checkpoint"]);
    play.prompt("go").await.unwrap();
    let expected = [
        "checkpoint",
        "prepare",
        "prepared",
        "set up",
        "run echo a",
        "run echo b",
        "prepare",
        "prepared",
        "set up",
        "run echo c",
        "checkpoint",
    ];
    assert_eq!(play.log(), expected);
}

#[tokio::test(start_paused = true)]
async fn where_it_fails_the_turn_ends_and_every_call_has_its_result() {
    for (error, shown) in [
        (TurnError::Setup("it exited with 1".into()), "the environment could not be set up"),
        (lost().into(), "the environment failed"),
    ] {
        let mut play = Play::new(vec![calls(&[shell("echo a"), shell("echo b")]), says("Done.")]);
        let message = error.to_string();
        set_up(&play, vec![Err(error)], Duration::ZERO);
        assert_eq!(play.prompt("go").await.unwrap_err().to_string(), message);
        assert!(!play.log().iter().any(|line| line.starts_with("run")));
        let refused = (true, format!("This call was not carried out: {shown}."));
        assert_eq!(play.results(), [refused.clone(), refused]);
        // The conversation goes on.
        assert_eq!(play.prompt("again").await.unwrap().outcome, TurnOutcome::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_drops_it() {
    let mut play = Play::new(vec![calls(&[shell("echo a")])])
        .cancel_at(|event| matches!(event, AgentEvent::Notice(_)));
    set_up(&play, vec![], Duration::from_secs(1000));
    let before = tokio::time::Instant::now();
    assert_eq!(play.prompt("go").await.unwrap().outcome, TurnOutcome::Cancelled);
    assert!(before.elapsed() < Duration::from_secs(1));
    assert!(!play.log().iter().any(|line| line.starts_with("run")));
}
