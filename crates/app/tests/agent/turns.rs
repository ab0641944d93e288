//! How turns go on and end: limits, failures of the model, cancellation.

use std::time::Duration;

use crate::stage::{
    Line, Play, Stage, breaks_off, call, calls, calls_from, finished, model_id, says, shell,
};
use forge_app::{AgentConfig, AgentEvent, ToolOutcome, TurnError, TurnOutcome};
use forge_domain::{Message, ModelError, ModelEvent, StopReason, TakenIn, Usage};
use pretty_assertions::assert_eq;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_turn_carries_out_calls_in_order_and_ends_with_the_last_text() {
    let mut play = Play::new(vec![
        calls(&[shell("echo one"), shell("echo two"), shell("fail three")]),
        says("All done."),
    ]);
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::Done);
    assert_eq!((report.text.as_str(), report.model_calls, report.tool_calls), ("All done.", 2, 3));
    assert_eq!(
        play.log(),
        ["prepare", "prepared", "run echo one", "run echo two", "run fail three", "checkpoint"]
    );
    let expected = [
        (false, "one\n[exit code 0; took 0 ms]".to_owned()),
        (false, "two\n[exit code 0; took 0 ms]".to_owned()),
        (true, "three\n[exit code 1; took 0 ms]".to_owned()),
    ];
    assert_eq!(play.results(), expected);
}

#[tokio::test(start_paused = true)]
async fn events_tell_the_turn_in_order() {
    let mut play = Play::new(vec![
        finished(
            vec![
                ModelEvent::Reasoning("hm".to_owned()),
                ModelEvent::Text("Look: ".to_owned()),
                ModelEvent::ToolCallStarted { name: "shell".to_owned() },
                ModelEvent::ToolCall(call(
                    "c1",
                    "shell",
                    r#"{"command":"echo \u001b[1mone\n","description":"say\none"}"#,
                )),
                ModelEvent::Usage(Usage { input_tokens: Some(7), ..Usage::default() }),
            ],
            StopReason::ToolCalls,
        ),
        says("Done."),
    ]);
    play.prompt("go").await.unwrap();
    insta::assert_debug_snapshot!(play.audience.events);
}

#[tokio::test(start_paused = true)]
async fn the_second_prompt_continues_the_conversation() {
    let mut play = Play::new(vec![says("One."), says("Two.")]);
    play.prompt("first").await.unwrap();
    play.prompt("second").await.unwrap();
    let assistant = |text: &str| Message::Assistant { text: text.to_owned(), tool_calls: vec![] };
    let expected = vec![
        Message::User("first".to_owned()),
        assistant("One."),
        Message::User("second".to_owned()),
    ];
    assert_eq!(play.sent(1), expected);
}

#[tokio::test(start_paused = true)]
async fn an_empty_prompt_is_refused_without_asking_the_model() {
    let mut play = Play::new(vec![]);
    let actual = play.prompt(" \n").await;
    assert!(matches!(actual, Err(TurnError::EmptyPrompt)), "{actual:?}");
    assert!(play.conversation.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_model_calls_ends_the_turn() {
    let config = AgentConfig::default().max_model_calls(2u32);
    let lines = vec![calls(&[shell("echo a")]), calls_from(2, &[shell("echo b")])];
    let mut play = Play::with(lines, config, Stage::default(), vec![]);
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::TurnLimit { limit: 2 });
    assert_eq!(play.results().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_failing_call_is_warned_about_and_then_ends_the_turn() {
    let lines = (1..=5).map(|id| calls_from(id, &[shell("fail x"), ("list", json!({}))])).collect();
    let mut play = Play::new(lines);
    let report = play.prompt("go").await.unwrap();
    let expected = TurnOutcome::RepeatedFailures { tool: "shell".to_owned(), count: 5 };
    assert_eq!(report.outcome, expected);
    let results = play.results();
    let warned = |index: usize| results[index].1.contains("has failed");
    assert_eq!([0, 2, 4, 6, 8].map(warned), [false, false, true, true, true]);
    assert_eq!(
        results[9],
        (
            true,
            "This call was not carried out: the turn ended since a call failed repeatedly."
                .to_owned()
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_in_between_makes_the_same_failure_a_new_one() {
    let mut lines: Vec<Line> = (0..6)
        .map(|n| {
            calls_from(n * 2, &[shell("fail x"), ("write", json!({"path": "a", "content": "b"}))])
        })
        .collect();
    lines.push(says("I give up."));
    let report = Play::new(lines).prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::Done);
}

#[tokio::test(start_paused = true)]
async fn empty_answers_are_asked_about_and_then_end_the_turn() {
    let empty = || finished(vec![], StopReason::Done);
    let mut play = Play::new(vec![empty(), empty(), empty()]);
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::EmptyAnswers { count: 3 });
    assert_eq!(play.conversation.messages(), [Message::User("go".to_owned())]);
    assert_eq!(play.sent(0), [Message::User("go".to_owned())]);
    let [Message::User(asked)] = &play.sent(1)[..] else { panic!("{:?}", play.sent(1)) };
    assert!(asked.starts_with("go\n\nYour last answer was empty."), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_broken_off_answer_is_carried_out_and_it_is_asked_for_again() {
    let half = ModelEvent::ToolCall(call("h", "shell", r#"{"command":"echo half"}"#));
    let mut play = Play::new(vec![
        breaks_off(vec![ModelEvent::Text("I will".to_owned()), half]),
        // A stream that ends without `Finished` was cut, too.
        Line::Answer(vec![Ok(ModelEvent::Text("I wi".to_owned()))]),
        says("Whole."),
    ]);
    let report = play.prompt("go").await.unwrap();
    assert_eq!((report.outcome, report.text.as_str()), (TurnOutcome::Done, "Whole."));
    assert!(!play.log().contains(&"run echo half".to_owned()));
    let notices: Vec<&AgentEvent> =
        play.audience.events.iter().filter(|e| matches!(e, AgentEvent::Notice(_))).collect();
    insta::assert_debug_snapshot!(notices);
    assert_eq!(play.conversation.messages().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_breaks_off_again_and_again_ends_the_turn_and_leaves_no_trace() {
    let text = || vec![ModelEvent::Text("x".to_owned())];
    let mut play =
        Play::new(vec![breaks_off(text()), breaks_off(text()), breaks_off(text()), says("ok")]);
    let actual = play.prompt("go").await;
    let Err(TurnError::Model(ModelError::BrokenOff { .. })) = actual else { panic!("{actual:?}") };
    assert!(play.conversation.is_empty());
    assert_eq!(play.prompt("again").await.unwrap().outcome, TurnOutcome::Done);
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_surfaces_and_keeps_the_finished_steps() {
    let rejected = || {
        Line::Refuse(ModelError::Rejected {
            model: model_id(),
            status: 400,
            message: "too long".to_owned(),
        })
    };
    let mut play = Play::new(vec![calls(&[shell("echo a")]), rejected(), rejected()]);
    let actual = play.prompt("go").await.map_err(|error| error.to_string());
    assert_eq!(actual, Err("test/scripted refused the request (status 400): too long".to_owned()));
    assert_eq!(play.conversation.messages().len(), 3);
    // The next prompt was not answered at all: it leaves no trace.
    let before = play.conversation.clone();
    play.prompt("more").await.unwrap_err();
    assert_eq!(play.conversation, before);
}

#[tokio::test(start_paused = true)]
async fn an_answer_at_its_length_limit_carries_nothing_out() {
    let long = |id: &str| {
        let call = call(id, "shell", r#"{"command":"echo cut"}"#);
        finished(vec![ModelEvent::ToolCall(call)], StopReason::Length)
    };
    let mut play = Play::new(vec![long("1"), long("2"), long("3")]);
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::LengthLimit);
    assert!(!play.log().iter().any(|line| line.starts_with("run")));
    assert!(play.results()[0].1.contains("Make smaller calls"));

    let text = finished(vec![ModelEvent::Text("Once upon".to_owned())], StopReason::Length);
    let report = Play::new(vec![text]).prompt("go").await.unwrap();
    assert_eq!((report.outcome, report.text.as_str()), (TurnOutcome::LengthLimit, "Once upon"));
}

#[tokio::test(start_paused = true)]
async fn a_filtered_answer_ends_the_turn() {
    let report =
        Play::new(vec![finished(vec![], StopReason::Filtered)]).prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::Filtered);
}

#[tokio::test(start_paused = true)]
async fn calls_count_even_where_the_server_calls_the_answer_done() {
    let odd = finished(
        vec![ModelEvent::ToolCall(call("1", "shell", r#"{"command":"echo a"}"#))],
        StopReason::Other("odd".to_owned()),
    );
    let mut play = Play::new(vec![odd, says("Done.")]);
    assert_eq!(play.prompt("go").await.unwrap().outcome, TurnOutcome::Done);
    assert!(play.log().contains(&"run echo a".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_failing_environment_ends_the_turn_and_every_call_has_its_result() {
    let mut play = Play::new(vec![calls(&[shell("echo a"), shell("lost"), shell("echo b")])]);
    let actual = play.prompt("go").await;
    assert!(matches!(actual, Err(TurnError::Environment(_))), "{actual:?}");
    let results = play.results();
    assert_eq!(results.len(), 3);
    assert_eq!(
        results[2],
        (true, "This call was not carried out: the environment failed.".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn cancelling_keeps_what_the_command_printed_and_skips_the_rest() {
    let lines = vec![calls(&[shell("hang"), shell("echo never")]), says("And on.")];
    let mut play =
        Play::new(lines).cancel_at(|event| matches!(event, AgentEvent::ToolOutput { .. }));
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::Cancelled);
    let expected = [
        (true, "begun\nended\n[cancelled; took 0 ms]".to_owned()),
        (true, "This call was not carried out: the turn was ended.".to_owned()),
    ];
    assert_eq!(play.results(), expected);
    assert_eq!(*play.stage.cancelled.lock().unwrap(), ["hang"]);
    play.forget_cancellation();
    assert_eq!(play.prompt("go on").await.unwrap().outcome, TurnOutcome::Done);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_does_not_end_when_cancelled_is_dropped_and_its_output_kept() {
    let mut play = Play::new(vec![calls(&[shell("deaf")])])
        .cancel_at(|event| matches!(event, AgentEvent::ToolOutput { .. }));
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::Cancelled);
    let expected = "begun\n[cancelled; the environment did not confirm within 5 s that it ended]";
    assert_eq!(play.results(), [(true, expected.to_owned())]);
    assert_eq!(*play.stage.dropped.lock().unwrap(), ["deaf"]);
}

#[tokio::test(start_paused = true)]
async fn cancelling_while_the_model_speaks_keeps_what_was_read() {
    let call = ModelEvent::ToolCall(call("1", "shell", r#"{"command":"echo a"}"#));
    let events = vec![call, ModelEvent::Text("Half a".to_owned())];
    let mut play = Play::new(vec![Line::Silence(events)])
        .cancel_at(|event| matches!(event, AgentEvent::Text(_)));
    let report = play.prompt("go").await.unwrap();
    assert_eq!((report.outcome, report.text.as_str()), (TurnOutcome::Cancelled, "Half a"));
    assert!(!play.log().iter().any(|line| line.starts_with("run")));
    assert_eq!(
        play.conversation.messages()[1],
        Message::Assistant { text: "Half a".to_owned(), tool_calls: vec![] }
    );
}

#[tokio::test(start_paused = true)]
async fn a_turn_cancelled_before_its_answer_keeps_the_prompt_for_the_next() {
    let mut play = Play::new(vec![Line::Silence(vec![]), says("Yes.")]);
    let cancel = tokio_util::sync::CancellationToken::new();
    let later = cancel.clone();
    let turn = play.agent.run_turn(
        &mut play.conversation,
        "first".to_owned(),
        &mut play.audience,
        &cancel,
    );
    let (report, ()) = tokio::join!(turn, async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        later.cancel();
    });
    assert_eq!(report.unwrap().outcome, TurnOutcome::Cancelled);
    play.prompt("second").await.unwrap();
    assert_eq!(play.sent(1), [Message::User("first\n\nsecond".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_turn_drops_its_command_and_the_next_turn_mends_the_conversation() {
    let mut play = Play::new(vec![calls(&[shell("hang")]), says("Yes.")]);
    let turn = tokio::time::timeout(Duration::from_secs(1), play.prompt("go")).await;
    assert!(turn.is_err(), "the command hangs");
    assert_eq!(*play.stage.dropped.lock().unwrap(), ["hang"]);
    play.prompt("still there?").await.unwrap();
    assert!(play.results()[0].1.contains("interrupted"), "{:?}", play.results());
}

#[tokio::test(start_paused = true)]
async fn the_task_time_limit_ends_the_command_and_the_turn() {
    let limit = Duration::from_secs(20);
    let config = AgentConfig::default().task_time_limit(limit);
    let mut play = Play::with(vec![calls(&[shell("hang")])], config, Stage::default(), vec![]);
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::TimedOut { limit });
    assert_eq!(*play.stage.cancelled.lock().unwrap(), ["hang"]);
}

#[tokio::test(start_paused = true)]
async fn the_environment_starts_while_the_model_still_speaks() {
    let stage = Stage { prepare_takes: Duration::from_secs(5), ..Stage::default() };
    let line = Line::Silence(vec![ModelEvent::ToolCallStarted { name: "shell".to_owned() }]);
    let mut play = Play::with(vec![line], AgentConfig::default(), stage, vec![]);
    let turn = tokio::time::timeout(Duration::from_secs(60), play.prompt("go")).await;
    assert!(turn.is_err(), "the model is silent");
    assert_eq!(play.log(), ["prepare", "prepared"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_a_turn_no_longer_needs_is_given_up_before_what_it_made_is_brought_to_safety()
{
    let stage = Stage { prepare_takes: Duration::from_secs(5), ..Stage::default() };
    let line = Line::Silence(vec![ModelEvent::ToolCallStarted { name: "shell".to_owned() }]);
    let limit = Duration::from_secs(1);
    let config = AgentConfig::default().task_time_limit(limit);
    let mut play = Play::with(vec![line], config, stage, vec![]);
    let report = play.prompt("go").await.unwrap();
    assert_eq!(report.outcome, TurnOutcome::TimedOut { limit });
    assert_eq!(play.log(), ["prepare", "given up", "checkpoint"]);
}

#[tokio::test(start_paused = true)]
async fn a_prompt_of_ten_megabytes_reaches_the_model_whole() {
    let prompt = "x".repeat(10_000_000);
    let mut play = Play::new(vec![calls(&[shell("echo a")]), says("Done.")]);
    assert_eq!(play.prompt(&prompt).await.unwrap().outcome, TurnOutcome::Done);
    assert_eq!(play.sent(1)[0], Message::User(prompt));
}

#[tokio::test(start_paused = true)]
async fn what_answers_cost_is_added_up() {
    let cost = |input| ModelEvent::Usage(Usage { input_tokens: Some(input), ..Usage::default() });
    let mut first = vec![cost(5)];
    first.push(ModelEvent::ToolCall(call("1", "shell", r#"{"command":"echo a"}"#)));
    let mut play = Play::new(vec![
        finished(first, StopReason::ToolCalls),
        finished(vec![cost(7), ModelEvent::Text("x".to_owned())], StopReason::Done),
    ]);
    let report = play.prompt("go").await.unwrap();
    let expected = Usage { input_tokens: Some(12), ..Usage::default() };
    assert_eq!(report.usage, expected);
}

#[tokio::test(start_paused = true)]
async fn finished_calls_tell_how_they_went() {
    let mut play = Play::new(vec![calls(&[shell("echo a"), shell("fail b")]), says("ok")]);
    play.prompt("go").await.unwrap();
    let outcomes: Vec<(ToolOutcome, String)> = play
        .audience
        .events
        .into_iter()
        .filter_map(|event| match event {
            AgentEvent::ToolFinished { outcome, detail, .. } => Some((outcome, detail)),
            _ => None,
        })
        .collect();
    let expected = [
        (ToolOutcome::Succeeded, "exit code 0".to_owned()),
        (ToolOutcome::Failed, "exit code 1".to_owned()),
    ];
    assert_eq!(outcomes, expected);
}

#[test]
fn a_turn_can_move_between_threads() {
    fn assert_send<T: Send>(_: &T) {}
    let mut play = Play::new(vec![]);
    let cancel = tokio_util::sync::CancellationToken::new();
    let prompt = "go".to_owned();
    let turn = play.agent.run_turn(&mut play.conversation, prompt, &mut play.audience, &cancel);
    assert_send(&turn);
}

#[tokio::test(start_paused = true)]
async fn what_the_user_changed_on_both_sides_is_said_before_the_model_is_asked() {
    let conflicts = (0..12).map(|number| format!("dir/\u{1b}[31m{number:02}").into()).collect();
    let taken_in = TakenIn { updated_paths: 1, conflicts, is_partial: true };
    let stage = Stage { taken_in: Some(taken_in), ..Stage::default() };
    let mut play = Play::with(vec![says("Done.")], AgentConfig::default(), stage, vec![]);
    play.prompt("go").await.unwrap();
    let events = play.audience.events.iter();
    let said: Vec<&str> = events
        .map_while(|event| match event {
            AgentEvent::Notice(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(said.len(), 12, "{said:#?}");
    assert!(said[0].starts_with("dir/") && !said[0].contains('\u{1b}'), "{:?}", said[0]);
    assert_eq!(said[10], "and 2 more were changed on both sides");
    assert!(said[11].starts_with("background commands run"), "{:?}", said[11]);
}
