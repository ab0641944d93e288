//! What the tools tell the model, and how calls stand to each other.

use std::time::Duration;

use crate::stage::{Line, Play, Stage, call, calls, finished, says, shell};
use bytes::Bytes;
use forge_app::AgentConfig;
use forge_domain::Network;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

fn stage_with(files: &[(&str, &[u8])]) -> Stage {
    let stage = Stage::default();
    for (path, bytes) in files {
        stage.files.lock().unwrap().insert((*path).into(), Bytes::copy_from_slice(bytes));
    }
    stage
}

async fn played(stage: Stage, line: Line) -> Play {
    let mut play = Play::with(vec![line, says("ok")], AgentConfig::default(), stage, vec![]);
    play.prompt("go").await.unwrap();
    play
}

/// The result of one call.
async fn result(stage: Stage, tool: &str, arguments: Value) -> String {
    let play = played(stage, calls(&[(tool, arguments)])).await;
    play.results().remove(0).1
}

#[tokio::test(start_paused = true)]
async fn the_tools_as_the_model_sees_them() {
    let play = played(Stage::default(), calls(&[shell("echo a")])).await;
    let requests = play.model.requests.lock().unwrap();
    let tools: Vec<Value> = requests[0]
        .tools
        .iter()
        .map(|tool| {
            json!({
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            })
        })
        .collect();
    insta::assert_json_snapshot!(tools);
}

#[tokio::test(start_paused = true)]
async fn arguments_that_do_not_fit_are_explained() {
    let wrong = [
        r#"{"path": "a", "start_line": "five"}"#,
        r#"{"file": "a"}"#,
        r#"{"start_line": 1}"#,
        r#"{"path": "a""#,
        r#"["a"]"#,
        "",
    ];
    let call = |(index, arguments): (usize, &&str)| {
        forge_domain::ModelEvent::ToolCall(call(&index.to_string(), "read", arguments))
    };
    let events = wrong.iter().enumerate().map(call).collect();
    let line = finished(events, forge_domain::StopReason::ToolCalls);
    let play = played(Stage::default(), line).await;
    assert!(play.results().iter().all(|(is_error, _)| *is_error));
    let texts: Vec<String> = play.results().into_iter().map(|(_, text)| text).collect();
    insta::assert_snapshot!(texts.join("\n\n"));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_tool_is_answered_with_the_tools_there_are() {
    let names = ["bash", "red", "file_read", "launch_missiles"];
    let asked: Vec<(&str, Value)> = names.into_iter().map(|name| (name, json!({}))).collect();
    let play = played(Stage::default(), calls(&asked)).await;
    let texts: Vec<String> = play.results().into_iter().map(|(_, text)| text).collect();
    insta::assert_snapshot!(texts.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn neighbouring_reads_run_together_and_a_write_waits_for_them() {
    let read = |path: &str| ("read", json!({ "path": path }));
    let write = ("write", json!({"path": "a", "content": "new\n"}));
    let stage = Stage {
        read_takes: Duration::from_secs(1),
        ..stage_with(&[("a", b"old\n"), ("b", b"b\n")])
    };
    let line = calls(&[read("a"), read("b"), write, read("a"), shell("cat a")]);
    let began = tokio::time::Instant::now();
    let play = played(stage, line).await;
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(play.stage.reading.lock().unwrap().1, 2);
    let texts: Vec<String> = play.results().into_iter().map(|(_, text)| text).collect();
    let expected = [
        "     1\told\n",
        "     1\tb\n",
        "Replaced a (1 line, 4 bytes).",
        "     1\tnew\n",
        "new\n[exit code 0; took 0 ms]",
    ];
    assert_eq!(texts, expected);
}

#[tokio::test(start_paused = true)]
async fn results_stand_in_the_order_of_the_calls_whichever_ends_first() {
    let stage = Stage { read_takes: Duration::from_secs(1), ..stage_with(&[("a", b"a\n")]) };
    let line = calls(&[("read", json!({"path": "a"})), ("list", json!({}))]);
    let play = played(stage, line).await;
    let texts: Vec<String> = play.results().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["     1\ta\n", "a  2 bytes\n"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_file_is_read_in_parts() {
    let text: String = (1..=5000).map(|n| format!("line {n}\n")).collect();
    let stage = || stage_with(&[("a", text.as_bytes())]);
    let actual = result(stage(), "read", json!({"path": "a"})).await;
    assert!(actual.starts_with("     1\tline 1\n"), "{actual}");
    assert!(
        actual.ends_with(
            "  2000\tline 2000\n[Lines 1 to 2000 of 5000 (47.7 KiB). Go on with start_line 2001.]"
        ),
        "{}",
        &actual[actual.len() - 200..]
    );
    let actual = result(stage(), "read", json!({"path": "a", "start_line": 4999})).await;
    assert_eq!(actual, "  4999\tline 4999\n  5000\tline 5000\n");
    let actual =
        result(stage(), "read", json!({"path": "a", "start_line": 9, "end_line": 9})).await;
    assert_eq!(
        actual,
        "     9\tline 9\n[Lines 9 to 9 of 5000 (47.7 KiB). Go on with start_line 10.]"
    );
    let actual = result(stage(), "read", json!({"path": "a", "start_line": 6000})).await;
    assert_eq!(actual, "The file has only 5000 lines (47.7 KiB); there is no line 6000.");
}

#[tokio::test(start_paused = true)]
async fn a_file_of_many_megabytes_is_read_no_further_than_needed() {
    let stage = stage_with(&[("a", &b"0123456789\n".repeat(2_000_000))]);
    let play = played(stage, calls(&[("read", json!({"path": "a"}))])).await;
    assert_eq!(play.log().iter().filter(|line| *line == "read a").count(), 1);
    assert!(play.results()[0].1.contains("of a file of 21.0 MiB"), "{:?}", play.results());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_read_is_told_with_what_to_do() {
    let stage = || stage_with(&[("main.rs", b"x"), ("bin", b"\x7fELF\0\0"), ("empty", b"")]);
    let mut actual = Vec::new();
    for path in ["mian.rs", "bin", "empty"] {
        actual.push(result(stage(), "read", json!({ "path": path })).await);
    }
    actual.push(
        result(stage(), "read", json!({"path": "bin", "start_line": 3, "end_line": 2})).await,
    );
    insta::assert_snapshot!(actual.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn an_edit_changes_the_file_and_says_where() {
    let stage = stage_with(&[("a", b"one\r\ntwo\r\n")]);
    let arguments = json!({"path": "a", "old_text": "two\n", "new_text": "2\n3\n"});
    let play = played(stage, calls(&[("edit", arguments)])).await;
    assert_eq!(play.results()[0].1, "Replaced 1 occurrence in a, beginning at line 2.");
    let files = play.stage.files.lock().unwrap();
    assert_eq!(files.values().next().unwrap(), &Bytes::from_static(b"one\r\n2\r\n3\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_search_is_shown_by_file() {
    let actual = result(Stage::default(), "search", json!({"pattern": "o"})).await;
    insta::assert_snapshot!(actual);
    let actual = result(Stage::default(), "search", json!({"pattern": "("})).await;
    assert_eq!(actual, "the pattern cannot be read: unclosed group.");
}

#[tokio::test(start_paused = true)]
async fn removing_says_what_was_removed() {
    let stage = stage_with(&[("d", b"")]);
    let arguments = json!({"path": "d", "recursive": true});
    let play = played(stage, calls(&[("remove", arguments)])).await;
    assert_eq!(play.results()[0].1, "Removed d.");
    assert!(play.log().contains(&"remove d Tree".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn long_output_is_cut_and_every_piece_reaches_the_audience() {
    let play = played(Stage::default(), calls(&[shell("flood 1000")])).await;
    let text = &play.results()[0].1;
    assert!(text.len() < 40_000, "{}", text.len());
    assert!(
        text.contains(
            "[… 991232 bytes in 61952 lines left out here; the whole output has 1024000 bytes. …]"
        ),
        "{text}"
    );
    let seen: usize = play
        .audience
        .events
        .iter()
        .map(|event| match event {
            forge_app::AgentEvent::ToolOutput { bytes, .. } => bytes.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(seen, 1_024_000);
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_of_a_command_is_the_models_within_bounds() {
    let timed = |timeout: u64| ("shell", json!({"command": "echo a", "timeout": timeout}));
    let line = calls(&[shell("echo a"), timed(5), timed(100_000), timed(0)]);
    let play = played(Stage::default(), line).await;
    let requests = play.stage.requests.lock().unwrap();
    let limits: Vec<Option<Duration>> = requests.iter().map(|r| r.time_limit).collect();
    let expected = [300, 5, 3600].map(|seconds| Some(Duration::from_secs(seconds)));
    assert_eq!(limits, expected);
    let results = play.results();
    assert!(results[2].1.starts_with("[The time limit is 1 h, not more.]\n"), "{results:?}");
    assert_eq!(results[3], (true, "`timeout` is 0: it has to be 1 or more.".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_is_told_with_a_remedy() {
    let actual = result(Stage::default(), "shell", json!({"command": "hang", "timeout": 2})).await;
    insta::assert_snapshot!(actual);
}

#[tokio::test(start_paused = true)]
async fn a_failure_for_want_of_a_network_is_explained() {
    let stage = Stage { network: Some(Network::None), ..Stage::default() };
    let text = "fail curl: (6) Could not resolve host: example.org";
    insta::assert_snapshot!(result(stage, "shell", json!({ "command": text })).await);
}

#[tokio::test(start_paused = true)]
async fn a_recreated_environment_is_told_to_the_model_and_the_user() {
    let play = played(Stage::default(), calls(&[shell("recreated")])).await;
    insta::assert_snapshot!(play.results()[0].1);
    let notice = forge_app::AgentEvent::Notice(
        "the environment had to be made anew: it was lost".to_owned(),
    );
    assert!(play.audience.events.contains(&notice), "{:?}", play.audience.events);
}

#[tokio::test(start_paused = true)]
async fn background_commands_are_followed_from_where_the_model_left_off() {
    let line = calls(&[
        ("shell", json!({"command": "serve", "background": true})),
        ("process_output", json!({"id": "b1"})),
        ("process_output", json!({"id": "b2"})),
        ("process_stop", json!({"id": "b1"})),
    ]);
    let play = played(Stage::default(), line).await;
    assert_eq!(play.stage.requests.lock().unwrap()[0].time_limit, None);
    let texts: Vec<String> = play.results().into_iter().map(|(_, text)| text).collect();
    insta::assert_snapshot!(texts.join("\n\n"));
}
