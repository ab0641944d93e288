//! Before which calls the user is asked, and what follows from the answer.

use crate::stage::{Play, Stage, calls, says, shell};
use forge_app::{AgentConfig, AgentEvent, AskPolicy, ToolOutcome, TurnOutcome};
use forge_domain::{Approval, ApprovalRequest, Risk};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

fn play(ask: AskPolicy, asked: &[(&str, Value)], answers: Vec<Approval>) -> Play {
    let config = AgentConfig::default().ask(ask);
    Play::with(vec![calls(asked), says("ok")], config, Stage::default(), answers)
}

fn every_kind() -> Vec<(&'static str, Value)> {
    vec![
        shell("echo a"),
        shell("echo sudo"),
        ("write", json!({"path": "a", "content": "b"})),
        ("edit", json!({"path": "a", "old_text": "b", "new_text": "c"})),
        ("remove", json!({"path": "a"})),
        ("remove", json!({"path": "a", "recursive": true})),
        ("read", json!({"path": "a"})),
        ("list", json!({})),
        ("search", json!({"pattern": "x"})),
        ("process_output", json!({"id": "b1"})),
        ("process_stop", json!({"id": "b1"})),
    ]
}

async fn asked(ask: AskPolicy) -> Vec<String> {
    let answers = std::iter::repeat_n(Approval::Once, 20).collect();
    let mut play = play(ask, &every_kind(), answers);
    play.prompt("go").await.unwrap();
    let asked = play.user.asked.lock().unwrap();
    asked.iter().map(|request| request.action.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn each_policy_asks_about_its_own_calls() {
    assert_eq!(asked(AskPolicy::Never).await, Vec::<String>::new());
    assert_eq!(asked(AskPolicy::Risky).await, ["echo sudo", "remove a with everything in it"]);
    let expected =
        ["echo a", "echo sudo", "write a", "edit a", "remove a", "remove a with everything in it"];
    assert_eq!(asked(AskPolicy::Always).await, expected);
}

#[tokio::test(start_paused = true)]
async fn the_question_shows_the_whole_command_its_purpose_and_its_risk() {
    let command = format!("echo {}\nrm -rf \u{1b}[8mx", "a".repeat(500));
    let arguments = json!({"command": command, "description": "clean up"});
    let mut play = play(AskPolicy::Always, &[("shell", arguments)], vec![Approval::Once]);
    play.prompt("go").await.unwrap();
    let expected = ApprovalRequest {
        action: format!("echo {} ⏎ rm -rf \\x1b[8mx", "a".repeat(500)),
        purpose: Some("clean up".to_owned()),
        risk: Risk::Risky { because: "removes files recursively" },
    };
    assert_eq!(*play.user.asked.lock().unwrap(), [expected]);
}

#[tokio::test(start_paused = true)]
async fn a_denial_and_its_reason_go_to_the_model_and_the_turn_goes_on() {
    let denied = Approval::Denied { reason: Some("use make".to_owned()) };
    let mut play =
        play(AskPolicy::Always, &[shell("echo a"), shell("echo b")], vec![denied, Approval::Once]);
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::Done);
    assert!(!play.log().contains(&"run echo a".to_owned()));
    assert!(play.log().contains(&"run echo b".to_owned()));
    let (is_error, text) = &play.results()[0];
    assert!(*is_error && text.contains("said: use make"), "{text}");
    let denied = |event: &AgentEvent| {
        matches!(event, AgentEvent::ToolFinished { outcome: ToolOutcome::Denied, .. })
    };
    assert_eq!(play.audience.events.iter().filter(|event| denied(event)).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_user_who_says_all_this_session_is_asked_no_more_in_later_turns_too() {
    let config = AgentConfig::default().ask(AskPolicy::Always);
    let lines = vec![
        calls(&[shell("echo a"), shell("echo b")]),
        says("ok"),
        calls(&[shell("echo c")]),
        says("ok"),
    ];
    let mut play = Play::with(lines, config, Stage::default(), vec![Approval::Session]);
    play.prompt("go").await.unwrap();
    play.prompt("more").await.unwrap();
    assert_eq!(play.user.asked.lock().unwrap().len(), 1);
    assert!(play.log().contains(&"run echo c".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_user_who_aborts_ends_the_turn_and_nothing_more_is_done() {
    let mut play = play(
        AskPolicy::Always,
        &[shell("echo a"), shell("echo b")],
        vec![Approval::Once, Approval::Abort],
    );
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::Cancelled);
    assert!(!play.log().contains(&"run echo b".to_owned()));
    assert_eq!(play.results().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn cancelling_withdraws_the_question() {
    let mut play =
        play(AskPolicy::Always, &[shell("echo a"), shell("echo b")], vec![Approval::Once])
            .cancel_at(|event| matches!(event, AgentEvent::ToolFinished { .. }));
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::Cancelled);
    assert!(!play.log().contains(&"run echo b".to_owned()));
}
